"""Checkpoint files, from disk or the web, read without running code that is in them."""

import contextlib
import hashlib
import logging
import os
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import safetensors.torch
import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import get_external_models, get_torchvision_models
from torch import Tensor

from mmdat.errors import UserError, enumerate_names, reason

from . import published
from .download import download
from .integrity import damage

Weights = dict[str, Tensor]

# Module that stand-ins of refused classes are in, as errors name it.
STAND_INS = 'stand_in'
# How errors name a class or function that is refused, alone or with its whole module or for what it
# is called with, and a stand-in that is to be filled as a dict or a list.
REFUSED = re.compile(
    r'GLOBAL (?P<name>\S+) was not an allowed'
    r'|(?P<blocked>(?<=GLOBAL )\S+(?= whose module \S+ is blocked)|getattr.*(?= is not allowed))'
)
FILLED = re.compile(
    rf"Can only (?P<how>SETITEM|append|extend).* but got <class '{STAND_INS}\.(?P<name>.+)'>"
)
# How the names of what builds arrays in a pickle begin.
BUILDERS = ('torch._utils.', 'torch.storage', 'numpy.', '_codecs.', 'collections.OrderedDict')
WEB = ('http://', 'https://')
# mmengine's model zoos: functions that give the URLs of their checkpoints by name.
ZOOS = {
    'torchvision://': get_torchvision_models,
    'modelzoo://': get_torchvision_models,
    'open-mmlab://': get_external_models,
    'openmmlab://': get_external_models,
}


def read_checkpoint(
    source: str, map_location: Any = 'cpu', skip_objects: bool = False, mmap: bool = False
) -> Any:
    """Read a checkpoint without running code that is in it.

    Args:
        source: A file, a URL, a name in one of mmengine's model zoos (``torchvision://...``), or
            ``mmdat://...`` for what the authors published, in the names of OpenMMLab's models.
            ``.safetensors`` gives the tensors by name.
        skip_objects: Put a stand-in in the place of objects of other packages, which are refused
            otherwise. Nothing of them is run or built; a log line names them.
        mmap: Leave tensors in the file until they are needed.

    Raises:
        UserError: If the source does not exist, cannot be reached, or is not a checkpoint that can
            be read safely; it names what was refused, or says that the file is damaged.
    """
    content = _read(source, map_location, skip_objects, mmap)
    if source.startswith(published.PREFIX):
        from .conversion import converted  # which imports this module

        return converted(source, content)
    return content


