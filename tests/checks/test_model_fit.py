"""Necks, heads and checkpoints that do not fit are told by name."""

import re
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmpretrain.evaluation import Accuracy, MultiLabelMetric, SingleLabelMetric
from mmpretrain.models import ClsDataPreprocessor
from mmseg.models import CrossEntropyLoss, SegDataPreProcessor
from torch import nn

from mmdat.checks.model_fit import (
    check_channels,
    check_class_weights,
    check_ignored,
    check_image_channels,
    check_metric,
    check_num_classes,
    check_one_hot_classes,
    check_padding,
    check_predicts_masks,
    check_single_output,
    check_strides,
    check_topk,
    check_weights_fit,
)
from mmdat.errors import UserError
from mmdat.models import DATPlusPlus
from mmdat.registry import MODELS

CHANNELS = [16, 32, 64, 128]
OTHER_CHANNELS = [16, 32, 64, 64]


def model(**parts: dict[str, Any]) -> nn.Module:
    """A nano backbone with other parts."""
    whole = nn.Module()
    whole.backbone = DATPlusPlus(arch='nano')
    for name, part in parts.items():
        scope = part['type'].split('.')[0]  # that of the loss in a head, too
        setattr(whole, name, MODELS.build(dict(part, _scope_=scope)))
    return whole


def fpn(channels: list[int]) -> dict[str, Any]:
    return dict(type='mmdet.FPN', in_channels=channels, out_channels=8, num_outs=4)


def fcn_head(channels: int, num_classes: int = 3) -> dict[str, Any]:
    return dict(
        type='mmseg.FCNHead',
        in_channels=channels,
        in_index=2,
        channels=8,
        num_convs=1,
        num_classes=num_classes,
    )


def uper_head(channels: list[int], in_index: Sequence[int] = (0, 1, 2, 3)) -> dict[str, Any]:
    return dict(
        type='mmseg.UPerHead', in_channels=channels, in_index=in_index, channels=8, num_classes=3
    )


def linear_head(channels: int) -> dict[str, Any]:
    return dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=channels)


@pytest.mark.parametrize(
    'right, wrong, sentence',
    [
        (
            dict(neck=fpn(CHANNELS)),
            dict(neck=fpn(OTHER_CHANNELS)),
            r'model.neck.in_channels is \[16, 32, 64, 64\], but .* of \[16, 32, 64, 128\] channels',
        ),
        (
            dict(decode_head=uper_head(CHANNELS)),
            dict(decode_head=uper_head(OTHER_CHANNELS)),
            r'model.decode_head.in_channels is \[16, 32, 64, 64\], but .* of \[16, 32, 64, 128\]',
        ),
        (
            dict(decode_head=uper_head([32, 128], in_index=[1, -1])),
            dict(decode_head=uper_head([32, 128], in_index=[0, 1])),
            r'model.decode_head.in_channels is \[32, 128\], but .* of \[16, 32\]',
        ),
        (
            dict(auxiliary_head=fcn_head(64)),
            dict(decode_head=uper_head(CHANNELS), auxiliary_head=fcn_head(32)),
            r'model.auxiliary_head.in_channels is 32, but .* of 64',
        ),
        (
            dict(head=linear_head(128)),
            dict(head=linear_head(64)),
            'model.head.in_channels is 64, but model.backbone returns maps of 128 channels',
        ),
    ],
)
def test_parts_for_other_channels_are_refused(
    right: dict[str, Any], wrong: dict[str, Any], sentence: str
) -> None:
    check_channels(model(**right))
    with pytest.raises(UserError, match=sentence):
        check_channels(model(**wrong))


def test_several_necks_may_lead_to_other_channels() -> None:
    whole = model(head=linear_head(8))
    linear = dict(type='LinearNeck', in_channels=128, out_channels=8)
    necks = [dict(type='GlobalAveragePooling'), linear]
    whole.neck = MODELS.build([dict(part, _scope_='mmpretrain') for part in necks])
    check_channels(whole)
    del whole.neck[1]
    with pytest.raises(UserError, match='model.head.in_channels is 8, but model.backbone returns'):
        check_channels(whole)


