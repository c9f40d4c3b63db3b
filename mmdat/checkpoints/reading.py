"""Checkpoint files, from disk or the web, read without running code that is in them."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.runner.checkpoint import get_external_models, get_torchvision_models
from torch import Tensor

from mmdat.errors import UserError, reason

Weights = dict[str, Tensor]

# Kinds of dict that checkpoints hold beside the weights, such as the authors' configuration.
DICTS = ('yacs.config.CfgNode', 'collections.defaultdict')
WEB = ('http://', 'https://')
# mmengine's model zoos: functions that give the URLs of their checkpoints by name.
ZOOS = {
    'torchvision://': get_torchvision_models,
    'modelzoo://': get_torchvision_models,
    'open-mmlab://': get_external_models,
    'openmmlab://': get_external_models,
}


def read_checkpoint(source: str, map_location: Any = 'cpu', skip_objects: bool = False) -> Any:
    """Read a checkpoint without running code that is in it.

    Args:
        source: A file, a URL, or a name in one of mmengine's model zoos (``torchvision://...``).
        map_location: Device of the tensors.
        skip_objects: Put a stand-in in the place of objects of other packages, which are refused
            otherwise. Nothing of them is run or built.

    Raises:
        UserError: If the source does not exist, cannot be reached, or is not a checkpoint that can
            be read safely.
    """
    path = local_file(source)
    try:
        try:
            return torch.load(path, map_location, weights_only=True)
        except UnpicklingError:
            if not skip_objects:
                raise
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            stand_ins: list[Any] = [
                (_StandInDict if name in DICTS else _StandIn, name) for name in names
            ]
            with torch.serialization.safe_globals(stand_ins):
                return torch.load(path, map_location, weights_only=True)
    except (OSError, MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(f'checkpoint {source} cannot be read: {reason(error)}') from error
    except Exception as error:  # a file that is no checkpoint can raise anything
        if '://' in source:
            path.unlink(missing_ok=True)  # so that the next try downloads it again
        raise UserError(
            f'{source} cannot be loaded as a checkpoint: it is damaged, or holds '
            'objects other than tensors and plain values, which are not loaded for '
            'safety'
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
        else read_checkpoint(source, skip_objects=True)
    )
    if isinstance(content, Mapping):
        for entry in ('state_dict', 'model'):
            if isinstance(content.get(entry), Mapping):
                content = content[entry]
                break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise UserError(
            f"{source} has no weights: there must be tensors by name under 'model' or 'state_dict'"
        )
    if all(name.startswith('module.') for name in content):  # of a model that ran in parallel
        content = strip_prefix(content, 'module.')
    return dict(content)


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
    if separator:
        raise UserError(
            f'checkpoint {source} is at an unknown kind of address: give the path of '
            f'a file, or what starts with {", ".join((*WEB, *ZOOS))}'
        )
    path = Path(source).expanduser()
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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Each process of a distributed run writes a file of its own and then moves it here.
            torch.hub.download_url_to_file(url, str(path))
        except (OSError, HTTPException, ValueError) as error:  # as urllib raises
            raise UserError(f'checkpoint {url} cannot be downloaded: {reason(error)}') from error
    return path


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
