"""COCO-format data that is checked before anything is trained on it."""

import os
from collections.abc import Collection, Sequence
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO

from mmdat.checks.coco import read_coco
from mmdat.errors import UserError, enumerate_names
from mmdat.registry import DATASETS

# How a whole file begins and ends; what follows the end, if anything, is mostly short.
MARKS = {b'\xff\xd8\xff': b'\xff\xd9', b'\x89PN': b'IEND'}
TAIL_BYTES = 4096


class CheckedCOCO(COCO):
    """pycocotools' COCO that refuses a file that does not fit.

    Args:
        annotation_file: Path of a JSON file.
        classes: Names of categories that the file must have.
        needed: As for :func:`read_coco`.

    Raises:
        UserError: If the file cannot be read, is not in COCO format, lacks a class or has no
            object of any.
    """

    def __init__(
        self, annotation_file: str, classes: Sequence[str] = (), needed: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.dataset = read_coco(annotation_file, needed)
        self.createIndex()
        # As mmdet's constructor does, but that one knew of no file yet.
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs
        found = [category['name'] for category in self.dataset['categories']]
        if missing := set(classes) - set(found):
            raise UserError(
                f'annotation file {annotation_file} has no category {enumerate_names(missing)}, '
                'which the config expects: set metainfo=dict(classes=(...)) of the data set and '
                f'num_classes of the heads to its own ({enumerate_names(found)})'
            )
        if 'annotations' in self.dataset and not any(
            self.cat_img_map[number] for number in self.get_cat_ids(classes)
        ):
            raise _nothing_to_use(annotation_file, classes)


def _nothing_to_use(annotation_file: str, classes: Sequence[str]) -> UserError:
    return UserError(
        f'annotation file {annotation_file} leaves no image to use: it has none with '
        f'an object of the classes {enumerate_names(classes)}'
    )


@DATASETS.register_module()
class CocoDataset(MMDetCocoDataset):
    """mmdet's ``CocoDataset`` that finds mistakes in the data when it is built.

    Raises:
        UserError: If the annotation file is missing, not in COCO format, lacks a class of
            ``metainfo`` or leaves nothing to do; if images are missing (in training, if most
            are) or, in testing, are not whole.
    """

    def load_data_list(self) -> list[dict]:
        needed = ['segmentation'] if _loads_masks(self.pipeline) else []
        if self.test_mode:
            needed.append('iscrowd')  # pycocotools evaluates nothing without it
        self.COCOAPI = partial(CheckedCOCO, classes=self.metainfo['classes'], needed=needed)
        return super().load_data_list()

    def filter_data(self) -> list[dict]:
        data_list = super().filter_data()
        if not data_list:
            raise _nothing_to_use(self.ann_file, self.metainfo['classes'])
        if self.backend_args is None:
            self._check_images([data_info['img_path'] for data_info in data_list])
        return data_list

    def _check_images(self, paths: list[str]) -> None:
        names_in = cache(lambda folder: set(os.listdir(folder)) if os.path.isdir(folder) else set())
        missing = [
            path for path in paths if os.path.basename(path) not in names_in(os.path.dirname(path))
        ]
        # In training the odd one is skipped when its turn comes.
        if missing and (self.test_mode or 2 * len(missing) > len(paths)):
            raise UserError(
                f'{len(missing)} of the {len(paths)} images of {self.ann_file} do not '
                f'exist, such as {missing[0]}: check data_root and data_prefix'
            )
        if self.test_mode:
            for path in paths:
                if not is_whole(path):
                    raise UserError(
                        f'{path} is not an image that can be read: mend it, or take '
                        f'it out of {self.ann_file}'
                    )


def is_whole(path: str) -> bool:
    """Whether an image can be read to its end; of formats other than JPEG and PNG, its header."""
    if not cv2.haveImageReader(path):
        return False
    with open(path, 'rb') as file:
        end = MARKS.get(file.read(3), b'')  # of other formats the empty one, which is there
        file.seek(max(0, os.path.getsize(path) - TAIL_BYTES))
        if end in file.read():
            return True
    # Whoever appends much, such as a phone that appends a video, is decoded.
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) is not None


def _loads_masks(transform: Any) -> bool:
    inner = [*getattr(transform, 'transforms', []), *getattr(transform, 'subroutines', [])]
    return getattr(transform, 'with_mask', False) or any(map(_loads_masks, inner))
