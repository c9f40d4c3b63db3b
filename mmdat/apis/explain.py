"""Tell the user's mistakes, which the toolboxes meet in their depths, in one sentence each."""
import inspect
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config

from mmdat.errors import UserError, suggest

from .keys import paths


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
    if match := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text):
        class_name, key = match.groups()
        where = ' or '.join(paths(cfg, key)) or key
        return (f"unknown key '{where}' for {class_name}: "
                f'{suggest(key, _parameters(error, class_name))}')
    if match := re.search(r'(\S+) is not in the (\S+) registry', text):
        name, registry = match.groups()
        where = ' or '.join(paths(cfg, 'type', name)) or name
        return (f"unknown {where}='{name}': nothing of that name is registered in {registry}; "
                "check its spelling, its scope (as in 'mmdat.DATPlusPlus') and custom_imports")
    if isinstance(error, FileNotFoundError):
        return f"file {error.filename or text} does not exist: check the config's paths"
    return None


def _parameters(error: Exception, class_name: str) -> set[str]:
    """Names that the constructor of the class of that name takes, its bases' among them.

    The class is looked for where ``error`` arose: among what the frames of its traceback see.
    """
    names: set[str] = set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        seen = [*frame.f_globals.values(), *frame.f_locals.values()]
        for cls in (value for value in seen if inspect.isclass(value)):
            if class_name in (base.__name__ for base in cls.__mro__):
                names |= _constructor_parameters(cls)
    return names


def _constructor_parameters(cls: type) -> set[str]:
    names: set[str] = set()
    for base in cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names |= {parameter.name for parameter in parameters
                  if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return names - {'self'}
