"""Deformable attention in Triton kernels: nothing of size queries x keys leaves the GPU's chip.

A program attends from a small rectangle of the map, block by block of keys, and interpolates the
bias as it goes. The backward pass recomputes the logits, once for the gradient of the queries and
once for all others. It adds up the gradient of the table with atomic operations, whose order
varies, and so as integers: all results are deterministic.

Triton is imported when an operator first runs.
"""

import functools
import importlib
import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd import empty_gradients, empty_map, make_operator
from ..gpu import allows_tf32, head_block, why_no_kernels
from ..tiling import LOG2_E


class Limits(NamedTuple):
    """What fits into the registers of a GPU, for one dtype.

    Attributes:
        head_dim: The widest heads.
        key_block: Keys that a program takes at a time, where it computes outputs or the gradient
            of queries.
        key_gradients_block: Keys whose gradients a program computes.
    """

    head_dim: int
    key_block: int
    key_gradients_block: int


LIMITS = {
    torch.float32: Limits(64, 16, 32),
    torch.bfloat16: Limits(128, 32, 64),
    torch.float16: Limits(128, 32, 64),
}
# With three products of TF32 numbers for one of float32, which takes no registers for operands.
TF32_LIMITS = Limits(64, 32, 64)
# Rows and columns of queries that a program takes at a time.
TILE_HEIGHT, TILE_WIDTH = 4, 16
# Zeros on each side of the table: two, so that a query beyond reach interpolates between zeros.
MARGIN = 2
# So many programs for the gradients of keys keep a GPU busy ...
KEY_PROGRAMS = 1024
# ... but each writes sums of its own, so that it should take at least so many tiles of queries.
MIN_TILES_PER_PROGRAM = 8
# Which of the options the kernel ``deltas`` has.
DELTA_OPTIONS = 'value_dim', 'value_block', 'tile_height', 'tile_width'


def unsupported(query: Tensor, key: Tensor, value: Tensor) -> str | None:
    """Say why :func:`fused_deformable_attention` cannot take these tensors; None if it can."""
    widest_head = {dtype: limits.head_dim for dtype, limits in LIMITS.items()}
    return why_no_kernels(query, key, value, _count_tiles(query), widest_head)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute :func:`mmdat.ops.deformable_attention`, which describes the tensors.

    Returns:
        The output, and Tensor[batch, num_heads, tiles, TILE_HEIGHT * TILE_WIDTH], the base-2
        log-sum-exp of each query's logits, for the backward pass.
    """
    out, lse = _empty_outputs(query, value)
    key, value, sampling_locations = _contiguous(key, value, sampling_locations)
    rows, columns = _axes(query, relative_position_bias_table)
    batch, num_heads = query.shape[:2]
    scale = query.shape[-1] ** -0.5
    grid = _count_tiles(query), batch * num_heads
    with torch.cuda.device_of(query):
        _kernels().attend[grid](
            query,
            key,
            value,
            sampling_locations,
            _pack_pairs(relative_position_bias_table),
            out,
            lse,
            query.stride(),
            out.stride(),
            *_sizes(rows, columns),
            key.shape[2],
            num_heads,
            num_heads // sampling_locations.shape[1],
            LOG2_E * scale,
            **_options(query, value, _limits(query.dtype).key_block),
        )
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
    key, value, sampling_locations = _contiguous(key, value, sampling_locations)
    rows, columns = _axes(query, relative_position_bias_table)
    batch, num_heads = query.shape[:2]
    groups, num_keys = sampling_locations.shape[1:3]
    scale = query.shape[-1] ** -0.5
    delta, maxima = torch.empty_like(lse), lse.new_zeros(2)
    table = _pack_pairs(relative_position_bias_table)
    # The first and the last arguments of either kernel.
    tensors = query, key, value, sampling_locations, table, grad_out, lse, delta
    sizes = (
        query.stride(),
        grad_out.stride(),
        *_sizes(rows, columns),
        num_keys,
        num_heads,
        num_heads // groups,
        LOG2_E * scale,
    )

    limits = _limits(query.dtype)
    num_tiles = _count_tiles(query)
    key_blocks = math.ceil(num_keys / limits.key_gradients_block)
    tiles_per_program = max(
        MIN_TILES_PER_PROGRAM, math.ceil(num_tiles * key_blocks * batch * num_heads / KEY_PROGRAMS)
    )
    programs = math.ceil(num_tiles / tiles_per_program)
    key_sums, value_sums, coordinate_sums = (
        lse.new_empty(programs, *key.shape[:3], size)
        for size in (key.shape[-1], value.shape[-1], 2)
    )
    table_sums = torch.zeros_like(table)
    # An empty batch has no largest value.
    value_max = value.abs().amax() if value.numel() else table_sums
    table_scale = lse.new_ones(())
    options = _options(query, value, limits.key_block)
    with torch.cuda.device_of(query):
        _kernels().deltas[num_tiles, batch * num_heads](
            out,
            grad_out,
            delta,
            maxima.view(torch.int32),
            out.stride(),
            grad_out.stride(),
            rows.size,
            columns.size,
            num_heads,
            **{name: options[name] for name in DELTA_OPTIONS},
        )
        _kernels().query_gradients[num_tiles, batch * num_heads](
            *tensors, grad_query, grad_query.stride(), scale, *sizes, **options
        )
        _kernels().key_gradients[key_blocks, batch * num_heads, programs](
            *tensors,
            key_sums,
            value_sums,
            coordinate_sums,
            table_sums,
            maxima,
            value_max,
            table_scale,
            rows.num_entries(TILE_HEIGHT),
            columns.num_entries(TILE_WIDTH),
            num_tiles,
            tiles_per_program,
            *sizes,
            **_options(query, value, limits.key_gradients_block),
        )
    grad_key.copy_(scale * key_sums.sum(0))
    grad_value.copy_(value_sums.sum(0))
    grad_coordinates = coordinate_sums.sum(0).unflatten(1, (groups, -1)).sum(2)
    for axis, factor in enumerate((rows.factor, columns.factor)):
        # The table that the kernel reads is in base 2, like the logits.
        grad_locations[..., axis] = -factor / LOG2_E * grad_coordinates[..., axis]
    grad_table.copy_(table_sums[:, MARGIN:-MARGIN, MARGIN:-MARGIN] / table_scale)
    return gradients


fused_deformable_attention = make_operator(
    'fused_deformable_attention',
    _attend,
    _gradients,
    lambda query, key, value, locations, table: _empty_outputs(query, value),
    empty_gradients,
)


@functools.cache
def _kernels() -> ModuleType:
    """Import the kernels, and Triton with them."""
    return importlib.import_module('.triton_kernels', __package__)


class Axis(NamedTuple):
    """One axis of the map and of the table, which has ``MARGIN`` zeros on each side.

    From a key at location y, the query at position i looks at the entry ``origin - factor * y +
    step * i`` of the padded table, or at its border if that lies outside.

    Attributes:
        size: Positions of the map.
        padded_size: Entries of the padded table.
        step: Entries from a query to the next.
        origin: Entry where query 0 looks from a key at location 0.
        factor: Entries by which the looked-at position moves back when the key moves by 1.
        last_coordinate: Coordinate given to queries that look beyond the table.
    """

    size: int
    padded_size: int
    step: float
    origin: float
    factor: float
    last_coordinate: float

    @classmethod
    def of(cls, size: int, table_size: int) -> 'Axis':
        """Describe an axis of a map and a table of these sizes."""
        factor = (table_size - 1) / 4
        if size > 1:  # the first query lies at -1, the last at 1
            step = 2 * factor / (size - 1)
            origin = MARGIN + factor
        else:  # the only query lies at 0
            step = 0.0
            origin = MARGIN + 2 * factor
        padded_size = table_size + 2 * MARGIN
        # Between the two last zeros, since on an entry the slope may be that of the one before.
        return cls(size, padded_size, step, origin, factor, table_size + MARGIN + 0.5)

    def num_entries(self, tile: int) -> int:
        """Entries that a tile of so many queries may reach from a key."""
        reach = math.ceil((min(tile, self.size) - 1) * self.step) + 2
        return min(reach, self.padded_size)


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copy those tensors that are not contiguous: keys that are cost programs fewer registers."""
    return tuple(x.contiguous() for x in tensors)


