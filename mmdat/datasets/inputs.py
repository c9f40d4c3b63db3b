"""What a model is to predict: images, folders, patterns, videos, cameras and URLs."""

import fnmatch
import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from mmdat.checks.folders import find_files
from mmdat.checks.images import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES, is_utf8
from mmdat.errors import UserError

from .images import UnreadableError, quiet_opencv, read_image

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv', '.ts')
WANTED = IMAGE_SUFFIXES + UNREADABLE_SUFFIXES + VIDEO_SUFFIXES
STREAMS = ('rtsp', 'rtsps', 'rtmp')  # kinds of URLs that OpenCV plays as they come
WHAT_TO_GIVE = (
    "give images, folders, patterns such as 'photos/**/*.jpg', videos, a camera's number or URLs"
)
RESULTS = 'predictions.json'  # beside it lie folders of pictures and masks that were predicted
FOLDERS = PICTURES, MASKS = 'pictures', 'masks'
FRAME_RATE = 25.0  # of a video or camera that does not tell its own


@dataclass(frozen=True)
class Input:
    """An image, video or camera.

    Attributes:
        name: Path below the folder that all inputs share, with ``/``; unique among them.
        path: Absolute path of a file, URL, or the camera's number.
    """

    name: str
    path: str

    @property
    def is_live(self) -> bool:
        """Whether it is a camera, on this machine or in the network."""
        return self.path.isdecimal() or self.path.lower().startswith(
            tuple(f'{kind}://' for kind in STREAMS)
        )

    @property
    def is_video(self) -> bool:
        """Whether it has frames: a video or a camera."""
        path = urlsplit(self.path).path if '://' in self.path else self.path
        return self.is_live or path.lower().endswith(VIDEO_SUFFIXES)


@dataclass(frozen=True)
class Frame:
    """An image, read.

    Attributes:
        name: That of the input.
        path: That of the input.
        image: (height, width, 3), BGR uint8.
        number: Position in a video, from 0; None for an image.
        rate: Frames a second of a video.
    """

    name: str
    path: str
    image: np.ndarray
    number: int | None = None
    rate: float | None = None


def find_inputs(
    arguments: str | os.PathLike | Iterable[str | os.PathLike], leave_out: Iterable[str | Path] = ()
) -> list[Input]:
    """Find the images and videos that were named.

    Folders, and ``**``, are searched through, with linked ones, each once, without hidden files
    and what an earlier run predicted. What is named twice is found once. A file that does not
    exist is found too, an image of a format that cannot be read, and a folder that may not be
    searched, as reading it says so.

    Args:
        arguments: One or several files, folders, patterns (``**`` for any folders), URLs, numbers
            of cameras.
        leave_out: Folders that are not searched, such as those of the output.

    Raises:
        UserError: If there is nothing, or nothing in a folder or for a pattern; if an input is
            named that lies in a folder to leave out, where it would be written over.
    """
    left_out = [Path(folder).resolve() for folder in leave_out]
    found: dict[str, str] = {}  # path -> folder that its name begins below
    if isinstance(arguments, (str, os.PathLike)) or not isinstance(arguments, Iterable):
        arguments = [arguments]
    for argument in arguments:
        if not isinstance(argument, (str, os.PathLike)):
            raise UserError(
                f'an input is a path, URL or the like, got {type(argument).__name__}: '
                'mmdat.apis.predictor.Predictor predicts images in memory'
            )
        text = os.fspath(argument)
        if not text:  # of a variable that is not set; as a path it would be the current folder
            raise UserError(f'an input is empty: {WHAT_TO_GIVE}')
        matches = list(_find(text, left_out))
        if not matches:
            raise UserError(f'there is no image or video in {argument}: {WHAT_TO_GIVE}')
        for path, root in matches:
            if root and _is_inside(path, left_out):
                raise UserError(
                    f'{path} lies where the output is written and could be written over: give '
                    'another --out-dir, or move the input'
                )
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
        if item.is_video and is_utf8(item.path):
            if item.is_live:
                return None
            video = _open_video(item.path)
            # What cannot be read counts as an image that cannot.
            frames = _frame_count(video) if video.isOpened() else 1
            if frames == 0:
                return None
        total += frames
    return total


