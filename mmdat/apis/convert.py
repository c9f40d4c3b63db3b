"""Published checkpoints: writing one with OpenMMLab's names, or comparing one with a config."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmdat.checkpoints import convert_published_checkpoint, read_weights
from mmdat.checkpoints.conversion import find_backbone
from mmdat.checkpoints.matching import match_model
from mmdat.checkpoints.shapes import without_values
from mmdat.checks.config_file import read_config
from mmdat.checks.exceptions import explained
from mmdat.checks.run import check_parts
from mmdat.errors import UserError
from mmdat.files import write_whole
from mmdat.models.backbones.base import HierarchicalBackbone
from mmdat.registry import MODELS
from mmdat.version import __version__

from .model import build_model, load_config
from .toolboxes import in_toolbox


def convert_published_file(source: str, target: str, config: str | None = None) -> str:
    """Write ``target``, with the weights of ``source`` under the names of an OpenMMLab model.

    Args:
        source: A published checkpoint: a classifier's, a detector's or a segmentor's.
        target: File to write; as safetensors, without ``meta``, if it has that suffix.
        config: Config of a model with the checkpoint's backbone. Not needed for the architectures
            that have a name, which are known by their shapes.

    Returns:
        The class of the backbone.

    Raises:
        UserError: If a file cannot be read, or if the checkpoint fits no named architecture or not
            the config's; ``target`` is then left as it was.
    """
    if not Path(target).absolute().parent.is_dir():
        raise UserError(f'there is no folder for {target}: make it first')
    weights = read_weights(source)
    backbone = find_backbone(source, weights) if config is None else _build(config)
    converted = convert_published_checkpoint(backbone, weights)
    meta = dict(mmdat_version=__version__, converted_from=os.path.basename(source))
    data = io.BytesIO()  # where a disk is full, PyTorch's own writer can end the process
    if Path(target).suffix == '.safetensors':
        contiguous = {name: tensor.contiguous() for name, tensor in converted.items()}
        data.write(safetensors.torch.save(contiguous))
    else:
        torch.save(dict(meta=meta, state_dict=converted), data)
    write_whole(Path(target), data.getbuffer())
    return type(backbone).__name__


class Place(NamedTuple):
    """A tensor of a model and of a published checkpoint.

    Attributes:
        name: Its name in the model, or in the checkpoint where the model has none.
        shape: Its shape in the model, None if it has none.
        given: Its shape in the checkpoint, None if it has none.
        verdict: ``'fits'``, ``'is resized'``, ``'has another shape'``, ``'is missing'``,
            ``'has no place'`` or ``'stays as it is'``.
    """

    name: str
    shape: tuple[int, ...] | None
    given: tuple[int, ...] | None
    verdict: str


def compare_published_file(config: str, checkpoint: str) -> list[Place]:
    """Compare a published checkpoint with the model of a config, tensor by tensor.

    Args:
        config: Path of the config, or ``mmdat::NAME.py``.
        checkpoint: A file, a URL or ``mmdat://NAME``.

    Raises:
        UserError: If one of them cannot be read, or is not of mmdat's models.
    """
    cfg = load_config(config)
    with in_toolbox(cfg):
        model = build_model(cfg)
    return compare_published(model, read_weights(checkpoint), checkpoint)


def compare_published(model: Any, weights: Mapping[str, Tensor], source: str) -> list[Place]:
    """Compare the tensors of a published checkpoint with those of a model."""
    match = match_model(model, dict(weights), source)
    layout = model.backbone.published_layout()
    theirs = {f'backbone.{ours}': name for ours, name in layout.parameters.items()}
    theirs |= layout.classifier
    places = []
    for name, tensor in model.state_dict().items():
        key = theirs.get(name, name)
        given = weights.get(key, weights.get(f'backbone.{key}'))
        if name not in match.filled:
            verdict = 'is missing' if name in match.unfilled else 'stays as it is'
        elif match.filled[name].shape != tensor.shape:
            verdict = 'has another shape'
        else:
            verdict = 'fits' if given is None or given.shape == tensor.shape else 'is resized'
        places.append(Place(name, tuple(tensor.shape), _shape(given), verdict))
    places += [
        Place(name, None, _shape(weights.get(name)), 'has no place') for name in match.unmapped
    ]
    return places


def print_places(places: list[Place], config: str, source: str) -> None:
    """Print the comparison of a checkpoint with a config's model as a table.

    Raises:
        UserError: If it does not fit; says how many tensors do not, and whether the backbone does.
    """
    table = Table('tensor', 'in the model', 'in the file', 'verdict')
    for place in places:
        shapes = ('' if shape is None else str(shape) for shape in (place.shape, place.given))
        table.add_row(place.name, *shapes, place.verdict)
    Console(width=max(map(len, (place.name for place in places))) + 70).print(table)
    wrong = [place for place in places if place.verdict.startswith(('has', 'is missing'))]
    in_heads = [place for place in wrong if not place.name.startswith('backbone.')]
    if wrong:
        way = '; the backbone fits: give it to init_cfg' if len(in_heads) == len(wrong) else ''
        raise UserError(f'{source} does not fit {config}: {len(wrong)} tensors, see above{way}')
    heads = [place for place in places if not place.name.startswith('backbone.')]
    if all(place.verdict == 'stays as it is' for place in heads):
        print(f'{source} fits the backbone of {config}, and has nothing else: give it to init_cfg')
    else:
        print(f'{source} fits {config}')


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _build(config: str) -> HierarchicalBackbone:
    cfg = read_config(config)
    check_parts(cfg, ('model.backbone',))
    with explained(cfg), without_values():
        return MODELS.build(dict(cfg.model.backbone, init_cfg=None))
