"""Deformable attention in tiles of queries: nothing of size queries x keys is kept.

Seen from one key, a tile of queries covers a small window of the bias table, and the weight of an
entry of the window is a product of two hat functions, of its row and of its column. So the bias of
the tile is

    bias = row_hats @ window @ column_hats, with two non-zeros for each query in a matrix of hats,

and the product with the row hats is shared by a band of tiles side by side. The backward pass
recomputes each tile. ``docs/attention.md`` has a picture.

Positions in the table are measured in entries. The operators are opaque to ``torch.compile``, which
would unroll their loops.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd import compute_delta, empty_gradients, empty_outputs, make_operator
from ..reference import compute_dtype, without_autocast
from ..tiling import (
    LOG2_E,
    MAX_EXPONENT,
    even_slices,
    length,
    logits_per_tile,
    product_in,
    softmax_numerators,
)
from .sampling import axis_points

# Least queries of a tile: rather than take fewer, groups are taken one after the other.
MIN_TILE_QUERIES = 1024
# A tile is as wide as so many columns of the table, since each column costs a multiplication for
# each logit ...
TILE_ENTRIES = 4
# ... but within these limits, since products with narrow matrices are slow.
MIN_TILE_WIDTH, MAX_TILE_WIDTH = 16, 64
# Tiles are multiples of so many columns and rows where they can be: whole vectors of a CPU are
# faster than others.
WIDTH_UNIT, ROWS_UNIT = 8, 2
# Limit of what a band holds beside the logits of its tiles, as a multiple of a tile's logits.
BAND_TILES = 4
# Margin in entries, for rounding that moves a query across an entry.
SLACK = 1e-3


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute :func:`mmdat.ops.deformable_attention`, which describes the tensors.

    Returns:
        The output, and Tensor[batch, num_heads, height, width], the base-2 log-sum-exp of each
        query's logits, for the backward pass.
    """
    out, lse = empty_outputs(query, value)
    inputs = query, key, value, sampling_locations, relative_position_bias_table
    with without_autocast(query):
        for part in _parts(*inputs):
            part_query, part_out, part_lse = (part.take(x) for x in (query, out, lse[..., None]))
            buffer = part.empty_logits()
            bounded = part.is_bounded(part_query)
            for band in part.bands():
                for tile in band.tiles():
                    logits = tile.logits(tile.take(part_query), buffer)
                    numerators, sums, tile_lse = softmax_numerators(logits, bounded)
                    tile.put(torch.bmm(numerators.mT, part.value).div_(sums.mT), part_out)
                    tile.put(tile_lse.mT, part_lse)
    return out, lse


