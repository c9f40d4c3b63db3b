"""Detectors of mmdet as one graph from pixels to boxes, for torch.export and ONNX.

mmdet's own post-processing goes image by image and returns as many boxes as it finds. Here the same
layers and numbers serve a batch at once, with a fixed count of boxes.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models import (
    DETR,
    DINO,
    CascadeRCNN,
    CascadeRoIHead,
    DetectionTransformer,
    DETRHead,
    DINOHead,
    FasterRCNN,
    FCNMaskHead,
    MaskRCNN,
    RetinaHead,
    RetinaNet,
    RPNHead,
    SingleRoIExtractor,
    SingleStageDetector,
    StandardRoIHead,
    TwoStageDetector,
)
from mmdet.models.roi_heads.bbox_heads import (
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder
from torch import Tensor, nn
from torchvision.ops import roi_align

from mmdat.deployment.boxes import MISSING, decode, gather_rows, suppress
from mmdat.deployment.features import BackboneAndNeck
from mmdat.deployment.outputs import Boxes, Detections
from mmdat.deployment.queries import QueryBoxes
from mmdat.errors import UserError, enumerate_names

Size = tuple[int, int]
BOX_HEADS = (ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead)
DETECTORS = (
    DETR,
    DINO,
    RetinaNet,
    SingleStageDetector,
    FasterRCNN,
    MaskRCNN,
    CascadeRCNN,
    TwoStageDetector,
)


def exportable_detector(model: Any) -> nn.Module:
    """A module that computes what a detector predicts, with outputs of fixed counts.

    It shares the detector's layers, and takes images, float32 (batch, 3, height, width), RGB from 0
    to 255, all of one size. It returns :class:`Boxes` or, if the detector has masks,
    :class:`Detections`.

    Raises:
        UserError: If a part of the detector computes what this module would not.
    """
    _check_type('detector', model, DETECTORS)
    if isinstance(model, DetectionTransformer):
        return Queries(model).eval()
    if hasattr(model, 'roi_head'):
        return TwoStage(model).eval()
    return OneStage(model).eval()


class OneStage(BackboneAndNeck):
    """RetinaNet: boxes straight from anchors."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        _check_type('bbox_head', model.bbox_head, (RetinaHead,))
        self.bbox_head = DenseHead(model.bbox_head)

    def forward(self, images: Tensor) -> Boxes:
        """Detect objects in images, see :func:`exportable_detector`."""
        size = (images.shape[2], images.shape[3])
        boxes, scores, labels, _ = self.bbox_head(self.features(images), size)
        return _keep(boxes, scores, labels, self.bbox_head.cfg, labels)


class Queries(BackboneAndNeck):
    """DETR and DINO: boxes from learned queries."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        _check_type('bbox_head', model.bbox_head, (DETRHead, DINOHead))
        if self.preprocess.divisor != 1:
            raise UserError(
                f'cannot export {type(model).__name__!r} with pad_size_divisor='
                f'{self.preprocess.divisor}, since padding needs a mask; set it to 1'
            )
        self.queries = QueryBoxes(model)
        # Height and width below which DINO has fewer cells than queries that start at them.
        stride = 4 * 2 ** min(model.backbone.out_indices)
        self.smallest_image = (
            stride * math.ceil(math.sqrt(model.num_queries)) if isinstance(model, DINO) else 1
        )

    def forward(self, images: Tensor) -> Boxes:
        """Detect objects in images, see :func:`exportable_detector`."""
        return Boxes(*self.queries(self.features(images), (images.shape[2], images.shape[3])))


class TwoStage(BackboneAndNeck):
    """Faster, Mask and Cascade R-CNN: proposals from anchors, then boxes, then masks."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        _check_type('rpn_head', model.rpn_head, (RPNHead,))
        _check_type('roi_head', model.roi_head, (StandardRoIHead, CascadeRoIHead))
        if model.roi_head.with_shared_head:
            raise UserError("cannot export a roi_head with a 'shared_head'; leave it out")
        self.rpn_head = DenseHead(model.rpn_head)
        self.box_stages = BoxStages(model.roi_head)
        self.mask_stages = MaskStages(model.roi_head) if model.roi_head.with_mask else None

    def forward(self, images: Tensor) -> Boxes | Detections:
        """Detect objects in images, see :func:`exportable_detector`."""
        size = (images.shape[2], images.shape[3])
        features = self.features(images)
        boxes, scores, labels, levels = self.rpn_head(features, size)
        proposals = _keep(boxes, scores, labels, self.rpn_head.cfg, levels)
        found = self.box_stages(features, proposals, size)
        if self.mask_stages is None:
            return found
        masks = self.mask_stages(features, found)
        return Detections(found.boxes, found.scores, found.labels, masks)