@pytest.mark.parametrize('in_index', [4, -5])
def test_a_head_that_reads_a_map_that_is_not_there_is_refused(in_index: int) -> None:
    head = dict(fcn_head(128), in_index=in_index)
    sentence = f'model.auxiliary_head.in_index is {in_index}, but .* returns 4 maps: choose from 0'
    with pytest.raises(UserError, match=sentence):
        check_channels(model(auxiliary_head=head))
    check_channels(model(neck=fpn(CHANNELS), auxiliary_head=dict(head, in_index=3)))


def rpn_head(strides: list[int]) -> dict[str, Any]:
    anchors = dict(type='AnchorGenerator', scales=[8], ratios=[1.0], strides=strides)
    return dict(type='mmdet.RPNHead', in_channels=8, anchor_generator=anchors)


def fpn_head(strides: list[int], in_index: Sequence[int] = (0, 1, 2, 3)) -> dict[str, Any]:
    return dict(
        type='mmseg.FPNHead',
        in_channels=[8] * len(in_index),
        in_index=in_index,
        feature_strides=strides,
        channels=8,
        num_classes=2,
    )


def roi_extractor(strides: list[int]) -> dict[str, Any]:
    layer = dict(type='RoIAlign', output_size=7)
    return dict(
        type='mmdet.SingleRoIExtractor', roi_layer=layer, out_channels=8, featmap_strides=strides
    )


@pytest.mark.parametrize(
    'name, build, right, wrong',
    [
        ('rpn_head', rpn_head, [4, 8, 16, 32, 64], [8, 16, 32, 64, 128]),
        ('rpn_head', rpn_head, [4, 8, 16, 32, 64], [4, 8, 16, 32]),
        ('decode_head', fpn_head, [4, 8, 16, 32], [8, 16, 32, 64]),
        ('decode_head', partial(fpn_head, in_index=[1, 3]), [8, 32], [4, 8]),
        ('bbox_roi_extractor', roi_extractor, [4, 8], [8, 16]),
    ],
)
def test_heads_for_other_strides_are_refused(
    name: str, build: Any, right: list[int], wrong: list[int]
) -> None:
    neck = dict(fpn(CHANNELS), num_outs=5)
    check_strides(model(neck=neck, **{name: build(right)}))
    sentence = rf'model.{name} is for maps of strides \{wrong}, but .* \[4, 8, 16, 32, 64\]: set'
    with pytest.raises(UserError, match=sentence):
        check_strides(model(neck=neck, **{name: build(wrong)}))
    later = dict(neck, start_level=1)
    with pytest.raises(UserError, match=r'but .* \[8, 16, 32, 64, 128\]: set'):
        check_strides(model(neck=later, **{name: build(right)}))


def test_strides_of_heads_that_read_one_map_or_nearly_those_pass() -> None:
    neck = dict(fpn(CHANNELS), num_outs=5)
    # As HTC, which cuts regions out of a map of semantics, CondInst and YOLACT have them.
    semantic = model(neck=neck, semantic_roi_extractor=roi_extractor([8]))
    masks = model(neck=neck, mask_head=rpn_head([8]))
    nearly = [550 / side for side in (138, 69, 35, 18, 9)]
    for whole in (semantic, masks, model(neck=neck, bbox_head=rpn_head(nearly))):
        check_strides(whole)


@pytest.mark.parametrize(
    'name',
    ['mmdet.DetDataPreprocessor', 'mmseg.SegDataPreProcessor', 'mmpretrain.ClsDataPreprocessor'],
)
def test_a_preprocessor_for_other_channels_is_refused(name: str) -> None:
    whole = model()
    for mean, std in (([0.0], [1.0]), ([0.0] * 3, [1.0] * 3)):
        whole.data_preprocessor = MODELS.build(dict(type=name, mean=mean, std=std))
        whole.backbone.in_channels = len(mean)
        check_image_channels(whole)
        whole.backbone.in_channels = 4 - len(mean)
        with pytest.raises(
            UserError,
            match=f'mean has {len(mean)} values, but .* in_channels {4 - len(mean)}: give a value',
        ):
            check_image_channels(whole)
    whole.data_preprocessor = MODELS.build(dict(type=name))
    check_image_channels(whole)


def weighted(scope: str, num: int, **options: Any) -> dict[str, Any]:
    return dict(type=f'{scope}.CrossEntropyLoss', class_weight=[1.0] * num, **options)