def read_frames(
    inputs: Iterable[Input],
    on_unreadable: Callable[[str, str], None],
    notify: Callable[[str], None] = print,
    is_turning: bool = True,
) -> Iterator[Frame]:
    """Read images and the frames of videos, one at a time.

    Args:
        on_unreadable: Is told the path of an input that cannot be read, and why.
        notify: Is told, once, what was done to images that one might not expect.
        is_turning: Whether to turn images upright, as their EXIF data says.
    """
    notified: set[str] = set()

    def notify_once(text: str) -> None:
        if text not in notified:
            notified.add(text)
            notify(text)

    for item in inputs:
        try:
            if not is_utf8(item.path):
                raise UnreadableError('its path is not in UTF-8: rename it')
            if os.path.isdir(item.path):
                raise UnreadableError('this folder may not be searched')
            if item.is_video:
                yield from _read_video(item, notify_once)
            else:
                yield Frame(item.name, item.path, read_image(item.path, notify_once, is_turning))
        except UnreadableError as error:
            on_unreadable(item.path, str(error))


def _find(text: str, leave_out: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield the paths that an argument names, each with the folder that its name begins below."""
    if text.lower().startswith('file://'):
        text = unquote(urlsplit(text).path)
    path = os.path.abspath(os.path.expanduser(text))
    if '://' in text or (text.isdecimal() and not os.path.exists(path)):
        yield text, ''
    elif os.path.isdir(path):
        for file in _search(path, leave_out):
            yield file, path
    elif os.path.exists(path) or not glob.has_magic(path):
        yield path, os.path.dirname(path)
    else:
        parts = itertools.takewhile(lambda part: not glob.has_magic(part), Path(path).parts)
        root = str(Path(*parts))
        pattern = Path(path).relative_to(root).parts
        starts = [pattern[:depth] for depth in range(1, len(pattern))]
        if '**' in pattern:  # glob follows links that lead back again and again
            for file in _search(root, leave_out):
                inside = Path(file).relative_to(root).parts
                patterns = [pattern, *starts] if os.path.isdir(file) else [pattern]
                if any(_matches(inside, wanted) for wanted in patterns):
                    yield file, root
            return
        for start, part in zip([(), *starts], pattern, strict=True):
            # Where the next part is a name, names need not be listed.
            needed = os.X_OK | (os.R_OK if glob.has_magic(part) else 0)
            for folder in glob.glob(os.path.join(root, *start)):
                if os.path.isdir(folder) and not os.access(folder, needed):
                    yield folder, root
        for match in sorted(glob.glob(path, recursive=True)):
            if _is_inside(match, leave_out):
                continue
            if os.path.isdir(match):
                yield from ((file, root) for file in _search(match, leave_out))
            elif match.lower().endswith(WANTED):
                yield match, root


def _search(folder: str, leave_out: Sequence[Path]) -> Iterator[str]:
    """Yield the images and videos in a folder and below it, sorted; no hidden or predicted ones.

    Folders that may not be searched come last.
    """
    errors: list[OSError] = []
    yield from find_files(
        folder, WANTED, leave_out, lambda files: FOLDERS if RESULTS in files else (), errors.append
    )
    yield from (error.filename for error in errors)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder that it is in, matches a pattern, both by their parts."""
    if not pattern:
        return True
    if pattern[0] == '**':
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return (
        bool(parts)
        and fnmatch.fnmatchcase(parts[0], pattern[0])
        and _matches(parts[1:], pattern[1:])
    )


def _is_inside(path: str, folders: Sequence[Path]) -> bool:
    return any(Path(path).resolve().is_relative_to(folder) for folder in folders)


def _name_of_url(path: str) -> str:
    if path.isdecimal():
        return f'camera_{path}'
    url = urlsplit(path)
    return os.path.join(url.netloc, *filter(lambda part: part != '..', url.path.split('/')))


def _unused(name: str, used: Sequence[str] | dict[str, str]) -> str:
    """Return a name, or one with a number in it if it is used."""
    stem, suffix = os.path.splitext(name)
    candidates = itertools.chain([name], (f'{stem}_{i}{suffix}' for i in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in used)


def _open_video(path: str) -> cv2.VideoCapture:
    with quiet_opencv():
        return cv2.VideoCapture(int(path) if path.isdecimal() else path)


def _frame_count(video: cv2.VideoCapture) -> int:
    """Number of frames that a video tells of; 0 if it tells none."""
    return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))


def _read_video(item: Input, notify: Callable[[str], None]) -> Iterator[Frame]:
    video = _open_video(item.path)
    try:
        rate = video.get(cv2.CAP_PROP_FPS) or FRAME_RATE
        for number in itertools.count():
            fine, image = video.read()  # turned upright
            if not fine:
                break
            yield Frame(item.name, item.path, image, number, rate)
        told = _frame_count(video)
    finally:
        video.release()
    if number == 0 and item.is_live:
        raise UnreadableError('there is no such camera, or it is in use')
    if number == 0:
        raise UnreadableError('no frame of a video can be read')
    if number < told:
        notify(f'{item.path} ends after {number} of the {told} frames that it tells of')