def _gradients(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of query, key, value, sampling locations and bias table."""
    inputs = query, key, value, sampling_locations, relative_position_bias_table
    gradients = empty_gradients(*inputs)
    grad_query, grad_key, grad_value, grad_locations, grad_table = gradients
    table_sums = torch.zeros_like(relative_position_bias_table, dtype=lse.dtype)
    delta = compute_delta(grad_out, out, lse.dtype)
    scale = query.shape[-1] ** -0.5
    with without_autocast(query):
        for part in _parts(*inputs, with_slopes=True):
            part_query, part_grad_out, part_delta, part_lse, part_grad_query = (
                part.take(x) for x in (query, grad_out, delta, lse[..., None], grad_query)
            )
            unscaled_key = part.key / LOG2_E
            buffer, grad_buffer = part.empty_logits(), part.empty_logits()
            key_sums, value_sums, coordinate_sums, part_table_sums = (
                torch.zeros_like(x) for x in (part.key, part.value, part.locations, part.table)
            )
            y_sums, x_sums = coordinate_sums
            for band in part.bands():
                grad_by_row = torch.zeros_like(band.by_row)
                for tile in band.tiles():
                    tile_query, tile_grad_out = tile.take(part_query), tile.take(part_grad_out)
                    logits = tile.logits(tile_query, buffer)
                    weights = logits.sub_(tile.take(part_lse).mT).exp2_()
                    value_sums.baddbmm_(weights, tile_grad_out)
                    grad_weights = product_in(grad_buffer, part.value, tile_grad_out.mT)
                    grad_logits = grad_weights.sub_(tile.take(part_delta).mT).mul_(weights)
                    key_sums.baddbmm_(grad_logits, tile_query)
                    tile.put(torch.bmm(grad_logits.mT, unscaled_key), part_grad_query)
                    tile.add_gradients(grad_logits, grad_by_row, x_sums)
                band.add_gradients(grad_by_row, y_sums, part_table_sums)
            part.put(scale * key_sums, part.take(grad_key))
            part.put(value_sums, part.take(grad_value))
            part.put_locations(coordinate_sums, grad_locations)
            part.add_table(part_table_sums, table_sums)
    grad_table.copy_(table_sums)
    return gradients


tiled_deformable_attention = make_operator(
    'tiled_deformable_attention',
    _attend,
    _gradients,
    lambda query, key, value, locations, table: empty_outputs(query, value),
    empty_gradients,
)


def _hats(distances: Tensor) -> Tensor:
    """Weight of a table entry for a query, by the distance from the query to the entry."""
    return distances.abs().neg_().add_(1).clamp_(min=0)


def _slopes(distances: Tensor) -> Tensor:
    """Derivative of :func:`_hats` by the query's position: 1 before the entry, -1 behind it."""
    cell = distances.ceil()
    return (cell == 1).to(cell.dtype) - (cell == 0).to(cell.dtype)


@dataclass(frozen=True)
class _Axis:
    """One axis of the map and of the table: where queries look in the table, from each key.

    Attributes:
        points: Tensor[size], coordinates of the queries on the map, in [-1, 1].
        locations: Tensor[groups, num_keys], coordinates of the keys on the map.
        step: Distance in the table from a query to the next, in entries.
        table_size: Entries of the table.
    """

    points: Tensor
    locations: Tensor
    step: float
    table_size: int

    @classmethod
    def of(cls, size: int, table_size: int, locations: Tensor) -> '_Axis':
        """Describe an axis of ``size`` queries, with keys at Tensor[groups, num_keys]."""
        points = axis_points(size, device=locations.device, dtype=locations.dtype)
        step = (table_size - 1) / 2 / max(1, size - 1)
        return cls(points, locations, step, table_size)

    def coordinates(self, queries: slice) -> Tensor:
        """Tensor[groups, num_keys, queries], where the queries look in the table, in entries."""
        displacement = self.points[queries] - self.locations[..., None]
        return (displacement / 2 + 1) / 2 * (self.table_size - 1)

    def entries(self, start: int, count: int) -> Tensor:
        """Tensor[groups, num_keys, count], entries from the one at or before query ``start`` on."""
        first = self.coordinates(slice(start, start + 1)).floor()
        return first + torch.arange(count, device=first.device, dtype=first.dtype)

    def distances(self, entries: Tensor, queries: slice) -> Tensor:
        """Tensor[groups * num_keys, entries, queries], entry minus where the query looks."""
        return (entries[..., None] - self.coordinates(queries)[..., None, :]).flatten(0, 1)

    def padded_indices(self, entries: Tensor) -> Tensor:
        """Indices of entries in a table with a zero on each side, for all that lies outside."""
        # Locations that are NaN give NaN weights, so that any index will do.
        return (entries.nan_to_num(nan=-1).clamp(-1, self.table_size) + 1).long()

    def num_entries(self, queries: slice) -> int:
        """Entries from the one at or before the first query to the one behind the last."""
        return int((length(queries) - 1) * self.step + SLACK) + 3


@dataclass(frozen=True)
class _Strip:
    """The columns of a tile, with the hat functions of the table columns that they reach.

    Attributes:
        queries: Columns of the map.
        entries: Which columns of the windows of its :class:`_Columns` the queries reach.
        hats: Tensor[groups * num_keys, entries, queries].
        hats_and_slopes: Tensor[groups * num_keys, 2 * entries, queries], None without gradients.
    """

    queries: slice
    entries: slice
    hats: Tensor
    hats_and_slopes: Tensor | None

    @classmethod
    def of(cls, axis: _Axis, origin: int, queries: slice, with_slopes: bool) -> '_Strip':
        """Compute the hats for windows that start where query ``origin`` looks."""
        # As any key sees it, the strip starts at this entry or less than two entries behind it.
        start = max(0, int((queries.start - origin) * axis.step - SLACK))
        entries = slice(start, start + axis.num_entries(queries) + 1)
        distances = axis.distances(axis.entries(origin, entries.stop)[..., entries], queries)
        hats = _hats(distances)
        if not with_slopes:
            return cls(queries, entries, hats, None)
        both = torch.cat((hats, _slopes(distances)), 1)
        return cls(queries, entries, both[:, : hats.shape[1]], both)


@dataclass(frozen=True)
class _Columns:
    """Strips side by side, and the columns of the table that they reach together.

    Attributes:
        strips: From left to right.
        indices: Tensor[groups, num_keys, entries], columns of the padded table.
    """

    strips: list[_Strip]
    indices: Tensor

    @classmethod
    def of(cls, axis: _Axis, slices: list[slice], with_slopes: bool) -> '_Columns':
        """Make a strip of each slice of columns."""
        origin = slices[0].start
        strips = [_Strip.of(axis, origin, queries, with_slopes) for queries in slices]
        entries = axis.entries(origin, strips[-1].entries.stop)
        return cls(strips, axis.padded_indices(entries))


def _parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    locations: Tensor,
    table: Tensor,
    with_slopes: bool = False,
) -> Iterator['_Part']:
    """Yield all samples and groups, as many at a time as leave the tiles enough queries."""
    batch, groups, num_keys = locations.shape[:3]
    limit = logits_per_tile(key.device) // (query.shape[1] // groups * num_keys)
    step = max(1, limit // MIN_TILE_QUERIES)
    for samples in even_slices(batch, max(1, step // groups)):
        for some_groups in even_slices(groups, min(step, groups)):
            yield _Part(
                samples,
                some_groups,
                query,
                key,
                value,
                locations,
                table,
                max(1, limit // (length(samples) * length(some_groups))),
                with_slopes,
            )


class _Part:
    """Some groups of heads of some samples: their keys and bias table, cut into tiles of queries.

    Where a shape says ``groups``, it counts the groups of all samples of the part, and ``heads``
    the heads of a group.

    Attributes:
        key: Tensor[heads * groups, num_keys, head_dim], scaled so that logits are in base 2.
        value: Tensor[heads * groups, num_keys, value_dim].
        locations: Tensor[2, groups, num_keys], y and x.
        table: Tensor[heads, groups, table_height + 2, table_width + 2], scaled like the logits,
            with zeros around.
        rows: The vertical axis.
        columns: The horizontal axis.
        row_slices: Rows of the tiles.
        column_slices: Columns of the tiles of each band.
        with_slopes: Whether strips have slopes, for the backward pass.
    """

    def __init__(
        self,
        samples: slice,
        groups: slice,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        locations: Tensor,
        table: Tensor,
        tile_queries: int,
        with_slopes: bool,
    ) -> None:
        dtype = compute_dtype(key)
        scale = query.shape[-1] ** -0.5
        self.samples = samples
        self.groups = groups
        self.all_groups = locations.shape[1]
        self.key = self.join(LOG2_E * scale * self.take(key).to(dtype))
        self.value = self.join(self.take(value).to(dtype))
        self.locations = locations[samples, groups].flatten(0, 1).to(dtype).movedim(-1, 0)
        padded = F.pad(LOG2_E * table.to(dtype), (1, 1, 1, 1)).unflatten(0, (self.all_groups, -1))
        self.table = padded[groups].transpose(0, 1).repeat(1, length(samples), 1, 1)
        height, width = query.shape[2:4]
        table_height, table_width = table.shape[1:]
        self.rows = _Axis.of(height, table_height, self.locations[0])
        self.columns = _Axis.of(width, table_width, self.locations[1])
        self.with_slopes = with_slopes
        tile_width = self._tile_width(width)
        self.row_slices = even_slices(height, max(1, tile_queries // tile_width), ROWS_UNIT)
        slices = even_slices(width, tile_width, WIDTH_UNIT)
        # What a band holds of each key and tile: the larger of its hats, its window of the table
        # and the window interpolated along the rows.
        rows = max(self.row_slices, key=length)
        held = self.columns.num_entries(slices[0]) * max(
            tile_width, length(rows), self.rows.num_entries(rows)
        )
        band_tiles = max(1, BAND_TILES * tile_queries // held)
        self.column_slices = [slices[band] for band in even_slices(len(slices), band_tiles)]

    def _tile_width(self, width: int) -> int:
        """Columns of queries in a tile."""
        tile_width = MAX_TILE_WIDTH
        if self.columns.step > 0:
            tile_width = min(tile_width, int(TILE_ENTRIES / self.columns.step) + 1)
        return min(max(MIN_TILE_WIDTH, tile_width), width)

    def empty_logits(self) -> Tensor:
        """Allocate a buffer for the logits of the largest tile."""
        rows = max(map(length, self.row_slices))
        columns = max(length(part) for band in self.column_slices for part in band)
        return self.key.new_empty(self.key.shape[:2].numel() * rows * columns)

    def bands(self) -> Iterator['_Band']:
        """Yield all bands; those with the same columns, which share strips, follow each other."""
        for slices in self.column_slices:
            columns = _Columns.of(self.columns, slices, self.with_slopes)
            for queries in self.row_slices:
                yield _Band(self, queries, columns)

    def is_bounded(self, query: Tensor) -> bool:
        """Whether no logit exceeds :data:`MAX_EXPONENT`, for a query from :meth:`take`."""
        query_norm, key_norm = (
            torch.linalg.vector_norm(x, dim=-1, dtype=self.key.dtype).max()
            for x in (query, self.key)
        )
        return bool(query_norm * key_norm + self.table.abs().max() <= MAX_EXPONENT)

    def take(self, x: Tensor) -> Tensor:
        """(batch, num_heads, ...) -> (samples, groups of a sample, heads, ...), a view."""
        return x[self.samples].unflatten(1, (self.all_groups, -1))[:, self.groups]

    @staticmethod
    def join(x: Tensor) -> Tensor:
        """(samples, groups of a sample, heads, ...) -> (heads * groups, ...)."""
        return x.movedim(2, 0).flatten(0, 2).contiguous()

    @staticmethod
    def put(x: Tensor, target: Tensor) -> None:
        """Inverse of :meth:`join`: write ``x`` into ``target``."""
        target = target.movedim(2, 0)
        target.copy_(x.view(target.shape))

    def put_locations(self, grad_coordinates: Tensor, grad_locations: Tensor) -> None:
        """Write the part's gradient of the sampling locations.

        Args:
            grad_coordinates: Tensor[2, groups, num_keys], the gradients of where the queries look
                in the table, of logits in base 2, summed over the queries.
            grad_locations: Tensor[batch, groups of a sample, num_keys, 2], of which the part is
                written.
        """
        target = grad_locations[self.samples, self.groups]
        for axis, table_size in enumerate((self.rows.table_size, self.columns.table_size)):
            # A key that moves by 1 moves the coordinates by a quarter of the table back.
            factor = (table_size - 1) / -4 / LOG2_E
            target[..., axis] = factor * grad_coordinates[axis].view(target.shape[:-1])

    def add_table(self, grad: Tensor, target: Tensor) -> None:
        """Add the gradient of :attr:`table` to one of (num_heads, table_height, table_width)."""
        grad = grad[:, :, 1:-1, 1:-1].unflatten(1, (length(self.samples), -1)).sum(1)
        target.unflatten(0, (self.all_groups, -1))[self.groups] += grad.transpose(0, 1)


class _Band:
    """Tiles side by side, with the bias interpolated along their rows.

    Attributes:
        part: The part that the band belongs to.
        queries: Rows of the map.
        columns: Columns of the map, in strips.
        distances: Tensor[groups * num_keys, row entries, rows].
        indices: Tensor[groups, num_keys * entries], each key's window in its flattened table.
        windows: Tensor[heads, groups * num_keys, row entries, column entries].
        by_row: Tensor[heads, groups * num_keys, column entries, rows], the windows interpolated
            along the rows. The entries of a tile lie together.
    """

    def __init__(self, part: _Part, queries: slice, columns: _Columns) -> None:
        self.part = part
        self.queries = queries
        self.columns = columns
        entries = part.rows.entries(queries.start, part.rows.num_entries(queries))
        self.distances = part.rows.distances(entries, queries)
        row_indices = part.rows.padded_indices(entries)
        heads, _, _, padded_width = part.table.shape
        self.indices = (
            padded_width * row_indices[..., None] + columns.indices[:, :, None]
        ).flatten(1)
        windows = part.table.flatten(2).gather(2, self.indices.expand(heads, -1, -1))
        self.windows = windows.view(heads, -1, row_indices.shape[-1], columns.indices.shape[-1])
        self.by_row = self.windows.mT @ _hats(self.distances)

    def tiles(self) -> Iterator['_Tile']:
        """Yield the tiles from left to right."""
        return (_Tile(self, strip) for strip in self.columns.strips)

    def add_gradients(
        self, grad_by_row: Tensor, grad_coordinates: Tensor, grad_table: Tensor
    ) -> None:
        """Add the gradients that follow from the one of :attr:`by_row`.

        Args:
            grad_by_row: Gradient of :attr:`by_row`.
            grad_coordinates: Tensor[groups, num_keys], gradient of the rows where the queries look.
            grad_table: Gradient of the part's ``table``.
        """
        grad_hats = (self.windows @ grad_by_row).sum(0)
        grad_rows = (grad_hats * _slopes(self.distances)).sum((1, 2))
        grad_coordinates += grad_rows.view_as(grad_coordinates)
        grad_windows = _hats(self.distances) @ grad_by_row.mT
        grad_table = grad_table.flatten(2)
        grad_table.scatter_add_(
            2,
            self.indices.expand(len(grad_table), -1, -1),
            grad_windows.view(*grad_table.shape[:2], -1),
        )


@dataclass(frozen=True)
class _Tile:
    """The queries in the rows of a band and the columns of a strip."""

    band: _Band
    strip: _Strip

    def take(self, x: Tensor) -> Tensor:
        """(samples, groups, heads, height, width, n) -> (heads * groups, queries, n)."""
        x = x[:, :, :, self.band.queries, self.strip.queries]
        return self.band.part.join(x.to(compute_dtype(x))).flatten(1, 2)

    def put(self, x: Tensor, target: Tensor) -> None:
        """Inverse of :meth:`take`: write ``x`` into ``target``."""
        self.band.part.put(x, target[:, :, :, self.band.queries, self.strip.queries])

    def logits(self, query: Tensor, buffer: Tensor) -> Tensor:
        """Compute the tile's logits in the buffer.

        Args:
            query: Tensor[heads * groups, queries, head_dim], from :meth:`take`.
            buffer: From the part's ``empty_logits``.

        Returns:
            Tensor[heads * groups, num_keys, queries], in base 2.
        """
        logits = product_in(buffer, self.band.part.key, query.mT)
        by_row = self.band.by_row[:, :, self.strip.entries]
        for head_logits, head_by_row in zip(self._by_heads(logits), by_row, strict=True):
            head_logits.baddbmm_(head_by_row.mT, self.strip.hats)
        return logits

    def add_gradients(self, grad: Tensor, grad_by_row: Tensor, grad_coordinates: Tensor) -> None:
        """Add the gradients of the bias that follow from those of the logits.

        Args:
            grad: Tensor[heads * groups, num_keys, queries], gradient of the logits.
            grad_by_row: Gradient of the band's ``by_row``.
            grad_coordinates: Tensor[groups, num_keys], gradient of the columns where the queries
                look.
        """
        strip = self.strip
        assert strip.hats_and_slopes is not None
        for head_grad, head_by_row, head_grad_by_row in zip(
            self._by_heads(grad), self.band.by_row, grad_by_row, strict=True
        ):
            from_hats, from_slopes = torch.bmm(strip.hats_and_slopes, head_grad.mT).chunk(2, dim=1)
            head_grad_by_row[:, strip.entries] += from_hats
            grad_columns = (head_by_row[:, strip.entries] * from_slopes).sum((1, 2))
            grad_coordinates += grad_columns.view_as(grad_coordinates)

    def _by_heads(self, x: Tensor) -> Tensor:
        """(heads * groups, num_keys, queries) -> (heads, groups * num_keys, rows, columns)."""
        heads, pairs, _, rows = self.band.by_row.shape
        return x.view(heads, pairs, rows, -1)
