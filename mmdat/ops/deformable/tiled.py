"""Deformable attention in tiles of queries: nothing of size queries x keys is kept.

The bias of a key is separable over a rectangle of queries, which reaches a small window of the
table from there: interpolation along one axis and then the other is two products with matrices of
hat functions, two non-zeros a row. The first is shared by tiles that lie side by side. The backward
pass makes each tile anew.

The operators are opaque to ``torch.compile``, which would unroll their loops.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tiling import (
    LOG2_E,
    MAX_EXPONENT,
    empty_gradients,
    empty_outputs,
    even_slices,
    logits_per_tile,
    make_differentiable,
    precision,
    product_in,
    softmax_numerators,
)

# Groups are taken one after the other rather than leave a tile fewer queries.
MIN_TILE_QUERIES = 1024
# A tile is as wide as so many columns of the table, for each costs a multiplication for each logit,
# within limits, as narrow products are slow. Whole vectors of a CPU are faster than others.
TILE_ENTRIES = 4
TILE_WIDTHS = 16, 64
WIDTH_UNIT, ROWS_UNIT = 8, 2
# What a band of tiles holds beside their logits, in tiles.
BAND_TILES = 4
# In entries of the table. Outweighs rounding, which may put a query on either side of an entry.
SLACK = 1e-3


@torch.library.custom_op('mmdat::tiled_deformable_attention', mutates_args=())
def tiled_deformable_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """:func:`mmdat.ops.deformable_attention` with a bias table, and what its backward pass needs.

    Returns:
        The output, and Tensor[batch, num_heads, height, width], the binary logarithm of the sum of
        each query's exponentials.
    """
    out, log_sums = empty_outputs(query, value)
    with torch.autocast(query.device.type, enabled=False):
        for part in _parts(
            query, key, value, sampling_locations, relative_position_bias_table, scale
        ):
            part_query, part_out, part_log_sums = (
                part.take(x) for x in (query, out, log_sums[..., None])
            )
            buffer = part.empty_logits()
            bounded = part.is_bounded(part_query)
            for band in part.bands():
                for tile in band.tiles():
                    numerators, sums, tile_log_sums = softmax_numerators(
                        tile.logits(tile.take(part_query), buffer), bounded
                    )
                    tile.put(torch.bmm(numerators.mT, part.value).div_(sums.mT), part_out)
                    tile.put(tile_log_sums.mT, part_log_sums)
    return out, log_sums


@tiled_deformable_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return empty_outputs(query, value)


@torch.library.custom_op('mmdat::tiled_deformable_attention_backward', mutates_args=())
def _gradients(
    grad_out: Tensor,
    out: Tensor,
    log_sums: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the query, key, value, sampling locations and table."""
    inputs = query, key, value, sampling_locations, relative_position_bias_table
    gradients = empty_gradients(*inputs)
    table_sums = torch.zeros_like(relative_position_bias_table, dtype=log_sums.dtype)
    # The gradient of a logit is its weight times (the weight's gradient - this).
    means = (grad_out.to(log_sums.dtype) * out).sum(-1, keepdim=True)
    with torch.autocast(query.device.type, enabled=False):
        for part in _parts(*inputs, scale, with_slopes=True):
            part_query, part_grad, part_means, part_log_sums, grad_query, grad_key, grad_value = (
                part.take(x) for x in (query, grad_out, means, log_sums[..., None], *gradients[:3])
            )
            unscaled_key = part.key / LOG2_E
            buffer, grad_buffer = part.empty_logits(), part.empty_logits()
            key_sums, value_sums, place_sums, part_table_sums = (
                torch.zeros_like(x) for x in (part.key, part.value, part.locations, part.table)
            )
            for band in part.bands():
                grad_by_row = torch.zeros_like(band.by_row)
                for tile in band.tiles():
                    tile_query, tile_grad = tile.take(part_query), tile.take(part_grad)
                    weights = tile.logits(tile_query, buffer)
                    weights.sub_(tile.take(part_log_sums).mT).exp2_()
                    value_sums.baddbmm_(weights, tile_grad)
                    grad_logits = product_in(grad_buffer, part.value, tile_grad.mT)
                    grad_logits.sub_(tile.take(part_means).mT).mul_(weights)
                    key_sums.baddbmm_(grad_logits, tile_query)
                    tile.put(torch.bmm(grad_logits.mT, unscaled_key), grad_query)
                    tile.add_gradients(grad_logits, grad_by_row, place_sums[1])
                band.add_gradients(grad_by_row, place_sums[0], part_table_sums)
            part.put(scale * key_sums, grad_key)
            part.put(value_sums, grad_value)
            part.put_locations(place_sums, gradients[3])
            part.add_table(part_table_sums, table_sums)
    gradients[4].copy_(table_sums)
    return gradients


