"""COCO-format data that is checked before anything is trained on it."""
import json
import os
from collections.abc import Iterable, Sequence
from functools import cache, partial

import cv2
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO

from mmdat.errors import UserError
from mmdat.registry import DATASETS

# What mmdet reads of each item, by list.
REQUIRED_FIELDS = {
    'images': {'id', 'file_name', 'height', 'width'},
    'annotations': {'id', 'image_id', 'category_id', 'bbox', 'area'},
    'categories': {'id', 'name'},
}


class CheckedCOCO(COCO):
    """pycocotools' COCO that refuses a file that does not fit.

    Args:
        annotation_file: Path of a JSON file.
        classes: Names of categories that the file must have.

    Raises:
        UserError: If the file is missing, not in COCO format or lacks a class.
    """

    def __init__(self, annotation_file: str, classes: Sequence[str] = ()) -> None:
        try:
            super().__init__(annotation_file)
        except FileNotFoundError:
            raise UserError(f'annotation file {annotation_file} does not exist: check data_root '
                            '(for COCO the environment variable COCO_ROOT) and ann_file') from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f'annotation file {annotation_file} is not JSON ({error}): give '
                            'annotations in COCO format') from None
        except (AssertionError, KeyError, TypeError):
            raise self._refusal(annotation_file, 'its lists cannot be read') from None
        for name, required in REQUIRED_FIELDS.items():
            # Images to be tested only, such as COCO's test-dev, have no annotations.
            items = self.dataset.get(name, [] if name == 'annotations' else None)
            if not isinstance(items, list):
                raise self._refusal(annotation_file, f"it has no list '{name}'")
            for item in items:
                if missing := required - item.keys():
                    raise self._refusal(annotation_file, f"in '{name}' the item with id "
                                        f"{item.get('id')} has no {_enumerate(missing)}")
        found = [category['name'] for category in self.dataset['categories']]
        if missing := set(classes) - set(found):
            raise UserError(
                f'annotation file {annotation_file} has no category {_enumerate(missing)}, which '
                'the config expects: set metainfo=dict(classes=(...)) of the data set and '
                f'num_classes of the heads to its own ({_enumerate(found)})')

    @staticmethod
    def _refusal(annotation_file: str, reason: str) -> UserError:
        return UserError(f'annotation file {annotation_file} is not in COCO format: {reason}')


@DATASETS.register_module()
class CocoDataset(MMDetCocoDataset):
    """mmdet's ``CocoDataset`` that finds mistakes in the data when it is built.

    Raises:
        UserError: If the annotation file is missing, not in COCO format, lacks a class of
            ``metainfo`` or leaves nothing to do; if images are missing (in training, if most
            are) or, in testing, have a format that OpenCV cannot read.
    """

    def load_data_list(self) -> list[dict]:
        self.COCOAPI = partial(CheckedCOCO, classes=self.metainfo['classes'])
        return super().load_data_list()

    def filter_data(self) -> list[dict]:
        data_list = super().filter_data()
        if not data_list:
            raise UserError(f'annotation file {self.ann_file} leaves no image to use: it has none '
                            'with an object of the classes '
                            f"{_enumerate(self.metainfo['classes'])}")
        if self.backend_args is None:
            self._check_images([data_info['img_path'] for data_info in data_list])
        return data_list

    def _check_images(self, paths: list[str]) -> None:
        names_in = cache(lambda folder: set(os.listdir(folder)) if os.path.isdir(folder) else set())
        missing = [path for path in paths
                   if os.path.basename(path) not in names_in(os.path.dirname(path))]
        # In training the odd one is skipped when its turn comes.
        if missing and (self.test_mode or 2 * len(missing) > len(paths)):
            raise UserError(f'{len(missing)} of the {len(paths)} images of {self.ann_file} do not '
                            f'exist, such as {missing[0]}: check data_root and data_prefix')
        if self.test_mode:
            for path in paths:
                if not cv2.haveImageReader(path):
                    raise UserError(f'{path} is not an image that can be read: mend it, or take '
                                    f'it out of {self.ann_file}')


def _enumerate(names: Iterable[str], most: int = 8) -> str:
    quoted = [f"'{name}'" for name in names]
    if len(quoted) > most:
        quoted[most:] = [f'{len(quoted) - most} more']
    return ' and '.join(filter(None, [', '.join(quoted[:-1]), quoted[-1]]))