@pytest.mark.parametrize(
    'name, head, key, right',
    [
        ('decode_head', fcn_head(64), 'loss_decode', 3),
        ('head', linear_head(128), 'loss', 2),
        (
            'bbox_head',
            dict(type='mmdet.Shared2FCBBoxHead', num_classes=2, in_channels=4, fc_out_channels=4),
            'loss_cls',
            3,
        ),
        (
            'bbox_head',
            dict(type='mmdet.RetinaHead', num_classes=2, in_channels=4, feat_channels=4),
            'loss_cls',
            3,
        ),
    ],
)
def test_weights_of_other_classes_are_refused(
    name: str, head: dict[str, Any], key: str, right: int
) -> None:
    scope = head['type'].split('.')[0]
    check_class_weights(model(**{name: head | {key: weighted(scope, right)}}))
    sentence = f'model.{name}.{key}.class_weight has {right + 2} values, but .* give it {right}'
    with pytest.raises(UserError, match=sentence):
        check_class_weights(model(**{name: head | {key: weighted(scope, right + 2)}}))
    loss = weighted(scope, right)
    for wrong in (-1.0, float('nan'), float('inf')):
        loss['class_weight'][1] = wrong
        with pytest.raises(UserError, match=rf'{key}.class_weight\[1\] is {wrong}: give it 0 or m'):
            check_class_weights(model(**{name: head | {key: loss}}))


def test_sigmoid_weighs_no_background_and_a_query_based_head_does() -> None:
    retina = dict(type='mmdet.RetinaHead', num_classes=2, in_channels=4, feat_channels=4)
    loss = weighted('mmdet', 2, use_sigmoid=True)
    check_class_weights(model(bbox_head=retina | dict(loss_cls=loss)))
    whole: Any = nn.Module()
    whole.head = nn.Module()
    whole.head.num_classes, whole.head.cls_embed = 2, nn.Linear(4, 3)
    whole.head.loss_cls = MODELS.build(weighted('mmdet', 3))
    check_class_weights(whole)
    whole.head.loss_cls.class_weight = [1.0, 1.0]
    with pytest.raises(UserError, match='but there are 2 classes: give it 3, the last for backgr'):
        check_class_weights(whole)


def test_a_hit_among_more_classes_than_there_are_is_refused() -> None:
    for topk in (5, (1, 5)):
        check_topk(model(head=linear_head(128) | dict(topk=topk)))
        counting = linear_head(128) | dict(topk=topk, cal_acc=True)
        with pytest.raises(UserError, match='model.head.topk has 5, but there are 2 classes'):
            check_topk(model(head=counting))


def test_masks_of_a_detector_of_boxes_are_not_measured() -> None:
    retina = MODELS.build(
        dict(
            type='mmdet.SingleStageDetector',
            _scope_='mmdet',
            backbone=dict(type='mmdat.DATPlusPlus', arch='nano'),
            bbox_head=dict(type='mmdet.RetinaHead', num_classes=2, in_channels=4, feat_channels=4),
        )
    )
    metrics = dict(val=[SimpleNamespace(metrics=['bbox', 'segm'])])
    with pytest.raises(UserError, match="'segm', but SingleStageDetector predicts no masks"):
        check_predicts_masks(retina, metrics)
    check_predicts_masks(retina, dict(val=[SimpleNamespace(metrics=['bbox'])]))
    retina.mask_head = nn.Identity()
    check_predicts_masks(retina, metrics)

    class Own(nn.Module):
        """Of a user's own nothing is known."""

    del retina.mask_head
    retina.prototypes = Own()
    check_predicts_masks(retina, metrics)
    check_predicts_masks(Own(), metrics)


def test_metrics_of_other_classes_are_refused() -> None:
    pets = SimpleNamespace(metainfo=dict(classes=('cat', 'dog', 'hen')))
    for fitting in (Accuracy(topk=(1, 3)), SingleLabelMetric(num_classes=3), MultiLabelMetric()):
        check_metric(fitting, pets, 'val')
    with pytest.raises(UserError, match=r'topk of val_evaluator \(Accuracy\) has 5, but .* 3'):
        check_metric(Accuracy(topk=(1, 5)), pets, 'val')
    with pytest.raises(UserError, match=r'num_classes of test_evaluator .* is 4, but the data set'):
        check_metric(SingleLabelMetric(num_classes=4), pets, 'test')


