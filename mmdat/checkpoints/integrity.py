"""Whether a file is a checkpoint, and whole, as far as its bytes tell without being loaded."""

import codecs
import pickletools
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
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
# Bytes of a number in the storages of PyTorch before 1.6; one in those that are not listed.
ITEM_BYTES = {
    'torch ComplexDoubleStorage': 16,
    'torch ComplexFloatStorage': 8,
    'torch DoubleStorage': 8,
    'torch LongStorage': 8,
    'torch FloatStorage': 4,
    'torch IntStorage': 4,
    'torch HalfStorage': 2,
    'torch BFloat16Storage': 2,
    'torch ShortStorage': 2,
}


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's file, if its bytes tell without being loaded."""
    with path.open('rb') as file:
        head = file.read(HEAD)
    if fault := wrong_beginning(head, path.suffix):
        return fault
    if path.suffix == '.safetensors':
        return _damage_of_safetensors(path)
    return _damage_of_zip(path) if head.startswith(ZIP) else _damage_of_no_zip(path)


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


def _damage_of_no_zip(path: Path) -> str | None:
    """Of a file of PyTorch before 1.6: whether it ends before the numbers that it announces."""
    storages: dict[str, int] = {}
    with path.open('rb') as file:
        try:
            for _ in range(5):  # a number, the version, the system, the content, names of storages
                storages |= _storages_in_pickle(file)
        except Exception:  # what is no pickle can raise anything
            return 'it is damaged'
        # Before each storage is its length.
        announced = file.tell() + sum(8 + size for size in storages.values())
    return 'it is damaged' if path.stat().st_size < announced else None


def _storages_in_pickle(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Yield the name of each storage of tensors in a pickle, which is not run, and its bytes."""
    values: deque[Any] = deque([None] * 5, maxlen=5)
    memo: dict[Any, Any] = {}
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == 'BINPERSID' and values[0] == 'storage':
            _, kind, name, _, length = values
            yield name, length * ITEM_BYTES.get(kind, 1)
        elif 'PUT' in operation.name:
            memo[argument] = values[-1]
        elif 'GET' in operation.name:
            values.append(memo[argument])
        elif argument is not None:
            values.append(argument)