class DenseHead(nn.Module):
    """The best boxes of each level of a head that regresses from anchors."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        _check_type('anchor_generator', head.prior_generator, (AnchorGenerator,))
        _check_coder(head.bbox_coder)
        _check_loss(head.loss_cls)
        _check_test_cfg(head.test_cfg, 'nms_pre')
        self.head = head
        self.cfg = head.test_cfg

    def forward(
        self, features: tuple[Tensor, ...], size: Size
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (batch, n, 4), and their scores, labels and levels (batch, n), before NMS."""
        levels = [
            self._select(i, scores, deltas)
            for i, (scores, deltas) in enumerate(zip(*self.head(features), strict=True))
        ]
        anchors, deltas, scores, labels, level = (
            torch.cat(parts, dim=1) for parts in zip(*levels, strict=True)
        )
        boxes = decode(self.head.bbox_coder, anchors, deltas, size)
        smallest = self.cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            wide_and_high = (boxes[..., 2:] - boxes[..., :2] > smallest).all(dim=-1)
            scores = scores.where(wide_and_high, MISSING)
        return boxes, scores, labels, level

    def _select(self, level: int, logits: Tensor, deltas: Tensor) -> tuple[Tensor, ...]:
        """Anchors and deltas (batch, n, 4), scores, labels and levels of a level's best classes."""
        width = torch.scalar_tensor(logits.shape[3], dtype=torch.int64, device=logits.device)
        best = logits.permute(0, 2, 3, 1)
        if not self.head.use_sigmoid_cls:
            classes = best.unflatten(-1, (-1, self.head.cls_out_channels))
            best = classes.softmax(dim=-1)[..., :-1]
        # A coarse level can have fewer scores than are taken.
        padded = F.pad(best.flatten(1), (0, self.cfg.nms_pre), value=-torch.inf)
        scores, index = padded.topk(self.cfg.nms_pre)
        if self.head.use_sigmoid_cls:
            scores = scores.sigmoid()
        scores = scores.where(scores > self.cfg.get('score_thr', 0), MISSING)
        index = index.where(scores > MISSING, 0)
        index, labels = index // self.head.num_classes, index % self.head.num_classes
        generator = self.head.prior_generator
        bases = generator.base_anchors[level].to(deltas)
        cells, kinds = index // len(bases), index % len(bases)
        x, y = cells % width, cells // width
        corners = torch.stack([x, y, x, y], dim=-1) * torch.tensor(
            generator.strides[level] * 2, device=deltas.device
        )
        entries = index[..., None] * 4 + torch.arange(4, device=deltas.device)
        return (
            bases[kinds] + corners,
            deltas.permute(0, 2, 3, 1).flatten(1).gather(1, entries.flatten(1)).view(entries.shape),
            scores,
            labels,
            torch.full_like(labels, level),
        )


class BoxStages(nn.Module):
    """Box heads on proposals: one, or one after the other on what the last refined."""

    def __init__(self, roi_head: Any) -> None:
        super().__init__()
        self.heads = _stages(roi_head.bbox_head)
        self.extractors = nn.ModuleList(
            RoIFeatures(extractor) for extractor in _stages(roi_head.bbox_roi_extractor)
        )
        for head in self.heads:
            _check_type('bbox_head', head, BOX_HEADS)
            _check_coder(head.bbox_coder)
            _check_loss(head.loss_cls)
            if not (head.with_cls and head.with_reg):
                raise UserError("cannot export a bbox_head without 'with_cls' and 'with_reg'")
        _check_test_cfg(roi_head.test_cfg)
        self.cfg = roi_head.test_cfg

    def forward(self, features: tuple[Tensor, ...], proposals: Boxes, size: Size) -> Boxes:
        """Boxes of objects, after non-maximum suppression."""
        boxes = proposals.boxes
        batch, number = proposals.scores.shape
        logits: list[Tensor] = []
        deltas: Any = None
        for i, (head, extract) in enumerate(zip(self.heads, self.extractors, strict=True)):
            if i:
                boxes = self._refine(self.heads[i - 1], boxes, logits[-1], deltas, size)
            scores, deltas = head(extract(features, boxes))
            logits.append(scores.view(batch, number, -1))
            deltas = deltas.view(batch, number, -1)
        scores = (sum(logits[1:], logits[0]) / len(logits)).softmax(dim=-1)[..., :-1]
        classes = scores.shape[-1]
        scores = scores.where(scores > self.cfg.score_thr, MISSING)
        scores = scores.where(proposals.scores[..., None] > MISSING, MISSING).flatten(1)
        boxes = decode(self.heads[-1].bbox_coder, boxes, deltas, size)
        boxes = boxes.view(batch, number, -1, 4).expand(-1, -1, classes, -1).flatten(1, 2)
        labels = torch.arange(classes, device=boxes.device).repeat(number).expand(batch, -1)
        return _keep(boxes, scores, labels, self.cfg, labels)

    @staticmethod
    def _refine(head: Any, boxes: Tensor, logits: Tensor, deltas: Tensor, size: Size) -> Tensor:
        """Boxes as a stage regressed them, for its best class."""
        if not head.reg_class_agnostic:
            label = logits[..., :-1].argmax(dim=-1)
            deltas = deltas.unflatten(-1, (-1, 4))
            index = label[..., None, None].expand(-1, -1, 1, 4)
            deltas = deltas.gather(2, index).squeeze(2)
        return decode(head.bbox_coder, boxes, deltas, size)


