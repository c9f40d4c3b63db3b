"""Checks of a training's length, learning rate and batches, once data and schedulers are built."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import _ParamScheduler
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle

from mmdat.errors import UserError, Warn, nearest

from . import config_tree

# Loops that go through all batches of a loader, unless a class of the user's changes that.
PASSES = (EpochBasedTrainLoop, ValLoop, TestLoop)
# A schedule that ends early is reported if more than this share of the training is left.
LEAST_REST = 0.05
# The share of the first learning rate below which nothing is learned.
NO_RATE = 0.01
# What a learning rate is multiplied by, or led to, in the middle of a schedule.
ZEROING = ('gamma', 'factor', 'eta_max')
# Parts of names so long, and so much alike as difflib has it, are one and a slip of it.
LEAST_LETTERS, ALIKE = 5, 0.8


def check_schedulers(schedulers: Any, loop: BaseLoop, warn: Warn) -> None:
    """Warn of schedules of the learning rate that do not fit the length of a training.

    Args:
        schedulers: Those that a runner has built from ``param_scheduler``.
    """
    if not isinstance(schedulers, Sequence):  # None, or those of several optimizers by name
        for own in (schedulers or {}).values():
            check_schedulers(own, loop, warn)
        return
    for index, scheduler in enumerate(schedulers):
        if getattr(scheduler, 'step_size', 1) == 0:
            raise UserError(f'param_scheduler.{index}.step_size is 0: set it to 1 or more')
        for problem in _misfits(scheduler, loop):
            warn(f'param_scheduler.{index} ({type(scheduler).__name__}) {problem}')
    rates = [scheduler for scheduler in schedulers if scheduler.param_name == 'lr']
    last = max(rates, key=lambda rate: _last_iteration(rate, loop), default=None)
    if last is None or (last.by_epoch and isinstance(loop, IterBasedTrainLoop)):
        return
    length, unit = _length(last, loop)
    key, target = _target(last)
    end = target if key == 'periods' else last.end
    name = f'param_scheduler.{schedulers.index(last)} ({type(last).__name__})'
    if length - end > LEAST_REST * length and _final_share(last) <= NO_RATE:
        fit = 'periods to fit' if end < last.end else f'end to {length}'
        warn(
            f'{name} ends after {end} of {length} {unit}: the rest is trained at a learning rate '
            f'of next to 0; set its {fit}'
        )
    # One that another follows may raise the rate, as in a cyclic schedule.
    if (rate := getattr(last, 'eta_min', None)) is not None and rate > max(last.base_values):
        warn(
            f'{name} leads to {rate:g} (eta_min), which is above the learning rate '
            f'{max(last.base_values):g}: lower it'
        )


def _misfits(scheduler: Any, loop: BaseLoop) -> Iterator[str]:
    """Yield what a scheduler is set to do and cannot do in a training of this length."""
    if scheduler.by_epoch and isinstance(loop, IterBasedTrainLoop):
        yield 'counts epochs, but the training iterations: it has no effect without by_epoch=False'
        return
    for key in ZEROING:
        value = getattr(scheduler, key, 1)
        each = value if isinstance(value, Sequence) else [value]  # of groups of parameters
        if scheduler.param_name == 'lr' and all(rate is not None and rate <= 0 for rate in each):
            yield f'has {key} {value}: nothing is learned at the rate that it sets'
            return
    length, unit = _length(scheduler, loop)
    training = f'but the training has {length} {unit}'
    steps = getattr(scheduler, 'total_steps', None)  # those of OneCycleLR
    available = min(scheduler.end, length) - scheduler.begin
    key, target = _target(scheduler)
    restarts = getattr(scheduler, 'cumulative_periods', ())
    late = sorted(step for step in getattr(scheduler, 'milestones', ()) if step >= length)
    if scheduler.begin >= length:
        yield f'begins after {scheduler.begin} {unit}, {training}: it has no effect'
    elif steps is not None and abs(available - steps) > LEAST_REST * length:
        result = 'ends halfway' if steps > available else 'cannot go on after them'
        yield f'has {steps} total_steps, {training}: it {result}; set total_steps to {available}'
    elif late:
        yield (
            f'has milestones at {" and ".join(map(str, late))}, {training}: the learning rate is '
            'not lowered there; set others'
        )
    elif getattr(scheduler, 'step_size', 0) >= length - scheduler.begin:
        yield f'has the step_size {scheduler.step_size}, {training}: it has no effect'
    elif (
        target > length
        and (key != 'end' or hasattr(scheduler, 'total_iters'))
        and length - scheduler.begin not in restarts
    ):
        yield f'leads to {target} {unit}, {training}: it ends halfway; set its {key} to fit'
    elif key == 'T_max' and min(scheduler.end, length) - target > LEAST_REST * length:
        yield (
            f'has T_max {scheduler.T_max}, {training}: the learning rate rises again after '
            f'{target}; set T_max to fit'
        )


def _target(scheduler: Any) -> tuple[str, int]:
    """Key that says how long the curve of a scheduler is, and the step at which it is complete."""
    if hasattr(scheduler, 'T_max'):
        return 'T_max', scheduler.begin + scheduler.T_max
    if hasattr(scheduler, 'periods'):
        return 'periods', min(scheduler.end, scheduler.begin + sum(scheduler.periods))
    return 'end', scheduler.end


def _length(counter: _ParamScheduler | CheckpointHook, loop: BaseLoop) -> tuple[int, str]:
    """How long a training is, in the unit that a scheduler or a hook counts."""
    return (loop.max_epochs, 'epochs') if counter.by_epoch else (loop.max_iters, 'iterations')


def _last_iteration(scheduler: _ParamScheduler, loop: BaseLoop) -> int:
    """The iteration at which a scheduler ends."""
    return scheduler.end * (len(loop.dataloader) if scheduler.by_epoch else 1)


def _final_share(scheduler: _ParamScheduler) -> float:
    """Share of the learning rate that a scheduler ends at; 1 if it sets none."""
    if (share := getattr(scheduler, 'eta_min_ratio', None)) is not None:
        return share
    if (rate := getattr(scheduler, 'eta_min', None)) is not None:
        return rate / max(scheduler.base_values)
    return getattr(scheduler, 'end_factor', 1)


def check_rates(optim_wrapper: Any, warn: Warn) -> None:
    """Warn of a learning rate of 0, with which nothing is learned.

    Args:
        optim_wrapper: Built, or several by name.
    """
    several = getattr(optim_wrapper, 'optim_wrappers', {})
    wrappers = {f'{name}.optimizer': wrapper for name, wrapper in several.items()}
    wrappers = wrappers or {'optimizer': optim_wrapper}
    for name, wrapper in wrappers.items():
        groups = wrapper.optimizer.param_groups
        # A warm-up may begin at 0, and an optimizer may set the rate by itself, as Adafactor.
        if all(group.get('initial_lr', group.get('lr')) == 0 for group in groups):
            warn(f'optim_wrapper.{name}.lr is 0: nothing is learned')


def check_custom_keys(model: nn.Module, optim_wrapper: Any, warn: Warn) -> None:
    """Warn of learning rates and decays for parameters whose name is misspelled.

    A key that resembles no parameter passes: recipes have keys for parts that a model may lack.

    Args:
        optim_wrapper: The part of the config.
    """
    names = [name for name, _ in model.named_parameters()]
    parts = {part for name in names for part in name.split('.')}
    for key in config_tree.value_at(optim_wrapper, 'paramwise_cfg.custom_keys') or ():
        if any(key in name for name in names):
            continue
        for part in key.split('.'):
            close = nearest(part, parts, ALIKE) if len(part) >= LEAST_LETTERS else None
            if close and part not in parts:
                warn(
                    f'optim_wrapper.paramwise_cfg.custom_keys has {key!r}, which is in the name '
                    f'of no parameter, and has no effect: did you mean {close!r}?'
                )


def check_intervals(loop: BaseLoop, hooks: Sequence[Hook], warn: Warn) -> None:
    """Warn of a training that never validates, or keeps nothing before its end."""
    counts_iters = isinstance(loop, IterBasedTrainLoop)
    length, unit = (loop.max_iters, 'iterations') if counts_iters else (loop.max_epochs, 'epochs')
    if loop.runner.val_loop is not None and loop.val_begin > length:
        warn(
            f'train_cfg.val_begin is {loop.val_begin}, but the training has {length} {unit}: '
            'it never validates'
        )
    for hook in hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        if hook.max_keep_ckpts == 0:
            warn(
                'default_hooks.checkpoint.max_keep_ckpts is 0, which keeps all checkpoints, as -1 '
                'does: set it to 1 for the last alone'
            )
        if hook.by_epoch and counts_iters:
            warn(
                'default_hooks.checkpoint counts epochs, but the training iterations: there is '
                'no checkpoint before the end without by_epoch=False'
            )
        elif not hook.save_last:
            length, unit = _length(hook, loop)
            if not 0 < hook.interval <= length:
                warn(
                    f'default_hooks.checkpoint.interval is {hook.interval} and save_last is off, '
                    f'but the training has {length} {unit}: there is no checkpoint'
                )


def check_batches(loader: DataLoader, split: str, warn: Warn) -> None:
    """Refuse a data loader that yields no batch; warn of images that are never tested."""
    images = _num_images(loader)
    if not images:
        raise UserError(f'{split}_dataloader has no image: check its data set')
    if not isinstance(loader.sampler, InfiniteSampler) and not len(loader):
        raise UserError(
            f'{split}_dataloader yields no batch: {images} images (for each process) are fewer '
            f'than its batch_size, and drop_last is set; lower batch_size'
        )
    if split != 'train' and loader.drop_last and (left_out := images % (loader.batch_size or 1)):
        warn(
            f'{split}_dataloader.drop_last leaves {left_out} of {images} images out of the figures'
        )


def check_ends(loop: BaseLoop, split: str) -> None:
    """Refuse a pass through all batches that never ends; loops of a user's own may end it."""
    loader: Any = loop.dataloader
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    is_own = type(loop).__module__.split('.')[0] not in ('mmengine', 'mmdat')
    if isinstance(sampler, InfiniteSampler) and isinstance(loop, PASSES) and not is_own:
        by_iterations = ', or train by iterations (train_cfg.max_iters)' if split == 'train' else ''
        raise UserError(
            f'{split}_dataloader.sampler is an InfiniteSampler, with which an epoch never ends: '
            f"set its type to 'DefaultSampler'{by_iterations}"
        )


