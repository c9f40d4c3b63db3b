"""Files from the web: whole or not at all, and a download that broke off goes on where it ended."""

import contextlib
import fcntl
import os
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mmdat.errors import UserError, reason
from mmdat.files import partial_path, writing_to

from .integrity import HEAD, damage, wrong_beginning

SECONDS_WITHOUT_AN_ANSWER = 30
CHUNK = 2**20  # bytes
COLUMNS = (
    TextColumn('{task.description}'),
    BarColumn(),
    DownloadColumn(),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)


def download(url: str, path: Path) -> None:
    """Download a checkpoint, with a progress bar; processes that want the same one wait for it.

    It is tried again as long as each try brings bytes. What was brought stays, for the next call to
    go on from.

    Args:
        path: Where it is to be; it is there once it is complete and undamaged.

    Raises:
        UserError: Says why it cannot be downloaded.
    """
    partial = partial_path(path)
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(partial)
    with file:
        if path.is_file():  # another process downloaded it meanwhile
            partial.unlink(missing_ok=True)
            return
        _bring(url, file, path.name)
        if problem := damage(partial):
            partial.unlink()
            raise UserError(f'checkpoint {url} cannot be downloaded: {problem}')
        os.fsync(file.fileno())
        partial.replace(path)


def _open_locked(path: Path) -> BinaryIO:
    """Open a file at its end, once no other process has it; one may remove it meanwhile."""
    while True:
        file = path.open('ab')
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.seek(0, os.SEEK_END)
                return file
        file.close()


def _bring(url: str, file: BinaryIO, name: str) -> None:
    """Append what a file lacks of an address, try by try."""
    while True:
        size = file.tell()
        try:
            total = _append(url, file, name)
            if total is None or file.tell() == total:
                file.flush()
                return
            problem = f'it ended after {file.tell()} of {total} bytes'
        except (OSError, HTTPException, ValueError) as error:  # as urllib raises
            problem = reason(error)
        if file.tell() <= size:
            raise UserError(f'checkpoint {url} cannot be downloaded: {problem}')


def _append(url: str, file: BinaryIO, name: str) -> int | None:
    """Append to a file what one answer has; return the whole length, if the server tells it."""
    size = file.tell()
    request = Request(url, headers={'Range': f'bytes={size}-'} if size else {})
    try:
        response: HTTPResponse = urlopen(request, timeout=SECONDS_WITHOUT_AN_ANSWER)
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get('Content-Range') == f'bytes */{size}':  # nothing is left to bring
            return size
        response = urlopen(url, timeout=SECONDS_WITHOUT_AN_ANSWER)
    with response:
        chunk = response.read(HEAD)
        if not response.headers.get('Content-Range', '').startswith(f'bytes {size}-'):
            if size and (problem := wrong_beginning(chunk, Path(name).suffix)):
                raise UserError(problem)  # which is no reason to lose what is there
            file.seek(file.truncate(0))  # the server begins anew
        length = response.headers.get('Content-Length')
        total = file.tell() + int(length) if length else None
        console = Console(stderr=True)
        with Progress(*COLUMNS, console=console) as progress:
            task = progress.add_task(name, total=total, completed=file.tell())
            while chunk:
                file.write(chunk)
                progress.advance(task, len(chunk))
                chunk = response.read(CHUNK)
    return total
