"""Exportable detectors find what mmdet finds, and so do the files that are exported from them."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.configs import load
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.export import Dim

import mmdat  # noqa: F401  registers the backbone of transformers
from mmdat.deployment.boxes import suppress
from mmdat.deployment.checking import TOLERANCE, compare, compare_detections
from mmdat.deployment.checking import load as load_file
from mmdat.deployment.detectors import RoIFeatures, exportable_detector
from mmdat.deployment.features import ExportableFeatures
from mmdat.deployment.masks import paste_masks
from mmdat.deployment.outputs import Boxes
from mmdat.deployment.reference import own_features, own_predictions
from mmdat.deployment.writing import OPSET, trace, write
from mmdat.errors import UserError

DETECTORS = ['retinanet', 'mask_rcnn', 'cascade_mask_rcnn', 'detr', 'dino']
SHAPES = [(2, 3, 97, 141), (1, 3, 64, 32)]
WIDTH = 8


def build(name: str) -> nn.Module:
    """A detector with few channels and random weights, whose scores and boxes vary."""
    cfg = load(f'{name}_dat_pp_t_coco').model
    cfg.backbone = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
    narrow = _narrow_transformer if name in ('detr', 'dino') else _narrow_pyramid
    narrow(cfg)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg).eval()
    for path, weight in model.named_parameters():
        if weight.dim() > 1 and not path.startswith('backbone'):
            nn.init.kaiming_normal_(weight)
            weight.data.mul_(0.3 if 'reg' in path or 'cls' in path else 1.0)
    return model


def _narrow_pyramid(cfg: Any) -> None:
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=WIDTH)
    if 'rpn_head' not in cfg:
        cfg.bbox_head.update(in_channels=WIDTH, feat_channels=WIDTH, stacked_convs=1, num_classes=3)
        cfg.test_cfg.update(nms_pre=200, max_per_img=20)
        return
    cfg.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
    head = cfg.roi_head
    head.bbox_roi_extractor.out_channels = head.mask_roi_extractor.out_channels = WIDTH
    for stage in head.bbox_head if isinstance(head.bbox_head, list) else [head.bbox_head]:
        stage.update(in_channels=WIDTH, fc_out_channels=16, num_classes=3)
        if 'num_shared_convs' in stage:
            stage.update(num_shared_convs=1, conv_out_channels=WIDTH)
    head.mask_head.update(in_channels=WIDTH, conv_out_channels=WIDTH, num_convs=1, num_classes=3)
    cfg.test_cfg.rpn.update(nms_pre=100, max_per_img=50)
    cfg.test_cfg.rcnn.update(max_per_img=20)


def _narrow_transformer(cfg: Any) -> None:
    # DINO's encoding of boxes fits no other width.
    dims = 256 if cfg.type == 'DINO' else 32
    levels = len(cfg.neck.in_channels)
    cfg.neck.update(in_channels=[32, 64, 128][-levels:], out_channels=dims)
    # Without padding to a multiple, torch.export cannot pool as the stem of a ResNet does.
    cfg.backbone = dict(type='mmdat.DATPlusPlus', arch='nano', out_indices=range(4 - levels, 4))
    cfg.num_queries = cfg.test_cfg.max_per_img = 20
    cfg.bbox_head.update(embed_dims=dims, num_classes=3)
    cfg.positional_encoding.num_feats = dims // 2
    for part in (cfg.encoder, cfg.decoder):
        part.num_layers = 1
        part.layer_cfg.ffn_cfg.update(embed_dims=dims, feedforward_channels=dims)
        for attention in ('self_attn_cfg', 'cross_attn_cfg'):
            if attention in part.layer_cfg:
                part.layer_cfg[attention].update(embed_dims=dims)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> list[np.ndarray]:
    """What mmdet finds in RGB images of one size."""
    return [output.numpy() for output in own_predictions(model, 'mmdet')(images)]


@torch.no_grad()
def run(module: nn.Module, images: Tensor) -> list[np.ndarray]:
    return [output.numpy() for output in module(images)]


def random_images(*shape: int) -> Tensor:
    """RGB images of noise, from 0 to 255."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize('name', DETECTORS)
