"""Synthetic drawings as a data set in COCO format, for detection and instance segmentation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdat.registry import DATASETS

from ..coco import CocoDataset
from ..formats.content import coco_content, run_lengths
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


def annotated(
    file_name: str, scene: Scene, classes: Sequence[str]
) -> tuple[str, tuple[int, int], list[dict[str, Any]]]:
    """An image and its figures, as :func:`mmdat.datasets.formats.content.coco_content` has them."""
    height, width = scene.image.shape[:2]
    figures = [
        dict(name=classes[instance.label], segmentation=run_lengths(instance.mask))
        for instance in scene.instances
    ]
    return file_name, (width, height), figures


def _draw(root: Path, parameters: ShapesParameters) -> None:
    (root / 'annotations').mkdir()
    for split in SPLITS:
        (root / split).mkdir()
        images = []
        for name, scene in draw_scenes(split, parameters):
            write_image(root / split / f'{name}.jpg', scene.image)
            images.append(annotated(f'{name}.jpg', scene, METAINFO['classes']))
        content = coco_content(images, METAINFO['classes'])
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
