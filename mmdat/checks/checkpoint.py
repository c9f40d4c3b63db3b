"""Checks of what a checkpoint holds: whether it can be loaded, tested, resumed."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmdat.checkpoints.integrity import damage
from mmdat.checkpoints.published import PREFIX, PUBLISHED
from mmdat.checkpoints.reading import read_checkpoint
from mmdat.errors import UserError, Warn, enumerate_names, list_first, reason

from .config_tree import first_metainfo
from .model_fit import own_backbone

# Entries beside the weights from which training goes on where it stopped.
TRAINING_STATE = ('meta', 'message_hub', 'optimizer')
# Entries of an optimizer's groups that are no settings.
NO_SETTINGS = ('params', 'param_names', 'foreach', 'fused', 'capturable', 'differentiable')
# Entries of a schedule's state that training changes, or that no config sets.
COUNTERS = (
    *('base_values', 'last_step', 'verbose', 'anneal_func'),
    *('best', 'cooldown_counter', 'num_bad_epochs'),
)
# Types of optim_wrapper, however the text of a config names them.
MIXED_PRECISION = re.compile(r"(Amp|Apex|BFloat16)OptimWrapper'")


def latest_checkpoint(cfg: Config, warn: Warn) -> tuple[str, Any] | None:
    """Path and content of the newest checkpoint that a training's folder has whole.

    The folder's own files count, wherever they were when ``last_checkpoint`` was written there.

    Args:
        cfg: The config, with ``work_dir``.
        warn: Is told of each newer one that is broken.

    Raises:
        UserError: If there are checkpoints, all of which are broken.
    """
    broken: list[str] = []
    folder, name = last_checkpoint(cfg, Path(cfg.work_dir))
    others = [path for path in folder.glob('*.pth') if path.name != name]
    if (folder / name).is_file() and (found := _read_whole(folder / name, broken.append)):
        return found
    written = {path: time for path in others if (time := _read_progress(path, broken.append))}
    newest_first = sorted(written, key=lambda path: written[path], reverse=True)
    whole = (_read_whole(path, broken.append) for path in newest_first)
    found = next(filter(None, whole), None)
    if broken and found is None:
        raise UserError(
            f'--resume finds no checkpoint in {folder} that can be read: {"; ".join(broken)}. Move '
            'them away to begin anew'
        )
    for problem in broken:
        warn(f'--resume goes back to the checkpoint before: {problem}')
    return found


def last_checkpoint(cfg: Config, work_dir: Path) -> tuple[Path, str]:
    """Folder of a training's checkpoints, and the name of its last one; empty if there is none.

    ``last_checkpoint`` has the path that was written to: a copied ``work_dir`` has its own file.
    """
    named = work_dir / 'last_checkpoint'
    name = Path(named.read_text(errors='replace').strip()).name if named.is_file() else ''
    out_dir = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
    return work_dir if out_dir is None else Path(out_dir, work_dir.resolve().name), name


def check_whole(path: str) -> None:
    """Compare the checksums of a checkpoint's file, which PyTorch does not; others are left."""
    if Path(path).is_file() and (problem := damage(Path(path))):
        raise UserError(f'checkpoint {path} cannot be gone on from: {problem}. Copy it again')


def _read_whole(path: Path, tell: Warn) -> tuple[str, Any] | None:
    """Path and content of a checkpoint; None if it is broken, which is told."""
    try:
        content = read_checkpoint(str(path))
        check_whole(str(path))
    except UserError as error:
        tell(reason(error))
        return None
    return str(path), content


def _read_progress(path: Path, tell: Warn) -> tuple[str, int, int] | None:
    """When a checkpoint was written, at which iteration; None if training cannot go on from it."""
    try:
        content = read_checkpoint(str(path), mmap=True)
    except UserError as error:
        tell(reason(error))
        return None
    try:
        check_resumable(content, str(path))
        return content['meta'].get('time', ''), content['meta']['iter'], content['meta']['epoch']
    except (UserError, LookupError, TypeError, AttributeError):
        return None