class MaskStages(nn.Module):
    """Masks of boxes, averaged over the stages of a cascade."""

    def __init__(self, roi_head: Any) -> None:
        super().__init__()
        self.heads = _stages(roi_head.mask_head)
        extractors = roi_head.mask_roi_extractor
        self.extractors = nn.ModuleList(RoIFeatures(extractor) for extractor in _stages(extractors))
        for head in self.heads:
            _check_type('mask_head', head, (FCNMaskHead,))

    def forward(self, features: tuple[Tensor, ...], found: Boxes) -> Tensor:
        """Probabilities (batch, n, m, m) on a grid over each box."""
        masks = [
            head(extract(features, found.boxes)).sigmoid()
            for head, extract in zip(self.heads, self.extractors, strict=True)
        ]
        mean = sum(masks) / len(masks)
        if not self.heads[-1].class_agnostic:
            height, width = mean.shape[2:]
            index = found.labels.clamp(min=0).view(-1, 1, 1, 1).expand(-1, 1, height, width)
            mean = mean.gather(1, index)
        return mean.view(*found.labels.shape, *mean.shape[2:])


class RoIFeatures(nn.Module):
    """Features of boxes, each from the level of the pyramid that suits its size."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        _check_type('roi_extractor', extractor, (SingleRoIExtractor,))
        for layer in extractor.roi_layers:
            if layer.pool_mode != 'avg':
                raise UserError(
                    f'cannot export RoIAlign with pool_mode={layer.pool_mode!r}; "avg" is covered'
                )
        self.extractor = extractor

    def forward(self, features: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """Features (batch * n, channels, m, m) of boxes (batch, n, 4)."""
        batch, number, _ = boxes.shape
        images = torch.arange(batch, device=boxes.device).to(boxes)
        rois = torch.cat([images[:, None, None].expand(-1, number, 1), boxes], dim=-1).flatten(0, 1)
        layers = self.extractor.roi_layers
        levels = self.extractor.map_roi_levels(rois, len(layers))[:, None]
        pooled = None
        for level, (feature, layer) in enumerate(zip(features, layers, strict=False)):
            here = levels == level
            # A box of another level shrinks to nothing: all counts stay fixed, at next to no cost.
            values = roi_align(
                feature,
                torch.cat([rois[:, :1], rois[:, 1:].where(here, 0.0)], dim=1),
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
            pooled = values if pooled is None else values.where(here[..., None, None], pooled)
        assert pooled is not None
        return pooled


def _keep(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Any, groups: Tensor) -> Boxes:
    """The boxes that non-maximum suppression in groups leaves."""
    scores, index = suppress(boxes, scores, groups, cfg.nms.iou_threshold, cfg.max_per_img)
    there = scores > MISSING
    return Boxes(
        gather_rows(boxes, index).where(there[..., None], 0.0),
        scores,
        labels.gather(1, index).where(there, -1),
    )


def _stages(modules: Any) -> Any:
    """The heads or extractors of each stage, one if there is no cascade."""
    return modules if isinstance(modules, nn.ModuleList) else nn.ModuleList([modules])


def _check_type(part: str, module: Any, known: Iterable[type]) -> None:
    """Refuse a part of another type, since subclasses compute other things."""
    if type(module) not in known:
        raise UserError(
            f'cannot export the {part} {type(module).__name__!r} end to end; covered are '
            f'{enumerate_names(sorted(kind.__name__ for kind in known))}'
        )


def _check_coder(coder: Any) -> None:
    _check_type('bbox_coder', coder, (DeltaXYWHBBoxCoder,))
    if coder.add_ctr_clamp or not coder.clip_border:
        raise UserError(
            "cannot export a bbox_coder with 'add_ctr_clamp', or without 'clip_border'; change it"
        )


def _check_loss(loss: Any) -> None:
    if getattr(loss, 'custom_cls_channels', False):
        raise UserError(f'cannot export scores as {type(loss).__name__!r} computes them')


def _check_test_cfg(cfg: Any, *counts: str) -> None:
    kind = cfg.nms.get('type', 'nms')
    if kind != 'nms' or set(cfg.nms) - {'type', 'iou_threshold'}:
        raise UserError(
            f"cannot export test_cfg with nms={dict(cfg.nms)}; covered is type='nms' with "
            "'iou_threshold'"
        )
    for name in (*counts, 'max_per_img'):
        if cfg.get(name, -1) <= 0:
            raise UserError(f'cannot export test_cfg without a positive {name!r}; set it')
