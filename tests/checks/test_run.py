"""Wrong flags and places, and configs that lack what a run needs, are refused."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper

from mmdat import checks
from mmdat.checks import run
from mmdat.errors import UserError

SHARDED = dict(runner_type='FlexibleRunner', strategy=dict(type='mmdat.FSDPStrategy'))
PARTS = dict(
    default_scope='mmdet',
    model=dict(type='X'),
    launcher='none',
    train_dataloader=dict(batch_size=1),
    train_cfg=dict(max_epochs=1),
    optim_wrapper=dict(type='OptimWrapper'),
    test_dataloader=dict(batch_size=1),
    test_cfg=dict(type='TestLoop'),
    test_evaluator=dict(type='CocoMetric'),
)


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """A config with all that training and testing need to begin."""
    path = tmp_path / 'config.py'
    path.touch()
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(dict(PARTS, work_dir=str(tmp_path / 'work')))
    return cfg


@pytest.mark.parametrize('launcher', run.LAUNCHERS)
def test_a_launcher_that_did_not_start_the_process_is_refused(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    variables, program = run.LAUNCHERS[launcher]
    for variable in variables:
        monkeypatch.setenv(variable, '1' if variable == variables[1] else '0')
    run.check_launcher(launcher)
    for variable, value, end in (
        (variables[0], '1', rf'1 \({variables[1]}\)'),
        (variables[0], 'x', rf'1 \({variables[1]}\)'),
        (variables[1], '', '65536'),
        ('MASTER_PORT', 'x', '65536'),
        ('MASTER_PORT', '99999', '65536'),
    ):
        with monkeypatch.context() as wrong:
            wrong.setenv(variable, value)
            sentence = (
                f'^{variable}={value} in .* must be a whole number below {end}: let {program}'
            )
            with pytest.raises(UserError, match=sentence):
                run.check_launcher(launcher)
    for variable in variables:
        with monkeypatch.context() as without:
            without.delenv(variable)
            with pytest.raises(UserError, match=f"by {program}, .* lacks '{variable}': start"):
                run.check_launcher(launcher)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    if launcher == 'pytorch':
        run.check_launcher(launcher)
        return
    with pytest.raises(UserError, match=f'--launcher {launcher} needs GPUs, .* by torchrun with'):
        run.check_launcher(launcher)


def test_processes_of_torchrun_that_know_nothing_of_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    monkeypatch.setenv('WORLD_SIZE', '1')
    run.check_launcher('none')
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(UserError, match='torchrun started 2 processes, .* add --launcher pytorch'):
        run.check_launcher('none')


def test_an_unknown_launcher_is_refused() -> None:
    run.check_launcher('none')
    with pytest.raises(UserError, match="launcher 'slrum' is none: did you mean 'slurm'"):
        run.check_launcher('slrum')


def test_places_that_cannot_be_written_to_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'file').touch()
    run.check_writable('work dir', tmp_path / 'new' / 'folder')
    with pytest.raises(UserError, match=r'work dir .* cannot be written to: .* is not a folder'):
        run.check_writable('work dir', tmp_path / 'file' / 'folder')
    monkeypatch.setattr(run.os, 'access', lambda path, mode: False)
    with pytest.raises(UserError, match=f'{tmp_path}/new cannot be written to: .* is not writable'):
        run.check_writable('work dir', tmp_path / 'new')


@pytest.mark.parametrize('hook', ['checkpoint', 'logger'])
def test_a_place_for_no_checkpoints_is_refused(hook: str, cfg: Config, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    hooks = {hook: dict(type='CheckpointHook', out_dir=str(tmp_path / 'new')), 'timer': None}
    cfg.default_hooks = hooks
    checks.before_training(cfg)
    cfg.default_hooks[hook].out_dir = 's3://bucket/folder'
    checks.before_training(cfg)
    cfg.default_hooks[hook].out_dir = str(tmp_path / 'file')
    sentence = f'default_hooks.{hook}.out_dir .* cannot be written to: .*file is not a folder'
    with pytest.raises(UserError, match=sentence):
        checks.before_training(cfg)


@pytest.mark.parametrize(
    'out, sentence',
    [
        ('results.json', '--out .*results.json must end in .pkl'),
        ('folder.pkl', '--out .*folder.pkl is a folder: give a file'),
        ('file/results.pkl', '--out .* cannot be written to: .* is not a folder'),
    ],
)
def test_a_place_for_no_predictions_is_refused(out: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / 'folder.pkl').mkdir()
    (tmp_path / 'file').touch()
    run.check_results_file(str(tmp_path / 'results.pkl'))
    with pytest.raises(UserError, match=sentence):
        run.check_results_file(str(tmp_path / out))


@pytest.mark.parametrize(
    'check, argument, sentence',
    [
        (run.check_shape, (64, 0), '--shape takes a height .* got 64 0'),
        (run.check_shape, (), '--shape takes a height .* got none'),
        (run.check_cfg_option, 'key', "--cfg-options takes KEY=VALUE, got 'key'"),
        (run.check_device, 'gpu', '--device gpu is no device'),
        (run.check_device, None, '--device None is no device'),
        (partial(run.check_writable, '--out-dir'), '', '^--out-dir is empty: give a folder'),
    ],
)
def test_wrong_flags_of_tools_are_refused(
    check: Callable[[Any], None], argument: Any, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        check(argument)


def test_flags_without_their_settings_are_refused(cfg: Config) -> None:
    with pytest.raises(UserError, match='--tta needs tta_model and tta_pipeline in .*config.py'):
        checks.before_testing(cfg, tta=True)
    with pytest.raises(UserError, match='--auto-scale-lr needs auto_scale_lr.base_batch_size in'):
        checks.before_training(cfg, auto_scale_lr=True)
    cfg.merge_from_dict(
        dict(tta_model=dict(type='X'), tta_pipeline=[dict()], auto_scale_lr=dict(base_batch_size=1))
    )
    checks.before_testing(cfg, tta=True)
    warnings: list[str] = []
    checks.before_training(cfg, auto_scale_lr=True, warn=warnings.append)
    assert not warnings
    cfg.optim_wrapper.accumulative_counts = 4  # of which mmengine's scaling knows nothing
    checks.before_training(cfg, auto_scale_lr=True, warn=warnings.append)
    assert 'divide auto_scale_lr.base_batch_size by 4' in warnings[0]


def test_mixed_precision_in_float16_needs_a_gpu(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    run.check_amp(cfg)
    cfg.optim_wrapper.dtype = 'float16'
    with pytest.raises(UserError, match='--amp with optim_wrapper.dtype float16 needs a GPU'):
        checks.before_training(cfg, amp=True)


def test_mixed_precision_replaces_no_other_optimizer_wrapper(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for fitting in ('OptimWrapper', 'AmpOptimWrapper', 'mmengine.AmpOptimWrapper', AmpOptimWrapper):
        cfg.optim_wrapper = dict(type=fitting)
        run.check_amp(cfg)
    cfg.optim_wrapper = dict(type='ApexOptimWrapper')
    with pytest.raises(UserError, match="--amp would replace optim_wrapper.type 'ApexOptim"):
        run.check_amp(cfg)


@pytest.mark.parametrize(
    ('gpu', 'vectors', 'is_slow'),
    [(False, 'AVX2', True), (False, 'AVX512', False), (True, 'AVX2', False)],
)
def test_mixed_precision_is_warned_of_where_it_is_slower(
    cfg: Config, gpu: bool, vectors: str, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: vectors)
    said: list[str] = []
    checks.before_training(cfg, warn=said.append)
    checks.before_testing(cfg, warn=said.append)
    assert not said
    checks.before_training(cfg, amp=True, warn=said.append)
    checks.before_testing(cfg, amp=True, warn=said.append)
    cfg.optim_wrapper.type = 'mmdat.BFloat16OptimWrapper'
    checks.before_training(cfg, warn=said.append)
    assert len(said) == 3 * is_slow
    assert all('many times as long as float32, as this CPU has no AVX-512' in x for x in said)


def test_bfloat16_needs_the_roi_align_of_torchvision(cfg: Config) -> None:
    layer = dict(type='RoIAlign', output_size=7)
    cfg.model = dict(roi_head=dict(bbox_roi_extractor=dict(roi_layer=layer)))
    checks.before_training(cfg)
    cfg.optim_wrapper.dtype = 'bfloat16'
    with pytest.raises(UserError, match='set model.roi_head.bbox_roi_extractor.roi_layer.use_to'):
        checks.before_training(cfg)
    cfg.model.roi_head.bbox_roi_extractor.roi_layer.use_torchvision = True
    checks.before_training(cfg)


def test_augmentation_at_other_sizes_than_the_test_is_told(cfg: Config) -> None:
    cfg.tta_model = dict(type='X')
    cfg.test_dataloader.dataset = dict(pipeline=[dict(type='Resize', scale=(64, 64))])
    found: list[str] = []
    for sizes in ([(64, 64), (32, 32)], []):
        cfg.tta_pipeline = [dict(transforms=[[dict(scale=size) for size in sizes]])]
        run.check_tta(cfg, found.append)
    assert not found
    cfg.tta_pipeline = [dict(transforms=[[dict(scale=(1333, 800)), dict(scale=(999, 600))]])]
    run.check_tta(cfg, found.append)
    assert found == [
        '--tta resizes images to (1333, 800) and (999, 600), but test_dataloader.dataset.pipeline '
        "to (64, 64): set 'tta_pipeline.0.transforms.0.0.scale' and "
        "'tta_pipeline.0.transforms.0.1.scale' to fit"
    ]


def test_pictures_go_where_they_can_be_written(cfg: Config) -> None:
    checks.before_testing(cfg, show_dir='pictures')
    with pytest.raises(UserError, match='--show-dir .* cannot be written to'):
        checks.before_testing(cfg, show_dir=cfg.filename)


@pytest.mark.parametrize(
    'options, launcher, sentence',
    [
        (
            SHARDED,
            'none',
            r'shares a model among processes \(FSDPStrategy\): start it with tools/dist_',
        ),
        (
            dict(SHARDED, optim_wrapper=dict(clip_grad=dict(max_norm=1.0))),
            'pytorch',
            'optim_wrapper.clip_grad clips each shard by itself',
        ),
        (
            dict(SHARDED, optim_wrapper=dict(type='mmengine.AmpOptimWrapper')),
            'pytorch',
            r'optim_wrapper \(AmpOptimWrapper\) scales .* set optim_wrapper.use_fsdp=True',
        ),
        (
            dict(SHARDED, optim_wrapper=dict(type=AmpOptimWrapper, use_fsdp=False)),
            'pytorch',
            'set optim_wrapper.use_fsdp=True',
        ),
        (
            dict(optim_wrapper=dict(type='AmpOptimWrapper', use_fsdp=True)),
            'none',
            'optim_wrapper.use_fsdp is for several processes, and there is one: leave it out',
        ),
        (dict(strategy=dict(type='mmengine.FSDPStrategy')), 'none', 'shares a model among proc'),
        (
            dict(SHARDED, runner_type='FlexibelRunner'),
            'pytorch',
            r"runner_type 'FlexibelRunner' is no runner: did you mean 'FlexibleRunner'\?",
        ),
        (
            dict(model_wrapper_cfg=dict(type='MMDistributedDataParalel')),
            'pytorch',
            r"model_wrapper_cfg.type '.*' is no model wrapper: did you mean 'MMDistributedDataPara",
        ),
    ],
)
def test_strategies_that_would_train_something_else_are_refused(
    options: dict[str, Any], launcher: str, sentence: str, cfg: Config
) -> None:
    cfg.merge_from_dict(dict(options, launcher=launcher))
    with pytest.raises(UserError, match=sentence):
        run.check_strategy(cfg)


def test_a_scope_without_runners_is_not_warned_of(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a user's own package, where the config names no runner."""
    told: list[str] = []
    monkeypatch.setattr('mmengine.logging.print_log', lambda text, *_, **__: told.append(text))
    cfg.default_scope = 'mine'
    run.check_strategy(cfg)
    assert not told


@pytest.mark.parametrize(
    'wrapper',
    [
        dict(type='AmpOptimWrapper'),
        dict(type=AmpOptimWrapper),
        dict(type='mmengine.AmpOptimWrapper', use_fsdp=True),
    ],
)
def test_mixed_precision_in_shards_is_taken(wrapper: dict[str, Any], cfg: Config) -> None:
    cfg.merge_from_dict(dict(SHARDED, launcher='pytorch'))
    cfg.optim_wrapper = wrapper
    run.check_strategy(cfg)
