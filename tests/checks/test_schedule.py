"""Schedules that do not fit a training are told; batches that cannot be trained, refused."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim import scheduler as schedulers
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from mmdat.checks import schedule
from mmdat.errors import UserError

RATE = 0.1


def loop_of(kind: type[BaseLoop], length: int, val_begin: int = 1) -> Any:
    """A loop of so many epochs of 10 iterations, or of so many iterations."""
    loop = kind.__new__(kind)
    is_epochs = kind is EpochBasedTrainLoop
    loop.__dict__.update(
        _max_epochs=length if is_epochs else 1,
        _max_iters=length * 10 if is_epochs else length,
        dataloader=range(10),
        val_begin=val_begin,
        _runner=SimpleNamespace(val_loop=object()),
    )
    return loop


def epochs(length: int, **options: int) -> Any:
    return loop_of(EpochBasedTrainLoop, length, **options)


def iterations(length: int, **options: int) -> Any:
    return loop_of(IterBasedTrainLoop, length, **options)


def built(*configs: dict[str, Any]) -> list[Any]:
    """Schedulers of one optimizer, as a runner builds them."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=RATE)
    return [getattr(schedulers, cfg.pop('type'))(optimizer, **cfg) for cfg in map(dict, configs)]


class OwnLoop(EpochBasedTrainLoop):
    """A loop of a user's own, which may end an epoch as it likes."""


RESTARTS = dict(type='CosineRestartLR', periods=[4, 5], restart_weights=[1, 0.5], eta_min=0)
WARM_UP = dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=20)


def test_a_schedule_that_would_divide_by_zero_is_refused() -> None:
    schedules = built(WARM_UP, dict(type='StepLR', step_size=0))
    with pytest.raises(UserError, match=r'^param_scheduler\.1\.step_size is 0: set it to 1'):
        schedule.check_schedulers(schedules, epochs(3), print)


@pytest.mark.parametrize(
    'configs, loop',
    [
        ([WARM_UP, dict(type='MultiStepLR', milestones=[8, 11], end=12)], epochs(12)),
        ([WARM_UP, dict(type='CosineAnnealingLR', T_max=11, begin=1, end=12)], epochs(12)),
        ([WARM_UP, dict(type='PolyLR', begin=20, end=80, by_epoch=False)], iterations(80)),
        ([dict(type='CosineAnnealingLR', T_max=98, end=98)], epochs(100)),
        # A rate that is held on purpose, and one that another scheduler takes on.
        ([dict(type='CosineAnnealingLR', eta_min=0.02, T_max=6, end=6)], epochs(12)),
        ([dict(type='PolyLR', end=6), dict(type='ConstantLR', begin=6, end=12)], epochs(12)),
        ([dict(type='StepLR', step_size=4, end=12)], epochs(12)),
        ([dict(type='OneCycleLR', eta_max=1, total_steps=12)], epochs(12)),
        ([dict(type='OneCycleLR', eta_max=[1], total_steps=12)], epochs(12)),
        ([dict(type='ExponentialLR', gamma=0.9)], epochs(12)),
        ([RESTARTS], epochs(9)),
        ([RESTARTS], epochs(4)),
        ([dict(RESTARTS, end=4)], epochs(4)),
        ([dict(type='ReduceOnPlateauLR', monitor='loss')], epochs(12)),
        (
            [
                dict(type='CosineAnnealingLR', T_max=4, eta_min=10 * RATE, end=4),
                dict(type='CosineAnnealingLR', T_max=8, eta_min=1e-4 * RATE, begin=4, end=12),
            ],
            epochs(12),
        ),
        ([dict(type='CosineAnnealingLR', T_max=12, eta_min=RATE)], epochs(12)),
        ([], epochs(1)),
    ],
)
def test_a_schedule_that_fits_is_not_told(configs: list[dict], loop: Any) -> None:
    found: list[str] = []
    schedule.check_schedulers(built(*configs), loop, found.append)
    schedule.check_schedulers(None, loop, found.append)
    assert not found


