"""Synthetic drawings as a data set in COCO format, for detection and instance segmentation."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from mmdat.registry import DATASETS

from ..coco import CocoDataset
from .drawing import METAINFO, Scene
from .files import SPLITS, ShapesParameters, draw_scenes, write_image, write_shapes

DEFAULT_PARAMETERS = ShapesParameters()


@DATASETS.register_module()
class ShapesDataset(CocoDataset):
    """Data set that :func:`write_shapes_coco` draws."""

    METAINFO = METAINFO


def write_shapes_coco(root: str | Path, parameters: ShapesParameters | None = None) -> None:
    """Draw a data set in COCO's layout, unless it is there already.

    Writes ``train/*.jpg``, ``val/*.jpg`` and ``annotations/instances_{train,val}.json`` with masks
    as run lengths, as :func:`mmdat.datasets.shapes.files.write_shapes` does.

    Raises:
        UserError: If ``root`` holds anything else or cannot be written; before anything is drawn.
    """
    write_shapes(root, 'detect', parameters or DEFAULT_PARAMETERS, _draw)


def coco_content(scenes: Iterable[tuple[str, Scene]], classes: Sequence[str]) -> dict[str, Any]:
    """Content of an annotation file, with a box and a mask of run lengths for each figure.

    Args:
        scenes: Names of the image files, and the scenes in them.
        classes: Names of the classes; category numbers start at 1.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (file_name, scene) in enumerate(scenes, start=1):
        height, width = scene.image.shape[:2]
        images.append(dict(id=image_id, file_name=file_name, width=width, height=height))
        for instance in scene.instances:
            rle = mask_api.encode(np.asfortranarray(instance.mask, dtype=np.uint8))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=instance.label + 1,
                    bbox=mask_api.toBbox(rle).tolist(),
                    area=int(mask_api.area(rle)),
                    iscrowd=0,
                    segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
                )
            )
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, start=1)]
    return dict(images=images, annotations=annotations, categories=categories)


def _draw(root: Path, parameters: ShapesParameters) -> None:
    (root / 'annotations').mkdir()
    for split in SPLITS:
        (root / split).mkdir()
        content = coco_content(_write_images(root / split, split, parameters), METAINFO['classes'])
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def _write_images(
    folder: Path, split: str, parameters: ShapesParameters
) -> Iterator[tuple[str, Scene]]:
    """Draw the scenes of a split and write their images; yield file names and scenes."""
    for name, scene in draw_scenes(split, parameters):
        file_name = f'{name}.jpg'
        write_image(folder / file_name, scene.image)
        yield file_name, scene
