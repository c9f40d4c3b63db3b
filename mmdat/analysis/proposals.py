"""Limits on the proposals of mmdet's two-stage detectors, to count MACs as the papers did."""

from functools import partial
from typing import Any

from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, SingleRoIExtractor
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

# Masks of an image that are counted for Cascade Mask R-CNN. The papers counted 100, as MMDetection
# did then and still does for Mask R-CNN; MMDetection 3.x predicts masks for all 1000 proposals.
NUM_MASKS = 100


def limit_masks(model: BaseModel) -> None:
    """Let a cascade compute the masks of the first proposals alone; other models pass."""
    roi_head = getattr(model, 'roi_head', None)
    if not (isinstance(roi_head, CascadeRoIHead) and roi_head.with_mask):
        return
    forward = roi_head.forward

    def forward_first(
        features: tuple[Tensor, ...], proposals: list[InstanceData], samples: SampleList
    ) -> tuple:
        mask_heads, roi_head.mask_head = roi_head.mask_head, None
        boxes = forward(features, proposals, samples)
        roi_head.mask_head = mask_heads
        rois = bbox2roi([found.bboxes[:NUM_MASKS] for found in proposals])
        masks = [
            head(extractor(features[: extractor.num_inputs], rois))
            for head, extractor in zip(mask_heads, roi_head.mask_roi_extractor, strict=True)
        ]
        return boxes, masks

    roi_head.forward = forward_first


def choose_without_values(detector: BaseModel) -> None:
    """Let two stages go on with as many proposals as they take at most, whatever their scores.

    Other detectors pass.
    """
    if not isinstance(detector, TwoStageDetector):
        return
    forward = detector.rpn_head.forward
    num_proposals = detector.test_cfg.rpn.max_per_img

    def propose(features: tuple[Tensor, ...], samples: SampleList, **_: Any) -> list[InstanceData]:
        forward(features)
        return [InstanceData(bboxes=features[0].new_zeros(num_proposals, 4)) for _ in samples]

    detector.rpn_head.predict = propose
    for module in detector.modules():
        if isinstance(module, SingleRoIExtractor):
            module.forward = partial(_extract, module)


def _extract(extractor: SingleRoIExtractor, features: tuple[Tensor, ...], rois: Tensor) -> Tensor:
    """Return zeros for the features of regions: values would be needed to choose their levels."""
    size = extractor.roi_layers[0].output_size
    return features[0].new_zeros(len(rois), extractor.out_channels, *size)
