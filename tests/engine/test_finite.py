"""A loss that is not finite does no harm, and many of them end a training in a sentence."""

import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import tiny
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import Tensor

from mmdat.engine import finite, stopping
from mmdat.engine.finite import SKIPPED
from mmdat.errors import UserError

EPOCHS = dict(type='mmdat.ResumableEpochLoop', max_epochs=3)


class Spoil(Hook):
    """Gives batches of some numbers values that are not finite, and images with paths."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.weights: list[dict[str, Tensor]] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        data_batch['data_samples'] = [SimpleNamespace(img_path=f'{runner.iter}.jpg')]
        if runner.iter in self.numbers:
            data_batch['inputs'][0] = data_batch['inputs'][0] * float('inf')

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        state = runner.model.layers.state_dict()
        self.weights.append({name: value.clone() for name, value in state.items()})


def run(work_dir: Path, spoil: Spoil, counts: int = 1, *hooks: Any, **options: Any) -> Any:
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=counts)
    runner = tiny.runner(
        work_dir,
        [dict(type='mmdat.FiniteLossHook', max_in_a_row=4), spoil, *hooks],
        EPOCHS,
        **dict(optim_wrapper=wrapper, checkpoint=dict(type='mmdat.CheckpointHook')) | options,
    )
    runner.train()
    return runner


@pytest.mark.parametrize('counts', [1, 2])
def test_a_step_without_a_finite_loss_is_skipped_and_counted(counts: int, tmp_path: Path) -> None:
    spoil = Spoil(5, 6, 9)
    runner = run(tmp_path, spoil, counts)
    assert runner.message_hub.get_info(SKIPPED) == 3
    moved = [
        not torch.equal(before['3.weight'], after['3.weight'])
        for before, after in zip(spoil.weights, spoil.weights[1:], strict=False)
    ]
    # Of two batches a step, the one that is left of a pair steps alone.
    assert moved[4:] == {1: [0, 0, 1, 1, 0, 1, 1], 2: [0, 0, 1, 0, 0, 0, 1]}[counts]
    still = [
        torch.equal(before['1.running_mean'], after['1.running_mean'])
        for before, after in zip(spoil.weights, spoil.weights[1:], strict=False)
    ]
    assert still[4:] == [1, 1, 0, 0, 1, 0, 0]
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())


def test_many_in_a_row_end_training_in_a_sentence_and_keep_the_last_good(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, Spoil(*range(6, 12)))
    assert str(caught.value).startswith(
        'the loss was not finite in 4 steps in a row, last for 9.jpg, at a learning rate of '
    )
    assert 'the first layer with such an output is data_preprocessor: lower' in str(caught.value)
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']


def test_a_last_step_that_is_skipped_loses_nothing(tmp_path: Path) -> None:
    run(tmp_path, Spoil(7, 11), checkpoint=dict(type='mmdat.CheckpointHook', max_keep_ckpts=1))
    assert {path.name for path in tmp_path.glob('*.pth')} == {'epoch_1.pth', 'epoch_3.pth'}


def test_a_model_with_several_optimizers_is_trained(tmp_path: Path) -> None:
    class Model(tiny.Model):
        def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
            losses = self(**self.data_preprocessor(data, True), mode='loss')
            optim_wrapper['one'].update_params(losses['loss'])
            return losses

    model = Model()
    one = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    run(
        tmp_path,
        Spoil(),
        model=model,
        optim_wrapper=OptimWrapperDict(one=one),
        param_scheduler=None,
    )
    assert (tmp_path / 'epoch_3.pth').is_file()


def test_a_count_goes_on_when_training_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(tiny.Killed):
        run(tmp_path, Spoil(1), 1, tiny.KillHook('after_train_epoch', 2))
    runner = run(tmp_path, Spoil(9), resume=True)
    assert runner.message_hub.get_info(SKIPPED) == 2


class SpoilGradients(Hook):
    """Makes the gradient of a layer infinite in some iterations, whose loss is finite."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def before_train(self, runner: Any) -> None:
        def spoil(gradient: Tensor) -> Tensor:
            return gradient * float('inf') if runner.iter in self.numbers else gradient

        runner.model.layers[3].weight.register_hook(spoil)


