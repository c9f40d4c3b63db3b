"""Neighborhood attention in square tiles of queries, multiplied with all keys near the tile.

Keys outside a query's window have a bias of minus infinity. The map lies in the middle of its
tiles, so that its borders matter to the windows of the outermost tiles alone; the others share one
bias. The backward pass makes each tile anew.

The operators are opaque to ``torch.compile``, which would unroll their loops.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tiling import (
    LOG2_E,
    empty_map,
    empty_outputs,
    even_slices,
    logits_per_tile,
    make_differentiable,
    precision,
    product_in,
    softmax_numerators,
)

# Least side of a tile: few of its keys lie outside a query's window, and its products are not too
# small to be fast.
TILE = 8


@torch.library.custom_op('mmdat::tiled_neighborhood_attention', mutates_args=())
def tiled_neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, relative_position_bias_table: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """:func:`mmdat.ops.neighborhood_attention`, and what its backward pass needs.

    Returns:
        The output, and Tensor[batch, num_heads, height, width], the binary logarithm of the sum of
        each query's exponentials.
    """
    out, log_sums = empty_outputs(query, value)
    with torch.autocast(query.device.type, enabled=False):
        tiles = _Tiles(query, relative_position_bias_table, scale)
        buffer = tiles.empty_logits()
        for part in tiles.parts():
            logits = tiles.logits(part, part.take(query), part.take_keys(key), buffer)
            numerators, sums, part_log_sums = softmax_numerators(logits, bounded=False)
            part.put(torch.bmm(numerators.mT, part.take_keys(value)).div_(sums.mT), out)
            part.put(part_log_sums.mT, log_sums[..., None])
    return out, log_sums


@tiled_neighborhood_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, relative_position_bias_table: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return empty_outputs(query, value)


@torch.library.custom_op('mmdat::tiled_neighborhood_attention_backward', mutates_args=())
def _gradients(
    grad_out: Tensor,
    out: Tensor,
    log_sums: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_position_bias_table: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the query, key, value and table."""
    grad_query, grad_key, grad_value = (empty_map(x, x.shape) for x in (query, key, value))
    # The gradient of a logit is its weight times (the weight's gradient - this).
    means = (grad_out.to(log_sums.dtype) * out).sum(-1, keepdim=True)
    with torch.autocast(query.device.type, enabled=False):
        tiles = _Tiles(query, relative_position_bias_table, scale)
        key_sums, value_sums = (
            torch.zeros_like(x, dtype=precision(x)) for x in (grad_key, grad_value)
        )
        bias_sum = torch.zeros_like(tiles.bias[0][0])
        buffer, grad_buffer = tiles.empty_logits(), tiles.empty_logits()
        for part in tiles.parts():
            tile_query, tile_grad = part.take(query), part.take(grad_out)
            tile_key, tile_value = part.take_keys(key), part.take_keys(value)
            logits = tiles.logits(part, tile_query, tile_key, buffer)
            # No weights where there are no queries.
            weights = logits.sub_(part.take(log_sums[..., None], torch.inf).mT).exp2_()
            part.add_keys(torch.bmm(weights, tile_grad), value_sums)
            grad_logits = product_in(grad_buffer, tile_value, tile_grad.mT)
            grad_logits.sub_(part.take(means).mT).mul_(weights)
            part.put(torch.bmm(grad_logits.mT, tile_key).mul_(scale), grad_query)
            part.add_keys(torch.bmm(grad_logits, tile_query).mul_(scale), key_sums)
            bias_sum += part.unflatten(grad_logits).sum((2, 3)).sum(0)
    grad_table = tiles.table_gradient(bias_sum).to(relative_position_bias_table.dtype)
    return grad_query, grad_key.copy_(key_sums), grad_value.copy_(value_sums), grad_table


