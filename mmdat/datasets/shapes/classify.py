"""Synthetic drawings as a data set in ImageNet's layout, for classification."""

from pathlib import Path
from typing import Any, ClassVar

from mmpretrain.datasets import ImageNet

from mmdat.registry import DATASETS

from .drawing import METAINFO
from .files import SPLITS, ShapesParameters, draw_scenes, write_image, write_shapes

DEFAULT_PARAMETERS = ShapesParameters(train=12000, val=400, size=64)
# One large figure and no distractors: small figures, or those beside distractors, were not learned
# in minutes.
ONE_FIGURE = dict(num_figures=(1, 1), num_distractors=(0, 0), diameters=(0.6, 0.95))


@DATASETS.register_module()
class ShapesClassifyDataset(ImageNet):
    """Data set that :func:`write_shapes_classify` draws."""

    METAINFO: ClassVar[dict[str, Any]] = dict(classes=METAINFO['classes'])


def write_shapes_classify(root: str | Path, parameters: ShapesParameters | None = None) -> None:
    """Draw a data set in ImageNet's layout, unless it is there already.

    Writes ``{train,val}/CLASS/*.jpg``, in each picture one figure, and ``meta/{train,val}.txt``
    as :func:`mmdat.datasets.shapes.files.write_shapes` does.

    Raises:
        UserError: If ``root`` holds anything else or cannot be written; before anything is drawn.
    """
    write_shapes(root, 'classify', parameters or DEFAULT_PARAMETERS, _draw)


def _draw(root: Path, parameters: ShapesParameters) -> None:
    (root / 'meta').mkdir()
    for split in SPLITS:
        for class_name in METAINFO['classes']:
            (root / split / class_name).mkdir(parents=True)
        lines = []
        for name, scene in draw_scenes(split, parameters, **ONE_FIGURE):
            [figure] = scene.instances
            file_name = f'{METAINFO["classes"][figure.label]}/{name}.jpg'
            write_image(root / split / file_name, scene.image)
            lines.append(f'{file_name} {figure.label}\n')
        (root / 'meta' / f'{split}.txt').write_text(''.join(lines), encoding='utf-8')
