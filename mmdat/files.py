"""Files that appear when they are complete."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmdat.errors import UserError, reason


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file beside its place, and put it there at the end; what fails leaves nothing.

    Args:
        path: Where the file is to be; its folder is made if it is not there.

    Yields:
        The path to write to, with the same suffix.

    Raises:
        UserError: If the file cannot be written.
    """
    partial = partial_path(path)
    try:
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_path(path: Path) -> Path:
    """Where a file is written before it is complete."""
    return path.with_name(f'.partial.{path.name}')


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn what goes wrong in writing a file into a sentence with its path."""
    try:
        yield
    except OSError as error:
        raise UserError(f'{path} cannot be written: {reason(error)}') from error
