"""Synthetic drawings as files: what the layouts for the tasks have in common."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from mmdat.errors import UserError

from .drawing import Scene, draw_scene

SPLITS = ('train', 'val')
PARAMETERS_FILE = 'shapes.json'
# Raise it when the drawings change, so that those of an earlier version are drawn again.
VERSION = 3
JPEG_QUALITY = 92


@dataclass(frozen=True)
class ShapesParameters:
    """Parameters of a synthetic data set; with its task they determine every byte of it.

    Attributes:
        train: Number of training images.
        val: Number of held-out images; their random numbers are independent of the training ones.
        size: Side of the square images in pixels.
        seed: Seed of the random numbers.

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


def write_shapes(
    root: str | Path,
    task: str,
    parameters: ShapesParameters,
    draw: Callable[[Path, ShapesParameters], None],
) -> None:
    """Draw a data set, unless it is there already.

    The same task and parameters give the same bytes, and an image does not depend on how many
    there are. ``root`` appears when all is drawn; a data set of shapes that is incomplete, of
    another task or has other parameters is replaced.

    Args:
        draw: Writes all files but :data:`PARAMETERS_FILE` into an empty folder.

    Raises:
        UserError: If ``root`` holds anything else or cannot be written; before anything is drawn.
    """
    root = Path(root).resolve()  # a link stays, and what it leads to is replaced
    signature = dict(version=VERSION, task=task, **asdict(parameters))
    if _is_complete(root, signature):
        return
    if Path.cwd().is_relative_to(root):
        raise UserError(f'{root} is the working folder, or around it: name another folder')
    try:
        if (
            root.exists()
            and not (root / PARAMETERS_FILE).exists()
            and (root.is_file() or any(root.iterdir()))
        ):
            raise UserError(
                f'{root} exists and is not a data set of shapes (it has no '
                f'{PARAMETERS_FILE}): name another folder, or remove it'
            )
        partial = _empty_partial(root)
        draw(partial, parameters)
        sizes = {
            str(path.relative_to(partial)): path.stat().st_size
            for path in sorted(partial.rglob('*.*'))
        }
        (partial / PARAMETERS_FILE).write_text(json.dumps(signature | dict(sizes=sizes)))
        partial.rename(root)
    except OSError as error:
        raise UserError(
            f'{root} cannot be drawn into ({error.strerror}): name another folder'
        ) from None


def draw_scenes(
    split: str, parameters: ShapesParameters, **options: Any
) -> Iterator[tuple[str, Scene]]:
    """Draw the scenes of a split, each with a name for its files, and show a progress bar."""
    count = getattr(parameters, split)
    for number in track(range(1, count + 1), f'Drawing {count} images of {split}'):
        rng = np.random.default_rng((parameters.seed, SPLITS.index(split), number))
        yield f'{number:06d}', draw_scene(rng, parameters.size, **options)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a JPEG or PNG file; unlike ``cv2.imwrite``, raise OSError where the disk is full."""
    _, content = cv2.imencode(
        path.suffix,
        image,
        [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == '.jpg' else [],
    )
    path.write_bytes(content.tobytes())


def _empty_partial(root: Path) -> Path:
    """Remove ``root`` and make a new folder beside it."""
    partial = root.with_name(f'{root.name}.partial')
    # Remove first: where that fails, as for a mounted folder, nothing has been drawn in vain.
    for folder in (partial, root):
        if folder.exists():
            shutil.rmtree(folder)
    partial.mkdir(parents=True)
    return partial


def _is_complete(root: Path, signature: dict[str, Any]) -> bool:
    """Whether all files that were drawn with this signature are there, in their sizes."""
    try:
        recorded = json.loads((root / PARAMETERS_FILE).read_text())
        return recorded == signature | dict(
            sizes={name: (root / name).stat().st_size for name in recorded['sizes']}
        )
    except (OSError, ValueError, TypeError, KeyError):
        return False
