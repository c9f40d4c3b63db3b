"""Loading the authors' checkpoints: a complete mapping from their names and shapes onto ours."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.models.attentions import DeformableAttention, WindowAttention

from .files import read_checkpoint
from .names import published_names

Weights = dict[str, Tensor]
# Computed from sizes, never loaded. The authors' attentions keep other buffers as integers only.
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
        >>> from mmdat.models import DATPlusPlus
        >>> backbone = DATPlusPlus('nano')
        >>> weights = {f'backbone.{theirs}': backbone.get_parameter(ours).detach()
        ...            for ours, theirs in published_names(backbone).items()}
        >>> load_published_checkpoint(backbone, {'state_dict': weights})
    """
    _fill(model, read_weights(checkpoint), _describe(checkpoint))


def load_pretrained(backbone: nn.Module, checkpoint: str, prefix: str | None = None) -> None:
    """``init_cfg=dict(type='Pretrained')`` of a backbone, for the authors' files and ordinary ones.

    Args:
        backbone: A backbone of mmdat.
        checkpoint: A file or URL.
        prefix: Of the keys of the backbone in an ordinary checkpoint of a whole model. Where it is
            None, keys that start with ``backbone.`` are the backbone's.

    Raises:
        UserError: If the checkpoint has nothing for this backbone or does not fit it, but for the
            norms of outputs; it lists what.
    """
    print_log(f'load {type(backbone).__name__} from: {checkpoint}', logger='current')
    weights = read_weights(checkpoint)
    if prefix is not None:
        stripped = _strip(weights, prefix.rstrip('.') + '.')
        weights = {f'backbone.{name}': tensor for name, tensor in stripped.items()}
    body = _strip(weights, 'backbone.') or weights
    ours, theirs = set(backbone.state_dict()), set(published_names(backbone).values())
    if (theirs - ours) & set(body):
        _fill(backbone, weights, checkpoint)
        return
    if not ours & set(body):
        raise UserError(
            f'{checkpoint} has no parameter of {type(backbone).__name__}'
            f'{f" under {prefix!r}" if prefix else ""}: is it of another model?'
        )
    match = _Match(filled={name: body[name] for name in sorted(ours & set(body))})
    match.filled = _resize_tables(backbone, match.filled)
    # Outputs may differ between the checkpoint's task and this one, and their norms with them.
    match.unmapped = sorted(name for name in set(body) - ours if not name.startswith('norms.'))
    match.unfilled = sorted(name for name in ours - set(body) if not name.startswith('norms.'))
    match.compare_shapes(backbone.state_dict())
    match.check(checkpoint, backbone)
    _copy(match.filled, backbone)


