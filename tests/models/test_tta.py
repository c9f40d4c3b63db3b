"""Merging the detections of an image and of its flipped copy."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from mmdat.models.tta import InstanceTTAModel

HEIGHT, WIDTH = 8, 12


class Detector(BaseModel):
    def forward(self, *args, **kwargs) -> None:
        raise AssertionError('what it would detect is given')


def detected(bboxes: list[list[float]], scores: list[float], flip: bool) -> DetDataSample:
    masks = torch.zeros(len(bboxes), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, bboxes, strict=True):
        mask[y1:y2, x1:x2] = True
    if flip:
        masks = masks.flip(-1)
        bboxes = [[WIDTH - x2, y1, WIDTH - x1, y2] for x1, y1, x2, y2 in bboxes]
    sample = DetDataSample(
        metainfo=dict(
            ori_shape=(HEIGHT, WIDTH), flip=flip, flip_direction='horizontal' if flip else None
        )
    )
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(bboxes, dtype=torch.float32).reshape(-1, 4),
        masks=masks,
        scores=torch.tensor(scores),
        labels=torch.zeros(len(bboxes), dtype=torch.int64),
    )
    return sample


@pytest.mark.parametrize(
    'boxes, flipped_boxes',
    [
        ([], []),
        ([], [[1, 2, 5, 6]]),
        ([[1, 2, 5, 6]], []),
        ([[1, 2, 5, 6]], [[1, 2, 5, 6], [7, 0, 11, 3]]),
    ],
)
def test_copies_are_merged_where_some_or_all_have_no_detection(boxes: list, flipped_boxes: list):
    model = InstanceTTAModel(
        module=Detector(), tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    )
    [merged] = model.merge_preds(
        [
            [
                detected(boxes, [0.9] * len(boxes), flip=False),
                detected(flipped_boxes, [0.8] * len(flipped_boxes), flip=True),
            ]
        ]
    )
    expected = max(boxes, flipped_boxes, key=len)
    instances = merged.pred_instances
    assert instances.bboxes.tolist() == expected
    assert instances.masks.shape == (len(expected), HEIGHT, WIDTH)
    assert [extent(mask) for mask in instances.masks] == expected


def extent(mask: Tensor) -> list[int]:
    y, x = (axis.tolist() for axis in mask.nonzero(as_tuple=True))
    return [min(x), min(y), max(x) + 1, max(y) + 1]
