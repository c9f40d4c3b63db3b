"""Deformable attention in tiles of queries: nothing of size queries x keys is kept.

Within a tile the bias of a key is separable. The rows and columns of the tile reach a small window
of the table from there, which is interpolated along one axis and then the other: two products with
matrices of hat functions, two non-zeros a row. The backward pass makes each tile anew.

The operators are opaque to ``torch.compile``, which would unroll their loops.
"""
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Logits of a tile, over samples and heads. On a CPU (16 MiB in float32) they stay in the cache from
# one operation to the next; on a GPU few launches matter more.
LOGITS_PER_TILE = dict(cpu=2**22, cuda=2**25)
# A wider tile has a larger window of the table for each key and gains nothing.
MAX_TILE_WIDTH = 32
# Samples are taken one after the other rather than leave a tile fewer queries.
MIN_TILE_QUERIES = 256
# Logits are kept as exponents of 2, whose powers take half the time of those of e on a CPU.
LOG2_E = math.log2(math.e)


@torch.library.custom_op('mmdat::tiled_deformable_attention', mutates_args=())
def tiled_deformable_attention(query: Tensor, key: Tensor, value: Tensor,
                               sampling_locations: Tensor, relative_position_bias_table: Tensor,
                               scale: float) -> tuple[Tensor, Tensor]:
    """:func:`mmdat.ops.deformable_attention` with a bias table, and what its backward pass needs.

    Returns:
        The output, and Tensor[batch, num_heads, height, width], the binary logarithm of the sum of
        each query's exponentials.
    """
    out, log_sums = _empty_outputs(query, value)
    with torch.autocast(query.device.type, enabled=False):
        for samples, keys in _keys_of_samples(query, key, value, sampling_locations,
                                              relative_position_bias_table, scale):
            transposed_value = keys.value.transpose(1, 2)
            for tile in keys.tiles:
                logits, _ = keys.logits(tile, tile.take(query[samples]))
                peaks = logits.amax(1, keepdim=True)
                weights = logits.sub_(peaks).exp2_()
                sums = weights.sum(1, keepdim=True)
                tile.put(torch.bmm(transposed_value, weights).div_(sums), out[samples])
                tile.put(sums.log2_().add_(peaks), log_sums[samples, ..., None])
    return out, log_sums


@tiled_deformable_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, sampling_locations: Tensor,
      relative_position_bias_table: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return _empty_outputs(query, value)


