"""Boxes with fixed counts: what detectors compute after their convolutions, so that it exports.

An image has as many boxes as it may have at most; those that are missing have score -1.
"""

import torch
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox
from torch import Tensor
from torchvision.ops import nms

MISSING = -1.0


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Take the rows of each image: (batch, n, d) by an index (batch, k) to (batch, k, d)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def decode(
    coder: DeltaXYWHBBoxCoder, boxes: Tensor, deltas: Tensor, size: tuple[int, int]
) -> Tensor:
    """Move and scale boxes by what a head regressed, and clip them to the image.

    Args:
        coder: The head's coder, whose means and standard deviations scale the deltas.
        boxes: (batch, n, 4), x1, y1, x2, y2 in pixels.
        deltas: (batch, n, 4 * classes), or (batch, n, 4) if all classes share them.
        size: Height and width of the image.

    Returns:
        Boxes of the same shape as the deltas.
    """
    decoded = delta2bbox(
        boxes.flatten(0, 1), deltas.flatten(0, 1), coder.means, coder.stds, max_shape=size
    )
    return decoded.view(deltas.shape)


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, most: int
) -> tuple[Tensor, Tensor]:
    """Keep each image's best boxes that overlap no better one of their group too much.

    Args:
        boxes: (batch, n, 4), x1, y1, x2, y2 in pixels, none negative.
        scores: (batch, n), -1 for boxes to leave out.
        groups: (batch, n), integers: the classes, or the levels of a pyramid.
        iou_threshold: Boxes that overlap a better one by more are dropped.

    Returns:
        Scores (batch, min(most, n)) in descending order, -1 where there are no more boxes, and
        indices (batch, min(most, n)) into the boxes.
    """
    batch, number = scores.shape
    images = torch.arange(batch, device=boxes.device)[:, None].expand_as(groups)
    # One suppression for all: groups lie side by side, images below each other. mmdet shifts
    # both axes by the group, so that large label times size rounds y as well.
    cells = torch.stack([groups, images, groups, images], dim=-1)
    apart = (boxes + cells * (boxes.max() + 1)).flatten(0, 1)
    flat = scores.flatten()
    candidates = (flat > MISSING).nonzero().squeeze(1)
    kept = candidates[nms(apart[candidates], flat[candidates], iou_threshold)]
    left = torch.full_like(flat, MISSING).index_put((kept,), flat[kept]).view_as(scores)
    return left.topk(min(most, number))