def check_weights(content: Any, source: str) -> None:
    """Refuse a checkpoint without weights by name."""
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(
            f'checkpoint {source} holds no weights by name, but a '
            f'{type(content).__name__}: give a file that training wrote'
        )


def check_resumable(content: dict[str, Any], source: str) -> None:
    """Refuse a checkpoint from which training cannot go on, such as weights alone."""
    missing = [key for key in TRAINING_STATE if key not in content]
    if missing:
        raise UserError(
            f'checkpoint {source} cannot be resumed from, since it has no '
            f'{" and no ".join(missing)}: start from its weights with load_from'
        )


def check_class_order(
    content: Mapping[str, Any], source: str, classes: Sequence[str], warn: Warn
) -> None:
    """Refuse a checkpoint that was trained with the data's classes in another order.

    Args:
        classes: Those of the data that it is tested on, or that training goes on with.
        warn: Is told that as many classes have other names.
    """
    trained = first_metainfo((content.get('meta') or {}).get('dataset_meta')).get('classes') or ()
    if len(trained) != len(classes) or list(trained) == list(classes):
        return
    wrong = [f'{old} -> {new}' for old, new in zip(trained, classes, strict=True) if old != new]
    if set(trained) == set(classes):
        raise UserError(
            f'{source} was trained with the same classes in another order, so that '
            f'{enumerate_names(wrong)} would change places: give metainfo=dict(classes=(...)) the '
            'order of the training'
        )
    warn(
        f'{len(wrong)} of the {len(classes)} classes of {source} have another name in the data: '
        f'{enumerate_names(wrong)}'
    )


def warn_if_random(model: nn.Module, warn: Warn) -> None:
    """Warn of a backbone that trains, or is frozen, with the random weights that it began with.

    A classifier trains from random weights by its recipe; a detector or segmentor is far worse so.

    Args:
        model: A model into which no checkpoint was loaded.
        warn: Is told of it where the authors published weights or stages are frozen.
    """
    if (backbone := own_backbone(model)) is None:
        return
    if 'Pretrained' in f'{getattr(model, "init_cfg", "")} {backbone.init_cfg}':
        return
    name = f'{backbone.PUBLISHED_PREFIX}_{str(backbone.arch)[0]}_in1k'
    such = f", such as dict(type='Pretrained', checkpoint='{PREFIX}{name}')"
    remedy = f'give model.backbone.init_cfg weights{such if name in PUBLISHED else ""}'
    if backbone.frozen_stages >= 0:
        warn(f'backbone.frozen_stages keeps random weights as they are: {remedy}')
    elif name in PUBLISHED and not hasattr(model, 'head'):
        warn(
            'The backbone starts from random weights, but the recipe counts on trained ones: '
            f'{remedy}'
        )


def warn_if_finished(runner: Runner, source: str) -> None:
    """Log a warning if a runner that resumes has nothing left to train."""
    schedule = runner.cfg.get('train_cfg') or {}
    for unit in ('epoch', 'iter'):
        done, most = getattr(runner, unit), schedule.get(f'max_{unit}s')
        if most and done >= most:
            runner.logger.warning(
                f'{source} is at {unit} {done} of {most}: nothing is left to train; '
                f'to go on, raise train_cfg.max_{unit}s'
            )


