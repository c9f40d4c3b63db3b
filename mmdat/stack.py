"""The packages below mmdat: which versions it works with, and what they need to work together.

The one tested set is pinned in ``pyproject.toml``; people bring their own builds, so that
``setup.py`` installs none of them.
"""

import importlib
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

# First version that works, first that does not or None, and why.
Version = tuple[str, str | None, str]
SUPPORTED: dict[str, Version] = {
    'torch': ('2.6', '2.14', 'later ones refuse to compile mmcv'),
    'mmengine': ('0.10', '1.0', 'mmdet refuses later ones'),
    'mmcv': ('2.0', '2.2', 'mmdet refuses later ones'),
}
# What mmdat.apis, which trains and tests detectors, needs in addition.
FOR_DETECTION: dict[str, Version] = {'mmdet': ('3.0', '4.0', 'mmdat knows none later')}
HOW_TO_INSTALL = (
    "run 'make setup' in a clone of mmdat for the tested set, "
    "or see 'Your own environment' in its README"
)


def check_stack(packages: Mapping[str, Version] = SUPPORTED) -> None:
    """Refuse to go on where a needed package is missing or unsupported.

    Raises:
        ImportError: With one sentence that says what is wrong and what to do.
    """
    for name, (first, end, reason) in packages.items():
        wanted = f'{name} >= {first}' + (f', < {end} ({reason})' if end else '')
        try:
            version = importlib.import_module(name).__version__
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ImportError(
                f'mmdat needs {wanted}, which is not installed: {HOW_TO_INSTALL}'
            ) from None
        if not is_supported(version, first, end):
            raise ImportError(f'mmdat needs {wanted}, but {version} is installed: {HOW_TO_INSTALL}')


def is_supported(version: str, first: str, end: str | None) -> bool:
    """Whether ``first <= version < end``, by release numbers alone.

    Example:
        >>> is_supported('2.11.0+cu130', '2.6', '2.14'), is_supported('2.14.0', '2.6', '2.14')
        (True, False)
    """
    return _release(first) <= _release(version) and (
        end is None or _release(version) < _release(end)
    )


def _release(version: str) -> list[int]:
    match = re.match(r'\d+(\.\d+)*', version)
    assert match is not None, version
    return [int(part) for part in match[0].split('.')]


def allow_training_history() -> None:
    """Let ``torch.load(weights_only=True)`` read the training history in mmengine's checkpoints.

    Without this ``--resume`` fails: mmengine saves its ``HistoryBuffer``s, which hold NumPy arrays
    and, by name, their own four statistics. Only these are allowed.
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    def history_method(cls: type, name: str) -> Callable:
        if cls is not HistoryBuffer or name not in {'current', 'max', 'mean', 'min'}:
            raise pickle.UnpicklingError(f'getattr({cls}, {name!r}) is not allowed')
        return getattr(HistoryBuffer, name)

    dtypes = [np.dtype(np.float64), np.dtype(np.int64)]
    # NumPy's own functions that rebuild a pickled array and a pickled scalar.
    rebuilders: list[Any] = [np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            # The pickled name is that of the builtin; what runs is the function above.
            (history_method, 'builtins.getattr'),
            np.ndarray,
            np.dtype,
            *map(type, dtypes),
            *rebuilders,
        ]
    )