@pytest.mark.parametrize(
    'config, loop, sentence',
    [
        (
            dict(WARM_UP, end=500),
            epochs(12),
            '(LinearLR) leads to 500 iterations, but the training has 120 iterations',
        ),
        (
            dict(type='MultiStepLR', milestones=[2, 3, 11], end=12),
            epochs(3),
            '(MultiStepLR) has milestones at 3 and 11, but the training has 3 epochs',
        ),
        (
            dict(type='PolyLR', end=160000, by_epoch=False),
            iterations(100),
            '(PolyLR) leads to 160000 iterations, but the training has 100 iterations: it end',
        ),
        (
            dict(type='CosineAnnealingLR', T_max=12),
            epochs(3),
            'leads to 12 epochs, but the training has 3 epochs: it ends halfway; set its T_max',
        ),
        (
            dict(type='PolyLR', end=80, by_epoch=False),
            iterations(160),
            'ends after 80 of 160 iterations: the rest is trained at a learning rate of next to 0',
        ),
        (
            dict(type='CosineAnnealingLR', T_max=3, end=3),
            epochs(12),
            'ends after 3 of 12 epochs: the rest is trained at a learning rate of next to 0',
        ),
        (
            dict(type='CosineAnnealingLR', T_max=6, end=12),
            epochs(12),
            'has T_max 6, but the training has 12 epochs: the learning rate rises again after 6',
        ),
        (
            dict(type='OneCycleLR', eta_max=1, total_steps=500, by_epoch=False),
            iterations(90),
            'has 500 total_steps, but the training has 90 iterations: it ends halfway; set total_',
        ),
        (
            dict(type='OneCycleLR', eta_max=1, total_steps=50, by_epoch=False),
            iterations(90),
            'cannot go on after them; set total_steps to 90',
        ),
        (dict(type='OneCycleLR', eta_max=1, end=36), epochs(12), 'set total_steps to 12'),
        (dict(type='StepLR', step_size=30), epochs(12), 'has the step_size 30, but the training'),
        (dict(type='PolyLR', begin=5, end=9), epochs(5), 'begins after 5 epochs, but the train'),
        (RESTARTS, epochs(12), 'ends after 9 of 12 epochs: the rest is trained at a learning rate'),
        (dict(RESTARTS, end=4), epochs(12), 'rate of next to 0; set its end to 12'),
        (RESTARTS, epochs(5), 'leads to 9 epochs, but the training has 5 epochs: it ends halfway'),
        (
            dict(type='CosineAnnealingLR', T_max=12, eta_min=1),
            epochs(12),
            'leads to 1 (eta_min), which is above the learning rate 0.1: lower it',
        ),
        (
            dict(type='MultiStepLR', milestones=[1]),
            iterations(9),
            'counts epochs, but the training',
        ),
        (dict(type='ExponentialLR', gamma=0), epochs(3), 'has gamma 0: nothing is learned at the'),
        (
            dict(type='MultiStepLR', milestones=[1], gamma=-0.1),
            epochs(3),
            'has gamma -0.1: nothing',
        ),
        (dict(type='ConstantLR', factor=0), epochs(3), 'has factor 0: nothing is learned at the'),
        (dict(type='OneCycleLR', eta_max=0, total_steps=3), epochs(3), 'has eta_max 0: nothing is'),
    ],
)
def test_a_schedule_that_does_not_fit_is_told_once(config: dict, loop: Any, sentence: str) -> None:
    found: list[str] = []
    schedule.check_schedulers(built(config), loop, found.append)
    schedule.check_schedulers(dict(head=built(config)), loop, found.append)
    assert len(found) == 2 and found[0] == found[1]
    assert found[0].startswith('param_scheduler.0 (') and sentence in found[0]


@pytest.mark.parametrize(
    'loop, hook, sentence',
    [
        (epochs(3), dict(interval=1), None),
        (epochs(3), dict(interval=9), None),
        (iterations(30), dict(interval=90, by_epoch=False), None),
        (epochs(3, val_begin=4), dict(), 'train_cfg.val_begin is 4, but the training has 3 epochs'),
        (iterations(3, val_begin=4), dict(by_epoch=False), 'the training has 3 iterations'),
        (epochs(3), dict(max_keep_ckpts=0), 'max_keep_ckpts is 0, which keeps all checkpoints'),
        (iterations(30), dict(interval=1), 'no checkpoint before the end without by_epoch=False'),
        (epochs(3), dict(interval=4, save_last=False), 'has 3 epochs: there is no checkpoint'),
        (
            epochs(3),
            dict(interval=40, by_epoch=False, save_last=False),
            'interval is 40 and save_last is off, but the training has 30 iterations: there is no',
        ),
    ],
)
def test_what_never_happens_in_a_training_is_told(
    loop: Any, hook: dict, sentence: str | None
) -> None:
    found: list[str] = []
    schedule.check_intervals(loop, [CheckpointHook(**hook)], found.append)
    assert len(found) == (sentence is not None)
    assert sentence is None or sentence in found[0]