def check_optimizer(runner: Runner, content: Mapping[str, Any], source: str) -> None:
    """Compare the optimizer and its schedules with a checkpoint's, which training goes on with.

    mmengine puts the checkpoint's settings in the place of the config's.

    Args:
        runner: The runner, which has built them; its log takes a warning of what has no effect.
        content: The checkpoint.
        source: Its path, for the sentence.

    Raises:
        UserError: If the checkpoint's optimizer is of another kind, or for other parameters.
    """
    wrapper = getattr(runner, 'optim_wrapper', None)
    if not isinstance(wrapper, OptimWrapper):  # several, or those of a strategy
        return
    saved = content.get('optimizer', {}).get('param_groups')
    own = wrapper.optimizer.param_groups
    if not isinstance(saved, list):
        return
    remedy = 'set it as it was, or start from the weights with load_from'
    if len(saved) != len(own):
        raise UserError(
            f'{source} cannot be resumed from, since its optimizer has another number of groups of '
            f'parameters ({len(saved)}, not {len(own)}): paramwise_cfg or constructor of '
            f'optim_wrapper has changed; {remedy}'
        )
    theirs, ours = (
        {name for name in groups[0] if 'initial' not in name} for groups in (saved, own)
    )
    if theirs - ours and ours - theirs:  # another PyTorch may have more alone
        raise UserError(
            f'{source} cannot be resumed from, since its optimizer has '
            f"{enumerate_names(sorted(theirs - ours))} and the config's "
            f'{type(wrapper.optimizer).__name__} {enumerate_names(sorted(ours - theirs))}: '
            f'optim_wrapper.optimizer has changed; {remedy}'
        )
    changes = {
        f'{name} {_initial_setting(old, name)} (not {_initial_setting(new, name)})': None
        for old, new in zip(saved, own, strict=True)
        for name in sorted(theirs & ours - {*NO_SETTINGS})
        if _initial_setting(old, name) != _initial_setting(new, name)
    }
    schedules, built = content.get('param_schedulers'), getattr(runner, 'param_schedulers', None)
    if isinstance(schedules, list) and isinstance(built, list):
        if len(schedules) != len(built):
            changes[f'{len(schedules)} param_scheduler (not {len(built)})'] = None
        for index, (old, scheduler) in enumerate(zip(schedules, built, strict=False)):
            new = scheduler.state_dict()
            changes |= {
                f'param_scheduler.{index}.{name} {old[name]} (not {new[name]})': None
                for name in new.keys() & old.keys() - {*COUNTERS}
                if not name.startswith('_') and old[name] != new[name]
            }
    if changes:
        runner.logger.warning(
            f'{source} goes on as it was trained, whatever the config says now: with '
            f'{list_first(sorted(changes), most=8)}; to train with what the config says, start '
            'from the weights with load_from'
        )


def _initial_setting(group: Mapping[str, Any], name: str) -> Any:
    """A setting of a group of parameters, before any schedule changed it."""
    value = group.get(f'initial_{name}', group.get(name))
    if name == 'betas' and 'initial_momentum' in group:  # a schedule of the momentum changes one
        return (group['initial_momentum'], *value[1:])
    return tuple(value) if isinstance(value, list) else value


def check_precision(runner: Runner, content: Mapping[str, Any], source: str) -> None:
    """Log a warning if training goes on with mixed precision that began without, or in reverse."""
    cfg = (content.get('meta') or {}).get('cfg')
    if not isinstance(cfg, str):
        return
    before = MIXED_PRECISION.search(cfg) is not None
    if before != (MIXED_PRECISION.search(str(runner.cfg.optim_wrapper)) is not None):
        was, now, do = ('with', 'without', 'give') if before else ('without', 'with', 'leave out')
        runner.logger.warning(
            f'{source} was trained {was} mixed precision and goes on {now} it: {do} --amp to go on '
            'as before'
        )


def check_averages(runner: Runner, content: Mapping[str, Any], source: str) -> None:
    """Log a warning if training goes on from averaged weights without averaging them (EMA)."""
    averages = any(isinstance(hook, EMAHook) for hook in runner.hooks)
    if 'ema_state_dict' in content and not averages:
        runner.logger.warning(
            f'{source} holds weights that EMAHook averaged, and training goes on from these '
            'without it: add the hook to custom_hooks to go on as before'
        )
