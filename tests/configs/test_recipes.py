"""The configs train as the papers say."""

import re
from typing import Any

import pytest
from helpers.configs import NAMES, load
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import TRANSFORMS, DefaultScope
from torch import nn

import mmdat.engine  # noqa: F401  so that its constructor is registered
from mmdat.registry import MODELS

DROP_PATH = {
    'retinanet_dat_pp_t_coco': 0.0,
    'retinanet_dat_pp_t_3x_coco': 0.2,
    'retinanet_dat_pp_s_coco': 0.1,
    'retinanet_dat_pp_s_3x_coco': 0.5,
    'mask_rcnn_dat_pp_t_coco': 0.0,
    'mask_rcnn_dat_pp_t_3x_coco': 0.3,
    'mask_rcnn_dat_pp_s_coco': 0.1,
    'mask_rcnn_dat_pp_s_3x_coco': 0.5,
    'cascade_mask_rcnn_dat_pp_t_coco': 0.0,
    'cascade_mask_rcnn_dat_pp_t_3x_coco': 0.1,
    'cascade_mask_rcnn_dat_pp_s_3x_coco': 0.5,
    'cascade_mask_rcnn_dat_pp_b_3x_coco': 0.8,
    'semantic_fpn_dat_pp_t_ade20k': 0.4,
    'semantic_fpn_dat_pp_s_ade20k': 0.4,
    'semantic_fpn_dat_pp_b_ade20k': 0.7,
    'upernet_dat_pp_t_ade20k': 0.3,
    'upernet_dat_pp_s_ade20k': 0.5,
    'upernet_dat_pp_b_ade20k': 0.7,
    'dat_pp_t_in1k': 0.2,
    'dat_pp_s_in1k': 0.4,
    'dat_pp_b_in1k': 0.7,
    'dat_pp_b_384_in1k': 0.6,
    'scalablevit_s_in1k': 0.2,
    'scalablevit_b_in1k': 0.5,
    'scalablevit_l_in1k': 0.5,
}
# One of each head whose parameters have rules of their own.
HEADS = [
    'retinanet_dat_pp_t_coco',
    'mask_rcnn_scalablevit_s_coco',
    'dino_dat_pp_t_coco',
    'detr_dat_pp_t_coco',
    'mask2former_dat_pp_t_coco',
    'mask2former_dat_pp_t_ade20k',
    'upernet_dat_t_ade20k',
    'semantic_fpn_scalablevit_s_ade20k',
]
# A plain ViT's maps have one size, so that it needs a neck; FSDP is for several GPUs.
OTHER_MODELS = ('upernet_vit_b_ade20k', 'cascade_mask_rcnn_dat_pp_b_3x_fsdp_coco')
SLOW_BACKBONES = ('dino', 'detr', 'mask2former')


def optimizer(cfg: Config) -> dict[str, float]:
    return {key: cfg.optim_wrapper.optimizer[key] for key in ('lr', 'weight_decay')}


def images_a_step(cfg: Config) -> int:
    return cfg.auto_scale_lr.base_batch_size


@pytest.mark.parametrize('name', DROP_PATH)
def test_drop_path(name: str) -> None:
    assert load(name).model.backbone.drop_path_rate == DROP_PATH[name]


@pytest.mark.parametrize(
    'name', [name for name in NAMES if re.match(r'(retinanet|(cascade_)?mask_rcnn)_.*_coco', name)]
)
def test_coco(name: str) -> None:
    cfg = load(name)
    assert optimizer(cfg) == dict(lr=5e-5 if 'retinanet' in name else 1e-4, weight_decay=0.05)
    assert images_a_step(cfg) == 16 == 8 * cfg.train_dataloader.batch_size
    assert not cfg.auto_scale_lr.enable
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end) == (0.001, 500)
    epochs, milestones = (36, [27, 33]) if '_3x_' in name else (12, [8, 11])
    assert (cfg.train_cfg.max_epochs, steps.milestones) == (epochs, milestones)


@pytest.mark.parametrize(
    'name', [name for name in NAMES if re.match(r'(upernet|semantic_fpn)_.*_ade20k', name)]
)
def test_ade20k(name: str) -> None:
    cfg = load(name)
    if name.startswith('upernet'):
        expected = (dict(lr=6e-5, weight_decay=0.01), 16, 160_000, 1.0)
        warm_up = cfg.param_scheduler[0]
        assert (warm_up.start_factor, warm_up.end) == (1e-6, 1500)
    else:
        expected = (dict(lr=2e-4, weight_decay=1e-4), 32, 80_000, 0.9)
    assert expected == (
        optimizer(cfg),
        images_a_step(cfg),
        cfg.train_cfg.max_iters,
        cfg.param_scheduler[-1].power,
    )


