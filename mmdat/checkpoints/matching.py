"""Match the tensors of a checkpoint to a model's parameters, and fill it if all of them fit."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdat.errors import UserError, list_first

from .layout import (
    OUTPUT_NORMS,
    STEM,
    PublishedBackbone,
    PublishedLayout,
    ResizesBiasTable,
    published_names,
)
from .reading import Weights, describe, read_weights, strip_prefix
from .recognition import recognize

# Buffers that the authors compute from sizes; other buffers are known by their integer dtype.
BUFFERS = ('relative_position_index', 'attn_mask')


def load_published_checkpoint(model: nn.Module, checkpoint: str | os.PathLike | Mapping) -> None:
    """Fill a model with a checkpoint that the authors published.

    Bias tables for another image size are resized. A backbone, and the backbone of a detector or
    segmentor, take a classifier's checkpoint without its head; their output norms, which it does
    not have, stay as they are. A backbone takes its part of a detector's or segmentor's checkpoint.
    Otherwise each tensor of the checkpoint fills one of the model and leaves none unfilled. The
    necks and heads of RetinaNet, Mask and Cascade Mask R-CNN, UPerNet and Semantic FPN have the
    same names in mmdet 2.x and 3.x, in mmseg 0.x and 1.x.

    Args:
        model: A backbone of mmdat, or a classifier, detector or segmentor of mmpretrain, mmdet or
            mmseg that is built on one.
        checkpoint: A file, or what is in one: of a classifier (``{'model': ...}``), or of a
            detector of mmdet 2.x or a segmentor of mmseg 0.x (``{'state_dict': ...}``).

    Raises:
        UserError: If the file cannot be read, or if something does not fit; it lists what. The
            model is then as it was.

    Example:
        >>> from mmdat.models import DATPlusPlus, published_names
        >>> backbone = DATPlusPlus('nano')
        >>> weights = {f'backbone.{theirs}': backbone.get_parameter(ours).detach()
        ...            for ours, theirs in published_names(backbone).items()}
        >>> load_published_checkpoint(backbone, {'state_dict': weights})
    """
    _fill(model, read_weights(checkpoint), describe(checkpoint))


def load_pretrained(
    backbone: PublishedBackbone, checkpoint: str, prefix: str | None = None
) -> None:
    """Fill a backbone with the authors' file or an ordinary one, as its ``init_cfg`` asks.

    Args:
        backbone: A backbone of mmdat.
        checkpoint: A file or URL.
        prefix: Prefix of the backbone's keys in an ordinary checkpoint of a whole model. Where it
            is None, keys that start with ``backbone.`` are the backbone's.

    Raises:
        UserError: If the checkpoint has nothing for this backbone or does not fit it, but for the
            norms of outputs; it lists what.
    """
    print_log(f'load {type(backbone).__name__} from: {checkpoint}', logger='current')
    given = weights = read_weights(checkpoint)
    if prefix is not None:
        stripped = strip_prefix(weights, prefix.rstrip('.') + '.')
        weights = {f'backbone.{name}': tensor for name, tensor in stripped.items()}
    body = strip_prefix(weights, 'backbone.') or weights
    ours, theirs = set(backbone.state_dict()), set(published_names(backbone).values())
    if (theirs - ours) & set(body):
        _fill(backbone, weights, checkpoint)
        return
    if not ours & set(body):
        found = next((name for name in given if name.endswith(f'.{STEM}')), None)
        raise UserError(
            f'{checkpoint} has no parameter of {type(backbone).__name__}'
            f'{f" under {prefix!r}" if prefix else ""}: '
            + (f"give prefix='{found[: -len(STEM) - 1]}'" if found else 'is it of another model?')
        )
    body = _drop_unbuilt(body, backbone, checkpoint)
    match = Match(filled={name: body[name] for name in sorted(ours & set(body))})
    if STEM in match.filled:
        match.filled[STEM] = adapt_stem(match.filled[STEM], backbone.in_channels, checkpoint)
    match.filled = _resize_tables(backbone, match.filled)
    # Outputs may differ between the checkpoint's task and this one, and their norms with them.
    match.unmapped = sorted(name for name in set(body) - ours if not name.startswith(OUTPUT_NORMS))
    match.unfilled = sorted(name for name in ours - set(body) if not name.startswith(OUTPUT_NORMS))
    match.compare_shapes(backbone.state_dict())
    match.check(checkpoint, backbone, weights)
    _copy(match.filled, backbone, checkpoint)


def convert_published_checkpoint(
    backbone: PublishedBackbone, checkpoint: str | os.PathLike | Mapping
) -> Weights:
    """The weights of a published checkpoint by the names of an OpenMMLab model on ``backbone``.

    Args:
        backbone: The checkpoint's backbone; its parameters are not used and may be on the device
            ``meta``.
        checkpoint: Like that of :func:`load_published_checkpoint`.

    Returns:
        The backbone's tensors under ``backbone.``, and those of the heads: for a classifier the
        norm is that of the backbone's last stage, and the head mmpretrain's.

    Raises:
        UserError: If the file cannot be read or does not fit the backbone; it lists what.
    """
    source = describe(checkpoint)
    weights = read_weights(checkpoint)
    match = _match(backbone, weights, source, with_heads=True)
    match.check(source, backbone, weights)
    return match.filled


def adapt_stem(stem: Tensor, in_channels: int, source: str) -> Tensor:
    """Make a first convolution for RGB one for another number of channels, as timm does.

    For one channel the kernels are summed over the channels. For more they are repeated in turn and
    scaled, so that the sum over equal channels stays. A log line says so.

    Args:
        stem: Tensor[out_channels, channels, height, width]; it is returned if it does not have 3
            channels or if those are wanted.
        source: What a log line calls the checkpoint.

    Returns:
        Tensor[out_channels, in_channels, height, width].
    """
    if in_channels == 3 or getattr(stem, 'shape', ())[1:2] != (3,):
        return stem
    if in_channels == 1:
        change, adapted = 'summed over them', stem.sum(1, keepdim=True)
    else:
        change = f'repeated for {in_channels} and scaled by 3 / {in_channels}'
        adapted = stem[:, torch.arange(in_channels) % 3] * (3 / in_channels)
    print_log(
        f'{source} has a first convolution for 3 channels, which is {change}', logger='current'
    )
    return adapted


@dataclass
class Match:
    """Which tensors of a checkpoint fit a model, and which names do not.

    Attributes:
        filled: The tensor for each name of the model.
        unmapped: Names in the checkpoint that have no place in the model.
        unfilled: Names of the model that have no tensor in the checkpoint.
        misshaped: Names of the model whose tensor in the checkpoint has another shape, and both.
    """

    filled: Weights = field(default_factory=dict)
    unmapped: list[str] = field(default_factory=list)
    unfilled: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)

    def compare_shapes(self, model: Mapping[str, Tensor]) -> None:
        for name, tensor in model.items():
            if name in self.filled and self.filled[name].shape != tensor.shape:
                self.misshaped.append(f'{name} ({_size(self.filled[name])} for {_size(tensor)})')

    def check(self, source: str, model: Any, weights: Mapping[str, Tensor]) -> None:
        """Refuse a checkpoint that does not fill the model, or that holds more than it."""
        problems = [
            f'{what}: {list_first(names)}'
            for what, names in (
                ('it has keys that map nowhere', self.unmapped),
                ('it leaves parameters unfilled', self.unfilled),
                ('shapes differ', self.misshaped),
            )
            if names
        ]
        if problems:
            backbone = getattr(model, 'backbone', model)
            raise UserError(
                f'{source} does not fit: it holds {recognize(weights)}, the model '
                f'{recognize(backbone.state_dict())}; {"; ".join(problems)}'
            )


def _fill(model: nn.Module | PublishedBackbone, weights: Weights, source: str) -> None:
    """Check that ``weights`` fit all of ``model``, then copy them."""
    match = match_model(model, weights, source)
    match.check(source, model, weights)
    _copy(match.filled, model, source)


def match_model(model: nn.Module | PublishedBackbone, weights: Weights, source: str) -> Match:
    """Find the place of each tensor of a published checkpoint in a model, and what has none.

    Args:
        model: As for :func:`load_published_checkpoint`.

    Raises:
        UserError: If the model has no backbone of mmdat, or the checkpoint is no published one.
    """
    backbone = model if isinstance(model, PublishedBackbone) else getattr(model, 'backbone', None)
    if not isinstance(backbone, PublishedBackbone):
        raise UserError(
            f'{type(model).__name__} has no backbone of mmdat: give a DAT, DATPlusPlus '
            'or ScalableViT, or a model that is built on one'
        )
    own = model.state_dict()
    if model is backbone:
        match = _match(backbone, weights, source, with_heads=False)
        match.filled = strip_prefix(match.filled, 'backbone.')
    else:
        is_published_classifier = not strip_prefix(weights, 'backbone.')
        is_classifier = getattr(model, 'head', None) is not None
        with_heads = is_classifier or not is_published_classifier
        match = _match(backbone, weights, source, with_heads)
        if with_heads:
            heads = {name for name in own if not name.startswith('backbone.')}
            given = {name for name in match.filled if not name.startswith('backbone.')}
            match.unmapped += sorted(given - heads)
            match.unfilled = sorted({*match.unfilled, *(heads - given)})
            match.compare_shapes({name: own[name] for name in sorted(heads)})
    return match


def _copy(weights: Weights, model: nn.Module | PublishedBackbone, source: str) -> None:
    """Copy weights into a model, and say which of its parameters have none."""
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
    left = [name for name, _ in model.named_parameters() if name not in weights]
    if left:
        print_log(f'{source} has no {list_first(left)}, which stay as they were', logger='current')


def _match(backbone: PublishedBackbone, weights: Weights, source: str, with_heads: bool) -> Match:
    """Rename published tensors as in an OpenMMLab model, the backbone's under ``backbone.``."""
    layout, match = backbone.published_layout(), Match()
    body = strip_prefix(weights, 'backbone.')
    if _is_ours(body or weights, layout):
        raise UserError(
            f'{source} is of mmdat, not of the authors, and needs no conversion: load it into a '
            "backbone by init_cfg=dict(type='Pretrained', checkpoint=...) and init_weights(), into "
            'a whole model by load_checkpoint of mmengine.runner'
        )
    is_classifier = not body
    places = {theirs: f'backbone.{ours}' for ours, theirs in layout.parameters.items()}
    modules = {name[:end] for name in places for end in range(len(name)) if name[end] == '.'}
    heads: dict[str, str] = {}
    ignored = layout.unused
    if is_classifier:
        # It has no norms of outputs.
        places = {
            theirs: ours for theirs, ours in places.items() if not theirs.startswith(OUTPUT_NORMS)
        }
        heads = {theirs: ours for ours, theirs in layout.classifier.items()}
    else:
        ignored |= layout.absent_norms
    for key, tensor in _drop_unbuilt(body or weights, backbone, source).items():
        if key in ignored or _is_buffer(key, tensor, modules):
            continue
        if key in places:
            match.filled[places[key]] = tensor
        elif key not in heads:
            match.unmapped.append(key if is_classifier else f'backbone.{key}')
        elif with_heads:
            match.filled[heads[key]] = tensor
    if with_heads and not is_classifier:
        match.filled |= {
            key: tensor for key, tensor in weights.items() if not key.startswith('backbone.')
        }
    stem = f'backbone.{STEM}'
    if stem in match.filled:
        match.filled[stem] = adapt_stem(match.filled[stem], backbone.in_channels, source)
    own = {f'backbone.{name}': tensor for name, tensor in backbone.state_dict().items()}
    resized = _resize_tables(backbone, strip_prefix(match.filled, 'backbone.'))
    match.filled |= {f'backbone.{name}': tensor for name, tensor in resized.items()}
    match.compare_shapes(own)
    # Outputs may differ between the checkpoint's task and this one, and their norms with them.
    wanted = {ours for theirs, ours in places.items() if not theirs.startswith(OUTPUT_NORMS)}
    if is_classifier and with_heads:
        wanted |= set(heads.values())
        match.unmapped += sorted(
            name
            for name in {*heads.values()} & set(match.filled)
            if name.startswith('backbone.') and name not in own
        )
    match.unfilled += sorted(wanted - set(match.filled))
    return match