@pytest.mark.parametrize(
    'options, crop, outcome',
    [
        (dict(size=(64, 64)), (64, 64), None),
        (dict(size_divisor=32), (64, 64), None),
        (dict(size=(64, 64)), (32, 32), r'crops images to (32, 32), but data_preprocessor.size is'),
        (dict(), (64, 64), 'size is None and data_preprocessor.size_divisor None: set one'),
        (dict(size=(64, 64), size_divisor=32), (64, 64), r'size_divisor 32: set one of them'),
    ],
)
def test_padding_that_does_not_fit_the_crops_is_told(
    options: dict[str, Any], crop: tuple[int, int], outcome: str | None
) -> None:
    whole: Any = nn.Module()
    dataset = SimpleNamespace(pipeline=[SimpleNamespace(crop_size=crop)])
    found: list[str] = []
    check_padding(whole, dataset, found.append)
    whole.data_preprocessor = SegDataPreProcessor(**options)
    try:
        check_padding(whole, dataset, found.append)
    except UserError as error:
        found.append(str(error))
    assert len(found) == (outcome is not None)
    assert outcome is None or outcome in found[0]


def test_heads_for_other_classes_are_refused() -> None:
    segmentor = model(decode_head=fcn_head(64, num_classes=19))
    check_num_classes(segmentor, SimpleNamespace(metainfo=dict(classes=['a'] * 19)))
    check_num_classes(segmentor, SimpleNamespace(metainfo={}))
    check_num_classes(segmentor, [])
    with pytest.raises(
        UserError,
        match=r'model.decode_head.num_classes is 19, but the data set has 2 classes \(box, disk\)',
    ):
        check_num_classes(segmentor, SimpleNamespace(metainfo=dict(classes=('box', 'disk'))))


def test_heads_of_edges_are_for_any_classes() -> None:
    edges = dict(fcn_head(64, num_classes=2), type='mmseg.STDCHead', boundary_threshold=0.1)
    two = SimpleNamespace(metainfo=dict(classes=('box', 'disk')))
    three = SimpleNamespace(metainfo=dict(classes=('box', 'disk', 'ring')))
    stdc = model(decode_head=fcn_head(64), auxiliary_head=edges)
    check_num_classes(stdc, three)
    with pytest.raises(UserError, match=r'model.decode_head.num_classes is 3, but .* 2 classes'):
        check_num_classes(stdc, two)
    others = model(decode_head=fcn_head(64), auxiliary_head=fcn_head(64, num_classes=2))
    with pytest.raises(UserError, match=r'model.auxiliary_head.num_classes is 2, but .* 3 class'):
        check_num_classes(others, three)


def test_panoptic_models_have_boxes_of_things_alone() -> None:
    panoptic = nn.Module()
    panoptic.roi_head = nn.Module()
    for name, number in dict(bbox_head=2, semantic_head=54).items():
        setattr(panoptic.roi_head, name, nn.Module())
        getattr(panoptic.roi_head, name).num_classes = number
    things = ('box', 'disk')
    of_all = dict(classes=(*things, 'sky'), thing_classes=things, stuff_classes=('sky',))
    for metainfo in (of_all, dict(classes=things)):  # the latter as in HTC
        check_num_classes(panoptic, SimpleNamespace(metainfo=metainfo))
    with pytest.raises(UserError, match=r'bbox_head.num_classes is 2, but the data set has 3 cla'):
        check_num_classes(panoptic, SimpleNamespace(metainfo=dict(classes=of_all['classes'])))


def test_region_proposals_are_for_any_classes() -> None:
    class RPN(nn.Module):
        """mmdet's, by its name."""

    proposing = RPN()
    proposing.bbox_head = nn.Module()
    proposing.bbox_head.num_classes = 1
    check_num_classes(proposing, SimpleNamespace(metainfo=dict(classes=('box', 'disk'))))


# The names of a model's weights, and of those in a checkpoint.
WEIGHTS = {
    'backbone.stem.weight': torch.ones(4),
    'backbone.norm.num_batches_tracked': torch.tensor(1),
    'head.weight': torch.ones(2),
}