def _axes(query: Tensor, table: Tensor) -> tuple[Axis, Axis]:
    """Describe the vertical and the horizontal axis."""
    return Axis.of(query.shape[2], table.shape[1]), Axis.of(query.shape[3], table.shape[2])


def _sizes(rows: Axis, columns: Axis) -> tuple[Any, ...]:
    """Arguments of a kernel for the axes: their sizes, and the rest of each."""
    return rows.size, columns.size, rows.padded_size, columns.padded_size, rows[2:], columns[2:]


def _pack_pairs(table: Tensor) -> Tensor:
    """Pad the table with zeros and pack each entry with the next one of its row into 64 bits.

    A kernel waits for loads more than for anything else, and two entries take no longer than one.

    Args:
        table: Tensor[num_heads, table_height, table_width].

    Returns:
        Tensor[num_heads, padded_height, padded_width] in int64: pairs of float32 in base 2.
    """
    padded = F.pad(LOG2_E * table.float(), (MARGIN, MARGIN + 1, MARGIN, MARGIN))
    return torch.stack((padded[..., :-1], padded[..., 1:]), -1).view(torch.int64).squeeze(-1)


def _empty_outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Allocate the output and the log-sum-exp, tile by tile."""
    tiles = _count_tiles(query), TILE_HEIGHT * TILE_WIDTH
    out = empty_map(value, (*query.shape[:-1], value.shape[-1]))
    return out, query.new_empty(*query.shape[:2], *tiles, dtype=torch.float32)


def _count_tiles(query: Tensor) -> int:
    """Count the tiles of queries that cover the map."""
    height, width = query.shape[2:4]
    return math.ceil(height / TILE_HEIGHT) * math.ceil(width / TILE_WIDTH)


def _options(query: Tensor, value: Tensor, key_block: int) -> dict[str, Any]:
    """Arguments that a kernel is compiled for."""
    head_dim, value_dim = query.shape[-1], value.shape[-1]
    return dict(
        head_dim=head_dim,
        value_dim=value_dim,
        head_block=head_block(head_dim),
        value_block=head_block(value_dim),
        tile_height=TILE_HEIGHT,
        tile_width=TILE_WIDTH,
        key_block=key_block,
        precision='tf32x3' if allows_tf32() else 'ieee',
        num_warps=4 if max(head_dim, value_dim) <= 64 else 8,
        # In more stages, Triton would load from the table ahead into shared memory, which is far
        # too small for that.
        num_stages=1,
    )


def _limits(dtype: torch.dtype) -> Limits:
    """What fits into the registers of a GPU, as it multiplies now."""
    return TF32_LIMITS if dtype == torch.float32 and allows_tf32() else LIMITS[dtype]
