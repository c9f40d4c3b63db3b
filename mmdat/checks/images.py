"""Checks of image files."""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np

from mmdat.errors import UserError

from .config_tree import transforms

# First bytes of a file -> bytes at the end of its image, which little follows as a rule.
START_TO_END = {b'\xff\xd8\xff': b'\xff\xd9', b'\x89PN': b'IEND'}
TAIL_BYTES = 4096


def check_image_files(dataset: Any, in_training: bool) -> None:
    """Refuse a data set with images that are missing or cannot be read.

    Args:
        dataset: A built data set; one that does not load image files from this machine's disk
            passes.
        in_training: As for :func:`check_images`.

    Raises:
        UserError: Names the first such image.
    """
    if not are_loaded(dataset, 'img_path', {'LoadImageFromFile'}):
        return
    if in_training and not dataset.ann_file:  # the images are those that were found in a folder
        return
    paths = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    check_images(paths, dataset.ann_file or 'the data set', in_training)


def are_loaded(dataset: Any, key: str, loaders: set[str]) -> bool:
    """Tell whether a data set loads files from this machine's disk.

    Args:
        dataset: A built data set, or anything else.
        key: Key of its items with the path of a file, such as ``'img_path'``.
        loaders: Names of the transforms that load such a file.
    """
    if not hasattr(dataset, 'get_data_info') or not len(dataset):
        return False
    steps = {type(step).__name__ for step in transforms(dataset.pipeline)}
    return (
        not steps.isdisjoint(loaders)
        and not getattr(dataset, 'backend_args', None)
        and '://' not in str(dataset.get_data_info(0).get(key, '://'))
    )


def check_images(paths: Sequence[str], source: str, in_training: bool) -> None:
    """Refuse images that are missing or cannot be read.

    Args:
        paths: The image files.
        source: The file that names them, for the sentence.
        in_training: Whether they are for training: then refuse missing ones only if most are, since
            loading skips single ones.

    Raises:
        UserError: Names the first such image.
    """

    @cache
    def names_in(folder: str) -> set[str]:
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    missing = [
        path for path in paths if os.path.basename(path) not in names_in(os.path.dirname(path))
    ]
    if missing and (not in_training or 2 * len(missing) > len(paths)):
        raise UserError(
            f'{len(missing)} of the {len(paths)} images of {source} do not '
            f'exist, such as {missing[0]}: check data_root and data_prefix'
        )
    if in_training:
        return
    for path in paths:
        if not is_whole(path):
            raise UserError(
                f'{path} is not an image that can be read: mend it, or take it out of {source}'
            )


def is_whole(path: str) -> bool:
    """Whether a JPEG or PNG file is complete; of other formats only the header is looked at."""
    if not cv2.haveImageReader(path):
        return False
    with open(path, 'rb') as file:
        end = START_TO_END.get(file.read(3), b'')  # the empty one of other formats is in any file
        file.seek(max(0, os.path.getsize(path) - TAIL_BYTES))
        if end in file.read():
            return True
    # A file with much behind its image, such as a phone's with a video, is decoded.
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) is not None
