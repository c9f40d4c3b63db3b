"""Whether a file is a checkpoint, and whole, as far as its bytes tell without being loaded."""

import codecs
import struct
import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError, safe_open

HEAD = 512  # bytes that tell what a file is
# How files of torch.save begin, since PyTorch 1.6 and before.
ZIP = b'PK\x03\x04'
NO_ZIP = b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.'
# What zipfile raises for broken archives, also those that seem encrypted.
UNZIPPING_ERRORS = (
    BadZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's file, if its bytes tell without being loaded."""
    with path.open('rb') as file:
        head = file.read(HEAD)
    if fault := wrong_beginning(head, path.suffix):
        return fault
    if path.suffix == '.safetensors':
        return _damage_of_safetensors(path)
    # PyTorch itself tells of an older file, when it reads it.
    return _damage_of_zip(path) if head.startswith(ZIP) else None


def wrong_beginning(head: bytes, suffix: str) -> str | None:
    """What is wrong with a checkpoint's file, if its first bytes tell.

    Args:
        head: Its first bytes, as many as ``HEAD``.
        suffix: The end of its name, such as ``.pth`` or ``.safetensors``.
    """
    if not head:
        return 'it is empty'
    is_safetensors = suffix == '.safetensors'
    if head[8:9] == b'{' if is_safetensors else head.startswith((ZIP, NO_ZIP)):
        return None
    if head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b'<':
        return 'it is a web page'
    kind = 'safetensors' if is_safetensors else 'torch.save'
    return f'it is damaged, or not a file of {kind}'


def _damage_of_safetensors(path: Path) -> str | None:
    try:
        with safe_open(path, 'pt'):  # which compares lengths, and reads no tensor
            return None
    except SafetensorError:
        return 'it is damaged'


def _damage_of_zip(path: Path) -> str | None:
    try:
        with ZipFile(path) as archive:
            if not any(name.endswith('/data.pkl') for name in archive.namelist()):
                return 'it is not a file of torch.save'
            return 'it is damaged' if archive.testzip() else None
    except UNZIPPING_ERRORS:
        return 'it is damaged'