@pytest.mark.parametrize(
    'change, sentence, for_training',
    [
        ({'head.weight': None}, 'lacks head.weight$', False),
        (
            {'head.weight': torch.ones(3)},
            r'has other shapes for head.weight \(3, not 2\); if it is for other classes, ',
            False,
        ),
        ({'head.bias': torch.ones(2)}, 'has in addition head.bias$', False),
        ({'backbone.stem.weight': None}, 'lacks backbone.stem.weight$', True),
        (
            {'backbone.stem.weight': 'text'},
            r'has other shapes for backbone.stem.weight \(no tensor, not 4\)$',
            True,
        ),
        (
            {'backbone.stem.weight': None, 'head.weight': None, 'a': 0, 'b': 0, 'c': 0, 'd': 0},
            'lacks backbone.stem.weight, head.weight, has in addition a, b, c and 1 more$',
            False,
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    change: dict[str, Any], sentence: str, for_training: bool
) -> None:
    given = {name: value for name, value in {**WEIGHTS, **change}.items() if value is not None}
    match = f"x.pth is of another model than the config's: it holds .*; it {sentence}"
    with pytest.raises(UserError, match=match):
        check_weights_fit(dict(state_dict=given), WEIGHTS, 'x.pth', backbone_only=False)
    if for_training:
        with pytest.raises(UserError, match=match):
            check_weights_fit(given, WEIGHTS, 'x.pth', backbone_only=True)
    elif 'backbone.stem.weight' in given:
        check_weights_fit(given, WEIGHTS, 'x.pth', backbone_only=True)


def test_weights_that_are_no_numbers_are_refused() -> None:
    given = WEIGHTS | {'head.weight': torch.tensor([1, torch.nan])}
    sentence = 'x.pth holds weights that are no numbers .*: head.weight; give an earlier checkpoint'
    with pytest.raises(UserError, match=sentence):
        check_weights_fit(dict(state_dict=given), WEIGHTS, 'x.pth', backbone_only=False)
    check_weights_fit(given, WEIGHTS, 'x.pth', backbone_only=True)


CLASSIFIER = {'head.fc.weight': (4, 128)}
SEGMENTOR = {'decode_head.conv_seg.weight': (4, 128, 1, 1)}
MASK_RCNN = {
    'neck.convs.0.weight': (8, 8, 1, 1),
    'rpn_head.rpn_cls.weight': (3, 8),
    'roi_head.bbox_head.fc_cls.weight': (5, 8),
    'roi_head.mask_head.conv_logits.weight': (4, 8, 1, 1),
}
CASCADE = {
    f'roi_head.{head}.{stage}.weight': (4, 8)
    for head in ('bbox_head', 'mask_head')
    for stage in range(3)
}
NANO = "a DATPlusPlus 'nano'"


@pytest.mark.parametrize(
    'given, expected, sentence',
    [
        (
            MASK_RCNN,
            CLASSIFIER,
            f'{NANO} in a Mask R-CNN, the model {NANO} in a classifier; it lac',
        ),
        (
            SEGMENTOR,
            MASK_RCNN,
            f'{NANO} in a segmentor, the model {NANO} in a Mask R-CNN; it lacks',
        ),
        (MASK_RCNN, CASCADE, f'{NANO} in a Mask R-CNN, the model {NANO} in a Cascade Mask R-CNN; '),
        (
            MASK_RCNN,
            {**MASK_RCNN, 'roi_head.bbox_head.fc_cls.weight': (81, 8)},
            f'{NANO} in a Mask R-CNN, as the model is; it has other shapes for '
            'roi_head.bbox_head.fc_cls.weight (5 x 8, not 81 x 8); if it is for other classes, ',
        ),
    ],
)
def test_what_differs_beside_an_equal_backbone_is_told(
    given: dict[str, Any], expected: dict[str, Any], sentence: str
) -> None:
    body = {f'backbone.{name}': value for name, value in DATPlusPlus('nano').state_dict().items()}
    held, model_ = (
        body | {name: torch.empty(shape) for name, shape in head.items()}
        for head in (given, expected)
    )
    with pytest.raises(UserError, match=re.escape(f'it holds {sentence}')):
        check_weights_fit(dict(state_dict=held), model_, 'x.pth', backbone_only=False)
    check_weights_fit(dict(state_dict=held), model_, 'x.pth', backbone_only=True)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_a_backbone_to_start_from_is_sent_to_its_init_cfg(prefix: str) -> None:
    body = DATPlusPlus('nano').state_dict()
    model_ = {f'backbone.{name}': value for name, value in body.items()}
    # As a classifier's, which has no norms for a detector.
    held = {f'{prefix}{name}': value for name, value in body.items() if 'norms.' not in name}
    sentence = r'to start from its backbone alone, give it to model.backbone.init_cfg=dict\(type='
    with pytest.raises(UserError, match=sentence):
        check_weights_fit(held, model_, 'x.pth', backbone_only=True)
    with pytest.raises(UserError) as caught:
        check_weights_fit(held, model_, 'x.pth', backbone_only=False)
    assert 'init_cfg' not in str(caught.value)


def test_an_architecture_of_other_widths_is_told() -> None:
    weights = {
        f'backbone.{name}': value for name, value in DATPlusPlus('nano').state_dict().items()
    }
    wider = {name: torch.empty([2 * size for size in x.shape]) for name, x in weights.items()}
    match = f'it holds {NANO} of other widths, the model {NANO}; it has other shapes for backbone.'
    with pytest.raises(UserError, match=match):
        check_weights_fit(wider, weights, 'x.pth', backbone_only=False)


def test_the_same_weights_fit_whatever_wrapped_them() -> None:
    wrapped = {f'module.{name}': value for name, value in WEIGHTS.items()}
    del wrapped['module.backbone.norm.num_batches_tracked']
    check_weights_fit(dict(state_dict=wrapped), WEIGHTS, 'x.pth', backbone_only=False)


def segmentor(**options: Any) -> nn.Module:
    """A model with two heads of segmentation, of which the auxiliary one has these options."""
    both = nn.Module()
    for name in ('decode_head', 'auxiliary_head'):
        head = nn.Module()
        head.__dict__.update(num_classes=3, ignore_index=255, out_channels=3)
        both.add_module(name, head)
    both.get_submodule('auxiliary_head').__dict__.update(options)
    return both


def test_heads_and_metrics_that_ignore_different_numbers_are_refused() -> None:
    metrics = dict(val=[SimpleNamespace(ignore_index=255), SimpleNamespace()])
    for model_ in (nn.Module(), segmentor(), segmentor(ignore_index=None)):
        check_ignored(model_, metrics, ('a', 'b', 'c'), pytest.fail)
    with pytest.raises(UserError, match=r'255 in model.decode_head, 0 in model.auxiliary_head, 25'):
        check_ignored(segmentor(ignore_index=0), metrics, ('a',), pytest.fail)
    with pytest.raises(UserError, match=r'255 in model.*, 0 in val_evaluator \(SimpleNamespace\)'):
        check_ignored(segmentor(), dict(val=[SimpleNamespace(ignore_index=0)]), (), pytest.fail)


def test_a_class_that_is_ignored_is_told() -> None:
    model_ = segmentor(ignore_index=1)
    model_.get_submodule('decode_head').__dict__.update(ignore_index=1)
    warnings: list[str] = []
    check_ignored(model_, {}, ('a', 'b'), warnings.append)
    assert warnings == [
        "ignore_index=1 ignores the class 'b', which is neither learned nor measured"
    ]


def test_one_output_needs_a_sigmoid() -> None:
    for use_sigmoid, outputs in ((False, 3), (True, 1)):
        model_ = segmentor(out_channels=outputs)
        head = model_.get_submodule('auxiliary_head')
        head.add_module('loss_decode', CrossEntropyLoss(use_sigmoid=use_sigmoid))
        check_single_output(model_)
    head.add_module('loss_decode', CrossEntropyLoss())
    with pytest.raises(UserError, match=r'auxiliary_head has out_channels=1, whose loss CrossEnt'):
        check_single_output(model_)


@pytest.mark.parametrize('options', [dict(to_onehot=True), dict(batch_augments=dict(augments=()))])
def test_one_hot_labels_of_other_classes_than_the_heads_are_refused(options: Any) -> None:
    def classifier(num_classes: int | None, **options: Any) -> Any:
        preprocessor = ClsDataPreprocessor(num_classes=num_classes, **options)
        return SimpleNamespace(data_preprocessor=preprocessor, head=SimpleNamespace(num_classes=4))

    check_one_hot_classes(classifier(3))
    check_one_hot_classes(classifier(4, **options))
    for given in (3, None):
        sentence = f'data_preprocessor.num_classes is {given}, but model.head.* 4: set it alike'
        with pytest.raises(UserError, match=sentence):
            check_one_hot_classes(classifier(given, **options))


def test_a_checkpoint_with_another_entry_named_model_is_told_too() -> None:
    content = dict(state_dict={'head.weight': torch.ones(2)}, model='DATPlusPlus')
    with pytest.raises(UserError, match="it holds no backbone of mmdat, but 'head.weight'"):
        check_weights_fit(content, WEIGHTS, 'x.pth', backbone_only=False)
