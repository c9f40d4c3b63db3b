"""COCO's average precision of the images that were tested."""

from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric as MMDetCocoMetric

from mmdat.checks.coco import log_once
from mmdat.errors import UserError
from mmdat.registry import METRICS

from .coco import CheckedCOCO


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """mmdet's ``CocoMetric`` that reads its file as the data set does, and counts what was tested.

    mmdet takes objects as missed whose images were not tested, and an object with the id 0 as
    never found.

    Args:
        ann_file: Path of the annotation file; None for the annotations of the data set.
        kwargs: As for mmdet's metric.

    Raises:
        UserError: If the file cannot be read, is not in COCO format, or is for other images or
            classes than those tested; for ``metric='proposal_fast'``.
    """

    def __init__(self, ann_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if 'proposal_fast' in self.metrics:
            raise UserError(
                "metric='proposal_fast' ends in an error of mmdet since NumPy 1.24: give "
                "metric='proposal', which tells the same recalls"
            )
        self.ann_file = ann_file
        if ann_file is not None:
            self._coco_api = CheckedCOCO(
                ann_file, needs_masks='segm' in self.metrics and not self.format_only
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self.ann_file is None:
            return super().compute_metrics(results)
        # Each image counts once, though it may be in the data set twice.
        results = list({truth['img_id']: (truth, found) for truth, found in results}.values())
        self.img_ids = [truth['img_id'] for truth, _ in results]
        if unknown := [number for number in self.img_ids if number not in self._coco_api.imgs]:
            raise UserError(
                f'{len(unknown)} of the {len(results)} images that were tested are not in '
                f"{self.ann_file}, such as id {unknown[0]!r}: give the evaluator the data set's "
                'ann_file'
            )
        if len(results) < len(self._coco_api.imgs):
            log_once(
                f'{len(results)} images of {len(self._coco_api.imgs)} in {self.ann_file} were '
                'tested: the figures are of these'
            )
        in_order = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        # pycocotools sorts the ids, and mmdet names the classes' figures in the order given here.
        self.cat_ids = sorted(in_order)
        ranks = np.array([self.cat_ids.index(number) for number in in_order])
        return super().compute_metrics(
            [(truth, found | dict(labels=ranks[found['labels']])) for truth, found in results]
        )