def convert_published_checkpoint(
    backbone: nn.Module, checkpoint: str | os.PathLike | Mapping
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
    match = _match(backbone, read_weights(checkpoint), with_heads=True)
    match.check(_describe(checkpoint), backbone)
    return match.filled


def read_weights(checkpoint: str | os.PathLike | Mapping) -> Weights:
    """The tensors of a checkpoint by name, whatever lies beside them.

    Args:
        checkpoint: A file or URL, or what is in one: a dict of tensors, under ``state_dict`` or
            ``model`` or not.

    Raises:
        UserError: If the file is missing or broken or has no weights.
    """
    source = _describe(checkpoint)
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
        content = _strip(content, 'module.')
    return dict(content)


@dataclass
class _Match:
    """How the tensors of a checkpoint fit a model.

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

    def check(self, source: str, model: nn.Module) -> None:
        problems = [
            f'{what}: {", ".join(names)}'
            for what, names in (
                ('it has keys that map nowhere', self.unmapped),
                ('it leaves parameters unfilled', self.unfilled),
                ('shapes differ', self.misshaped),
            )
            if names
        ]
        if problems:
            raise UserError(f'{source} does not fit {type(model).__name__}; ' + '; '.join(problems))


def _fill(model: nn.Module, weights: Weights, source: str) -> None:
    """Check that ``weights`` fit all of ``model``, then copy them."""
    backbone = model if hasattr(model, 'PUBLISHED') else getattr(model, 'backbone', None)
    if not hasattr(backbone, 'PUBLISHED'):
        raise UserError(
            f'{type(model).__name__} has no backbone of mmdat: give a DAT, DATPlusPlus '
            'or ScalableViT, or a model that is built on one'
        )
    own = model.state_dict()
    if model is backbone:
        match = _match(backbone, weights, with_heads=False)
        match.filled = _strip(match.filled, 'backbone.')
    else:
        is_published_classifier = not _strip(weights, 'backbone.')
        is_classifier = getattr(model, 'head', None) is not None
        with_heads = is_classifier or not is_published_classifier
        match = _match(backbone, weights, with_heads)
        if with_heads:
            heads = {name for name in own if not name.startswith('backbone.')}
            given = {name for name in match.filled if not name.startswith('backbone.')}
            match.unmapped += sorted(given - heads)
            match.unfilled = sorted({*match.unfilled, *(heads - given)})
            match.compare_shapes({name: own[name] for name in sorted(heads)})
    match.check(source, model)
    _copy(match.filled, model)


def _copy(weights: Weights, model: nn.Module) -> None:
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def _match(backbone: Any, weights: Weights, with_heads: bool) -> _Match:
    """Give each tensor its name in an OpenMMLab model: the backbone's part starts ``backbone.``."""
    layout, match = backbone.PUBLISHED, _Match()
    body = _strip(weights, 'backbone.')
    is_classifier = not body
    names = {theirs: ours for ours, theirs in published_names(backbone).items()}
    unused = set(layout.unused(backbone))
    modules = {name[:end] for name in names for end in range(len(name)) if name[end] == '.'}
    if is_classifier:
        names = {theirs: ours for theirs, ours in names.items() if not theirs.startswith('norms.')}
        last = len(backbone.stages) - 1
        heads = {
            layout.classifier_norm: f'backbone.norms.{last}',
            **{theirs: f'head.{ours}' for theirs, ours in layout.classifier_head.items()},
        }
        heads = {
            f'{theirs}.{leaf}': f'{ours}.{leaf}'
            for theirs, ours in heads.items()
            for leaf in ('weight', 'bias')
        }
    else:
        # An output that is not asked for has no norm.
        unused |= {
            f'norms.{stage}.norm.{leaf}'
            for stage in range(len(backbone.stages))
            if stage not in backbone.out_indices
            for leaf in ('weight', 'bias')
        }
    for key, tensor in (body or weights).items():
        module, _, leaf = key.rpartition('.')
        is_buffer = module in modules and (leaf in BUFFERS or not tensor.is_floating_point())
        if is_buffer or key in unused:
            continue
        if key in names:
            match.filled[f'backbone.{names[key]}'] = tensor
        elif is_classifier and key in heads:
            if with_heads:
                match.filled[heads[key]] = tensor
        else:
            match.unmapped.append(key if is_classifier else f'backbone.{key}')
    if with_heads and not is_classifier:
        match.filled |= {
            key: tensor for key, tensor in weights.items() if not key.startswith('backbone.')
        }
    own = {f'backbone.{name}': tensor for name, tensor in backbone.state_dict().items()}
    resized = _resize_tables(backbone, _strip(match.filled, 'backbone.'))
    match.filled |= {f'backbone.{name}': tensor for name, tensor in resized.items()}
    # Outputs may differ between the checkpoint's task and this one, and their norms with them.
    wanted = {f'backbone.{name}' for name in names.values() if not name.startswith('norms.')}
    match.compare_shapes(own)
    if is_classifier and with_heads:
        wanted |= set(heads.values())
        match.unmapped += sorted(
            name
            for name in {*heads.values()} & set(match.filled)
            if name.startswith('backbone.') and name not in own
        )
    match.unfilled += sorted(wanted - set(match.filled))
    return match


def _resize_tables(backbone: nn.Module, weights: Weights) -> Weights:
    """Resize the bias tables that were trained for another image or window size."""
    resized = dict(weights)
    for name, module in backbone.named_modules():
        table = f'{name}.relative_position_bias_table'
        if table not in weights:
            continue
        given, own = weights[table], module.relative_position_bias_table
        if isinstance(module, DeformableAttention) and given.ndim == 3:
            resized[table] = _resize(given, own.shape[1:])
        elif isinstance(module, WindowAttention) and given.ndim == 2:
            side = round(given.shape[0] ** 0.5)
            if side**2 == given.shape[0]:
                grid = given.T.unflatten(1, (side, side))
                grid = _resize(grid, (2 * module.window_size - 1,) * 2)
                resized[table] = grid.flatten(1).T.contiguous()
    return resized


def _resize(tables: Tensor, size: Iterable[int]) -> Tensor:
    """(num_heads, height, width) -> (num_heads, *size)."""
    size = tuple(size)
    if tables.shape[1:] == size:
        return tables
    tables = tables.to(torch.promote_types(tables.dtype, torch.float32))
    return F.interpolate(tables[None], size, mode='bicubic', align_corners=False)[0]


def _strip(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    """The entries under a prefix, without it."""
    return {
        name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)
    }


def _describe(checkpoint: Any) -> str:
    return 'the checkpoint' if isinstance(checkpoint, Mapping) else os.fspath(checkpoint)


def _size(tensor: Tensor) -> str:
    return ' x '.join(map(str, tensor.shape)) or 'a scalar'