def _read(source: str, map_location: Any, skip_objects: bool, mmap: bool) -> Any:
    path = local_file(source)
    try:
        if name := _first_call(path):
            raise UserError(
                f'{source} is an ordinary pickle, not a file of torch.save, and asks for '
                f'{name[:200]}: it is not loaded, since it could run code; ask its author for the '
                'weights alone'
            )
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        return _load(path, source, map_location, skip_objects, mmap)
    except UserError:
        raise
    except (OSError, MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(f'checkpoint {source} cannot be read: {reason(error)}') from error
    except Exception as error:  # a file that is no checkpoint can raise anything
        fault = damage(path) or 'it is damaged, or not a file of torch.save'
        raise UserError(
            f'{source} cannot be loaded as a checkpoint: {fault}. {_remedy(source, path)}'
        ) from error


def read_weights(checkpoint: str | os.PathLike | Mapping) -> Weights:
    """The tensors of a checkpoint by name, whatever lies beside them.

    Args:
        checkpoint: A file or URL, or what is in one: a dict of tensors, under ``state_dict`` or
            ``model`` or not.

    Raises:
        UserError: If the file is missing or broken or has no weights.
    """
    source = describe(checkpoint)
    content = (
        checkpoint
        if isinstance(checkpoint, Mapping)
        else _read(source, 'cpu', skip_objects=True, mmap=False)
    )
    weights = weights_in(content) if isinstance(content, Mapping) else {}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(
            f"{source} has no weights: there must be tensors by name under 'model' or 'state_dict'"
        )
    return dict(weights)


def weights_in(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a checkpoint's weights are: under ``state_dict``, ``model``, or itself.

    The prefix that a model got by running in parallel is left out.
    """
    entries = (content.get(entry) for entry in ('state_dict', 'model'))
    weights = next((entry for entry in entries if isinstance(entry, Mapping)), content)
    if all(str(name).startswith('module.') for name in weights):
        return strip_prefix(weights, 'module.')
    return weights


def local_file(source: str) -> Path:
    """Path of a checkpoint's file; what is on the web is downloaded once.

    Args:
        source: As in :func:`read_checkpoint`.

    Raises:
        UserError: If it does not exist or cannot be reached.
    """
    scheme, separator, name = source.partition('://')
    if scheme + separator in ZOOS:
        urls = ZOOS[scheme + separator]()
        if name not in urls:
            raise UserError(f'checkpoint {source} is not in that model zoo: check its spelling')
        return _download(urls[name])
    if source.startswith(WEB):
        return _download(source)
    if source.startswith(published.PREFIX):
        return published.fetch(source)
    if separator:
        raise UserError(
            f'checkpoint {source} is at an unknown kind of address: give the path of '
            f'a file, or what starts with {", ".join((*WEB, published.PREFIX, *ZOOS))}'
        )
    path = Path(source).expanduser()
    files = [file for file in path.glob('*.pth') if file.is_file()] if source else []
    if files:
        newest = max(files, key=lambda file: file.stat().st_mtime)
        raise UserError(f'checkpoint {source} is a folder: give a file, such as {newest}')
    if not path.is_file():
        raise UserError(f'there is no checkpoint {source!r}: give the path of a file')
    return path


def strip_prefix(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    """Entries whose name starts with a prefix, by the rest of their name."""
    return {
        name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)
    }


def describe(checkpoint: str | os.PathLike | Mapping) -> str:
    """What an error calls a checkpoint: its path or URL, if it has one."""
    return 'the checkpoint' if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)


def _download(url: str) -> Path:
    # Checkpoints of many models share the last part of their URL, such as epoch_12.pth.
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    path = Path(torch.hub.get_dir(), 'checkpoints', f'{digest}_{Path(url).name}')
    if not path.is_file():
        download(url, path)
    return path


def _load(path: Path, source: str, map_location: Any, skip_objects: bool, mmap: bool) -> Any:
    """Load a file of ``torch.save``, with stand-ins for what PyTorch refuses if that is wanted."""
    stand_ins: dict[str, type] = {}
    mmap = mmap and zipfile.is_zipfile(path)  # as PyTorch writes files since 1.6
    while True:
        try:
            allowed: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
            with torch.serialization.safe_globals(allowed):
                content = torch.load(path, map_location, weights_only=True, mmap=mmap)
            break
        except UnpicklingError as error:
            if filled := FILLED.search(str(error)):
                name = filled['name']
                if stand_ins[name] in (_StandInDict, _StandInList):
                    raise
                stand_ins[name] = _StandInDict if filled['how'] == 'SETITEM' else _StandInList
                continue
            refused = REFUSED.search(str(error))
            if refused is None:
                raise
            name = (refused['name'] or refused['blocked'])[:200]
            if not skip_objects or refused['blocked'] or name in stand_ins:
                raise UserError(
                    f'{source} holds {name}, which is neither a tensor nor a plain value and is '
                    'not loaded, since it could run code: ask its author for the weights alone'
                ) from error
            # PyTorch names builtins without their module.
            full_name = name if '.' in name else f'builtins.{name}'
            stand_ins[full_name] = type(full_name, (_StandIn,), {'__module__': STAND_INS})
    if stand_ins:
        print_log(
            f'{source} holds objects that are neither tensors nor plain values; they are left out, '
            f'since they could run code: {enumerate_names(stand_ins)}',
            'current',
            logging.WARNING,
        )
    return content


def _remedy(source: str, path: Path) -> str:
    """What to do about a damaged file; one from the web is kept where people do not look."""
    if source.startswith(published.PREFIX):
        return f'Remove {path} and {published.hash_path(path).name} beside it, and try again'
    if source.startswith((*WEB, *ZOOS)):
        return f'Remove {path}, and try again'
    if path.name == 'last_checkpoint':  # mmengine's, with the path of one
        return f'It names a checkpoint: give {path.read_text(errors="replace")[:500].strip()}'
    return 'Copy or download it again'


def _first_call(path: Path) -> str | None:
    """Name of what an ordinary pickle asks for, the first that builds no array; None if nothing.

    PyTorch reads the pickles in its own files alone, which begin with a number or are archives, and
    calls some others damaged.
    """
    builder = None
    with path.open('rb') as file, contextlib.suppress(Exception):  # of what is no pickle
        for name in _names_in_pickle(file):
            if not name.startswith(BUILDERS):
                return name
            builder = builder or name  # those before what breaks off count
    return builder


def _names_in_pickle(file: BinaryIO) -> Iterator[str]:
    """Yield the names of classes and functions in a pickle, which is not run.

    What has none there, such as a text or the numbers that another kind of file begins with, is no
    pickle.
    """
    texts: list[Any] = ['', '']
    memo: dict[Any, Any] = {}
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ('GLOBAL', 'INST', 'STACK_GLOBAL'):
            stacked = operation.name == 'STACK_GLOBAL'
            parts = texts[-2:] if stacked else str(argument).split(' ')
            name = '.'.join(map(str, parts))
            if len(parts) != 2 or not all(map(str.isidentifier, name.split('.'))):
                return
            yield name
        elif operation.name == 'MEMOIZE' or 'PUT' in operation.name:
            memo[len(memo) if argument is None else argument] = texts[-1]
        elif 'GET' in operation.name:
            texts.append(memo.get(argument))
        elif isinstance(argument, str):
            texts.append(argument)


class _StandIn:
    """Takes the place of an object beside the weights, and ignores what it is given."""

    def __new__(cls, *args: Any, **kwargs: Any) -> '_StandIn':
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _StandInDict:
    """Takes the place of a kind of dict, so that torch can put items into it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:  # type: ignore[misc]
        return OrderedDict()


class _StandInList:
    """Takes the place of a kind of list, so that torch can append items to it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> list:  # type: ignore[misc]
        return []