def test_finds_what_mmdet_finds(name: str) -> None:
    model = build(name)
    for shape in SHAPES:
        images = random_images(*shape)
        boxes, scores, labels, *masks = run(exportable_detector(model), images)
        assert boxes.shape == (len(images), 20, 4) and scores.shape == (len(images), 20)
        if masks:
            pairs = zip(masks[0], boxes, strict=True)
            masks = [np.stack([paste_masks(*pair, shape[2:]) for pair in pairs])]
        expected = predict(model, images)
        assert (expected[1] >= 0).sum() >= 5 * len(images)
        agreement = compare_detections(expected, [boxes, scores, labels, *masks])
        assert agreement.same, agreement
        assert agreement.box_difference < 1e-3 and agreement.score_difference < 1e-5
        assert agreement.mask_difference == 0


def test_masks_are_compared_at_the_threshold_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build('mask_rcnn')
    model.roi_head.test_cfg.mask_thr_binary = 0.3
    exportable = exportable_detector(model)

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in exportable(torch.from_numpy(images))]

    monkeypatch.setattr('mmdat.deployment.checking.load', lambda path: run)
    for threshold, same in ((0.3, True), (0.5, False)):
        compared = compare(own_predictions(model, 'mmdet'), tmp_path, 32, mask_threshold=threshold)
        assert all(each.difference <= TOLERANCE for each in compared) == same
        assert any(each.num_objects for each in compared)


def test_missing_boxes_are_zeros_with_label_minus_one() -> None:
    model = build('mask_rcnn')
    model.roi_head.test_cfg.score_thr = 0.999
    images = random_images(1, 3, 64, 64)
    assert len(predict(model, images)[1][0]) == 0
    boxes, scores, labels, _ = run(exportable_detector(model), images)
    assert (boxes == 0).all() and (scores == -1).all() and (labels == -1).all()


def export_and_compare(model: nn.Module, path: Path) -> None:
    """Export to ONNX from images of one size, and compare at others."""
    pytest.importorskip('onnxruntime')
    module = exportable_detector(model)
    write(trace(module, smallest=20), path, {})
    run_file = load_file(path)
    for shape in [(1, 3, 64, 64), (3, 3, 131, 200), (1, 3, 40, 33)]:
        images = random_images(*shape)
        agreement = compare_detections(run(module, images), run_file(images.numpy()))
        assert agreement.same and agreement.expected >= 5 * len(images), (shape, agreement)
        assert agreement.box_difference < 1e-2 and agreement.score_difference < 1e-4
        assert agreement.mask_difference < 1e-3


