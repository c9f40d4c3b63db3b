"""Exportable detectors find what mmdet finds, and so do the exported files."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.configs import load
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmdat.deployment.compare import Agreement, compare_detections
from mmdat.deployment.detectors import exportable_detector
from mmdat.deployment.masks import paste_masks
from mmdat.errors import UserError

DETECTORS = ['retinanet', 'mask_rcnn', 'cascade_mask_rcnn']
WIDTH = 8
RESNET = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)


@functools.cache
def build(name: str) -> nn.Module:
    """A detector with few channels and random weights, whose scores and boxes vary."""
    cfg = load(f'{name}_dat_pp_t_coco').model
    cfg.backbone = RESNET
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=WIDTH)
    dense = cfg.bbox_head if name == 'retinanet' else cfg.rpn_head
    dense.update(in_channels=WIDTH, feat_channels=WIDTH)
    if name == 'retinanet':
        dense.update(stacked_convs=1, num_classes=3)
        cfg.test_cfg.update(nms_pre=200, max_per_img=20)
    else:
        roi = cfg.roi_head
        roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = WIDTH
        for head in [roi.bbox_head] if name == 'mask_rcnn' else roi.bbox_head:
            head.update(in_channels=WIDTH, fc_out_channels=16, num_classes=3)
            if 'num_shared_convs' in head:
                head.update(num_shared_convs=1, conv_out_channels=WIDTH)
        roi.mask_head.update(
            in_channels=WIDTH, conv_out_channels=WIDTH, num_convs=1, num_classes=3
        )
        cfg.test_cfg.rpn.update(nms_pre=100, max_per_img=50)
        cfg.test_cfg.rcnn.update(max_per_img=20)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg).eval()
    for path, weight in model.named_parameters():
        if weight.dim() > 1 and not path.startswith('backbone'):
            nn.init.kaiming_normal_(weight)
            weight.data.mul_(0.3 if 'reg' in path or 'cls' in path else 1.0)
    return model


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> list[np.ndarray]:
    """What mmdet finds in RGB images of one size, filled up as exported detectors fill it up.

    The masks are of the size of the images.
    """
    height, width = images.shape[2:]
    info = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=info) for _ in images]
    results = model.test_step(dict(inputs=list(images.flip(1)), data_samples=samples))
    most = max(len(sample.pred_instances) for sample in results)
    columns = []
    for name, missing in dict(bboxes=0.0, scores=-1.0, labels=-1, masks=False).items():
        if name in results[0].pred_instances:
            rows = [sample.pred_instances[name] for sample in results]
            filled = torch.full((len(rows), most, *rows[0].shape[1:]), missing, dtype=rows[0].dtype)
            for target, values in zip(filled, rows, strict=True):
                target[: len(values)] = values
            columns.append(filled.numpy())
    return columns


def paste(outputs: list[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """An exported detector's outputs with masks of the size of the images, if it has masks."""
    boxes, scores, labels, *masks = outputs
    pasted = [
        np.stack([paste_masks(m, b, size) for m, b in zip(masks[0], boxes, strict=True)])
        for masks in [masks]
        if masks
    ]
    return [boxes, scores, labels, *pasted]


def random_images(*shape: int) -> Tensor:
    """RGB images of noise, from 0 to 255."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize('name', DETECTORS)
@pytest.mark.parametrize('shape', [(2, 3, 97, 141), (1, 3, 64, 32)], ids=str)
def test_finds_what_mmdet_finds(name: str, shape: tuple[int, ...]) -> None:
    model, images = build(name), random_images(*shape)
    with torch.no_grad():
        outputs = [output.numpy() for output in exportable_detector(model)(images)]
    expected = predict(model, images)
    assert (expected[1] >= 0).sum() >= 5 * len(images)
    agreement = compare_detections(expected, paste(outputs, shape[2:]))
    assert agreement.same, agreement
    assert agreement.box_difference < 1e-3 and agreement.score_difference < 1e-5
    print(agreement)
