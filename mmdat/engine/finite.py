"""Losses and gradients that are not finite: steps are skipped, and too many end a training."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from mmdat.errors import UserError, list_first
from mmdat.registry import HOOKS

# Entries of the message hub: steps skipped so far, and the last of them without one between.
SKIPPED, IN_A_ROW = 'mmdat_skipped_steps', 'mmdat_skipped_in_a_row'
LOSS = 'loss'


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Skip and count steps whose loss or gradient is infinite or no number in any process.

    Running statistics, as of batch normalization, stay as they were too. No checkpoint is written
    until a step is taken again or training ends. A gradient that overflows float16 is left to the
    scaling of the loss, as long as a lower scale can help.

    Args:
        max_in_a_row: How many such steps in a row end the training.

    Raises:
        UserError: Names images, learning rate and the first layer whose output is not finite, or
            the last parameter whose gradient is not.
    """

    _problem = ''

    def __init__(self, max_in_a_row: int = 10) -> None:
        self.max_in_a_row = max_in_a_row
        # Buffers of the model, as running means, and what they were before the iteration.
        self._statistics: list[Tensor] = []
        self._kept: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, OptimWrapperDict):
            return  # several optimizers, whose losses a model's own step knows
        update_params, step = type(wrapper).update_params, wrapper.step
        scaler = getattr(wrapper, 'loss_scaler', None)  # mixed precision in float16 has one
        unchecked: list[Tensor] = []

        def update_if_finite(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            unchecked.append(loss.detach())
            update_params(wrapper, loss, *args, **kwargs)
            if unchecked:  # no step is due yet
                (is_finite,) = all_finite([unchecked.pop()])
                self._count(runner, '' if is_finite else LOSS)
                if not is_finite:
                    wrapper.zero_grad()

        @functools.wraps(step)  # so that mmengine's schedulers know that they count its calls
        def step_if_finite(**kwargs: Any) -> None:
            gradients = [
                parameter.grad
                for group in wrapper.param_groups
                for parameter in group['params']
                if parameter.grad is not None
            ]
            # A model's own training step may know of no loss here.
            losses = [unchecked.pop()] if unchecked else gradients
            loss_is_finite, gradients_are = all_finite(losses, [*losses, *gradients])
            problem = ''
            if not loss_is_finite:
                problem = LOSS
            elif not gradients_are:
                problem = f'gradient of {_last_without_finite_gradient(runner)}'
            if loss_is_finite and scaler is not None:  # it takes no step that is not finite
                scale = scaler.get_scale() if problem else 0.0
                step(**kwargs)
                if problem and 1 <= scaler.get_scale() < scale:
                    problem = ''
            elif not problem:
                step(**kwargs)
            self._count(runner, problem)

        wrapper.update_params = update_if_finite
        wrapper.step = step_if_finite

    def before_train_epoch(self, runner: Runner) -> None:
        self._statistics = [x for x in runner.model.buffers() if x.is_floating_point()]
        self._kept = [buffer.clone() for buffer in self._statistics]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self._kept:
            torch._foreach_copy_(self._kept, self._statistics)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        hub = runner.message_hub
        in_a_row = hub.get_info(IN_A_ROW, 0)
        if not in_a_row:
            return
        runner.logger.warning(
            f'The {self._problem} is not finite: the step is skipped, {in_a_row} in a row, '
            f'{hub.get_info(SKIPPED)} in all'
        )
        if in_a_row >= self.max_in_a_row:
            images = [getattr(sample, 'img_path', '') for sample in _samples(data_batch)]
            rates = sorted({group['lr'] for group in runner.optim_wrapper.param_groups})
            layer = ''
            if self._problem == LOSS:
                first = _first_not_finite(runner, data_batch)
                layer = f'; the first layer with such an output is {first}'
            raise UserError(
                f'the {self._problem} was not finite in {in_a_row} steps in a row, last for '
                f'{list_first(filter(None, images)) or "images without a path"}, at a learning '
                f'rate of {rates[-1]:g}{layer}: lower optim_wrapper.optimizer.lr, '
                'or warm up for longer, and go on with --resume from the last checkpoint'
            )

    def _count(self, runner: Runner, problem: str) -> None:
        self._problem = problem
        if problem and self._kept:
            torch._foreach_copy_(self._statistics, self._kept)
        hub = runner.message_hub
        hub.update_info(IN_A_ROW, hub.get_info(IN_A_ROW, 0) + 1 if problem else 0)
        hub.update_info(SKIPPED, hub.get_info(SKIPPED, 0) + bool(problem))


def all_finite(*groups: Iterable[Tensor]) -> list[bool]:
    """Whether the numbers in each group of tensors are finite, in all processes, which call it.

    Their norm tells, which is infinite too for numbers from 1e19 on. A GPU is waited for once.
    """
    flags = torch.stack([_norm([x.detach() for x in group]).isfinite() for group in groups]).int()
    if get_world_size() > 1:
        all_reduce(flags, 'min')
    return flags.bool().tolist()


def _norm(tensors: list[Tensor]) -> Tensor:
    """Norm of all numbers in tensors, as ``get_total_norm`` gives it from PyTorch 2.6 on."""
    if not tensors:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def _last_without_finite_gradient(runner: Runner) -> str:
    """Name the last parameter whose gradient is not finite: as a rule that next to the loss."""
    found = [
        name
        for name, parameter in runner.model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return found[-1] if found else 'another process, or of all parameters together,'


def _first_not_finite(runner: Runner, data_batch: Any) -> str:
    """Name the first layer of the model whose output is not finite for a batch."""
    model = runner.model
    found: list[str] = []

    def note(name: str, outputs: Any) -> None:
        if not found and not all(torch.isfinite(part).all() for part in _tensors(outputs)):
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _, __, outputs, name=name: note(name, outputs))
        for name, module in model.named_modules()
        if name and not any(module.children())
    ]
    whole: Any = getattr(model, 'module', model)
    try:
        with torch.no_grad(), runner.optim_wrapper.optim_context(model):
            data = whole.data_preprocessor(data_batch, True)
            model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else 'none, but the loss itself'


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _samples(data_batch: Any) -> list[Any]:
    samples = data_batch.get('data_samples', ()) if isinstance(data_batch, dict) else ()
    return list(samples) if isinstance(samples, (list, tuple)) else []