def _is_ours(body: Weights, layout: PublishedLayout) -> bool:
    """Whether a backbone's weights have names of ours, and none that the authors use alone."""
    ours, theirs = set(layout.parameters), set(layout.parameters.values())
    return not (ours - theirs).isdisjoint(body) and (theirs - ours).isdisjoint(body)


def _drop_unbuilt(weights: Weights, backbone: PublishedBackbone, source: str) -> Weights:
    """Leave out a checkpoint's stages and norms that the backbone does not build, and say so."""
    kept = {
        name: tensor for name, tensor in weights.items() if not name.startswith(backbone.unbuilt)
    }
    if len(kept) < len(weights):
        print_log(f'{source} has stages or norms that out_indices leaves out', logger='current')
    return kept


def _is_buffer(key: str, tensor: Tensor, modules: Collection[str]) -> bool:
    """Whether a published tensor is a buffer of one of the modules, which nothing has to load."""
    module, _, leaf = key.rpartition('.')
    return module in modules and (leaf in BUFFERS or not tensor.is_floating_point())


def _resize_tables(backbone: PublishedBackbone, weights: Weights) -> Weights:
    """Resize the bias tables that were trained for another image or window size."""
    resized = dict(weights)
    for name, module in backbone.named_modules():
        table = f'{name}.relative_position_bias_table'
        if table in weights and isinstance(module, ResizesBiasTable):
            resized[table] = module.resize_bias_table(weights[table])
    return resized


def _size(tensor: Tensor) -> str:
    return ' x '.join(map(str, tensor.shape)) or 'a scalar'