@_gradients.register_fake
def _(
    grad_out: Tensor,
    out: Tensor,
    log_sums: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return empty_gradients(query, key, value, sampling_locations, relative_position_bias_table)


make_differentiable(tiled_deformable_attention, _gradients)


def _hats(distances: Tensor) -> Tensor:
    """How much of an entry of the table a query takes that lies ``distances`` before it."""
    return distances.abs().neg_().add_(1).clamp_(min=0)


def _slopes(distances: Tensor) -> Tensor:
    """How that changes as the query moves on."""
    place = distances.ceil()
    return (place == 1).to(place.dtype) - (place == 0).to(place.dtype)


@dataclass(frozen=True)
class _Axis:
    """The queries along an axis as each key sees them in the table.

    Attributes:
        points: Tensor[size], their coordinates.
        locations: Tensor[groups, num_keys], the keys' coordinates.
        step: From a query to the next, in entries.
        table_size: Entries.
    """

    points: Tensor
    locations: Tensor
    step: float
    table_size: int

    @classmethod
    def of(cls, size: int, table_size: int, locations: Tensor) -> '_Axis':
        """With ``size`` queries and keys at Tensor[groups, num_keys]."""
        points = torch.arange(size, device=locations.device, dtype=locations.dtype)
        points = points / (size - 1) * 2 - 1 if size > 1 else 0 * points
        return cls(points, locations, (table_size - 1) / 2 / max(1, size - 1), table_size)

    def places(self, queries: slice) -> Tensor:
        """Tensor[groups, num_keys, queries], where they look, in entries."""
        displacement = self.points[queries] - self.locations[..., None]
        return (displacement / 2 + 1) / 2 * (self.table_size - 1)

    def entries(self, start: int, count: int) -> Tensor:
        """Tensor[groups, num_keys, count], from the one at or before query ``start`` on."""
        return self.places(slice(start, start + 1)).floor() + torch.arange(
            count, device=self.points.device, dtype=self.points.dtype
        )

    def distances(self, entries: Tensor, queries: slice) -> Tensor:
        """Tensor[groups * num_keys, entries, queries], what to subtract from an entry."""
        return (entries[..., None] - self.places(queries)[..., None, :]).flatten(0, 1)

    def inside(self, entries: Tensor) -> Tensor:
        """Their indices in a table with zeros around."""
        # Of a place that is no number the weights are none either.
        return (entries.nan_to_num(nan=-1).clamp(-1, self.table_size) + 1).long()

    def reach(self, queries: slice) -> int:
        """Entries from the one at or before the first query to the one behind the last."""
        return int((queries.stop - queries.start - 1) * self.step + SLACK) + 3


@dataclass(frozen=True)
class _Strip:
    """Columns of queries, those of a tile.

    Attributes:
        queries: Their positions.
        entries: Columns of the windows of the table that they reach from any key.
        hats: Tensor[groups * num_keys, entries, queries].
        hats_and_slopes: Tensor[groups * num_keys, 2 * entries, queries], None without gradients.
    """

    queries: slice
    entries: slice
    hats: Tensor
    hats_and_slopes: Tensor | None

    @classmethod
    def of(cls, axis: _Axis, origin: int, queries: slice, with_slopes: bool) -> '_Strip':
        """With windows that start where query ``origin`` looks."""
        # Seen from any key, the strip begins less than two entries behind this one.
        start = max(0, int((queries.start - origin) * axis.step - SLACK))
        entries = slice(start, start + axis.reach(queries) + 1)
        distances = axis.distances(axis.entries(origin, entries.stop)[..., entries], queries)
        hats = _hats(distances)
        if not with_slopes:
            return cls(queries, entries, hats, None)
        both = torch.cat((hats, _slopes(distances)), 1)
        return cls(queries, entries, both[:, : hats.shape[1]], both)


@dataclass(frozen=True)
class _Columns:
    """Strips side by side.

    Attributes:
        strips: From left to right.
        indices: Tensor[groups, num_keys, entries], of their windows' columns in the table.
    """

    strips: list[_Strip]
    indices: Tensor

    @classmethod
    def of(cls, axis: _Axis, slices: list[slice], with_slopes: bool) -> '_Columns':
        """With a strip a slice."""
        origin = slices[0].start
        strips = [_Strip.of(axis, origin, queries, with_slopes) for queries in slices]
        return cls(strips, axis.inside(axis.entries(origin, strips[-1].entries.stop)))


def _parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    locations: Tensor,
    table: Tensor,
    scale: float,
    with_slopes: bool = False,
) -> Iterator['_Part']:
    """As many samples at a time, or groups of one, as leave the tiles their size."""
    batch, groups, num_keys = locations.shape[:3]
    limit = logits_per_tile(key.device) // (query.shape[1] // groups * num_keys)
    step = max(1, limit // MIN_TILE_QUERIES)
    for samples in even_slices(batch, max(1, step // groups)):
        for some_groups in even_slices(groups, min(step, groups)):
            count = (samples.stop - samples.start) * (some_groups.stop - some_groups.start)
            yield _Part(
                samples,
                some_groups,
                query,
                key,
                value,
                locations,
                table,
                scale,
                max(1, limit // count),
                with_slopes,
            )


class _Part:
    """Some groups of heads of some samples, with their keys.

    In its tensors a group of another sample is another group.

    Attributes:
        key: Tensor[heads * groups, num_keys, head_dim], with the logits' scale.
        value: Tensor[heads * groups, num_keys, value_dim].
        locations: Tensor[2, groups, num_keys], y and x.
        table: Tensor[heads, groups, table_height + 2, table_width + 2], scaled like the logits,
            with zeros around.
        rows: The vertical axis.
        columns: The horizontal axis.
        row_slices: Of the tiles.
        column_slices: Of the tiles, by band.
        with_slopes: Whether strips have some.
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
        scale: float,
        tile_queries: int,
        with_slopes: bool,
    ) -> None:
        dtype = precision(key)
        self.samples = samples
        self.groups = groups
        self.all_groups = locations.shape[1]
        self.key = self.join(LOG2_E * scale * self.take(key).to(dtype))
        self.value = self.join(self.take(value).to(dtype))
        self.locations = locations[samples, groups].flatten(0, 1).to(dtype).movedim(-1, 0)
        table = F.pad(LOG2_E * table.to(dtype), (1, 1, 1, 1)).unflatten(0, (self.all_groups, -1))
        table = table[groups].transpose(0, 1)
        self.table = table.repeat(1, samples.stop - samples.start, 1, 1)
        height, width = query.shape[2:4]
        self.rows = _Axis.of(height, self.table.shape[2] - 2, self.locations[0])
        self.columns = _Axis.of(width, self.table.shape[3] - 2, self.locations[1])
        self.with_slopes = with_slopes
        narrowest, widest = TILE_WIDTHS
        step = self.columns.step
        tile_width = widest if step == 0 else int(TILE_ENTRIES / step) + 1
        tile_width = min(max(narrowest, min(widest, tile_width)), width)
        self.row_slices = even_slices(height, max(1, tile_queries // tile_width), ROWS_UNIT)
        slices = even_slices(width, tile_width, WIDTH_UNIT)
        # A key's hats, window and interpolated window in a tile.
        rows = max(self.row_slices, key=lambda rows: rows.stop - rows.start)
        held = self.columns.reach(slices[0]) * max(
            tile_width, rows.stop - rows.start, self.rows.reach(rows)
        )
        self.column_slices = [
            slices[chosen]
            for chosen in even_slices(len(slices), max(1, BAND_TILES * tile_queries // held))
        ]

    def empty_logits(self) -> Tensor:
        """Room for those of a tile."""
        rows, columns = (
            max(chosen.stop - chosen.start for chosen in slices)
            for slices in (self.row_slices, itertools.chain(*self.column_slices))
        )
        return self.key.new_empty(self.key.shape[:2].numel() * rows * columns)

    def bands(self) -> Iterator['_Band']:
        """All of them, those with the same columns after each other."""
        for slices in self.column_slices:
            columns = _Columns.of(self.columns, slices, self.with_slopes)
            for queries in self.row_slices:
                yield _Band(self, queries, columns)

    def is_bounded(self, query: Tensor) -> bool:
        """Whether the logits of what :meth:`take` gives are too small to overflow."""
        norms = [
            torch.linalg.vector_norm(x, dim=-1, dtype=self.key.dtype).max()
            for x in (query, self.key)
        ]
        return bool(norms[0] * norms[1] + self.table.abs().max() <= MAX_EXPONENT)

    def take(self, x: Tensor) -> Tensor:
        """(batch, num_heads, ...) -> (samples, groups of a sample, heads, ...), a view."""
        return x[self.samples].unflatten(1, (self.all_groups, -1))[:, self.groups]

    @staticmethod
    def join(x: Tensor) -> Tensor:
        """(samples, groups of a sample, heads, ...) -> (heads * groups, ...)."""
        return x.movedim(2, 0).flatten(0, 2).contiguous()

    @staticmethod
    def put(x: Tensor, target: Tensor) -> None:
        """Write what :meth:`join` would read."""
        target = target.movedim(2, 0)
        target.copy_(x.view(target.shape))

    def put_locations(self, grad_places: Tensor, target: Tensor) -> None:
        """Write the gradient of (batch, groups, num_keys, 2), from that of places in the table."""
        target = target[self.samples, self.groups]
        for axis, size in enumerate(self.table.shape[2:]):
            # A key that moves by 1 moves the queries' places by a quarter of the table back.
            factor = (size - 3) / -4 / LOG2_E
            target[..., axis] = factor * grad_places[axis].view(target.shape[:-1])

    def add_table(self, grad: Tensor, target: Tensor) -> None:
        """Add the gradient of :attr:`table` to that of (num_heads, height, width)."""
        samples = self.samples.stop - self.samples.start
        grad = grad[:, :, 1:-1, 1:-1].unflatten(1, (samples, -1)).sum(1)
        target.unflatten(0, (self.all_groups, -1))[self.groups] += grad.transpose(0, 1)


class _Band:
    """Tiles side by side.

    Attributes:
        part: What it is a band of.
        queries: Positions of the rows.
        columns: Its own.
        distances: Tensor[groups * num_keys, entries, rows].
        indices: Tensor[groups, num_keys * window], of each key's window in its table.
        windows: Tensor[heads, groups * num_keys, row entries, column entries].
        by_row: Tensor[heads, groups * num_keys, column entries, rows], interpolated. The entries of
            a tile lie together.
    """

    def __init__(self, part: _Part, queries: slice, columns: _Columns) -> None:
        self.part = part
        self.queries = queries
        self.columns = columns
        entries = part.rows.entries(queries.start, part.rows.reach(queries))
        self.distances = part.rows.distances(entries, queries)
        rows = part.rows.inside(entries)
        shape = rows.shape[-1], columns.indices.shape[-1]
        self.indices = (
            part.table.shape[3] * rows[..., None] + columns.indices[:, :, None]
        ).flatten(1)
        heads = part.table.shape[0]
        self.windows = (
            part.table.flatten(2)
            .gather(2, self.indices.expand(heads, -1, -1))
            .view(heads, -1, *shape)
        )
        self.by_row = self.windows.mT @ _hats(self.distances)

    def tiles(self) -> Iterator['_Tile']:
        """From left to right."""
        return (_Tile(self, strip) for strip in self.columns.strips)

    def add_gradients(self, grad_by_row: Tensor, grad_places: Tensor, grad_table: Tensor) -> None:
        """Add what follows from the gradient of :attr:`by_row`.

        Args:
            grad_by_row: Like :attr:`by_row`.
            grad_places: Tensor[groups, num_keys], of the queries' rows in the table.
            grad_table: Like the part's ``table``.
        """
        grad_weights = (self.windows @ grad_by_row).sum(0)
        grad_places += (grad_weights * _slopes(self.distances)).sum((1, 2)).view_as(grad_places)
        grad_windows = _hats(self.distances) @ grad_by_row.mT
        grad_table = grad_table.flatten(2)
        grad_table.scatter_add_(
            2,
            self.indices.expand(len(grad_table), -1, -1),
            grad_windows.view(*grad_table.shape[:2], -1),
        )


@dataclass(frozen=True)
class _Tile:
    """Queries in some rows and columns."""

    band: _Band
    strip: _Strip

    def take(self, x: Tensor) -> Tensor:
        """(samples, groups, heads, height, width, n) -> (heads * groups, queries, n)."""
        x = x[:, :, :, self.band.queries, self.strip.queries]
        return self.band.part.join(x.to(precision(x))).flatten(1, 2)

    def put(self, x: Tensor, target: Tensor) -> None:
        """Write what :meth:`take` would read."""
        self.band.part.put(x, target[:, :, :, self.band.queries, self.strip.queries])

    def logits(self, query: Tensor, buffer: Tensor) -> Tensor:
        """Binary logarithms, (heads * groups, num_keys, queries), of what :meth:`take` gives, in
        the buffer.
        """
        logits = product_in(buffer, self.band.part.key, query.mT)
        by_row = self.band.by_row[:, :, self.strip.entries]
        for head, bias in zip(self._by_heads(logits), by_row, strict=True):
            head.baddbmm_(bias.mT, self.strip.hats)
        return logits

    def add_gradients(self, grad: Tensor, grad_by_row: Tensor, grad_places: Tensor) -> None:
        """Add what follows from the gradient of :meth:`logits`, but for that of query and key.

        Args:
            grad: Tensor[heads * groups, num_keys, queries].
            grad_by_row: Like the band's ``by_row``.
            grad_places: Tensor[groups, num_keys], of the queries' columns in the table.
        """
        strip = self.strip
        assert strip.hats_and_slopes is not None
        for head, by_row, grad_head in zip(
            self._by_heads(grad), self.band.by_row, grad_by_row, strict=True
        ):
            grad_hats, grad_slopes = torch.bmm(strip.hats_and_slopes, head.mT).chunk(2, dim=1)
            grad_head[:, strip.entries] += grad_hats
            grad_columns = (by_row[:, strip.entries] * grad_slopes).sum((1, 2))
            grad_places += grad_columns.view_as(grad_places)

    def _by_heads(self, x: Tensor) -> Tensor:
        """(heads * groups, num_keys, queries) -> (heads, groups * num_keys, rows, columns)."""
        heads, pairs, _, rows = self.band.by_row.shape
        return x.view(heads, pairs, rows, -1)