@torch.library.custom_op('mmdat::tiled_deformable_attention_backward', mutates_args=())
def _gradients(grad_out: Tensor, out: Tensor, log_sums: Tensor, query: Tensor, key: Tensor,
               value: Tensor, sampling_locations: Tensor, relative_position_bias_table: Tensor,
               scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the query, key, value, sampling locations and table."""
    inputs = query, key, value, sampling_locations, relative_position_bias_table
    grad_query, grad_key, grad_value, grad_locations, grad_table = _empty_gradients(*inputs)
    grad_table.zero_()
    # The gradient of a logit is its weight times (the weight's gradient - this).
    means = (grad_out.to(log_sums.dtype) * out).sum(-1, keepdim=True)
    with torch.autocast(query.device.type, enabled=False):
        for samples, keys in _keys_of_samples(*inputs, scale):
            transposed_key = keys.key.transpose(1, 2) / LOG2_E
            sum_key, sum_value, sum_locations, sum_table = (
                torch.zeros_like(x) for x in (keys.key, keys.value, keys.locations, keys.table))
            for tile in keys.tiles:
                tile_query, tile_grad = tile.take(query[samples]), tile.take(grad_out[samples])
                logits, bias = keys.logits(tile, tile_query)
                weights = logits.sub_(tile.take(log_sums[samples, ..., None])).exp2_()
                sum_value.baddbmm_(weights, tile_grad.transpose(1, 2))
                grad_logits = torch.bmm(keys.value, tile_grad)
                grad_logits.sub_(tile.take(means[samples])).mul_(weights)
                sum_key.baddbmm_(grad_logits, tile_query.transpose(1, 2))
                tile.put(torch.bmm(transposed_key, grad_logits), grad_query[samples])
                bias.add_gradients(grad_logits, sum_locations, sum_table)
            grad_key[samples] = scale * sum_key.unflatten(0, (-1, key.shape[1]))
            grad_value[samples] = sum_value.unflatten(0, (-1, key.shape[1]))
            grad_locations[samples] = sum_locations
            grad_table += sum_table.sum(0).view_as(grad_table)
    return grad_query, grad_key, grad_value, grad_locations, grad_table


@_gradients.register_fake
def _(grad_out: Tensor, out: Tensor, log_sums: Tensor, query: Tensor, key: Tensor, value: Tensor,
      sampling_locations: Tensor, relative_position_bias_table: Tensor,
      scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _empty_gradients(query, key, value, sampling_locations, relative_position_bias_table)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*output, *tensors)


def _backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients(grad_out, *ctx.saved_tensors, ctx.scale), None


tiled_deformable_attention.register_autograd(_backward, setup_context=_save_for_backward)


def _empty_outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    batch, num_heads, height, width, _ = query.shape
    # Like maps of (batch, channels, height, width), from which queries mostly come.
    out = value.new_empty(batch, num_heads, value.shape[-1], height, width).movedim(2, -1)
    return out, query.new_empty(query.shape[:-1], dtype=_precision(query))


def _empty_gradients(query: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor,
                                                              Tensor]:
    key, value, locations, table = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in others)
    return _empty_outputs(query, query)[0], key, value, locations, table


def _precision(x: Tensor) -> torch.dtype:
    """float32 or better."""
    return torch.promote_types(x.dtype, torch.float32)


def _slices(stop: int, step: int) -> list[slice]:
    """[0, stop) in slices of nearly equal length, at most ``step``."""
    count = math.ceil(stop / step)
    edges = [stop * index // count for index in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


@dataclass(frozen=True)
class _Span:
    """Successive queries along an axis and the part of the table that they reach from each key.

    Attributes:
        queries: Their positions.
        indices: Tensor[batch, groups, num_keys, taps], of the table, moved inside it.
        hats: Tensor[batch, groups, num_keys, queries, taps], how much of each index a query takes.
        slopes: Like hats, how that changes with the query's place in the table.
    """
    queries: slice
    indices: Tensor
    hats: Tensor
    slopes: Tensor


def _span(queries: slice, size: int, table_size: int, locations: Tensor) -> _Span:
    """Of an axis with ``size`` queries; ``locations`` is Tensor[batch, groups, num_keys]."""
    points = torch.arange(queries.start, queries.stop, device=locations.device,
                          dtype=locations.dtype)
    points = points / (size - 1) * 2 - 1 if size > 1 else 0 * points
    places = ((points - locations[..., None]) / 2 + 1) / 2 * (table_size - 1)
    below = places.floor()
    first = below[..., :1]
    reach = (len(points) - 1) / max(1, size - 1) * (table_size - 1) / 2
    # The small number outweighs rounding, which may put the last query one index further.
    taps = torch.arange(math.ceil(reach + 1e-3) + 2, device=locations.device)
    indices = first.long() + taps
    inside = ((indices >= 0) & (indices < table_size))[..., None, :]
    offset = (below - first)[..., None]
    at, above = ((taps == place) & inside for place in (offset, offset + 1))
    slopes = above.to(places.dtype) - at.to(places.dtype)
    hats = at + (places - below)[..., None] * slopes
    return _Span(queries, indices.clamp(0, table_size - 1), hats, slopes)


@dataclass(frozen=True)
class _Tile:
    """Queries in some rows and columns."""
    rows: _Span
    columns: _Span
    dtype: torch.dtype

    def take(self, x: Tensor) -> Tensor:
        """(batch, num_heads, height, width, n) -> (batch * num_heads, n, queries)."""
        x = x[:, :, self.rows.queries, self.columns.queries].to(self.dtype)
        return x.movedim(-1, 2).flatten(0, 1).flatten(2)

    def put(self, x: Tensor, target: Tensor) -> None:
        """Write what :meth:`take` would read."""
        target = target[:, :, self.rows.queries, self.columns.queries].movedim(-1, 2)
        target[:] = x.view(target.shape)


def _keys_of_samples(query: Tensor, key: Tensor, value: Tensor, locations: Tensor, table: Tensor,
                     scale: float) -> Iterator[tuple[slice, '_Keys']]:
    """As many samples at a time as leave the tiles their size."""
    batch, num_heads, num_keys = key.shape[:3]
    limit = LOGITS_PER_TILE.get(key.device.type, LOGITS_PER_TILE['cuda']) // (num_heads * num_keys)
    step = max(1, min(batch, limit // MIN_TILE_QUERIES))
    for samples in _slices(batch, step):
        yield samples, _Keys(key[samples], value[samples], locations[samples], table,
                             query.shape[2:4], max(1, limit // step), scale)


class _Keys:
    """The keys of some samples, and the tiles of their queries.

    Attributes:
        key: Tensor[batch * num_heads, num_keys, head_dim], with the logits' scale.
        value: Tensor[batch * num_heads, num_keys, head_dim].
        locations: Tensor[batch, groups, num_keys, 2].
        table: Tensor[batch, groups, heads of a group, table_height * table_width], scaled alike.
        table_size: (height, width).
        tiles: Of at most ``tile_queries`` queries.
    """

    def __init__(self, key: Tensor, value: Tensor, locations: Tensor, table: Tensor,
                 map_size: torch.Size, tile_queries: int, scale: float) -> None:
        dtype = _precision(key)
        batch, groups = locations.shape[:2]
        self.key = (LOG2_E * scale * key.to(dtype)).flatten(0, 1)
        self.value = value.to(dtype).flatten(0, 1)
        self.locations = locations.to(dtype)
        self.table_size = table.shape[1:]
        self.table = (LOG2_E * table.to(dtype)).flatten(1).unflatten(0, (groups, -1)).expand(
            batch, -1, -1, -1)
        width = min(MAX_TILE_WIDTH, map_size[1], tile_queries)
        rows, columns = (
            [_span(queries, size, table_size, self.locations[..., axis])
             for queries in _slices(size, step)]
            for axis, (size, table_size, step) in enumerate(
                zip(map_size, self.table_size, (tile_queries // width, width), strict=True)))
        self.tiles = [_Tile(r, c, dtype) for c in columns for r in rows]

    def logits(self, tile: _Tile, query: Tensor) -> tuple[Tensor, '_Bias']:
        """Binary logarithms, (batch * num_heads, num_keys, queries), and the bias in them."""
        bias = _Bias(tile, self.table, self.table_size)
        logits = bias.values()
        return torch.baddbmm(logits, self.key, query, out=logits), bias


class _Bias:
    """Of a tile's queries and all keys."""

    def __init__(self, tile: _Tile, table: Tensor, table_size: torch.Size) -> None:
        self.tile = tile
        self.table_size = table_size
        heads = table.shape[2]
        indices = (tile.rows.indices[..., :, None] * table_size[1]
                   + tile.columns.indices[..., None, :])
        shape = indices.shape[2:]
        self.indices = indices.flatten(2)[:, :, None].expand(-1, -1, heads, -1)
        # (B, g, h / g, Nk, row taps, column taps)
        self.window = table.gather(3, self.indices).unflatten(3, shape)
        self.by_row = tile.rows.hats[:, :, None] @ self.window

    def values(self) -> Tensor:
        """Tensor[batch * num_heads, num_keys, queries]."""
        values = self.by_row @ self.tile.columns.hats[:, :, None].transpose(-2, -1)
        return values.flatten(0, 2).flatten(2)

    def add_gradients(self, grad: Tensor, grad_locations: Tensor, grad_table: Tensor) -> None:
        """Add what follows from the gradient of :meth:`values`.

        Args:
            grad: Tensor[batch * num_heads, num_keys, queries].
            grad_locations: Tensor[batch, groups, num_keys, 2].
            grad_table: Tensor[batch, groups, heads of a group, table_height * table_width].
        """
        rows, columns = self.tile.rows, self.tile.columns
        grad = grad.view(*self.by_row.shape[:-1], columns.hats.shape[3])
        grad_by_row = grad @ columns.hats[:, :, None]
        grad_window = rows.hats[:, :, None].transpose(-2, -1) @ grad_by_row
        grad_table.scatter_add_(3, self.indices, grad_window.flatten(3))
        grad_hats = grad_by_row @ self.window.transpose(-2, -1), grad.mT @ self.by_row
        for axis, (span, grad_hat) in enumerate(zip((rows, columns), grad_hats, strict=True)):
            # A place in the table moves (table_size - 1) / 4 for a key that moves by -1.
            factor = (self.table_size[axis] - 1) / 4 / LOG2_E
            grad_locations[..., axis] -= factor * (grad_hat.sum(2) * span.slopes).sum((-2, -1))