class Parts(nn.Module):
    """What of a detector becomes other operators in ONNX: suppression of boxes, and RoIAlign."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = RoIFeatures(build('mask_rcnn').roi_head.bbox_roi_extractor)

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor, maps: Tensor) -> list[Tensor]:
        """Scores and indices of the boxes that are kept, and features of all boxes."""
        scores, index = suppress(boxes, scores, labels, iou_threshold=0.5, most=40)
        return [scores, index, self.pool((maps, maps[:, :, ::2, ::2]), boxes)]


def test_boxes_and_features_in_onnx_are_the_same(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    generator = torch.Generator().manual_seed(0)

    def inputs(batch: int) -> tuple[Tensor, ...]:
        corners = torch.rand(batch, 40, 2, generator=generator) * 100
        sides = torch.rand(batch, 40, 2, generator=generator) * 200
        scores = torch.rand(batch, 40, generator=generator)
        labels = torch.randint(3, (batch, 40), generator=generator)
        maps = torch.rand(batch, 2, 40 * batch, 50, generator=generator)
        boxes = torch.cat([corners, corners + sides], dim=-1)
        return boxes, scores.where(scores > 0.2, -1.0), labels, maps

    parts, batch = Parts().eval(), Dim('batch', min=1)
    dynamic = ({0: batch}, {0: batch}, {0: batch}, {0: batch, 2: Dim('height', min=4)})
    with torch.no_grad():
        program = torch.export.export(parts, inputs(2), dynamic_shapes=dynamic)
        file = torch.onnx.export(
            program, input_names=list('bslm'), opset_version=OPSET, verbose=False
        )
    file.save(tmp_path / 'parts.onnx')
    session = onnxruntime.InferenceSession(tmp_path / 'parts.onnx')
    for count in (1, 3):
        arguments = inputs(count)
        feeds = dict(zip('bslm', (argument.numpy() for argument in arguments), strict=True))
        scores, index, pooled = session.run(None, feeds)
        expected = parts(*arguments)
        assert 0 < (scores >= 0).sum() < scores.size
        np.testing.assert_array_equal(scores, expected[0])
        np.testing.assert_array_equal(index[scores >= 0], expected[1].numpy()[scores >= 0])
        np.testing.assert_allclose(pooled, expected[2], atol=1e-4)
    feeds['s'] = np.full_like(feeds['s'], -1)  # no box at all
    assert (session.run(None, feeds)[0] == -1).all()


@pytest.mark.slow
@pytest.mark.parametrize('name', DETECTORS)
def test_detector_in_onnx_finds_the_same(name: str, tmp_path: Path) -> None:
    export_and_compare(build(name), tmp_path / 'model.onnx')


class Corners(nn.Module):
    """One box an image, its own outline."""

    def forward(self, images: Tensor) -> Boxes:
        x, y = images[:, 0, 0, :1] * 0 + images.shape[3], images[:, 0, 0, :1] * 0 + images.shape[2]
        return Boxes(torch.stack([x * 0, y * 0, x, y], dim=-1), x * 0 + 1, (x * 0).long())


def test_pt2_holds_named_outputs(tmp_path: Path) -> None:
    path = tmp_path / 'model.pt2'
    traced = trace(Corners(), smallest=32)
    write(traced, path, {})
    assert traced.outputs == ('boxes', 'scores', 'labels')
    boxes, scores, labels = load_file(path)(np.zeros((2, 3, 40, 50), np.float32))
    assert boxes[1, 0].tolist() == [0, 0, 50, 40] and scores.shape == labels.shape == (2, 1)


def set_at(model: nn.Module, path: str, value: Any) -> None:
    *parents, name = path.split('.')
    setattr(functools.reduce(getattr, parents, model), name, value)


@pytest.mark.parametrize(
    'path, value, sentence',
    [
        ('roi_head.test_cfg.nms.type', 'soft_nms', "covered is type='nms'"),
        ('roi_head.test_cfg.max_per_img', -1, "positive 'max_per_img'"),
        ('rpn_head.test_cfg.nms_pre', -1, "positive 'nms_pre'"),
        ('rpn_head.bbox_coder.clip_border', False, "without 'clip_border'"),
        ('rpn_head', nn.Identity(), "the rpn_head 'Identity' end to end; covered are 'RPNHead'"),
        ('roi_head.shared_head', nn.Identity(), "a 'shared_head'"),
    ],
    ids=str,
)
def test_refuses_what_it_would_compute_differently(path: str, value: Any, sentence: str) -> None:
    model = build('mask_rcnn')
    set_at(model, path, value)
    with pytest.raises(UserError, match=sentence):
        exportable_detector(model)


def test_refuses_another_detector() -> None:
    with pytest.raises(UserError, match="the detector 'Linear' end to end; covered are 'CascadeR"):
        exportable_detector(nn.Linear(1, 1))


def test_features_are_those_of_the_neck() -> None:
    model, images = build('mask_rcnn'), random_images(1, 3, 64, 97)
    with torch.no_grad():
        features = ExportableFeatures(model)(images)
        expected = own_features(model)(images)
    assert features._fields == ('feature0', 'feature1', 'feature2', 'feature3', 'feature4')
    for found, truth in zip(features, expected, strict=True):
        torch.testing.assert_close(found, truth)
