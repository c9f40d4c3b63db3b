"""What mmengine lacks to read and write files safely; importing mmdat puts it there."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend, register_handler
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmdat.files import whole_file

from .pickles import SafePickleHandler
from .published import PREFIX
from .reading import WEB, ZOOS, read_checkpoint


def patch_mmengine() -> None:
    """Let mmengine read its own history, and no code, from files, and write whole files."""
    allow_training_history()
    register_handler(['pickle', 'pkl'])(SafePickleHandler)
    register_backend('local', WholeFileBackend, force=True, prefixes='')
    CheckpointLoader.register_scheme(['', *WEB, *ZOOS, PREFIX], load_from_disk_or_web, force=True)


def allow_training_history() -> None:
    """Let ``torch.load(weights_only=True)`` read the training history in mmengine's checkpoints.

    Without this ``--resume`` fails: mmengine saves its ``HistoryBuffer``s, which hold NumPy arrays
    and, by name, their own four statistics. Only these are allowed, under the names of NumPy 1 too.
    """

    def history_method(cls: type, name: str) -> Callable:
        if cls is not HistoryBuffer or name not in {'current', 'max', 'mean', 'min'}:
            raise pickle.UnpicklingError(f'getattr({cls}, {name!r}) is not allowed')
        return getattr(HistoryBuffer, name)

    # NumPy's own functions that rebuild a pickled array and a pickled scalar, by the names that
    # NumPy 1 and NumPy 2 give them.
    rebuilders: list[Any] = [
        (function, f'numpy.{core}.multiarray.{name}')
        for name, function in (
            ('_reconstruct', np.empty(0).__reduce__()[0]),
            ('scalar', np.float64(0).__reduce__()[0]),
        )
        for core in ('core', '_core')
    ]
    dtypes = [np.float64, np.float32, np.int64, np.int32, np.bool_]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            # The pickled name is that of the builtin; what runs is the function above.
            (history_method, 'builtins.getattr'),
            np.ndarray,
            np.dtype,
            *(type(np.dtype(dtype)) for dtype in dtypes),
            *rebuilders,
        ]
    )


class WholeFileBackend(LocalBackend):
    """mmengine's files on disk, which appear when they are complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Raises:
            UserError: If it cannot be written; an old one is still there then.
        """
        with whole_file(Path(filepath)) as partial:
            partial.write_bytes(obj)


def load_from_disk_or_web(filename: str, map_location: Any = None) -> Any:
    """Loader of checkpoints for mmengine, whose own runs code that it finds at a URL."""
    return read_checkpoint(filename, map_location, skip_objects=True)
