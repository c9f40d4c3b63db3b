"""Tell the user's mistakes, which the toolboxes meet in their depths, in one sentence each."""

import inspect
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.registry import build_from_cfg
from mmengine.runner import Runner

from mmdat.errors import UserError, reason, suggest

from .config_keys import parameters, paths

# What the runner does with a config before the first iteration.
PREPARATIONS = {
    getattr(Runner, name).__code__
    for name in dir(Runner)
    if name.startswith('build_') and inspect.isfunction(getattr(Runner, name))
}
PREPARATIONS |= {
    function.__code__ for function in (Runner.__init__, Runner.scale_lr, Runner.load_or_resume)
}


@contextmanager
def explained(cfg: Config) -> Iterator[None]:
    """Turn an exception that a mistake in ``cfg`` causes into a UserError; let others pass."""
    try:
        yield
    except Exception as error:
        sentence = _explain(error, cfg)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _explain(error: Exception, cfg: Config) -> str | None:
    text = str(error.args[0]) if error.args else ''
    if isinstance(error, UserError):
        # A data loader's worker process sends its traceback as text.
        return text.rsplit('UserError: ', 1)[-1].strip()
    if match := re.search(r'(\S+) is not in the (\S+) registry', text):
        name, registry = match.groups()
        return (
            f"unknown {_where(cfg, name)}.type='{name}': nothing of that name is registered in "
            f"{registry}; check its spelling, its scope (as in 'mmdat.DATPlusPlus') and "
            'custom_imports'
        )
    if isinstance(error, FileNotFoundError):
        return f"file {error.filename or text} does not exist: check the config's paths"
    if text == 'need at least one array to concatenate':  # mmengine's, of a data set without items
        return (
            'a data set found no image in its folder: check data_prefix and, for other images '
            "than JPEG, img_suffix (as in '.png')"
        )
    if 'reduce_zero_label' in text:
        return (
            'the data set and LoadAnnotations disagree on reduce_zero_label: leave it out of '
            'LoadAnnotations, or use mmdat.LoadSegmentationMap'
        )
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    built = _last_built(frames, cfg)
    if built is None:
        return None
    where, factory = built
    if where == 'optim_wrapper' and text == 'None is not a callable object':
        return (
            f"unknown optim_wrapper.optimizer.type='{cfg.optim_wrapper.optimizer.type}': "
            'torch and the registry have no optimizer of that name'
        )
    if match := re.search(r"got an unexpected keyword argument '(\w+)'", text):
        key = match[1]
        return (
            f"unknown key '{where}.{key}' for {factory.__name__}: "
            f'{suggest(key, _parameters(factory))}'
        )
    return f'{where} cannot be used: {reason(error)}'


def _last_built(frames: list[FrameType], cfg: Config) -> tuple[str, Any] | None:
    """Path in ``cfg`` and class of what was being built when an exception arose; None if nothing.

    Where no class is being built, they are those of the part that the runner looks at, or of the
    whole config.
    """
    for frame in reversed(frames):
        values = frame.f_locals
        if frame.f_code is build_from_cfg.__code__ and 'obj_cls' in values:
            return _where(cfg, values['cfg'].get('type'), values['cfg']), values['obj_cls']
        if frame.f_code is Runner.build_dataloader.__code__:
            split = next(
                (
                    split
                    for split in ('train', 'val', 'test')
                    for outer in frames
                    if outer.f_code.co_name == f'build_{split}_loop'
                ),
                'train',
            )
            return f'{split}_dataloader', frame.f_globals['DataLoader']
        if frame.f_code in PREPARATIONS:
            part = frame.f_code.co_name.removeprefix('build_')
            return part if part in cfg else f'config {cfg.filename}', Runner
    return None


def _where(cfg: Config, name: Any, built: Any = None) -> str:
    """Paths of the dicts in ``cfg`` with type ``name``; of those with the keys of ``built``."""
    found = [path.removesuffix('.type') for path in paths(cfg, 'type', name)]
    if built is not None:
        found = [path for path in found if set(_at(cfg, path)) >= set(built) - {'type'}] or found
    return ' or '.join(found[:2]) or str(name)


def _at(value: Any, path: str) -> Any:
    for key in path.split('.'):
        value = value[int(key) if isinstance(value, (list, tuple)) else key]
    return value


def _parameters(factory: Any) -> set[str]:
    """Names that a class or function takes, the class's bases' among them."""
    if not inspect.isclass(factory):
        return parameters(factory)
    names: set[str] = set()
    for base in factory.__mro__:
        constructor = base.__init__  # type: ignore[misc]
        names |= parameters(constructor)
        kinds = [parameter.kind for parameter in inspect.signature(constructor).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return names
