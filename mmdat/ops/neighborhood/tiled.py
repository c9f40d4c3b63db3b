"""Neighborhood attention in square tiles of queries, multiplied with all keys near the tile.

Keys outside a query's window have a bias of minus infinity. The map lies in the middle of its
tiles, so that only the outermost tiles have windows that a border moved; all others share one bias.
The backward pass recomputes each tile.

The operators are opaque to ``torch.compile``, which would unroll their loops.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd import compute_delta, empty_map, empty_map_gradients, empty_outputs, make_operator
from ..reference import compute_dtype, without_autocast
from ..tiling import LOG2_E, even_slices, length, logits_per_tile, product_in, softmax_numerators

# Least side of a tile. In larger ones more keys lie outside a query's window, in smaller ones the
# products are too small to be fast.
TILE = 8


def _attend(
    query: Tensor, key: Tensor, value: Tensor, relative_position_bias_table: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute :func:`mmdat.ops.neighborhood_attention`, which describes the tensors.

    Returns:
        The output, and Tensor[batch, num_heads, height, width], the base-2 log-sum-exp of each
        query's logits, for the backward pass.
    """
    out, lse = empty_outputs(query, value)
    with without_autocast(query):
        tiles = _Tiles(query, relative_position_bias_table)
        buffer = tiles.empty_logits()
        for part in tiles.parts():
            logits = tiles.logits(part, part.take(query), part.take_keys(key), buffer)
            numerators, sums, part_lse = softmax_numerators(logits, bounded=False)
            part.put(torch.bmm(numerators.mT, part.take_keys(value)).div_(sums.mT), out)
            part.put(part_lse.mT, lse[..., None])
    return out, lse


