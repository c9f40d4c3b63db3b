"""Read a config; whatever goes wrong is told in one sentence, with the file where it did."""

import ast
import copy
import os
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings
from torch import Tensor

from mmdat.config_bases import PREFIX, config_path
from mmdat.errors import UserError, enumerate_names, reason, suggest

from .config_classes import name_classes
from .config_keys import RUNNER_KEYS
from .config_tree import items
from .mmengine_private import file_read_by
from .variables import check_options


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read the config at ``path``.

    Args:
        path: Path of the config, or ``mmdat::NAME.py`` for one of mmdat's.
        options: Values to put into it, by dotted key (``--cfg-options``); they stay as they are.

    Raises:
        UserError: If the config, or a base of it, cannot be read or is at a URL, or if the options
            do not fit it.
    """
    if str(path).startswith(PREFIX):
        path = config_path(str(path))
    if '://' in str(path):
        raise UserError(
            f'config {path} is at a web address: a config is code, so download it, read it, and '
            'give the path of the file'
        )
    if not Path(path).is_file():
        raise UserError(f'config {path} does not exist')
    if str(path).endswith('.pth'):
        raise UserError(f'{path} is a checkpoint: give the config there, and it behind the config')
    try:
        cfg = Config.fromfile(path)
        name_classes(cfg)
        _check_writable(dict(cfg), str(path))
    except UserError:
        raise
    except Exception as error:  # a config is code, and can raise anything
        raise UserError(_explain(error, str(path))) from error
    put_options(cfg, options or {})
    return cfg


def put_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Put values into a config, by dotted key (``--cfg-options``); they stay as they are.

    Raises:
        UserError: If they do not fit it.
    """
    for key in options:
        name = key.split('.')[0]
        if name not in RUNNER_KEYS and name not in cfg:
            raise UserError(
                f"unknown key '{key}' in --cfg-options: {suggest(name, RUNNER_KEYS | set(cfg))}"
            )
    check_options(cfg, options)
    # mmengine would put the values themselves into the config, and other options into them.
    options = copy.deepcopy(dict(options))
    try:
        cfg.merge_from_dict(options)
    except Exception as error:  # an index that is no number, a key below what is no dict
        alone = [key for key in options if not _fits(cfg, {key: options[key]})]
        named = enumerate_names(alone or options)
        raise UserError(
            f'--cfg-options do not fit config {cfg.filename}: {named}: {reason(error)}'
        ) from error
    if any(key.split('.')[0] == 'custom_imports' for key in options):
        try:
            import_modules_from_strings(**(cfg.custom_imports or {'imports': ()}))
        except Exception as error:  # a module is code, and can raise anything
            raise UserError(
                f"'custom_imports' in --cfg-options cannot be used: {reason(error)}{_why(error)}"
            ) from error


def _check_writable(value: Any, config: str, at: str = '') -> None:
    """Refuse paths and arrays, which mmengine cannot write into the copy of a config."""
    for key, item in items(value):
        place = f'{at}.{key}'.lstrip('.')
        if isinstance(item, os.PathLike | np.ndarray | Tensor):
            how = 'str(...)' if isinstance(item, os.PathLike) else '.tolist()'
            raise UserError(
                f'config {config} has a {type(item).__name__} as {place}, which no copy of it can '
                f'hold: write {how}'
            )
        _check_writable(item, config, place)


def _fits(cfg: Config, options: dict[str, Any]) -> bool:
    """Whether options can be put into a config."""
    try:
        copy.deepcopy(cfg).merge_from_dict(options)
    except Exception:
        return False
    return True


def _explain(error: BaseException, path: str) -> str:
    """Say in one sentence why a config cannot be read."""
    line = ''
    for frame, line_number in traceback.walk_tb(error.__traceback__):
        if file := file_read_by(frame):
            path = file  # the last is the innermost of the bases
        elif frame.f_code.co_filename == path:
            line = f' in line {line_number}'
    if isinstance(error, SyntaxError):
        return f'config {path} is not valid Python{_why_not_python(path)}'
    while error.__cause__ is not None:  # mmengine wraps what an import raises in many lines
        error = error.__cause__
    if isinstance(error, UnicodeDecodeError):
        return f'config {path} is not text in UTF-8: save it so'
    return f'config {path} cannot be read: {reason(error)}{_why(error)}{line}'


def _why(error: BaseException) -> str:
    """What mmengine leaves out where a module of custom_imports cannot be imported."""
    cause = error.__context__
    if not isinstance(error, ImportError) or not isinstance(cause, ImportError):
        return ''
    is_missing = isinstance(cause, ModuleNotFoundError)
    remedy = ': install it, or add the folder that it is in to PYTHONPATH' if is_missing else ''
    return f' ({reason(cause)}{remedy})'


def _why_not_python(path: str) -> str:
    """Say what is wrong with a file's syntax; mmengine's own message names a temporary file."""
    source = Path(path).read_text(encoding='utf-8')
    if source.startswith('\ufeff'):
        return ': it begins with a byte order mark; save it as UTF-8 without one'
    try:
        ast.parse(source)
    except SyntaxError as error:
        return f': {error.msg} in line {error.lineno}'
    variables = ' and '.join(sorted(set(re.findall(r'\{\{\s*\$\s*(\w+)', source))))
    return f' with the values of the environment variables {variables}: check them for quotes'
