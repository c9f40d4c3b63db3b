"""The content of a file in COCO format, from objects of other formats."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from mmdat.checks.coco_repairs import area_of, box_of


def coco_content(
    images: Iterable[tuple[str, tuple[int, int], list[dict[str, Any]]]], classes: Sequence[str]
) -> dict[str, Any]:
    """Write images and their objects as COCO does.

    Args:
        images: Path, width and height, and objects of each image. An object has the name of its
            class, and a segmentation (polygons or run lengths), or a bbox (x, y, width, height)
            alone.
        classes: Names of the classes, in the order of their ids, which begin at 1.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    categories = [dict(id=number, name=name) for name, number in numbers.items()]
    content: dict[str, Any] = dict(images=[], annotations=[], categories=categories)
    for image_id, (path, (width, height), objects) in enumerate(images, 1):
        image = dict(id=image_id, file_name=path, width=width, height=height)
        content['images'].append(image)
        for item in objects:
            annotation = dict(
                id=len(content['annotations']) + 1,
                image_id=image_id,
                category_id=numbers[item['name']],
                iscrowd=0,
                segmentation=item.get('segmentation', []),
            )
            annotation['bbox'] = box_of(item)
            annotation['area'] = area_of(annotation)
            content['annotations'].append(annotation)
    return content


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask, (height, width) of booleans, so that JSON can hold it."""
    encoded = mask_api.encode(np.asfortranarray(mask, np.uint8))
    return dict(size=encoded['size'], counts=encoded['counts'].decode())