def _gradients(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_position_bias_table: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of query, key, value and bias table."""
    grad_query, grad_key, grad_value = (empty_map(x, x.shape) for x in (query, key, value))
    delta = compute_delta(grad_out, out, lse.dtype)
    with without_autocast(query):
        tiles = _Tiles(query, relative_position_bias_table)
        key_sums, value_sums = (
            torch.zeros_like(x, dtype=compute_dtype(x)) for x in (grad_key, grad_value)
        )
        bias_sum = torch.zeros_like(tiles.bias[0][0])
        buffer, grad_buffer = tiles.empty_logits(), tiles.empty_logits()
        for part in tiles.parts():
            part_query, part_grad_out = part.take(query), part.take(grad_out)
            part_key, part_value = part.take_keys(key), part.take_keys(value)
            logits = tiles.logits(part, part_query, part_key, buffer)
            # Infinity outside the map, so that queries that do not exist have no weights.
            part_lse = part.take(lse[..., None], outside=torch.inf)
            weights = logits.sub_(part_lse.mT).exp2_()
            part.add_keys(torch.bmm(weights, part_grad_out), value_sums)
            grad_weights = product_in(grad_buffer, part_value, part_grad_out.mT)
            grad_logits = grad_weights.sub_(part.take(delta).mT).mul_(weights)
            part.put(torch.bmm(grad_logits.mT, part_key).mul_(tiles.scale), grad_query)
            part.add_keys(torch.bmm(grad_logits, part_query).mul_(tiles.scale), key_sums)
            bias_sum += part.unflatten(grad_logits).sum((2, 3)).sum(0)
    grad_table = tiles.table_gradient(bias_sum).to(relative_position_bias_table.dtype)
    return grad_query, grad_key.copy_(key_sums), grad_value.copy_(value_sums), grad_table


tiled_neighborhood_attention = make_operator(
    'tiled_neighborhood_attention',
    _attend,
    _gradients,
    lambda query, key, value, table: empty_outputs(query, value),
    empty_map_gradients,
)


class _Run(NamedTuple):
    """Tiles, one after the other along an axis, whose windows are equal.

    Attributes:
        tiles: The tiles.
        inside: Tensor[span, tile], whether a key is in a query's window.
    """

    tiles: slice
    inside: Tensor


@dataclass(frozen=True)
class _Axis:
    """An axis of the map, cut into tiles that overhang it equally at both ends.

    Attributes:
        size: Positions of the map.
        kernel_size: Positions of a window.
    """

    size: int
    kernel_size: int

    @property
    def tile(self) -> int:
        """Queries of a tile: enough that a border moves no windows but those of the outermost."""
        return max(TILE, self.kernel_size + 1)

    @property
    def span(self) -> int:
        """Keys of a tile: all that lie in a window of one of its queries."""
        return self.tile + self.kernel_size - 1

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return math.ceil(self.size / self.tile)

    @property
    def before(self) -> int:
        """How many queries of the first tile lie outside the map."""
        return (self.count * self.tile - self.size) // 2

    def queries(self, tiles: slice) -> tuple[int, int]:
        """The first query of some tiles and the one behind their last."""
        return tiles.start * self.tile - self.before, tiles.stop * self.tile - self.before

    def keys(self, tiles: slice) -> tuple[int, int]:
        """The first key of some tiles and the one behind their last."""
        start, stop = self.queries(tiles)
        return start - self.kernel_size // 2, stop + self.kernel_size // 2

    def offsets(self) -> Tensor:
        """Tensor[span, tile], the index in the bias table for each key and query of a tile.

        Where the key is outside the query's window, the index means nothing.
        """
        keys = torch.arange(self.span) - self.kernel_size // 2
        offsets = keys[:, None] - torch.arange(self.tile) + self.kernel_size - 1
        return offsets.clamp(0, 2 * self.kernel_size - 2)

    def runs(self) -> list[_Run]:
        """Find the runs of tiles with equal windows."""
        runs: list[_Run] = []
        for index in range(self.count):
            tile = slice(index, index + 1)
            queries = torch.arange(*self.queries(tile)).clamp(0, self.size - 1)
            # The window is moved inside the map at a border.
            first = (queries - self.kernel_size // 2).clamp(0, self.size - self.kernel_size)
            behind = torch.arange(*self.keys(tile))[:, None] - first
            inside = (behind >= 0) & (behind < self.kernel_size)
            if runs and torch.equal(runs[-1].inside, inside):
                tile = slice(runs.pop().tiles.start, tile.stop)
            runs.append(_Run(tile, inside))
        return runs


class _Tiles:
    """All tiles of a map, and their biases.

    Attributes:
        scale: Factor of the products of queries and keys.
        rows: The vertical axis.
        columns: The horizontal axis.
        row_runs: Runs of tile rows with equal windows.
        column_runs: The same for tile columns.
        bias: A Tensor[num_heads, keys, queries] in base 2 for each run of rows and of columns.
    """

    def __init__(self, query: Tensor, table: Tensor) -> None:
        batch, num_heads, height, width, head_dim = query.shape
        kernel_size = (table.shape[1] + 1) // 2
        self.table_shape = table.shape
        self.scale = head_dim**-0.5
        self.rows, self.columns = _Axis(height, kernel_size), _Axis(width, kernel_size)
        self.row_runs, self.column_runs = self.rows.runs(), self.columns.runs()
        # [key row, key column, query row, query column]
        offsets = (
            self.rows.offsets()[:, None, :, None] * table.shape[2]
            + self.columns.offsets()[:, None, :]
        )
        self.offsets = offsets.flatten().to(table.device)
        bias = (LOG2_E * table.to(compute_dtype(query))).flatten(1)[:, self.offsets]
        bias = bias.view(num_heads, *offsets.shape)
        self.bias = [
            [self._mask(bias, rows.inside, columns.inside) for columns in self.column_runs]
            for rows in self.row_runs
        ]
        logits_per_row = num_heads * self.columns.count * offsets.numel()
        max_rows = max(1, logits_per_tile(query.device) // logits_per_row)
        self.row_slices = even_slices(self.rows.count, max_rows)
        self.sample_slices = even_slices(batch, max(1, max_rows // self.rows.count))

    def parts(self) -> Iterator['_Part']:
        """Yield the parts, sample by sample, top to bottom."""
        for samples in self.sample_slices:
            for rows in self.row_slices:
                yield _Part(self, samples, rows)

    def empty_logits(self) -> Tensor:
        """Allocate a buffer for the logits of the largest part."""
        rows = max(map(length, self.row_slices))
        samples = max(map(length, self.sample_slices), default=0)
        bias = self.bias[0][0]  # all have this shape
        return bias.new_empty(samples * rows * self.columns.count * bias.numel())

    def logits(self, part: '_Part', query: Tensor, key: Tensor, buffer: Tensor) -> Tensor:
        """Compute the logits of a part in the buffer.

        Args:
            part: Some of the tiles.
            query: Tensor[tiles, queries, head_dim], from the part's ``take``.
            key: Tensor[tiles, keys, head_dim], from the part's ``take_keys``.
            buffer: From :meth:`empty_logits`.

        Returns:
            Tensor[tiles, keys, queries], in base 2.
        """
        logits = product_in(buffer, key, (LOG2_E * self.scale * query).mT)
        by_tile = part.unflatten(logits)
        start, stop = part.rows.start, part.rows.stop
        for row_run, row_bias in zip(self.row_runs, self.bias, strict=True):
            run = row_run.tiles
            # Those rows of the run that the part has, counted from its first.
            rows = slice(max(0, run.start - start), max(0, min(run.stop, stop) - start))
            for column_run, bias in zip(self.column_runs, row_bias, strict=True):
                by_tile[:, :, rows, column_run.tiles] += bias[:, None, None]
        return logits

    def table_gradient(self, grad_bias: Tensor) -> Tensor:
        """Compute the gradient of the bias table from that of the bias, summed over all tiles."""
        out = grad_bias.new_zeros(self.table_shape).flatten(1)
        return out.index_add_(1, self.offsets, grad_bias.flatten(1)).view(self.table_shape)

    @staticmethod
    def _mask(bias: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Set the bias to minus infinity where a key is outside a query's window."""
        inside = rows[:, None, :, None] & columns[:, None, :]
        bias = bias.masked_fill(~inside.to(bias.device), -torch.inf)
        return bias.flatten(3).flatten(1, 2)


@dataclass(frozen=True)
class _Part:
    """Some rows of tiles of some samples.

    Where a shape says ``tiles``, it counts the tiles of all samples and heads of the part.
    """

    tiles: _Tiles
    samples: slice
    rows: slice

    def take(self, x: Tensor, outside: float = 0.0) -> Tensor:
        """(batch, num_heads, height, width, n) -> (tiles, queries, n)."""
        rows, columns = self.tiles.rows, self.tiles.columns
        all_columns = columns.queries(slice(0, columns.count))
        x = self._crop(x, rows.queries(self.rows), all_columns, outside)
        x = x.unflatten(3, (-1, columns.tile)).unflatten(2, (-1, rows.tile))
        return x.transpose(3, 4).flatten(4, 5).flatten(0, 3)

    def take_keys(self, x: Tensor) -> Tensor:
        """(batch, num_heads, height, width, n) -> (tiles, keys, n)."""
        rows, columns = self.tiles.rows, self.tiles.columns
        x = self._crop(x, rows.keys(self.rows), columns.keys(slice(0, columns.count)))
        x = x.unfold(2, rows.span, rows.tile).unfold(3, columns.span, columns.tile)
        return x.movedim(4, -1).flatten(4, 5).flatten(0, 3)

    def put(self, x: Tensor, target: Tensor) -> None:
        """Inverse of :meth:`take`: write ``x`` into ``target``, where it is on the map."""
        rows, columns = self.tiles.rows, self.tiles.columns
        x = self.unflatten(x).unflatten(4, (rows.tile, -1)).transpose(3, 4)
        x = x.flatten(4, 5).flatten(2, 3)
        x, target = self._inside(x, rows.queries(self.rows), columns.before, target)
        target.copy_(x)

    def add_keys(self, x: Tensor, target: Tensor) -> None:
        """Add ``x`` to what :meth:`take_keys` would read from ``target``, but for the padding."""
        rows, columns = self.tiles.rows, self.tiles.columns
        x = self.unflatten(x).unflatten(4, (rows.span, -1)).transpose(3, 4)
        num_rows, num_columns = x.shape[2], x.shape[4]
        # The keys of a tile reach into the next one and no further: what lies in the tile itself
        # and what lies in the next, below and to the right, is added one after the other.
        sums = x.new_zeros(
            *x.shape[:2], num_rows + 1, rows.tile, num_columns + 1, columns.tile, x.shape[-1]
        )
        for down in (0, 1):
            in_row = x[:, :, :, down * rows.tile : (down + 1) * rows.tile]
            row_sums = sums[:, :, down : down + num_rows, : in_row.shape[3]]
            for right in (0, 1):
                in_tile = in_row[..., right * columns.tile : (right + 1) * columns.tile, :]
                row_sums[:, :, :, :, right : right + num_columns, : in_tile.shape[-2]] += in_tile
        x, target = self._inside(
            sums.flatten(4, 5).flatten(2, 3),
            rows.keys(self.rows),
            columns.before + columns.kernel_size // 2,
            target,
        )
        target += x

    def unflatten(self, x: Tensor) -> Tensor:
        """(tiles, m, n) -> (batch, num_heads, tile rows, tile columns, m, n)."""
        return x.unflatten(
            0, (length(self.samples), -1, length(self.rows), self.tiles.columns.count)
        )

    def _crop(
        self, x: Tensor, rows: tuple[int, int], columns: tuple[int, int], outside: float = 0.0
    ) -> Tensor:
        """Cut some rows and columns, each from a first to one behind the last, out of a map.

        They may reach beyond the map, where there is the value ``outside``.
        """
        height, width = x.shape[2:4]
        x = x[self.samples, :, max(0, rows[0]) : rows[1]].to(compute_dtype(x))
        column_padding = -columns[0], columns[1] - width
        row_padding = max(0, -rows[0]), max(0, rows[1] - height)
        # With the heads last, there is more to copy at a time.
        x = F.pad(x.movedim(1, 3), (0, 0, 0, 0, *column_padding, *row_padding), value=outside)
        return x.movedim(3, 1)

    def _inside(
        self, x: Tensor, rows: tuple[int, int], columns_before: int, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Crop ``x`` and a map, ``target``, to what they have in common.

        Args:
            x: Tensor[samples, num_heads, height, width, n].
            rows: The first row of ``x`` on the map, which may be negative, and one behind its last.
            columns_before: How many columns of ``x`` lie before the map.
            target: Tensor[batch, num_heads, height, width, n], the map.

        Returns:
            The two, of equal shapes; views.
        """
        width = target.shape[3]
        target = target[self.samples, :, max(0, rows[0]) : rows[1]]
        above = max(0, -rows[0])
        x = x[:, :, above : above + target.shape[2], columns_before : columns_before + width]
        return x, target
