"""Two processes, or two steps put together, train what one process does."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import zoo
from mmengine.config import Config

from mmdat.apis import test as evaluate
from mmdat.apis import train
from mmdat.errors import UserError

TRAIN = Path(__file__).parents[2] / 'tools' / 'train.py'
EPOCHS = 3
BATCH = 2
# Without chance; of SGD, unlike AdamW, the step depends on the gradient's size.
CONFIG = """
_base_ = '{configs}/dat_pp_t_in1k.py'
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackInputs')]
loader = dict(
    num_workers=0, persistent_workers=False, sampler=dict(shuffle=False),
    dataset=dict(pipeline=pipeline))
train_dataloader = dict(**loader)
val_dataloader = dict(**loader, batch_size=1)
test_dataloader = val_dataloader
model = dict(
    backbone=dict(arch='nano', drop_path_rate=0.0), head=dict(in_channels=128), train_cfg=None)
optim_wrapper = dict(
    clip_grad=None, optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9,
                                  weight_decay=0.0))
param_scheduler = []
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
default_hooks = dict(checkpoint=dict(interval={epochs}), logger=dict(interval=1))
randomness = dict(seed=0)
"""

SHARDED = "_base_ = ['./config.py', '{configs}/_base_/runtime/fsdp.py']"
SHARDED_DETECTOR = """
_base_ = ['./small.py', '{configs}/_base_/runtime/fsdp.py']
model = dict(backbone=dict(arch='nano'), neck=dict(in_channels=[16, 32, 64, 128]))
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook'))
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('distributed')
    zoo.draw_data(folder)
    (folder / 'config.py').write_text(CONFIG.format(configs=zoo.CONFIGS, epochs=EPOCHS))
    (folder / 'sharded.py').write_text(SHARDED.format(configs=zoo.CONFIGS))
    return folder


def trained(
    root: Path,
    name: str,
    *options: str,
    processes: int = 1,
    config: str = 'config.py',
    epochs: int = EPOCHS,
    flags: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """The weights in the end."""
    start = [sys.executable]
    if processes > 1:
        start += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    command = [
        *start,
        TRAIN,
        root / config,
        '--work-dir',
        root / name,
        *(['--launcher', 'pytorch'] if processes > 1 else []),
        *flags,
        '--cfg-options',
        f'train_dataloader.batch_size={BATCH // processes}',
        *options,
    ]
    environment = dict(zoo.environment(root), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    run = subprocess.run(
        command, env=dict(os.environ, **environment), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return torch.load(root / name / f'epoch_{epochs}.pth', weights_only=True)['state_dict']


def test_the_weights_are_those_of_one_process(root: Path) -> None:
    one = trained(root, 'one')
    accumulated = trained(
        root, 'accumulated', 'train_dataloader.batch_size=1', 'optim_wrapper.accumulative_counts=2'
    )
    two = trained(root, 'two', processes=2)
    shards: dict[str, Any] = dict(processes=2, config='sharded.py')
    trained(
        root,
        'sharded',
        'train_cfg.max_epochs=2',
        'default_hooks.checkpoint.interval=2',
        epochs=2,
        **shards,
    )
    sharded = trained(root, 'sharded', flags=['--resume'], **shards)
    other = trained(root, 'other', 'train_dataloader.batch_size=1')
    assert one.keys() == two.keys() == accumulated.keys() == sharded.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(sharded[name], weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(accumulated[name], weight, atol=1e-5, rtol=1e-4)
    assert max((other[name] - weight).abs().max() for name, weight in one.items()) > 1e-2


def test_a_sharded_model_is_tested_like_any_other(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in zoo.environment(root).items():
        monkeypatch.setenv(variable, value)
    whole = root / 'one' / f'epoch_{EPOCHS}.pth'
    if not whole.exists():
        trained(root, 'one')
    one, sharded = (
        evaluate(str(root / config), str(whole), work_dir=str(root / 'tested'))
        for config in ('config.py', 'sharded.py')
    )
    assert one == sharded and 'accuracy/top1' in one


def test_a_detector_trains_in_shards_and_is_tested_whole(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in zoo.environment(root).items():
        monkeypatch.setenv(variable, value)
    cfg = Config.fromfile(zoo.CONFIGS / 'cascade_mask_rcnn_dat_pp_b_3x_fsdp_coco.py')
    zoo.shrink(cfg)
    cfg.dump(root / 'small.py')
    (root / 'detector.py').write_text(SHARDED_DETECTOR.format(configs=zoo.CONFIGS))
    weights = trained(root, 'detector', processes=2, config='detector.py', epochs=1)
    assert all(weight.isfinite().all() for weight in weights.values())
    # A checkpoint that does not fill the model would be refused.
    evaluate(
        str(root / 'detector.py'),
        str(root / 'detector' / 'epoch_1.pth'),
        work_dir=str(root / 'tested'),
    )


@pytest.mark.parametrize(
    'options, launcher, sentence',
    [
        ({}, 'none', r'shares a model among processes \(FSDPStrategy\): start it with tools/dist_'),
        (
            {'optim_wrapper': dict(_delete_=True, clip_grad=dict(max_norm=1.0))},
            'pytorch',
            'optim_wrapper.clip_grad clips each shard by itself',
        ),
        (
            {'runner_type': 'FlexibelRunner'},
            'pytorch',
            r"runner_type 'FlexibelRunner' is no runner: did you mean 'FlexibleRunner'\?",
        ),
    ],
)
def test_strategies_that_would_train_something_else_are_refused(
    options: dict[str, Any],
    launcher: str,
    sentence: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in dict(zoo.environment(root), RANK='0').items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=sentence):
        train(
            str(root / 'sharded.py'), str(root / 'refused'), launcher=launcher, cfg_options=options
        )
    assert not (root / 'refused').exists()
