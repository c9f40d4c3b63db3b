"""Checks of the metrics that best checkpoints, early stopping and learning rates go by."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import ValLoop
from torch import nn

from mmdat.errors import UserError, Warn, suggest

SAVE_BEST = 'default_hooks.checkpoint.save_best'
PRECISIONS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')
# iou_metrics of IoUMetric -> the names of what it gives beside aAcc.
IOU_RESULTS = dict(
    mIoU=('mIoU', 'mAcc'), mDice=('mDice', 'mAcc'), mFscore=('mFscore', 'mPrecision', 'mRecall')
)
# What a part of a training waits for in a validation: the part's key, as a sentence names it, the
# metric ('auto' is the first that comes), and which is better ('greater', 'less' or None).
Monitor = tuple[str, str, str | None]


def check_monitors(
    hooks: Sequence[Hook], schedulers: Any, val_loop: Any, model: nn.Module, warn: Warn
) -> None:
    """Refuse parts of a training that wait for a metric that never comes, or prefer the worst.

    Args:
        schedulers: Those that a runner has built from ``param_scheduler``.
        val_loop: The loop of validation, built; None if the training does not validate.
    """
    names = None if val_loop is None else _names_of_results(val_loop)
    for place, metric, rule in (*_hook_monitors(hooks), *_scheduler_monitors(schedulers)):
        setting = f'{place} is {metric!r}'
        if val_loop is None:
            if place != SAVE_BEST:
                raise UserError(
                    f'{setting}, but the training does not validate: leave it out, or add '
                    'val_dataloader, val_cfg and val_evaluator'
                )
            warn(f'{setting}, but the training does not validate: no checkpoint will be the best')
            continue
        is_known = bool(names and (metric in names or metric == 'auto'))
        if names is not None and not is_known and not _may_give_losses(model):
            check_given(place, metric, names)
        usual = 'greater' if is_known else _usual_rule(metric)
        if rule and usual and rule != usual:
            problem = f'{setting}, but its rule {rule!r} takes the worst for the best'
            if is_known:
                raise UserError(f'{problem}: set rule={usual!r}')
            warn(f'{problem}, going by the name: set rule={usual!r} unless that is meant')


def check_given(place: str, metric: str, names: Collection[str]) -> None:
    """Refuse a metric that is not among those of a validation."""
    if metric not in names:
        remedy = suggest(metric, names) if names else 'it gives none'
        raise UserError(f'{place} is {metric!r}, which val_evaluator does not give: {remedy}')


def _hook_monitors(hooks: Sequence[Hook]) -> Iterator[Monitor]:
    for hook in hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            for metric, rule in zip(hook.key_indicators, hook.rules, strict=True):
                yield SAVE_BEST, metric, rule
        elif isinstance(hook, EarlyStoppingHook):
            yield f'monitor of {type(hook).__name__}', hook.monitor, hook.rule


def _scheduler_monitors(schedulers: Any) -> Iterator[Monitor]:
    if isinstance(schedulers, Mapping):  # those of several optimizers by name
        for own in schedulers.values():
            yield from _scheduler_monitors(own)
        return
    for index, scheduler in enumerate(schedulers or ()):
        if getattr(scheduler, 'need_val_args', False):
            place = f'monitor of param_scheduler.{index} ({type(scheduler).__name__})'
            yield place, scheduler.monitor, scheduler.rule


def _usual_rule(metric: str) -> str | None:
    """The rule that mmengine chooses by a metric's name; None if that tells nothing."""
    try:
        return EarlyStoppingHook(metric).rule
    except ValueError:
        return None


def _may_give_losses(model: nn.Module) -> bool:
    """Whether validation may give losses, too, as no model of the toolboxes has it do."""
    return type(model).__module__.partition('.')[0] not in ('mmdet', 'mmseg', 'mmpretrain')


def _names_of_results(val_loop: Any) -> set[str] | None:
    """Names of all that a loop of validation gives; None if they cannot be known before.

    More is better of all of them.
    """
    if type(val_loop) is not ValLoop or type(val_loop.evaluator) is not Evaluator:
        return None  # others may rename them, as TeacherStudentValLoop does
    names = set()
    for metric in val_loop.evaluator.metrics:
        kind = type(metric)
        names_of = NAMES_BY_METRIC.get(f'{kind.__module__.partition(".")[0]}.{kind.__name__}')
        if names_of is None:
            return None
        prefix = f'{metric.prefix}/' if metric.prefix else ''
        names |= {f'{prefix}{name}' for name in names_of(metric)}
    return names


def _names_of_coco(metric: Any) -> Iterator[str]:
    if metric.format_only:
        return
    for kind in metric.metrics:
        if kind == 'proposal':
            yield from RECALLS if metric.metric_items is None else metric.metric_items
        else:
            items = PRECISIONS if metric.metric_items is None else metric.metric_items
            yield from (f'{kind}_{item}' for item in items)
            if metric.classwise:
                yield from (f'{name}_precision' for name in metric.dataset_meta['classes'])


def _names_of_iou(metric: Any) -> Iterator[str]:
    if metric.format_only:
        return
    yield 'aAcc'
    kinds = [metric.metrics] if isinstance(metric.metrics, str) else metric.metrics
    for kind in kinds:
        yield from IOU_RESULTS.get(kind, ())


def _names_of_accuracy(metric: Any) -> Iterator[str]:
    for k in metric.topk:
        for thr in metric.thrs:
            end = '_no-thr' if thr is None else f'_thr-{thr:.2f}'
            yield f'top{k}{end if len(metric.thrs) > 1 else ""}'


NAMES_BY_METRIC: dict[str, Callable[[Any], Iterator[str]]] = {
    'mmdat.CocoMetric': _names_of_coco,
    'mmdet.CocoMetric': _names_of_coco,
    'mmseg.IoUMetric': _names_of_iou,
    'mmpretrain.Accuracy': _names_of_accuracy,
}
