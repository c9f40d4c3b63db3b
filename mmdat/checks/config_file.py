"""Read a config; whatever goes wrong is told in one sentence, with the file where it did."""

import ast
import re
import traceback
from pathlib import Path

from mmengine.config import Config

from mmdat.errors import UserError, reason


def read_config(path: str | Path) -> Config:
    """The config at ``path``.

    Raises:
        UserError: If it, or a base of it, cannot be read.
    """
    if not Path(path).is_file():
        raise UserError(f'config {path} does not exist')
    try:
        return Config.fromfile(path)
    except UserError:
        raise
    except Exception as error:  # a config is code, and can raise anything
        raise UserError(_explain(error, str(path))) from error


def _explain(error: BaseException, path: str) -> str:
    """Why a config cannot be read, in one sentence."""
    line = ''
    for frame, line_number in traceback.walk_tb(error.__traceback__):
        if frame.f_code is Config._file2dict.__code__:
            path = frame.f_locals['filename']  # the innermost of the bases
        elif frame.f_code.co_filename == path:
            line = f' in line {line_number}'
    if isinstance(error, SyntaxError):
        return f'config {path} is not valid Python{_why_not_python(path)}'
    while error.__cause__ is not None:  # mmengine wraps what an import raises in many lines
        error = error.__cause__
    return f'config {path} cannot be read: {reason(error)}{line}'


def _why_not_python(path: str) -> str:
    # mmengine's own message names a temporary file.
    source = Path(path).read_text()
    try:
        ast.parse(source)
    except SyntaxError as error:
        return f': {error.msg} in line {error.lineno}'
    variables = ' and '.join(sorted(set(re.findall(r'\{\{\s*\$\s*(\w+)', source))))
    return f' with the values of the environment variables {variables}: check them for quotes'
