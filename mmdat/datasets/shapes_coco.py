"""Made drawings of shapes as a data set in COCO format, for detection and instance segmentation."""
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_api
from rich.progress import track

from mmdat.errors import UserError
from mmdat.registry import DATASETS

from .coco import CocoDataset
from .shapes import METAINFO, draw_scene

SPLITS = ('train', 'val')
PARAMETERS_FILE = 'shapes.json'
# To be raised when the drawings change, so that those of an earlier version are drawn anew.
VERSION = 2
JPEG_QUALITY = 92


@DATASETS.register_module()
class ShapesDataset(CocoDataset):
    """The data set that :func:`write_shapes_coco` draws."""
    METAINFO = METAINFO


@dataclass(frozen=True)
class ShapesParameters:
    """All that a made data set depends on.

    Attributes:
        train: Number of training images.
        val: Number of held-out images; their random numbers are independent of the training ones.
        size: Side of the square images in pixels.
        seed: Of the random numbers.

    Raises:
        UserError: If a value is too small.
    """
    train: int = 600
    val: int = 120
    size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in dict(train=1, val=1, size=64, seed=0).items():
            if getattr(self, name) < least:
                raise UserError(f'{name}={getattr(self, name)} is too small: give at least {least}')


def write_shapes_coco(root: str | Path, parameters: ShapesParameters | None = None) -> None:
    """Draw a data set, unless it is there already.

    Writes ``train/*.jpg``, ``val/*.jpg`` and ``annotations/instances_{train,val}.json`` with masks
    as run lengths. The same parameters give the same bytes, and an image does not depend on how
    many there are. ``root`` appears when all is drawn; a data set of shapes that is incomplete or
    has other parameters is replaced.

    Raises:
        UserError: If ``root`` holds anything else or cannot be written; before anything is drawn.
    """
    root = Path(root).resolve()  # a link stays, and what it leads to is replaced
    parameters = parameters or ShapesParameters()
    if _is_complete(root, parameters):
        return
    if Path.cwd().is_relative_to(root):
        raise UserError(f'{root} is the working folder, or around it: name another folder')
    try:
        if root.exists() and not (root / PARAMETERS_FILE).exists() and (root.is_file()
                                                                        or any(root.iterdir())):
            raise UserError(f'{root} exists and is not a data set of shapes (it has no '
                            f'{PARAMETERS_FILE}): name another folder, or remove it')
        _draw(root, parameters)
    except OSError as error:
        raise UserError(f'{root} cannot be drawn into ({error.strerror}): name another '
                        'folder') from None


def _draw(root: Path, parameters: ShapesParameters) -> None:
    partial = root.with_name(f'{root.name}.partial')
    # What is in the way goes first: where it cannot, as in a mounted folder, that is known at once.
    for folder in (partial, root):
        if folder.exists():
            shutil.rmtree(folder)
    (partial / 'annotations').mkdir(parents=True)
    for split in SPLITS:
        content = _draw_split(partial / split, split, parameters)
        (partial / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    sizes = {str(path.relative_to(partial)): path.stat().st_size
             for path in sorted(partial.rglob('*.*'))}
    (partial / PARAMETERS_FILE).write_text(json.dumps(_signature(parameters) | dict(sizes=sizes)))
    partial.rename(root)


def _signature(parameters: ShapesParameters) -> dict[str, Any]:
    return dict(version=VERSION, **asdict(parameters))


def _is_complete(root: Path, parameters: ShapesParameters) -> bool:
    """Whether all that was drawn with these parameters is there, in its size."""
    try:
        recorded = json.loads((root / PARAMETERS_FILE).read_text())
        return recorded == _signature(parameters) | dict(sizes={
            name: (root / name).stat().st_size for name in recorded['sizes']})
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _draw_split(folder: Path, split: str, parameters: ShapesParameters) -> dict[str, Any]:
    """Draw the images of a split into a new folder; their annotations, as COCO has them."""
    folder.mkdir()
    size, count = parameters.size, getattr(parameters, split)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in track(range(1, count + 1), f'Drawing {count} images of {folder.name}'):
        rng = np.random.default_rng((parameters.seed, SPLITS.index(split), image_id))
        scene = draw_scene(rng, size)
        file_name = f'{image_id:06d}.jpg'
        # Not imwrite, which keeps quiet about a full disk.
        _, jpeg = cv2.imencode('.jpg', scene.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (folder / file_name).write_bytes(jpeg.tobytes())
        images.append(dict(id=image_id, file_name=file_name, width=size, height=size))
        for instance in scene.instances:
            rle = mask_api.encode(np.asfortranarray(instance.mask, dtype=np.uint8))
            annotations.append(dict(
                id=len(annotations) + 1,
                image_id=image_id,
                category_id=instance.label + 1,
                bbox=mask_api.toBbox(rle).tolist(),
                area=int(mask_api.area(rle)),
                iscrowd=0,
                segmentation=dict(size=rle['size'], counts=rle['counts'].decode())))
    categories = [dict(id=number, name=name)
                  for number, name in enumerate(METAINFO['classes'], start=1)]
    return dict(images=images, annotations=annotations, categories=categories)