@pytest.mark.parametrize('name', [name for name in NAMES if name.endswith('_in1k')])
def test_in1k(name: str) -> None:
    cfg = load(name)
    fine_tuning = '_384_' in name
    assert optimizer(cfg) == (
        dict(lr=2e-5, weight_decay=1e-8) if fine_tuning else dict(lr=1e-3, weight_decay=0.05)
    )
    assert cfg.train_cfg.max_epochs == (30 if fine_tuning else 300)
    assert images_a_step(cfg) == 1024
    assert cfg.optim_wrapper.clip_grad.max_norm == 5


def test_configs_of_a_head_differ_in_the_backbone_and_its_widths_alone() -> None:
    family = r'(\w*(?:rcnn|retinanet|upernet|fpn|mask2former|dino))_\w+?(_3x)?_(coco|ade20k)'
    first: dict[Any, str] = {}
    for name in NAMES:
        if name in OTHER_MODELS or not (match := re.fullmatch(family, name)):
            continue
        other = first.setdefault(match.groups(), name)
        assert everything_but_the_backbone(load(name)) == everything_but_the_backbone(
            load(other)
        ), f'{name} differs from {other}'
    assert len(first) >= 11


def everything_but_the_backbone(cfg: Config) -> dict[str, Any]:
    """Copy a config without ``model.backbone``, the input widths of heads, and constants."""
    rest = {key: value for key, value in cfg.to_dict().items() if not key.isupper()}
    del rest['model']['backbone']
    for part in ('neck', 'decode_head', 'auxiliary_head', 'panoptic_head'):
        rest['model'].get(part, {}).pop('in_channels', None)
    return rest


@pytest.mark.parametrize('name', HEADS)
def test_norms_and_bias_tables_of_the_backbone_have_no_decay(name: str) -> None:
    cfg = load(name)
    cfg.model.backbone.update(arch='nano', init_cfg=None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    base = cfg.optim_wrapper.optimizer
    groups = {id(group['params'][0]): group for group in wrapper.optimizer.param_groups}
    kinds: dict[bool, set[tuple[float, float]]] = {True: set(), False: set()}
    for module in model.backbone.modules():
        for key, parameter in module.named_parameters(recurse=False):
            plain = not (
                isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
                or key == 'relative_position_bias_table'
            )
            group = groups[id(parameter)]
            kinds[plain].add((round(group['lr'] / base.lr, 9), group['weight_decay']))
    factor = 0.1 if name.startswith(SLOW_BACKBONES) else 1
    assert kinds == {False: {(factor, 0.0)}, True: {(factor, base.weight_decay)}}


@pytest.mark.parametrize('name', ['upernet_dat_pp_t_ade20k', 'mask2former_dat_pp_t_ade20k'])
def test_augmented_testing_is_around_the_size_of_plain_testing(name: str) -> None:
    cfg = load(name)
    resizes = cfg.tta_pipeline[-1].transforms[0]
    assert [resize['scale'] for resize in resizes] == [
        (int(2048 * ratio), int(512 * ratio)) for ratio in (0.5, 0.75, 1, 1.25, 1.5, 1.75)
    ]
    [plain] = [step for step in cfg.test_pipeline if step.type == 'Resize']
    assert plain.scale == resizes[2].scale and plain.keep_ratio == resizes[2].keep_ratio
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert len(TRANSFORMS.build(cfg.tta_pipeline[-1]).subroutines) == 12


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('mask_rcnn_')])
def test_augmented_testing_of_detectors_adds_a_flip_to_plain_testing(name: str) -> None:
    cfg = load(name)
    assert cfg.tta_model.type == 'mmdat.InstanceTTAModel'
    [resize], flips, _, [pack] = cfg.tta_pipeline[-1].transforms
    assert resize == cfg.test_pipeline[1]
    assert set(pack.meta_keys) == {*cfg.test_pipeline[-1].meta_keys, 'flip', 'flip_direction'}
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert len(TRANSFORMS.build(cfg.tta_pipeline[-1]).subroutines) == len(flips) == 2


def test_detectors_of_boxes_need_no_masks_for_augmented_testing() -> None:
    assert 'with_mask' not in str(load('retinanet_dat_pp_t_coco').tta_pipeline)
    assert 'with_mask' in str(load('mask_rcnn_dat_pp_t_coco').tta_pipeline)
