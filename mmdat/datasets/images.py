"""Reading images of any kind, as a model of 8-bit color images takes them."""

import contextlib
import os
from collections.abc import Callable, Iterator
from http.client import HTTPException
from urllib.error import URLError

import cv2
import numpy as np
from mmengine import fileio
from PIL import ImageOps

from mmdat.checks.images import (
    DECODES_NOT,
    MORE_CHANNELS,
    UNREADABLE_SUFFIXES,
    has_more_channels,
    is_utf8,
    open_image,
)
from mmdat.errors import reason

SCALED = 'images of more than 8 bits are scaled from their smallest and largest value to 0 and 255'
# An image in color, turned as its EXIF data says, of as many bits as the file has.
FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
# What an image takes, with its copies in PIL's, OpenCV's and the pictures' order of channels.
BYTES_PER_PIXEL = 16


class UnreadableError(Exception):
    """An input that cannot be read; the text says why."""


def read_image(
    path: str, notify: Callable[[str], None] = print, is_turning: bool = True
) -> np.ndarray:
    """Read an image: in its own size, in color.

    Gray becomes color and transparency is left out, as in training; of several images in a file
    the first is read. What has more than 8 bits is scaled from its smallest and largest value.

    Args:
        path: A file or URL.
        notify: Is told what was done to the image that one might not expect.
        is_turning: Whether to turn it upright, as its EXIF data says.

    Returns:
        (height, width, 3), BGR uint8.

    Raises:
        UnreadableError: If there is no image that can be read.
    """
    try:
        with fileio.get_local_path(path) as file, quiet_opencv():
            image = _decode(str(file), is_turning)
            pages = cv2.imcount(str(file)) if is_utf8(file) else 1
            is_rich = has_more_channels(str(file))
    except (OSError, ValueError, SyntaxError, MemoryError, cv2.error) as error:  # as PIL raises
        raise UnreadableError(_reason(path, error)) from error
    except (
        Exception
    ) as error:  # of a kind of URL that mmengine does not know or lacks a package for
        if '://' not in path:
            raise
        if isinstance(error, KeyError):
            raise UnreadableError('there is no such kind of URL') from error
        raise UnreadableError(f'it cannot be fetched: {reason(error)}') from error
    if pages > 1:
        notify(f'{path} holds {pages} images: the first is taken')
    if is_rich:
        notify(f'some images have {MORE_CHANNELS}')
    if image.dtype == np.uint8:
        return image
    notify(SCALED)
    return cv2.normalize(
        np.nan_to_num(image, posinf=0, neginf=0), None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U
    )


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV and FFmpeg from printing what they cannot read, which is told in a sentence."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # quiet; read with the first video
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _memory() -> int:
    """Return how many bytes of physical memory this machine has."""
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, (URLError, HTTPException)):
        return f'it cannot be fetched: {reason(error)}'
    if isinstance(error, MemoryError):
        return 'it does not fit into the memory'
    if told := getattr(error, 'strerror', None):
        return told
    if path.lower().endswith(UNREADABLE_SUFFIXES):
        return 'this format is not read: convert it to JPEG or PNG'
    return DECODES_NOT


def _decode(file: str, is_turning: bool) -> np.ndarray:
    """Decode an image as the toolboxes do, with OpenCV, or with PIL what OpenCV does not know."""
    data = np.fromfile(file, np.uint8)
    flags = FLAGS if is_turning else FLAGS | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:  # of more pixels than OpenCV reads
        image = None
    return _decode_with_pil(file, is_turning) if image is None else image


def _decode_with_pil(file: str, is_turning: bool) -> np.ndarray:
    with open_image(file) as opened:
        if opened.width * opened.height * BYTES_PER_PIXEL > _memory():
            raise MemoryError
        image = ImageOps.exif_transpose(opened) if is_turning else opened.copy()
    if image.mode.startswith(('I', 'F')):  # one channel of more than 8 bits
        return cv2.cvtColor(np.asarray(image, np.float32), cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(np.asarray(image.convert('RGB')), cv2.COLOR_RGB2BGR)