def test_a_loader_without_a_batch_is_refused_and_images_left_untested_are_told() -> None:
    found: list[str] = []
    schedule.check_batches(DataLoader(range(5), batch_size=8), 'train', found.append)
    schedule.check_batches(DataLoader(range(16), 8, drop_last=True), 'val', found.append)
    assert not found
    schedule.check_batches(DataLoader(range(19), 8, drop_last=True), 'val', found.append)
    assert found == ['val_dataloader.drop_last leaves 3 of 19 images out of the figures']
    empty: Any = []
    with pytest.raises(UserError, match='^val_dataloader has no image: check its data set$'):
        schedule.check_batches(DataLoader(empty), 'val', found.append)
    with pytest.raises(UserError, match='train_dataloader yields no batch: 5 images .* fewer'):
        schedule.check_batches(DataLoader(range(5), 8, drop_last=True), 'train', found.append)


def test_an_epoch_that_never_ends_is_refused() -> None:
    sampler = InfiniteSampler(range(4))
    by_pairs = BatchSampler(sampler, 2, drop_last=False)
    for loader in (
        DataLoader(range(4), sampler=sampler),
        DataLoader(range(4), batch_sampler=by_pairs),
    ):
        for split, loop in (('train', epochs(3)), ('val', loop_of(ValLoop, 1))):
            loop.dataloader = loader
            with pytest.raises(
                UserError, match=f'^{split}_dataloader.sampler is an InfiniteSampler'
            ):
                schedule.check_ends(loop, split)
        for loop in (iterations(3), loop_of(OwnLoop, 3)):
            loop.dataloader = loader
            schedule.check_ends(loop, 'train')


class Pyramid(nn.Module):
    """Batch norm of a map, and of what it is pooled to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.BatchNorm2d(2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(2))


@pytest.mark.parametrize(
    'loader, problem',
    [
        (DataLoader(range(9), 1), 'train_dataloader.batch_size is 1'),
        (DataLoader(range(9), 4), 'the last of 9 images is a batch of its own (batch_size 4)'),
        (DataLoader(range(8), 4), None),
        (DataLoader(range(9), 4, drop_last=True), None),
        (DataLoader(range(9), 4, sampler=InfiniteSampler(range(9))), None),
    ],
)
def test_batch_norm_of_one_value_is_refused_in_the_first_step(
    loader: DataLoader, problem: str | None
) -> None:
    model = Pyramid()
    handles = schedule.watch_batch_norm(model, loader)
    maps = torch.rand(4, 2, 8, 8)
    model.stem(maps)
    if problem is None:
        model.pool(maps)
        return
    with pytest.raises(UserError, match=rf'{re.escape(problem)}, but model.pool.1 normalizes one'):
        model.pool(maps)
    model.eval().pool(maps)
    for handle in handles:
        handle.remove()
    model.train().pool(maps)


def test_processes_with_different_numbers_of_batches_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader = DataLoader(range(8), 2)
    schedule.check_same_batches(loader)
    monkeypatch.setattr(schedule, 'all_gather_object', lambda count: [count, count - 1])
    with pytest.raises(UserError, match='from 3 to 4 batches .* sampler.round_up=False'):
        schedule.check_same_batches(loader)


def test_a_learning_rate_of_zero_is_told() -> None:
    found: list[str] = []
    for rate, factor in ((0.1, 0), (0, 1)):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
        schedulers.LinearLR(optimizer, start_factor=factor, end=2)
        schedule.check_rates(OptimWrapperDict(head=OptimWrapper(optimizer)), found.append)
        schedule.check_rates(OptimWrapper(optimizer), found.append)
    optimizer.param_groups[0].update(lr=None, initial_lr=None)  # as of transformers' Adafactor
    schedule.check_rates(OptimWrapper(optimizer), found.append)
    assert found == [
        f'optim_wrapper.{key}.lr is 0: nothing is learned'
        for key in ('head.optimizer', 'optimizer')
    ]


def test_a_misspelled_name_of_parameters_is_told() -> None:
    model = nn.ModuleDict(dict(backbone=Pyramid()))
    keys = ('backbone', 'backbone.stem', 'backbne', 'backbone.stme', 'absolute_pos_embed', 'fc')
    wrapper = dict(paramwise_cfg=dict(custom_keys={key: dict(lr_mult=0.1) for key in keys}))
    found: list[str] = []
    schedule.check_custom_keys(model, wrapper, found.append)
    assert found == [
        "optim_wrapper.paramwise_cfg.custom_keys has 'backbne', which is in the name of no "
        "parameter, and has no effect: did you mean 'backbone'?"
    ]
    for none in (None, dict(optimizer=dict(type='SGD')), dict(paramwise_cfg=None)):
        schedule.check_custom_keys(model, none, found.append)
    assert len(found) == 1
