"""Keys that nothing reads are refused; what the toolboxes' own configs hold is not."""

from pathlib import Path
from typing import Any

import mmdet
import mmpretrain
import mmseg
import pytest
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mmdat.checks.config_keys import check_keys, check_scope
from mmdat.errors import UserError

ROOT = Path(__file__).parents[2]
# A few that go far from the usual.
THEIRS = [
    Path(package.__file__).parent / '.mim' / 'configs' / name
    for package, name in [
        (mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py'),
        (mmdet, 'dino/dino-4scale_r50_8xb2-12e_coco.py'),
        (mmdet, 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py'),
        (mmdet, 'swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'),
        (mmpretrain, 'convnext/convnext-tiny_32xb128_in1k.py'),
        (mmseg, 'vpd/vpd_sd_4xb8-25k_nyu-480x480.py'),
    ]
]


@pytest.mark.parametrize(
    'path', [*sorted((ROOT / 'configs').glob('*.py')), *THEIRS], ids=lambda path: path.name
)
def test_valid_config_passes(path: Path) -> None:
    check_keys(Config.fromfile(path, import_custom_modules=False))


@pytest.mark.parametrize(
    'path', [THEIRS[0], ROOT / 'configs' / 'retinanet_dat_t_coco.py'], ids=lambda path: path.name
)
def test_dump_of_a_config_passes(path: Path, tmp_path: Path) -> None:
    Config.fromfile(path).dump(tmp_path / 'dumped.py')
    check_keys(Config.fromfile(tmp_path / 'dumped.py'))


@pytest.mark.parametrize(
    'variables',
    [
        'rate, _ = 1e-3, 0.05',
        'rate: float = 1e-3',
        'if True:\n    rate = 1e-3',
        'for rate in (1e-3, 1e-2):\n    pass',
        'for _ in range(2):\n    rate = 1e-3',
    ],
)
def test_variables_of_a_base_pass(variables: str, tmp_path: Path) -> None:
    (tmp_path / 'base.py').write_text(
        f"_base_ = '{ROOT}/configs/mask_rcnn_dat_pp_t_coco.py'\n{variables}\n"
        'optim_wrapper = dict(optimizer=dict(lr=rate))\n'
    )
    (tmp_path / 'child.py').write_text("_base_ = './base.py'\ntrain_cfg = dict(max_epochs=1)\n")
    for name in ('base.py', 'child.py'):
        check_keys(Config.fromfile(tmp_path / name))


@pytest.mark.parametrize(
    'text, sentence',
    [
        ('foo = 1', r"unknown key 'foo' in config .*: nothing reads it"),
        ('modle = dict()', r"unknown key 'modle' in config .*: did you mean 'model'"),
        ('max_epochs = 1', r"unknown key 'max_epochs' .*: did you mean 'train_cfg.max_epochs'"),
        ('optimizer = dict(lr=1)', r"unknown key 'optimizer' .* mean 'optim_wrapper.optimizer'"),
        ("resume_from = 'x.pth'", r"unknown key 'resume_from' in config .*: did you mean 'resume'"),
        (
            'model = dict(train_cfg=dict(rcnn=dict(samplr=dict(num=1))))',
            r"'model.train_cfg.rcnn.samplr': did you mean 'sampler'",
        ),
        (
            'model = dict(test_cfg=dict(rcnn=dict(max_per_imgg=1)))',
            r"'model.test_cfg.rcnn.max_per_imgg': did you mean 'max_per_img'",
        ),
        (
            'model = dict(test_cfg=dict(rcnn=dict(max_per_img1=1)))',
            r"'model.test_cfg.rcnn.max_per_img1': did you mean 'max_per_img'",
        ),
        (
            'optim_wrapper = dict(paramwise_cfg=dict(custom_key=dict()))',
            r"'optim_wrapper.paramwise_cfg.custom_key': did you mean 'custom_keys'",
        ),
        (
            'optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))',
            "layer_decay_rate needs optim_wrapper.constructor='mmdat.BackboneDecayConstructor'",
        ),
        (
            'optim_wrapper = dict(clip_grad=dict(max_nrm=1))',
            r"'optim_wrapper.clip_grad.max_nrm' for type='norm': did you mean 'max_norm'",
        ),
        (
            "optim_wrapper = dict(clip_grad=dict(type='value', max_norm=1))",
            r"'optim_wrapper.clip_grad.max_norm' for type='value': allowed are 'clip_value'",
        ),
        (
            "optim_wrapper = dict(clip_grad=dict(type='valu', clip_value=1))",
            r"optim_wrapper.clip_grad.type is 'valu': did you mean 'value'",
        ),
        ('env_cfg = dict(cudnn_benchmar=True)', r"'env_cfg.cudnn_benchmar': did you mean"),
        ('auto_scale_lr = dict(enabel=True)', r"'auto_scale_lr.enabel': did you mean 'enable'"),
        ('randomness = dict(sed=1)', r"'randomness.sed': did you mean 'seed'"),
        (
            'default_hooks = dict(chekpoint=dict(interval=2))',
            r"'default_hooks.chekpoint', or it lacks a type: did you mean 'checkpoint'",
        ),
        (
            'default_hooks = dict(checkpoint=dict(intervall=2))',
            r"'default_hooks.checkpoint.intervall': did you mean 'interval'",
        ),
        (
            'train_dataloder = dict(batch_size=1)',
            r"unknown key 'train_dataloder' in config .*: did you mean 'train_dataloader'\?",
        ),
        ("log_level = 'DEBGU'", "log_level is 'DEBGU': did you mean 'DEBUG'"),
        ("compile = 'True'", "compile must be True, False or a dict, got 'True'"),
        ("compile = dict(mdoe='default')", "'compile.mdoe': did you mean 'mode'"),
        ("custom_hooks = 'EMAHook'", "custom_hooks must be a list of .* got 'EMAHook'"),
        ("custom_hooks = ['EMAHook']", "custom_hooks.0 must be a dict with .* got 'EMAHook'"),
        ('custom_hooks = [dict(momentum=1)]', "custom_hooks.0 must be a dict with .* got {'mom"),
        (
            "custom_hooks = [dict(type='EMAHook', priority='HIHG')]",
            "custom_hooks.0.priority is 'HIHG': did you mean 'HIGH'",
        ),
        (
            "default_hooks = dict(logger=dict(priority='lowst'))",
            "default_hooks.logger.priority is 'lowst': did you mean 'LOWEST'",
        ),
        ('optim_wrapper = dict(optimizer=None)', r'optimizer must be a dict with .* got None'),
        (
            'optim_wrapper = dict(optimizer=dict(_delete_=True, lr=1))',
            r"optimizer must be a dict with a type, such as 'AdamW', got {'lr': 1}",
        ),
        (
            "optim_wrapper = dict(optimizer=dict(lr='1e-4'))",
            "optim_wrapper.optimizer.lr is the text '1e-4': give the number 1e-4",
        ),
        (
            "param_scheduler = [dict(type='CosineAnnealingLR', T_max='12')]",
            "param_scheduler.0.T_max is the text '12': give the number 12",
        ),
        (
            "train_dataloader = dict(num_workers='2')",
            "train_dataloader.num_workers is the text '2': give the number 2",
        ),
        ('train_cfg = 3', r'train_cfg must be a dict, got 3'),
        ('model = None', r'config .*config.py has no model'),
        *(
            (f'{part} = dict({keys})', f"^{path}.type is 'softnms': did you mean 'soft_nms'")
            for part, path, keys in (
                (
                    'model',
                    'model.test_cfg.rpn.nms',
                    "test_cfg=dict(rpn=dict(nms={'type': 'softnms'}))",
                ),
                (
                    'model',
                    'model.train_cfg.rpn_proposal.nms',
                    "train_cfg=dict(rpn_proposal=dict(nms={'type': 'softnms'}))",
                ),
                ('tta_model', 'tta_model.tta_cfg.nms', "tta_cfg=dict(nms={'type': 'softnms'})"),
            )
        ),
        ("val_evaluator = dict(metrics=['bbox'])", r"'val_evaluator.metrics' for .* mean 'metric'"),
    ],
)
def test_key_that_nothing_reads_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{ROOT}/configs/mask_rcnn_dat_pp_t_coco.py'\n{text}\n")
    with pytest.raises(UserError, match=sentence):
        check_keys(Config.fromfile(path))


@pytest.mark.parametrize(
    'text',
    [
        "model = dict(test_cfg=dict(rcnn=dict(nms=dict(type='fast_nms'))))",
        "model = dict(test_cfg=dict(rcnn=dict(nms=dict(type='my_soft_nms'))))",
        'model = dict(test_cfg=dict(stage_1_thr=0.1, stage_2_thr=0.2))',
        'train_cfg = dict(val_interval=2.0)',
        "train_cfg = dict(val_interval=float('inf'))",
        "default_hooks = dict(checkpoint=dict(interval=float('inf')))",
        "optim_wrapper = dict(type='MyWrapper', clip_grad=dict(type='agc', ratio=0.1))",
        "val_evaluator = dict(_delete_=True, type='MultiDatasetsEvaluator', metrics=[])",
    ],
)
def test_what_projects_and_zoos_have_passes(text: str, tmp_path: Path) -> None:
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{ROOT}/configs/mask_rcnn_dat_pp_t_coco.py'\n{text}\n")
    check_keys(Config.fromfile(path))


@pytest.mark.parametrize(
    'mixes, transform, with_mask, sentence',
    [
        (False, 'Mosaic', False, 'dataset.pipeline has Mosaic, .* a MultiImageMixDataset around'),
        (False, 'CopyPaste', True, 'dataset.pipeline has CopyPaste, which mixes several images'),
        (False, 'CachedMosaic', True, None),
        (True, 'Mosaic', False, None),
        (True, 'CopyPaste', True, None),
        (True, 'mmdet.MixUp', True, 'has MixUp, which mixes no masks: take CachedMixUp in'),
    ],
)
def test_images_are_mixed_where_they_can_be(
    mixes: bool, transform: str, with_mask: bool, sentence: str | None
) -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_dat_pp_t_coco.py')
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask)
    dataset = dict(type='CocoDataset', pipeline=[load])
    if mixes:
        dataset = dict(type='MultiImageMixDataset', dataset=dataset, pipeline=[])
    dataset['pipeline'].append(dict(type=transform))
    cfg.train_dataloader.dataset = dataset
    if sentence is None:
        check_keys(cfg)
        return
    with pytest.raises(UserError, match=sentence):
        check_keys(cfg)


@pytest.mark.parametrize(
    'path, values, least',
    [
        ('train_cfg.val_interval', [0, -1, 1.5, 'a'], 1),
        ('train_cfg.val_begin', [-1, 'a'], 0),
        ('train_cfg.max_epochs', [-1, 1.5, 'a'], 0),
        ('train_cfg.max_iters', [-1, 'a'], 0),
        ('optim_wrapper.accumulative_counts', [0, 1.5], 1),
        ('auto_scale_lr.base_batch_size', [0, -4, 'a'], 1),
        ('default_hooks.checkpoint.interval', [-2, 0.5, '1'], -1),
        ('default_hooks.checkpoint.max_keep_ckpts', [-3, '3'], -1),
    ],
)
def test_number_that_mmengine_trips_over_is_refused(
    path: str, values: list[Any], least: int
) -> None:
    for value in values:
        cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_dat_pp_t_coco.py')
        cfg.merge_from_dict({path: value})
        with pytest.raises(UserError, match=f'{path} must be .* at least {least}, got {value!r}'):
            check_keys(cfg)
    cfg.merge_from_dict({path: least})
    check_keys(cfg)


@pytest.mark.parametrize(
    'clip_grad, key',
    [
        (dict(max_norm=-1), 'max_norm'),
        (dict(max_norm=0), 'max_norm'),
        (dict(max_norm='a'), 'max_norm'),
        (dict(norm_type=2), 'max_norm'),
        (dict(type='value', clip_value=-1), 'clip_value'),
    ],
)
def test_clipping_of_gradients_to_no_limit_is_refused(clip_grad: dict[str, Any], key: str) -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_dat_pp_t_coco.py')
    cfg.optim_wrapper.clip_grad = clip_grad
    cfg.optim_wrapper.type = OptimWrapper
    with pytest.raises(UserError, match=rf'clip_grad.{key} must be a number above 0, got'):
        check_keys(cfg)
    cfg.optim_wrapper.clip_grad[key] = float('inf')
    check_keys(cfg)


def test_variables_are_a_configs_own(tmp_path: Path) -> None:
    path = tmp_path / 'config.py'
    path.write_text(
        f"_base_ = '{ROOT}/configs/mask_rcnn_dat_pp_t_coco.py'\n"
        "SIDE = 64\ndata_root = 'elsewhere'\nwidth = 8\nneck = dict(width=width)\n"
        'model = dict(neck=neck)\nmeta = {{_base_.META_KEYS}}\nMETA = meta\n'
    )
    check_keys(Config.fromfile(path))


@pytest.mark.parametrize(
    'text, sentence',
    [
        ("model = dict(test_cfg=dict(mode='slied'))", "mode is 'slied': did you mean 'slide'?"),
        (
            "model = dict(test_cfg=dict(mode='slide'))",
            "'slide' needs model.test_cfg.crop_size: give it a height and a width",
        ),
        (
            "model = dict(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=32))",
            "'slide' needs model.test_cfg.stride: give it a height and a width",
        ),
        *(
            (
                f"model = dict(test_cfg=dict(mode='slide', crop_size=(64, 64), stride={stride}))",
                "'slide' needs model.test_cfg.stride: give it a height and a width",
            )
            for stride in ((0, 32), (-1, 32), (0.5, 0.5))
        ),
        (
            "model = dict(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(64, 96)))",
            r'stride \(64, 96\) is above its crop_size \(64, 64\), which leaves pixels out',
        ),
        (
            "val_evaluator = dict(iou_metric=['mIoU'])",
            "unknown key 'val_evaluator.iou_metric': did you mean 'iou_metrics'",
        ),
        ("val_evaluator = dict(iou_metrics=['mIou'])", "has 'mIou': did you mean 'mIoU'"),
        ("val_evaluator = dict(iou_metrics='mIou')", "has 'mIou': did you mean 'mIoU'"),
        (
            "test_evaluator = [dict(type='mmseg.IoUMetric', iou_metric=['mIoU'])]",
            "unknown key 'test_evaluator.0.iou_metric': did you mean 'iou_metrics'",
        ),
        (
            "val_evaluator = dict(_delete_=True, metrics=dict(type='IoUMetric', iou_metrics='a'))",
            "val_evaluator.metrics.iou_metrics has 'a'",
        ),
    ],
)
def test_what_mmsegmentation_trips_over_is_refused(
    text: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{ROOT}/configs/upernet_dat_pp_t_ade20k.py'\n{text}\n")
    with pytest.raises(UserError, match=sentence):
        check_keys(Config.fromfile(path))


def test_a_config_for_none_of_the_toolboxes_is_refused() -> None:
    check_scope(Config(dict(default_scope='mmseg')))
    with pytest.raises(UserError, match="is 'mmpose', which is none of 'mmdet', 'mmseg' and 'mmp"):
        check_scope(Config(dict(default_scope='mmpose')))
    with pytest.raises(UserError, match="is for mmdet 2, .*, as its 'data' and 'lr_config' show"):
        check_scope(Config(dict(lr_config=dict(policy='step'), data=dict(samples_per_gpu=2))))
    with pytest.raises(UserError, match='is None, which is none of'):
        check_scope(Config(dict(optimizer={}, optim_wrapper={})))
    with pytest.raises(UserError, match=r"is \['mmseg'\], which is none of"):
        check_scope(Config(dict(default_scope=['mmseg'])))
    with pytest.raises(UserError, match=r'model._scope_ is \[1\]: give the name of a package'):
        check_scope(Config(dict(default_scope='mmseg', model=dict(_scope_=[1]))))
