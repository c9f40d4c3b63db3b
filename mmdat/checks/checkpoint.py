"""Checks of what a checkpoint holds: whether it can be loaded, tested, resumed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.runner import Runner, find_latest_checkpoint

from mmdat.errors import UserError, enumerate_names

# What a checkpoint needs beside the weights for training to go on where it stopped.
TRAINING_STATE = ('meta', 'message_hub', 'optimizer')


def latest_checkpoint(work_dir: str) -> str:
    """Path of the checkpoint that training in a folder wrote last.

    Raises:
        UserError: If there is none.
    """
    checkpoint = find_latest_checkpoint(work_dir)
    if not checkpoint:
        raise UserError(
            f'--resume found no checkpoint in {work_dir}: train without it, or name a checkpoint'
        )
    return checkpoint


def check_weights(content: Any, source: str) -> None:
    """Refuse a checkpoint without weights by name.

    Args:
        content: The checkpoint.
        source: Its path, for the sentence.

    Raises:
        UserError: Says what it holds instead.
    """
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(
            f'checkpoint {source} holds no weights by name, but a '
            f'{type(content).__name__}: give a file that training wrote'
        )


def check_resumable(content: dict[str, Any], source: str) -> None:
    """Refuse a checkpoint from which training cannot go on, such as weights alone.

    Raises:
        UserError: Says what it lacks.
    """
    missing = [key for key in TRAINING_STATE if key not in content]
    if missing:
        raise UserError(
            f'checkpoint {source} cannot be resumed from, since it has no '
            f'{" and no ".join(missing)}: start from its weights with load_from'
        )


def check_class_order(
    content: Mapping[str, Any], source: str, classes: Sequence[str], warn: Callable[[str], object]
) -> None:
    """Refuse a checkpoint that was trained with the data's classes in another order.

    Args:
        content: The checkpoint; one that does not name its classes passes.
        source: Its path, for the sentence.
        classes: Those of the data that it is tested on, or that training goes on with.
        warn: Is told that as many classes have other names.

    Raises:
        UserError: Names the classes.
    """
    trained = ((content.get('meta') or {}).get('dataset_meta') or {}).get('classes') or ()
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
