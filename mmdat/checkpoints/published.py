"""The checkpoints that the authors published, by name: ``mmdat://mask_rcnn_dat_pp_t_coco``."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch

from mmdat.config_bases import CONFIGS
from mmdat.errors import UserError, suggest
from mmdat.files import write_whole

from .download import CHUNK, download
from .integrity import damage

PREFIX = 'mmdat://'


class Published(NamedTuple):
    """A checkpoint of the authors.

    Attributes:
        config: Name of the authors' config.
        file: Address of the file itself; None where there is a page for people alone.
        pages: Addresses of pages where people find it.
    """

    config: str
    file: str | None
    pages: list[str]


PUBLISHED = {
    name: Published(**entry)
    for name, entry in json.loads(Path(__file__).with_suffix('.json').read_text()).items()
}


def fetch(source: str) -> Path:
    """Path of a published checkpoint's file, which is downloaded once into torch.hub's folder.

    Its SHA-256 is kept beside it and compared from then on, also where people put the file there.

    Args:
        source: ``mmdat://NAME``, NAME being that of a config.

    Raises:
        UserError: If there is none of that name; if it cannot be downloaded, where to get it and
            where to put it; if the file is damaged or has changed.
    """
    name = source.removeprefix(PREFIX)
    if name not in PUBLISHED and (CONFIGS / f'{name}.py').is_file():
        raise UserError(
            f"there is no checkpoint {source!r}: no weights of that config's authors are known"
        )
    if name not in PUBLISHED:
        raise UserError(f'there is no checkpoint {source!r}: {suggest(name, PUBLISHED)}')
    entry = PUBLISHED[name]
    path = Path(torch.hub.get_dir(), 'checkpoints', f'mmdat_{name}.pth')
    if not path.is_file():
        by_hand = f'download it by hand from {" or ".join(entry.pages)} and put it at {path}'
        if entry.file is None:
            raise UserError(f'{source} is on a page for people alone: {by_hand}')
        try:
            download(entry.file, path)
        except UserError as error:
            raise UserError(f'{source}: {error}; try again, or {by_hand}') from error
    elif not hash_path(path).is_file() and (problem := damage(path)):
        raise UserError(f'{path} is no checkpoint: {problem}; remove it')
    _compare_hash(path)
    return path


def hash_path(path: Path) -> Path:
    """Path of the file beside a downloaded checkpoint that keeps its SHA-256."""
    return path.with_name(f'{path.name}.sha256')


def _compare_hash(path: Path) -> None:
    """Keep the hash of a file that is new, and refuse one that has changed since."""
    kept = hash_path(path)
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    line = f'{digest.hexdigest()}  {path.name}\n'  # as sha256sum writes it
    if not kept.is_file():
        # In a folder for reading alone there is nothing to compare with the next time.
        with contextlib.suppress(UserError):
            write_whole(kept, line)
    elif kept.read_text() != line:
        raise UserError(
            f'{path} has changed since it was first read ({kept.name} differs): remove both files, '
            'and it is downloaded anew'
        )
