"""The content of a file in COCO format, from objects of other formats."""

from collections.abc import Iterable, Sequence
from typing import Any

from pycocotools import mask as run_lengths

from mmdat.checks.coco_repairs import box_of


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
    content: dict[str, Any] = dict(images=[], annotations=[], categories=[])
    numbers = {name: number for number, name in enumerate(classes, 1)}
    content['categories'] = [dict(id=number, name=name) for name, number in numbers.items()]
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
            annotation['bbox'], annotation['area'] = _extent(item, height, width)
            content['annotations'].append(annotation)
    return content


def _extent(item: dict[str, Any], height: int, width: int) -> tuple[list[float], float]:
    """Compute the box (x, y, width, height) around an object and its area, in pixels."""
    shape = item.get('segmentation')
    box = box_of(item, dict(height=height, width=width))
    if not shape:
        return box, box[2] * box[3]
    if isinstance(shape, dict):
        return box, float(run_lengths.area(shape))
    merged = run_lengths.merge(run_lengths.frPyObjects(shape, height, width))
    return box, float(run_lengths.area(merged)) or box[2] * box[3]
