"""What queries attend to, for each kind of attention: as written, for a few queries at a time.

Positions are those of a map, (row, column) from 0. All tensors are of one image.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdat.models.attentions import (
    DeformableAttention,
    InteractiveWindowAttention,
    NeighborhoodAttention,
    PyramidAttention,
    ScalableAttention,
    SlideAttention,
    WindowAttention,
)
from mmdat.models.maps import mean_pool, pad_to_multiple, split_heads
from mmdat.ops import global_attention, grid_points, relative_position_bias, sample_at
from mmdat.ops.deformable.log_spaced import log_spaced_bias


class Pairs(NamedTuple):
    """Chosen queries and the keys of each.

    Attributes:
        query: Tensor[heads, n, head_dim].
        key: Tensor[heads, n, keys, head_dim], or of 1 instead of n if the queries share them.
        value: Like ``key``.
        bias: Tensor[heads, n, keys] or what broadcasts to it, added to the logits; None for none.
        scale: Factor of the products of queries and keys.
        positions: Tensor[groups, n or 1, keys, 2], where the keys lie.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    scale: float
    positions: Tensor

    def weights(self) -> Tensor:
        """Tensor[heads, n, keys]: the attention of each query, which sums up to 1."""
        logits = self.scale * (self.key @ self.query[..., None])[..., 0]
        return (logits if self.bias is None else logits + self.bias).softmax(-1)


class SharedKeys(NamedTuple):
    """The keys that all queries of a map attend to.

    Attributes:
        query: Tensor[1, heads, height, width, head_dim].
        key: Tensor[1, heads, keys, head_dim].
        value: Tensor[1, heads, keys, value_dim].
        scale: Factor of the products of queries and keys.
        positions: Tensor[groups, keys, 2], where the keys lie.
        attend: The module's attention: query, key and any values -> output for each query.
        bias: The bias of queries at rows and columns, (n,) each: Tensor[heads, n, keys] or None;
            None for no bias at all.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    positions: Tensor
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    bias: Callable[[Tensor, Tensor], Tensor | None] | None = None

    def pairs(self, rows: Tensor, columns: Tensor) -> Pairs:
        return Pairs(
            self.query[0][:, rows, columns],
            self.key[0][:, None],
            self.value[0][:, None],
            self.bias and self.bias(rows, columns),
            self.scale,
            self.positions[:, None],
        )

    def received(self) -> Tensor:
        """Tensor[heads, keys]: the weights of each key, summed over all queries."""
        # The output is linear in the values: its derivative by a key's value is that sum. So the
        # fast operators, which hold no weights, compute it.
        value = self.key.new_ones(*self.key.shape[:3], 1).requires_grad_()
        with torch.enable_grad():
            total = self.attend(self.query, self.key, value).sum()
        return torch.autograd.grad(total, value)[0][0, ..., 0]


def deformable(module: DeformableAttention, x: Tensor) -> SharedKeys:
    query = module.query(x)
    sizes = x.shape[2:]
    if module.pooled_keys:
        sampled = mean_pool(x, module.stride)
        locations = None
        positions = _cells(x, sampled, module.stride)
    else:
        grid = module.sampling_locations(query)
        sampled = sample_at(x, grid)
        locations = grid.flatten(2, 3)
        positions = to_positions(locations[0], sizes)
    query = split_heads(query, module.num_heads)
    key, value = (
        split_heads(project(sampled).flatten(2), module.num_heads)
        for project in (module.key, module.value)
    )

    def bias(rows: Tensor, columns: Tensor) -> Tensor | None:
        if module.position_bias == 'fixed':
            table = module.position_bias_table[None]
            pairs = sizes.numel(), key.shape[2]
            if table.shape[2:] != pairs:
                table = F.interpolate(table, pairs, mode='bilinear', align_corners=True)
            return table[0, :, rows * sizes[1] + columns]
        if module.position_bias not in ('table', 'log'):
            return None
        assert locations is not None
        points = grid_points(*sizes, device=x.device, dtype=locations.dtype)[rows, columns]
        if module.position_bias == 'table':
            return relative_position_bias(points, locations, module.relative_position_bias_table)[0]
        return log_spaced_bias(points, locations, *module.position_bias_network.parameters())[0]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return module.attend(query, key, value, locations)

    return SharedKeys(query, key, value, query.shape[-1] ** -0.5, positions, attend, bias)


def pyramid(module: PyramidAttention, x: Tensor) -> SharedKeys:
    reduced = module.reduction(pad_to_multiple(x, module.reduction_ratio))
    key, value = module.key_value(reduced).chunk(2, dim=1)
    return _reduced(module, x, module.query(x), key, value, module.reduction_ratio)


def scalable(module: ScalableAttention, x: Tensor) -> SharedKeys:
    if module.reduction_ratio == 1:
        key, value = module.key_value(x).chunk(2, dim=1)
    else:
        reduced = module.reduction(pad_to_multiple(x, module.reduction_ratio))
        key, value = module.key(reduced), module.value(reduced)
    return _reduced(module, x, module.query(x), key, value, module.reduction_ratio, module.scale)


def spatial_reduction(module: Any, x: Tensor) -> SharedKeys:
    """``SpatialReductionAttention`` of mmdet's PVT."""
    reduced = x
    if module.sr_ratio > 1:
        reduced = module.sr(x)
        reduced = module.norm(reduced.flatten(2).mT).mT.unflatten(2, reduced.shape[2:])
    weights = module.attn.in_proj_weight.chunk(3)
    biases = (None,) * 3
    if module.attn.in_proj_bias is not None:
        biases = module.attn.in_proj_bias.chunk(3)
    query, key, value = (
        F.conv2d(y, weight[..., None, None], bias)
        for y, weight, bias in zip((x, reduced, reduced), weights, biases, strict=True)
    )
    return _reduced(module, x, query, key, value, module.sr_ratio)


