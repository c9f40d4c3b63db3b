"""COCO-format data that is checked before anything is trained on it."""

from collections.abc import Collection, Sequence
from functools import partial

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO

from mmdat.checks.coco import check_any_left, check_categories, read_coco
from mmdat.checks.config_tree import transforms
from mmdat.registry import DATASETS


class CheckedCOCO(COCO):
    """pycocotools' ``COCO`` that checks the annotation file it reads.

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
        # What mmdet's constructor sets, which had no file to read.
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs
        check_categories(self.dataset, annotation_file, classes)


@DATASETS.register_module()
class CocoDataset(MMDetCocoDataset):
    """mmdet's ``CocoDataset`` that finds mistakes in the data when it is built.

    Raises:
        UserError: If the annotation file is missing, not in COCO format, lacks a class of
            ``metainfo`` or leaves no image to use.
    """

    def load_data_list(self) -> list[dict]:
        needed = []
        if any(getattr(step, 'with_mask', False) for step in transforms(self.pipeline)):
            needed.append('segmentation')
        if self.test_mode:
            needed.append('iscrowd')  # pycocotools evaluates nothing without it
        self.COCOAPI = partial(CheckedCOCO, classes=self.metainfo['classes'], needed=needed)
        return super().load_data_list()

    def filter_data(self) -> list[dict]:
        data_list = super().filter_data()
        check_any_left(data_list, self.ann_file, self.metainfo['classes'])
        return data_list
