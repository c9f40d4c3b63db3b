"""What mmengine lacks to read and write files safely; importing mmdat puts it there."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from mmengine.fileio import LocalBackend, YamlHandler, put, register_backend, register_handler
from mmengine.logging import HistoryBuffer
from mmengine.registry import VISBACKENDS
from mmengine.runner import CheckpointLoader
from mmengine.visualization import LocalVisBackend
from mmengine.visualization.vis_backend import force_init_env

from mmdat.errors import UserError
from mmdat.files import whole_file

from .pickles import NUMPY, SafePickleHandler
from .published import PREFIX
from .reading import WEB, ZOOS, read_checkpoint

# Where mmengine would load checkpoints from with all code that is in them.
STORES = ['mmcls://', 'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://']


def patch_mmengine() -> None:
    """Let mmengine read its own history, and no code, from files, and write whole files."""
    allow_training_history()
    register_handler(['pickle', 'pkl'])(SafePickleHandler)
    register_handler(['yaml', 'yml'])(SafeYamlHandler)
    register_backend('local', WholeFileBackend, force=True, prefixes='')
    VISBACKENDS.register_module('LocalVisBackend', force=True, module=WholePictureBackend)
    CheckpointLoader.register_scheme(['', *WEB, *ZOOS, PREFIX], load_from_disk_or_web, force=True)
    CheckpointLoader.register_scheme(STORES, refuse_to_load, force=True)


def allow_training_history() -> None:
    """Let ``torch.load(weights_only=True)`` read the training history in mmengine's checkpoints.

    Without this ``--resume`` fails: mmengine saves its ``HistoryBuffer``s, which hold NumPy arrays
    and, by name, their own four statistics. Only these are allowed, under the names of NumPy 1 too.
    """

    def history_method(cls: type, name: str) -> Callable:
        if cls is not HistoryBuffer or name not in {'current', 'max', 'mean', 'min'}:
            raise pickle.UnpicklingError(f'getattr({cls}, {name!r}) is not allowed')
        return getattr(HistoryBuffer, name)

    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            # The pickled name is that of the builtin; what runs is the function above.
            (history_method, 'builtins.getattr'),
            *((function, name) for name, function in NUMPY.items()),
        ]
    )


class SafeYamlHandler(YamlHandler):
    """mmengine's YAML, of which plain values alone are read."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Read plain values.

        Raises:
            UserError: If it asks for anything else.
        """
        try:
            return yaml.safe_load(file)
        except yaml.constructor.ConstructorError as error:
            raise UserError(
                f'a YAML file asks for what could run code, and is not loaded: {error.problem}'
            ) from error


class WholeFileBackend(LocalBackend):
    """mmengine's files on disk, which appear when they are complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Raises:
            UserError: If it cannot be written; an old one is still there then.
        """
        with whole_file(Path(filepath)) as partial:
            partial.write_bytes(obj)


class WholePictureBackend(LocalVisBackend):
    """mmengine's pictures on disk; OpenCV does not tell of one that it could not write."""

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **_: Any) -> None:
        """Write a picture.

        Args:
            name: Of the file, without the step and the suffix.
            image: (height, width, 3), RGB, uint8.
            step: Of the training.

        Raises:
            UserError: If it cannot be written.
        """
        content = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        put(content.tobytes(), Path(self._img_save_dir, f'{name}_{step}.png'))


def load_from_disk_or_web(filename: str, map_location: Any = None) -> Any:
    """Loader of checkpoints for mmengine, whose own runs code that it finds at a URL."""
    return read_checkpoint(filename, map_location, skip_objects=True)


def refuse_to_load(filename: str, map_location: Any = None, **_: Any) -> Any:
    """Loader of checkpoints for mmengine, from where none can be read safely.

    Raises:
        UserError: Always; says what to do.
    """
    raise UserError(
        f'checkpoint {filename} is not loaded from there, since code in it would run: download it, '
        'and give the path of the file'
    )
