"""Synthetic drawings as a data set in ADE20K's layout, for semantic segmentation."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmseg.datasets import BaseSegDataset

from mmdat.registry import DATASETS

from .drawing import METAINFO, Scene
from .files import ShapesParameters, draw_scenes, write_image, write_shapes

DEFAULT_PARAMETERS = ShapesParameters(train=4000, val=200, size=128)
# With small figures or many distractors, figures are told from the ground in minutes of training,
# but not from each other.
LARGE_FIGURES = dict(num_figures=(2, 4), num_distractors=(0, 1), diameters=(0.3, 0.6))
FOLDERS = dict(train='training', val='validation')  # ADE20K's names of the splits
# ADE20K's masks number the classes from 1; 0 stands for no class.
GROUND = 1


@DATASETS.register_module()
class ShapesSegmentDataset(BaseSegDataset):
    """Data set that :func:`write_shapes_segment` draws; distractors count as ground.

    Args:
        kwargs: As for mmseg's ``BaseSegDataset``.
    """

    METAINFO: ClassVar[dict[str, Any]] = dict(
        classes=('ground', *METAINFO['classes']), palette=[(110, 110, 110), *METAINFO['palette']]
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            **dict(img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True) | kwargs
        )


def write_shapes_segment(root: str | Path, parameters: ShapesParameters | None = None) -> None:
    """Draw a data set in ADE20K's layout, unless it is there already.

    Writes ``images/{training,validation}/*.jpg`` and ``annotations/{training,validation}/*.png``,
    whose pixels are 1 on the ground and 2 to 5 on figures, as
    :func:`mmdat.datasets.shapes.files.write_shapes` does.

    Raises:
        UserError: If ``root`` holds anything else or cannot be written; before anything is drawn.
    """
    write_shapes(root, 'segment', parameters or DEFAULT_PARAMETERS, _draw)


def _draw(root: Path, parameters: ShapesParameters) -> None:
    for split, folder in FOLDERS.items():
        images, annotations = (root / kind / folder for kind in ('images', 'annotations'))
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for name, scene in draw_scenes(split, parameters, **LARGE_FIGURES):
            write_image(images / f'{name}.jpg', scene.image)
            write_image(annotations / f'{name}.png', pixel_values(scene))


def pixel_values(scene: Scene) -> np.ndarray:
    """Mask of a scene as ADE20K's files have it, (size, size) uint8."""
    values = np.full(scene.image.shape[:2], GROUND, dtype=np.uint8)
    for instance in scene.instances:
        values[instance.mask] = GROUND + 1 + instance.label
    return values