def _reduced(
    module: Any,
    x: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ratio: int,
    scale: float | None = None,
) -> SharedKeys:
    """Keys on a map that is ``ratio`` times coarser, all (1, channels, height, width)."""
    positions = _cells(x, key, ratio)
    query = split_heads(query, module.num_heads)
    key, value = (split_heads(y.flatten(2), module.num_heads) for y in (key, value))
    scale = scale or query.shape[-1] ** -0.5

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return global_attention(query, key, value, scale=scale)

    return SharedKeys(query, key, value, scale, positions, attend)


def neighborhood(module: NeighborhoodAttention, x: Tensor, rows: Tensor, columns: Tensor) -> Pairs:
    size = module.kernel_size
    height, width = x.shape[2:]
    x = F.pad(x, (0, max(0, size - width), 0, max(0, size - height)))
    key_rows, key_columns = (
        (places - size // 2).clamp(0, side - size)[:, None] + torch.arange(size, device=x.device)
        for places, side in zip((rows, columns), x.shape[2:], strict=True)
    )
    key_rows, key_columns = _product(key_rows, key_columns)
    bias = module.relative_position_bias_table[
        :, key_rows - rows[:, None] + size - 1, key_columns - columns[:, None] + size - 1
    ]
    return _local(module, module.qkv(x), rows, columns, key_rows, key_columns, bias)


def window(
    module: WindowAttention | InteractiveWindowAttention, x: Tensor, rows: Tensor, columns: Tensor
) -> Pairs:
    return _window(
        module,
        module.qkv(x),
        rows,
        columns,
        module.window_size,
        getattr(module, 'shift', 0),
        getattr(module, 'relative_position_bias_table', None),
    )


def swin_window(module: Any, x: Tensor, rows: Tensor, columns: Tensor) -> Pairs:
    """``ShiftWindowMSA`` of the toolboxes' Swin, which attends to padding too."""
    size, shift = module.window_size, module.shift_size
    if min(x.shape[2:]) == size and not getattr(module, 'pad_small_map', True):
        shift = 0
    attention = module.w_msa
    qkv = attention.qkv(pad_to_multiple(x, size).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return _window(
        attention, qkv, rows, columns, size, shift, attention.relative_position_bias_table
    )._replace(scale=attention.scale)


def _window(
    module: Any,
    qkv: Tensor,
    rows: Tensor,
    columns: Tensor,
    size: int,
    shift: int,
    table: Tensor | None,
) -> Pairs:
    """The window of a partition, moved by ``shift``, that each query lies in."""
    inside = torch.arange(size, device=qkv.device)
    keys, displacements, apart, absent = [], [], [], []
    for places, side in zip((rows, columns), qkv.shape[2:], strict=True):
        padded = side + -side % size
        rolled = ((places - shift) % padded)[:, None]
        rolled_keys = rolled // size * size + inside
        key = (rolled_keys + shift) % padded
        keys.append(key.clamp(max=side - 1))
        absent.append(key >= side)
        displacements.append(rolled - rolled_keys + size - 1)
        # Only the roll brought the last and first positions of the map together.
        apart.append((rolled >= padded - shift) != (rolled_keys >= padded - shift))
    key_rows, key_columns = _product(*keys)
    bias = torch.zeros_like(key_rows, dtype=qkv.dtype)
    bias = bias.masked_fill(torch.logical_or(*_product(*apart)), -100)
    bias = bias.masked_fill(torch.logical_or(*_product(*absent)), -torch.inf)
    if table is not None:
        down, right = _product(*displacements)
        bias = bias + table[down * (2 * size - 1) + right].movedim(-1, 0)
    return _local(module, qkv, rows, columns, key_rows, key_columns, bias)


def _local(
    module: Any,
    qkv: Tensor,
    rows: Tensor,
    columns: Tensor,
    key_rows: Tensor,
    key_columns: Tensor,
    bias: Tensor,
) -> Pairs:
    """Keys (n, keys) that lie on positions of the map."""
    query, key, value = (split_heads(y, module.num_heads)[0] for y in qkv.chunk(3, dim=1))
    return Pairs(
        query[:, rows, columns],
        key[:, key_rows, key_columns],
        value[:, key_rows, key_columns],
        bias,
        query.shape[-1] ** -0.5,
        torch.stack((key_rows, key_columns), dim=-1)[None],
    )


def slide(module: SlideAttention, x: Tensor, rows: Tensor, columns: Tensor) -> Pairs:
    qkv = module.qkv(x).unflatten(1, (module.num_heads, 3, module.head_dim))
    query, key, value = qkv.unbind(2)  # each (1, h, d, H, W)
    key, value = (
        module.neighbors(y)[0][..., rows, columns].permute(0, 3, 2, 1) for y in (key, value)
    )  # (h, n, taps, d)
    taps = torch.arange(-1, 2, device=x.device)
    positions = torch.stack(_product(rows[:, None] + taps, columns[:, None] + taps), dim=-1)
    bias = module.relative_position_bias_table.view(module.num_heads, 1, -1, 1)
    query = query[0][..., rows, columns].mT
    return Pairs(query, key + bias, value, None, module.scale, positions[None])


def _product(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of windows, (n, w) each -> of all their positions, (n, w * w) each."""
    n, size = rows.shape
    return (
        rows[:, :, None].expand(n, size, size).flatten(1),
        columns[:, None].expand(n, size, size).flatten(1),
    )


def _cells(x: Tensor, reduced: Tensor, ratio: int) -> Tensor:
    """Tensor[1, keys, 2]: the middle of each cell of a map that lies inside it."""
    middles = []
    for side, cells in zip(x.shape[2:], reduced.shape[2:], strict=True):
        first = torch.arange(cells, device=x.device) * ratio
        middles.append((first + (first + ratio - 1).clamp(max=side - 1)) / 2)
    return torch.stack(torch.meshgrid(*middles, indexing='ij'), dim=-1).flatten(0, 1)[None]


def to_positions(locations: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Locations (..., 2) as (y, x) in [-1, 1], the first and last position -> map positions."""
    return (locations + 1) / 2 * (locations.new_tensor(sizes) - 1)


# Kind of each module of mmdat, and what finds the keys: of all queries, or of chosen ones.
KINDS: dict[type[nn.Module], tuple[str, Callable]] = {
    DeformableAttention: ('deformable', deformable),
    NeighborhoodAttention: ('neighborhood', neighborhood),
    WindowAttention: ('window', window),
    InteractiveWindowAttention: ('interactive window', window),
    ScalableAttention: ('scalable', scalable),
    PyramidAttention: ('pyramid', pyramid),
    SlideAttention: ('slide', slide),
}
# The same for modules of the toolboxes, by the name of their class.
TOOLBOX_KINDS: dict[str, tuple[str, Callable]] = {
    'ShiftWindowMSA': ('window', swin_window),
    'SpatialReductionAttention': ('pyramid', spatial_reduction),
}
SHARING = (deformable, pyramid, scalable, spatial_reduction)


def kind_of(module: nn.Module) -> tuple[str, Callable] | None:
    """The kind of a module and what finds its keys; None if it is no attention known here."""
    if isinstance(module, DeformableAttention) and module.pooled_keys:
        return 'pooled', deformable
    if type(getattr(module, 'w_msa', None)).__name__ == 'WindowMSAV2':  # Swin v2's
        return None
    return KINDS.get(type(module)) or TOOLBOX_KINDS.get(type(module).__name__)
