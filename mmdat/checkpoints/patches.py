"""What mmengine lacks to read checkpoints safely; importing mmdat puts it there."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from .reading import WEB, ZOOS, read_checkpoint


def patch_mmengine() -> None:
    """Let mmengine read its own training history, and no code, from checkpoints."""
    allow_training_history()
    CheckpointLoader.register_scheme(['', *WEB, *ZOOS], load_from_disk_or_web, force=True)


def allow_training_history() -> None:
    """Let ``torch.load(weights_only=True)`` read the training history in mmengine's checkpoints.

    Without this ``--resume`` fails: mmengine saves its ``HistoryBuffer``s, which hold NumPy arrays
    and, by name, their own four statistics. Only these are allowed.
    """

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


def load_from_disk_or_web(filename: str, map_location: Any = None) -> Any:
    """Loader of checkpoints for mmengine, whose own runs code that it finds at a URL."""
    return read_checkpoint(filename, map_location)