@pytest.mark.parametrize(
    'options, moved',
    [
        (dict(), [0, 0, 1, 1, 0, 1, 1]),
        (dict(clip_grad=dict(max_norm=1)), [0, 0, 1, 1, 0, 1, 1]),
        (dict(clip_grad=dict(type='value', clip_value=1)), [0, 0, 1, 1, 0, 1, 1]),
        (dict(accumulative_counts=2), [0, 0, 0, 0, 0, 0, 1]),
        (dict(type='AmpOptimWrapper', loss_scale=8.0), [0, 0, 1, 1, 0, 1, 1]),
        (dict(type='AmpOptimWrapper', clip_grad=dict(max_norm=1)), [0, 0, 1, 1, 0, 1, 1]),
    ],
)
def test_a_step_without_a_finite_gradient_is_skipped(
    options: dict[str, Any], moved: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = partial(torch.amp.GradScaler, 'cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)) | options
    spoil = Spoil()
    runner = run(tmp_path, spoil, 1, SpoilGradients(5, 6, 9), optim_wrapper=wrapper)
    pairs = zip(spoil.weights, spoil.weights[1:], strict=False)
    weights = [[weights['3.weight'] for weights in pair] for pair in pairs]
    assert [not torch.equal(*pair) for pair in weights][4:] == moved
    assert all(value.isfinite().all() for value in spoil.weights[-1].values())
    # A scale of the loss that is lowered is how float16 is trained, and tells of nothing.
    is_scaled = 'type' in options and 'loss_scale' not in options
    assert runner.message_hub.get_info(SKIPPED) == (0 if is_scaled else 3)
    assert (tmp_path / 'epoch_3.pth').is_file()


@pytest.mark.parametrize('scale', [None, 8.0, 'dynamic'])
def test_many_gradients_that_are_not_finite_end_training_in_a_sentence(
    scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = partial(torch.amp.GradScaler, 'cpu', init_scale=4)
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
    if scale:
        wrapper |= dict(type='AmpOptimWrapper', loss_scale=scale)
    numbers = range(4, 12)
    with pytest.raises(UserError) as caught:
        run(tmp_path, Spoil(), 1, SpoilGradients(*numbers), optim_wrapper=wrapper)
    last = 7 if scale != 'dynamic' else 9  # the scale is lowered to 2 and 1 before
    assert str(caught.value).startswith(
        'the gradient of layers.3.weight was not finite in 4 steps in a row, last for '
        f'{last}.jpg, at a learning rate of '
    )
    assert 'layer' not in str(caught.value).partition(' rate of ')[2]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']


def test_a_step_that_is_not_finite_in_another_process_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(99))

    def all_reduce(flags: Tensor, operation: str) -> None:
        assert operation == 'min' and flags.all()
        if len(flags) == 2:  # of loss and gradient, not of the weights in a checkpoint
            flags[1] = next(steps) not in (5, 6)

    monkeypatch.setattr(finite, 'get_world_size', lambda: 2)
    monkeypatch.setattr(finite, 'all_reduce', all_reduce)
    runner = run(tmp_path, Spoil())
    assert runner.message_hub.get_info(SKIPPED) == 2


class SpoilWeights(Hook):
    """Gives the model a weight that is no number after an iteration, whose loss was one."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner: Any, batch_idx: int, *_: Any, **__: Any) -> None:
        if runner.iter == 7:  # the last of the second epoch
            runner.model.layers[0].weight.data[0, 0] = float('nan')
            stopping._request(signal.SIGTERM, None)


def test_weights_that_are_no_numbers_replace_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, Spoil(), 1, SpoilWeights())
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']
