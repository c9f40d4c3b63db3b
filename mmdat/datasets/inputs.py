"""What a model is to predict: images, folders, patterns, videos, cameras and URLs."""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from mmdat.errors import UserError

from .images import UnreadableError, read_image

IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.avif', '.jp2'),
    *('.ppm', '.pgm', '.pbm', '.pnm', '.tga', '.ico'),
)
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv', '.ts')
WHAT_TO_GIVE = (
    "give images, folders, patterns such as 'photos/**/*.jpg', videos, a camera's number or URLs"
)
FRAME_RATE = 25.0  # of a video or camera that does not tell its own


@dataclass(frozen=True)
class Input:
    """An image, video or camera.

    Attributes:
        name: Path below the folder that all inputs share, with ``/``; unique among them.
        path: File, URL, or the camera's number.
    """

    name: str
    path: str

    @property
    def is_video(self) -> bool:
        """Whether it has frames: a video or a camera."""
        return self.path.isdigit() or urlsplit(self.path).path.lower().endswith(VIDEO_SUFFIXES)


@dataclass(frozen=True)
class Frame:
    """An image, read.

    Attributes:
        name: That of the input.
        image: (height, width, 3), BGR uint8.
        number: Position in a video, from 0; None for an image.
        rate: Frames a second of a video.
    """

    name: str
    image: np.ndarray
    number: int | None = None
    rate: float | None = None


def find_inputs(
    arguments: Iterable[str | os.PathLike], leave_out: str | Path | None = None
) -> list[Input]:
    """Find the images and videos that were named.

    Folders are searched through, without hidden files. What is named twice is found once. A file
    that does not exist is found too, as reading it says so.

    Args:
        arguments: Files, folders, patterns (``**`` for any folders), URLs, numbers of cameras.
        leave_out: A folder that is not searched, such as that of the output.

    Raises:
        UserError: If there is nothing, or nothing in a folder or for a pattern.
    """
    left_out = None if leave_out is None else os.path.abspath(leave_out)
    found: dict[str, str] = {}  # path -> folder that its name begins below
    for argument in arguments:
        matches = list(_find(os.fspath(argument), left_out))
        if not matches:
            raise UserError(f'there is no image or video in {argument}: {WHAT_TO_GIVE}')
        for path, root in matches:
            found.setdefault(path, root)
    if not any(os.path.exists(path) or not root for path, root in found.items()):
        raise UserError(f'there is no {" and no ".join(found) or "input"}: {WHAT_TO_GIVE}')
    roots = {root for root in found.values() if root}
    shared = os.path.commonpath(roots) if roots else ''
    names: dict[str, str] = {}
    for path, root in found.items():
        name = os.path.relpath(path, shared) if root else _name_of_url(path)
        names[_unused(name, names)] = path
    return [Input(Path(name).as_posix(), path) for name, path in names.items()]


def count_frames(inputs: Iterable[Input]) -> int | None:
    """Number of the images and of the videos' frames; None if one does not tell it."""
    total = 0
    for item in inputs:
        frames = 1
        if item.is_video:
            if item.path.isdigit():
                return None
            frames = int(cv2.VideoCapture(item.path).get(cv2.CAP_PROP_FRAME_COUNT))
        total += max(frames, 0)
    return total


def read_frames(
    inputs: Iterable[Input],
    on_unreadable: Callable[[str, str], None],
    notify: Callable[[str], None] = print,
) -> Iterator[Frame]:
    """Read images and the frames of videos, one at a time.

    Args:
        inputs: As from :func:`find_inputs`.
        on_unreadable: Is told the path of an input that cannot be read, and why.
        notify: Is told what was done to an image that one might not expect.
    """
    for item in inputs:
        try:
            if item.is_video:
                yield from _read_video(item)
            else:
                yield Frame(item.name, read_image(item.path, notify))
        except UnreadableError as error:
            on_unreadable(item.path, str(error))


def _find(text: str, leave_out: str | None) -> Iterator[tuple[str, str]]:
    """Yield the paths that an argument names, each with the folder that its name begins below."""
    path = os.path.abspath(os.path.expanduser(text))
    if '://' in text or (text.isdigit() and not os.path.exists(path)):
        yield text, ''
    elif os.path.isdir(path):
        for file in _search(path, leave_out):
            yield file, path
    elif os.path.exists(path) or not glob.has_magic(path):
        yield path, os.path.dirname(path)
    else:
        parts = itertools.takewhile(lambda part: not glob.has_magic(part), Path(path).parts)
        root = str(Path(*parts))
        for match in sorted(glob.glob(path, recursive=True)):
            if os.path.isdir(match):
                yield from ((file, root) for file in _search(match, leave_out))
            elif _is_wanted(match) and not _is_inside(match, leave_out):
                yield match, root


def _search(folder: str, leave_out: str | None) -> Iterator[str]:
    """Yield the images and videos in a folder and below it, sorted; no hidden ones."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name[0] != '.' and not _is_inside(os.path.join(parent, name), leave_out)
        )
        for name in sorted(files):
            if name[0] != '.' and _is_wanted(name):
                yield os.path.join(parent, name)


def _is_wanted(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)


def _is_inside(path: str, folder: str | None) -> bool:
    return folder is not None and Path(path).is_relative_to(folder)


def _name_of_url(path: str) -> str:
    if path.isdigit():
        return f'camera_{path}'
    url = urlsplit(path)
    return os.path.join(url.netloc, *filter(lambda part: part != '..', url.path.split('/')))


def _unused(name: str, used: Sequence[str] | dict[str, str]) -> str:
    """Return a name, or one with a number in it if it is used."""
    stem, suffix = os.path.splitext(name)
    candidates = itertools.chain([name], (f'{stem}_{i}{suffix}' for i in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in used)


def _read_video(item: Input) -> Iterator[Frame]:
    capture = cv2.VideoCapture(int(item.path) if item.path.isdigit() else item.path)
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) or FRAME_RATE
        for number in itertools.count():
            fine, image = capture.read()  # turned upright
            if not fine:
                break
            yield Frame(item.name, image, number, rate)
    finally:
        capture.release()
    if number == 0:
        raise UnreadableError('no frame of a video can be read')