def check_same_batches(loader: DataLoader) -> None:
    """Refuse different numbers of batches in the processes, which would wait for each other."""
    counts = all_gather_object(len(loader))
    if min(counts) < max(counts):
        raise UserError(
            f'train_dataloader yields from {min(counts)} to {max(counts)} batches an epoch in the '
            'processes, which would wait for each other: leave out sampler.round_up=False, and '
            'give all machines the same data'
        )


def watch_batch_norm(model: nn.Module, loader: DataLoader) -> list[RemovableHandle]:
    """Refuse batch norm of one value a channel, by hooks in the first step.

    Pooled to 1 x 1, as in UperNet's pyramid, a batch of one image has no variance. Where a batch
    of the epoch will have one image, the hooks refuse such a layer when it meets any batch.

    Returns:
        What removes the hooks; none are needed if all batches have several images.
    """
    images = _num_images(loader)
    last = images % loader.batch_size if loader.batch_size else 0
    is_whole = loader.drop_last or isinstance(loader.sampler, InfiniteSampler)
    if loader.batch_size == 1:
        problem = 'train_dataloader.batch_size is 1'
        remedy = 'set train_dataloader.batch_size to 2 or more'
    elif last == 1 and not is_whole:
        problem = (
            f'the last of {images} images is a batch of its own (batch_size {loader.batch_size})'
        )
        remedy = 'set train_dataloader.drop_last=True, or another batch_size'
    else:
        return []

    def refuse(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training and inputs[0].numel() == inputs[0].shape[0] * inputs[0].shape[1]:
            raise UserError(
                f'{problem}, but {names[module]} normalizes one value a channel and image over the '
                f'batch, which needs two images: {remedy}'
            )

    names: dict[nn.Module, str] = {
        module: f'model.{name}'
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and not _is_shared(module)
    }
    return [module.register_forward_pre_hook(refuse) for module in names]


def _num_images(loader: DataLoader) -> int:
    """How many images a process is given in an epoch."""
    sampler: Any = loader.sampler  # typed without a length
    return len(sampler)


def _is_shared(module: nn.Module) -> bool:
    """Whether a batch norm takes the batches of several processes together."""
    several = distributed.is_available() and distributed.is_initialized()
    return isinstance(module, nn.SyncBatchNorm) and several and distributed.get_world_size() > 1