@_gradients.register_fake
def _(
    grad_out: Tensor,
    out: Tensor,
    log_sums: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_position_bias_table: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = query.shape
    return (
        empty_map(query, shape),
        empty_map(key, shape),
        empty_map(value, shape),
        torch.empty_like(relative_position_bias_table, memory_format=torch.contiguous_format),
    )


make_differentiable(tiled_neighborhood_attention, _gradients)


@dataclass(frozen=True)
class _Axis:
    """An axis of the map in tiles.

    Attributes:
        size: Of the map.
        kernel_size: Of the windows.
    """

    size: int
    kernel_size: int

    @property
    def tile(self) -> int:
        """Queries of a tile. If there were fewer, more than the outermost would see a border."""
        return max(TILE, self.kernel_size + 1)

    @property
    def span(self) -> int:
        """Keys of a tile."""
        return self.tile + self.kernel_size - 1

    @property
    def count(self) -> int:
        """Tiles."""
        return math.ceil(self.size / self.tile)

    @property
    def before(self) -> int:
        """Queries of the first tile that lie outside the map."""
        return (self.count * self.tile - self.size) // 2

    def queries(self, tiles: slice) -> tuple[int, int]:
        """The first query of some tiles and the one behind their last."""
        return tiles.start * self.tile - self.before, tiles.stop * self.tile - self.before

    def keys(self, tiles: slice) -> tuple[int, int]:
        """The first key of some tiles and the one behind their last."""
        start, stop = self.queries(tiles)
        return start - self.kernel_size // 2, stop + self.kernel_size // 2

    def offsets(self) -> Tensor:
        """Tensor[span, tile], the table's index for key - query, where the window has the key."""
        keys = torch.arange(self.span) - self.kernel_size // 2
        offsets = keys[:, None] - torch.arange(self.tile) + self.kernel_size - 1
        return offsets.clamp(0, 2 * self.kernel_size - 2)

    def windows(self) -> list[tuple[slice, Tensor]]:
        """Tiles with equal windows; Tensor[span, tile], whether the window has the key."""
        windows: list[tuple[slice, Tensor]] = []
        for index in range(self.count):
            tile = slice(index, index + 1)
            queries = torch.arange(*self.queries(tile)).clamp(0, self.size - 1)
            # The window is moved inside the map at a border.
            first = (queries - self.kernel_size // 2).clamp(0, self.size - self.kernel_size)
            behind = torch.arange(*self.keys(tile))[:, None] - first
            inside = (behind >= 0) & (behind < self.kernel_size)
            if windows and torch.equal(windows[-1][1], inside):
                tile = slice(windows.pop()[0].start, tile.stop)
            windows.append((tile, inside))
        return windows


class _Tiles:
    """All tiles of a map.

    Attributes:
        rows: Its vertical axis.
        columns: Its horizontal axis.
        bias: A Tensor[num_heads, keys, queries] for each kind of windows of rows and of columns,
            with the logits' scale.
    """

    def __init__(self, query: Tensor, table: Tensor, scale: float) -> None:
        batch, num_heads, height, width, _ = query.shape
        kernel_size = (table.shape[1] + 1) // 2
        self.table_shape = table.shape
        self.scale = scale
        self.rows, self.columns = _Axis(height, kernel_size), _Axis(width, kernel_size)
        self.row_windows, self.column_windows = self.rows.windows(), self.columns.windows()
        # [key row, key column, query row, query column]
        offsets = (
            self.rows.offsets()[:, None, :, None] * table.shape[2]
            + self.columns.offsets()[:, None, :]
        )
        self.offsets = offsets.flatten().to(table.device)
        bias = (LOG2_E * table.to(precision(query))).flatten(1)[:, self.offsets]
        bias = bias.view(num_heads, *offsets.shape)
        self.bias = [
            [self._mask(bias, rows, columns) for _, columns in self.column_windows]
            for _, rows in self.row_windows
        ]
        row_logits = num_heads * self.columns.count * offsets.numel()
        limit = max(1, logits_per_tile(query.device) // row_logits)
        self.row_slices = even_slices(self.rows.count, limit)
        self.sample_slices = even_slices(batch, max(1, limit // self.rows.count))

    def parts(self) -> Iterator['_Part']:
        """In order."""
        return (
            _Part(self, samples, rows) for samples in self.sample_slices for rows in self.row_slices
        )

    def empty_logits(self) -> Tensor:
        """Room for those of a part."""
        rows, samples = (
            max(chosen.stop - chosen.start for chosen in slices)
            for slices in (self.row_slices, self.sample_slices)
        )
        return self.bias[0][0].new_empty(
            samples * rows * self.columns.count * self.bias[0][0].numel()
        )

    def logits(self, part: '_Part', query: Tensor, key: Tensor, buffer: Tensor) -> Tensor:
        """Binary logarithms, (tiles, keys, queries), of what the part takes, in the buffer."""
        logits = product_in(buffer, key, (LOG2_E * self.scale * query).mT)
        by_tile = part.unflatten(logits)
        start, stop = part.rows.start, part.rows.stop
        for (rows, _), row_bias in zip(self.row_windows, self.bias, strict=True):
            for (columns, _), bias in zip(self.column_windows, row_bias, strict=True):
                chosen = slice(max(0, rows.start - start), max(0, min(rows.stop, stop) - start))
                by_tile[:, :, chosen, columns] += bias[:, None, None]
        return logits

    def table_gradient(self, grad_bias: Tensor) -> Tensor:
        """From that of the bias of all tiles."""
        out = grad_bias.new_zeros(self.table_shape).flatten(1)
        return out.index_add_(1, self.offsets, grad_bias.flatten(1)).view(self.table_shape)

    @staticmethod
    def _mask(bias: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        inside = rows[:, None, :, None] & columns[:, None, :]
        bias = bias.masked_fill(~inside.to(bias.device), -torch.inf)
        return bias.flatten(3).flatten(1, 2)


@dataclass(frozen=True)
class _Part:
    """Some rows of tiles of some samples."""

    tiles: _Tiles
    samples: slice
    rows: slice

    def take(self, x: Tensor, outside: float = 0.0) -> Tensor:
        """(batch, num_heads, height, width, n) -> (tiles, queries, n)."""
        rows, columns = self.tiles.rows, self.tiles.columns
        x = self._take(
            x, rows.queries(self.rows), columns.queries(slice(0, columns.count)), outside
        )
        x = x.unflatten(3, (-1, columns.tile)).unflatten(2, (-1, rows.tile))
        return x.transpose(3, 4).flatten(4, 5).flatten(0, 3)

    def take_keys(self, x: Tensor) -> Tensor:
        """(batch, num_heads, height, width, n) -> (tiles, keys, n)."""
        rows, columns = self.tiles.rows, self.tiles.columns
        x = self._take(x, rows.keys(self.rows), columns.keys(slice(0, columns.count)))
        x = x.unfold(2, rows.span, rows.tile).unfold(3, columns.span, columns.tile)
        return x.movedim(4, -1).flatten(4, 5).flatten(0, 3)

    def put(self, x: Tensor, target: Tensor) -> None:
        """Write what :meth:`take` would read, but for what lies outside the map."""
        rows, columns = self.tiles.rows, self.tiles.columns
        x = self.unflatten(x).unflatten(4, (rows.tile, -1)).transpose(3, 4)
        x = x.flatten(4, 5).flatten(2, 3)
        x, target = self._inside(x, rows.queries(self.rows), columns.before, target)
        target.copy_(x)

    def add_keys(self, x: Tensor, target: Tensor) -> None:
        """Add to what :meth:`take_keys` would read."""
        rows, columns = self.tiles.rows, self.tiles.columns
        x = self.unflatten(x).unflatten(4, (rows.span, -1)).transpose(3, 4)
        # The keys of a tile reach into the next one and no further.
        shape = x.shape[2] + 1, rows.tile, columns.count + 1, columns.tile, x.shape[-1]
        sums = x.new_zeros(*x.shape[:2], *shape)
        for down in (0, 1):
            for right in (0, 1):
                part = x[
                    :,
                    :,
                    :,
                    down * rows.tile : (down + 1) * rows.tile,
                    :,
                    right * columns.tile : (right + 1) * columns.tile,
                ]
                sums[
                    :,
                    :,
                    down : down + x.shape[2],
                    : part.shape[3],
                    right : right + columns.count,
                    : part.shape[5],
                ] += part
        x, target = self._inside(
            sums.flatten(4, 5).flatten(2, 3),
            rows.keys(self.rows),
            columns.before + columns.kernel_size // 2,
            target,
        )
        target += x

    def unflatten(self, x: Tensor) -> Tensor:
        """(tiles, m, n) -> (batch, num_heads, tile rows, tile columns, m, n)."""
        rows = self.rows.stop - self.rows.start
        return x.unflatten(
            0, (self.samples.stop - self.samples.start, -1, rows, self.tiles.columns.count)
        )

    def _take(
        self, x: Tensor, rows: tuple[int, int], columns: tuple[int, int], outside: float = 0.0
    ) -> Tensor:
        """The part of a map, with a value outside it."""
        height, width = x.shape[2:4]
        x = x[self.samples, :, max(0, rows[0]) : rows[1]].to(precision(x))
        # With the heads last, there is more to copy at a time.
        return F.pad(
            x.movedim(1, 3),
            (
                0,
                0,
                0,
                0,
                -columns[0],
                columns[1] - width,
                max(0, -rows[0]),
                max(0, rows[1] - height),
            ),
            value=outside,
        ).movedim(3, 1)

    def _inside(
        self, x: Tensor, rows: tuple[int, int], columns_before: int, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The common part of a map, ``target``, and ``x``, some rows with columns before them."""
        width = target.shape[3]
        target = target[self.samples, :, max(0, rows[0]) : rows[1]]
        above = max(0, -rows[0])
        return x[
            :, :, above : above + target.shape[2], columns_before : columns_before + width
        ], target
