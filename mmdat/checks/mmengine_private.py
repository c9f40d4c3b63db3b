"""What mmdat uses of mmengine 0.10 that is not public: all of it is here, and has a test."""

import contextlib
import inspect
import itertools
from collections.abc import Iterator
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope, build_from_cfg
from mmengine.runner import BaseLoop, FlexibleRunner, Runner
from mmengine.utils import manager
from mmengine.visualization import LocalVisBackend

# Methods of a runner -> the key of a config that they read, where their names do not say it.
KEYS = dict(
    build_logger='log_level',
    register_custom_hooks='custom_hooks',
    register_default_hooks='default_hooks',
    scale_lr='auto_scale_lr',
    set_randomness='randomness',
    setup_env='env_cfg',
)
# Code of each method that prepares a run -> the method's name, or the key that it reads.
PREPARATIONS = {
    method.__code__: KEYS.get(name, name)
    for runner in (Runner, FlexibleRunner)
    for name, method in inspect.getmembers(runner, inspect.isfunction)
    if name.startswith('build_') or name in ('__init__', 'load_or_resume', *KEYS)
}

_NUMBERS = itertools.count()


@contextlib.contextmanager
def in_scope(toolbox: str) -> Iterator[None]:
    """Let a toolbox's classes be found first, in threads that come and go in any order.

    ``DefaultScope.overwrite_default_scope`` puts back what it found, as it was: scopes that other
    threads have entered since are lost, and those that they have left stay, more with each call.
    """
    name = f'mmdat {next(_NUMBERS)}'
    DefaultScope.get_instance(name, scope_name=toolbox)
    try:
        yield
    finally:
        with manager._lock:
            DefaultScope._instance_dict.pop(name, None)


def imported_names(cfg: Config) -> set[str]:
    """Names of what a config in pure Python imports, which are among its keys."""
    return cfg._imported_names


def file_read_by(frame: FrameType) -> str | None:
    """Path of the config that a stack frame of mmengine reads; None for another frame.

    An exception does not name the base of a config in which it arose.
    """
    return frame.f_locals['filename'] if frame.f_code is Config._file2dict.__code__ else None


def built_by(frame: FrameType) -> tuple[dict[str, Any], Any] | None:
    """Dict and class of what a stack frame of mmengine builds; None for another frame.

    An exception does not name the class whose constructor raised it.
    """
    if frame.f_code is not build_from_cfg.__code__ or 'obj_cls' not in frame.f_locals:
        return None
    return frame.f_locals['cfg'], frame.f_locals['obj_cls']


def built_loops(runner: Runner) -> dict[str, Any]:
    """Split -> the loop that a runner has built; its properties would build others."""
    loops = dict(train=runner._train_loop, val=runner._val_loop, test=runner._test_loop)
    return {split: loop for split, loop in loops.items() if isinstance(loop, BaseLoop)}


def keeps_numbers(runner: Runner) -> bool:
    """Whether a runner writes losses and metrics into files, from which curves are drawn."""
    backends = runner.visualizer._vis_backends.values()
    return any(isinstance(backend, LocalVisBackend) for backend in backends)


def is_subset(dataset: Any) -> bool:
    """Whether a data set is a part of what its annotations have (``indices``)."""
    return getattr(dataset, '_indices', None) is not None


def which_images(dataset: Any) -> str:
    """What a sentence adds to the source of a data set that has some of its images alone."""
    return ' (the images of indices)' if is_subset(dataset) else ''


def is_fine_tuning(runner: Runner) -> bool:
    """Whether a runner trains from the start, maybe from another model's weights."""
    return isinstance(runner._train_loop, BaseLoop) and not runner._resume


def is_resuming(runner: Runner) -> bool:
    """Whether a runner goes on with a training that stopped."""
    return runner._resume


def loads_weights(runner: Runner) -> bool:
    """Whether a runner loads a checkpoint."""
    return runner._resume or runner._load_from is not None


def source_of_weights(runner: Runner) -> str:
    """The checkpoint that a runner loads, as a sentence names it."""
    return runner._load_from or 'the checkpoint'
