"""Files that appear when they are complete, and what is said where one cannot be written."""

import contextlib
import errno
import fcntl
import logging
import os
import re
import traceback
from collections.abc import Iterator
from io import IOBase
from pathlib import Path

from mmdat.errors import UserError, reason

# What systems and databases say where a disk, a quota or the size that a file may have is full, and
# where a disk is for reading alone.
FULL = re.compile(
    '|'.join(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)))
    + '|disk is full'
)


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


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file, whole or not at all; text in UTF-8.

    Raises:
        UserError: If it cannot be written.
    """
    with whole_file(path) as file:
        file.write_bytes(content.encode() if isinstance(content, str) else content)


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
        raise UserError(f'{path} cannot be written: {error.strerror or reason(error)}') from error


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder, until this ends or is killed.

    The folder is made if it is not there.

    Raises:
        UserError: If one is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / '.lock').open('w') as file:
        try:
            # Unlike flock's, these locks are not those of forked workers, too.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # else the disk has no locks
                raise UserError(
                    f'another training is writing to {folder}: give another --work-dir, or wait '
                    'until it has ended'
                ) from error
        yield


def file_fault(error: BaseException) -> str | None:
    """Say which file cannot be written or opened, and why; None for an error of another kind.

    Of a full disk the system does not say which file it was: the function that has one open does.
    """
    name = getattr(error, 'filename', None)
    if full := FULL.search(str(error)):
        if name := name or _open_file(error):
            return f'{name} cannot be written: {full[0]}'
        said = next(line for line in str(error).splitlines() if full[0] in line)
        return f'a file cannot be written: {said}'
    if isinstance(error, OSError) and name is not None:
        return f'{name} cannot be opened: {error.strerror}'
    return None


def _open_file(error: BaseException) -> str | None:
    """Name of the file that the innermost function with one was writing when an error arose."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for value in frame.f_locals.values():
            if isinstance(value, logging.FileHandler):
                return value.baseFilename
            if isinstance(value, IOBase) and 'r' not in getattr(value, 'mode', 'r'):
                return str(getattr(value, 'name', None) or value)
    return None
