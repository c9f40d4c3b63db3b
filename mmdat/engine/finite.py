"""Losses that are not finite: their steps are skipped, and too many of them end a training."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from mmdat.errors import UserError, list_first
from mmdat.registry import HOOKS

# Entries of the message hub: steps skipped so far, and the last of them without one between.
SKIPPED, IN_A_ROW = 'mmdat_skipped_steps', 'mmdat_skipped_in_a_row'


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Skip and count steps whose loss is infinite or no number in any process.

    No checkpoint is written until a loss is finite again.

    Args:
        max_in_a_row: How many such steps in a row end the training.

    Raises:
        UserError: Names images, learning rate and the first layer whose output is not finite.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        self.max_in_a_row = max_in_a_row

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            return  # several optimizers, whose losses a model's own step knows
        update_params = type(wrapper).update_params

        def update_if_finite(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            is_finite = torch.isfinite(loss.detach()).all().int()
            if get_world_size() > 1:
                all_reduce(is_finite, 'min')
            self._count(runner, skipped=not is_finite)
            if is_finite:
                update_params(wrapper, loss, *args, **kwargs)
            else:
                wrapper.zero_grad()
                wrapper._inner_count += 1  # of batches, several of which may make a step

        wrapper.update_params = update_if_finite

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        hub = runner.message_hub
        in_a_row = hub.get_info(IN_A_ROW, 0)
        if not in_a_row:
            return
        runner.logger.warning(
            f'The loss is not finite: the step is skipped, {in_a_row} in a row, '
            f'{hub.get_info(SKIPPED)} in all'
        )
        if in_a_row >= self.max_in_a_row:
            images = [getattr(sample, 'img_path', '') for sample in _samples(data_batch)]
            rates = sorted({group['lr'] for group in runner.optim_wrapper.param_groups})
            raise UserError(
                f'the loss was not finite in {in_a_row} steps in a row, last for '
                f'{list_first(filter(None, images)) or "images without a path"}, at a learning '
                f'rate of {rates[-1]:g}; the first layer with such an output is '
                f'{_first_not_finite(runner, data_batch)}: lower optim_wrapper.optimizer.lr, '
                'or warm up for longer, and go on with --resume from the last checkpoint'
            )

    def _count(self, runner: Runner, *, skipped: bool) -> None:
        hub = runner.message_hub
        hub.update_info(IN_A_ROW, hub.get_info(IN_A_ROW, 0) + 1 if skipped else 0)
        hub.update_info(SKIPPED, hub.get_info(SKIPPED, 0) + skipped)


def _first_not_finite(runner: Runner, data_batch: Any) -> str:
    """Name of the first layer of the model whose output is not finite for a batch."""
    model = runner.model
    found: list[str] = []

    def look(name: str, outputs: Any) -> None:
        if not found and not all(torch.isfinite(part).all() for part in _tensors(outputs)):
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _, __, outputs, name=name: look(name, outputs))
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
