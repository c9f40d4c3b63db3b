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
from torch import Tensor

from ..autograd import empty_map, empty_map_gradients, make_operator
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
# Entries of the padded table that a program prepares.
TABLE_BLOCK = 1024
# Which of the options the kernels ``deltas`` and ``add_up`` have.
DELTA_OPTIONS = 'value_dim', 'value_block', 'tile_height', 'tile_width', 'key_block'
SUM_OPTIONS = 'head_dim', 'value_dim', 'head_block', 'value_block', 'key_block'


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
    key, value, sampling_locations = _loadable(key, value, sampling_locations)
    rows, columns = _axes(query, relative_position_bias_table)
    batch, num_heads = query.shape[:2]
    scale = query.shape[-1] ** -0.5
    table = _prepare(relative_position_bias_table)
    with torch.cuda.device_of(query):
        _kernels().attend[_count_tiles(query), batch * num_heads](
            query,
            key,
            value,
            sampling_locations,
            table,
            out,
            lse,
            query.stride(),
            key.stride(),
            value.stride(),
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
    gradients = _empty_gradients(*inputs)
    if not query.numel():
        for gradient in gradients:
            gradient.zero_()
        return gradients
    grad_query, grad_key, grad_value, grad_locations, grad_table = gradients
    key, value, sampling_locations = _loadable(key, value, sampling_locations)
    rows, columns = _axes(query, relative_position_bias_table)
    batch, num_heads = query.shape[:2]
    groups, num_keys = sampling_locations.shape[1:3]
    scale = query.shape[-1] ** -0.5
    delta, table_scale = torch.empty_like(lse), lse.new_empty(())
    table_sums = _empty_packed(relative_position_bias_table)
    maxima = lse.new_empty(3)
    table = _prepare(relative_position_bias_table, table_sums, maxima.view(torch.int32))
    # The first and the last arguments of either kernel.
    tensors = query, key, value, sampling_locations, table, grad_out, lse, delta
    sizes = (
        query.stride(),
        key.stride(),
        value.stride(),
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
    options = _options(query, value, limits.key_block)
    with torch.cuda.device_of(query):
        _kernels().deltas[num_tiles, batch * num_heads](
            out,
            grad_out,
            value,
            delta,
            maxima.view(torch.int32),
            out.stride(),
            grad_out.stride(),
            value.stride(),
            rows.size,
            columns.size,
            num_keys,
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
            table_scale,
            rows.num_entries(TILE_HEIGHT),
            columns.num_entries(TILE_WIDTH),
            num_tiles,
            tiles_per_program,
            *sizes,
            **_options(query, value, limits.key_gradients_block),
        )
        _kernels().add_up[math.ceil(num_keys / options['key_block']), batch * groups](
            key_sums,
            value_sums,
            coordinate_sums,
            table_sums,
            table_scale,
            grad_key,
            grad_value,
            grad_locations,
            grad_table,
            grad_key.stride(),
            grad_value.stride(),
            num_keys,
            *grad_table.shape[1:],
            programs,
            num_heads,
            num_heads // groups,
            scale,
            # The table that the kernels read is in base 2, like the logits.
            -rows.factor / LOG2_E,
            -columns.factor / LOG2_E,
            **{name: options[name] for name in SUM_OPTIONS},
            margin=MARGIN,
            table_block=TABLE_BLOCK,
        )
    return gradients


fused_deformable_attention = make_operator(
    'fused_deformable_attention',
    _attend,
    _gradients,
    lambda query, key, value, locations, table: _empty_outputs(query, value),
    lambda *inputs: _empty_gradients(*inputs),
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


def _loadable(key: Tensor, value: Tensor, locations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Copy keys and values whose dimensions lie apart, which cost programs more registers, and
    locations that are not contiguous.
    """
    key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (key, value))
    return key, value, locations.contiguous()


def _axes(query: Tensor, table: Tensor) -> tuple[Axis, Axis]:
    """Describe the vertical and the horizontal axis."""
    return Axis.of(query.shape[2], table.shape[1]), Axis.of(query.shape[3], table.shape[2])


def _sizes(rows: Axis, columns: Axis) -> tuple[Any, ...]:
    """Arguments of a kernel for the axes: their sizes, and the rest of each."""
    return rows.size, columns.size, rows.padded_size, columns.padded_size, rows[2:], columns[2:]


def _prepare(table: Tensor, *zeros: Tensor) -> Tensor:
    """Pad and pack the table as the kernel ``prepare`` says, in base 2.

    Args:
        table: Tensor[num_heads, table_height, table_width].
        zeros: For a backward pass, two tensors that are filled with zeros: one like the result, and
            Tensor[3] in int32.

    Returns:
        Tensor[num_heads, padded_height, padded_width] in int64.
    """
    packed = _empty_packed(table)
    with torch.cuda.device_of(table):
        _kernels().prepare[(math.ceil(packed.numel() / TABLE_BLOCK),)](
            table.contiguous(),
            packed,
            *(zeros or (None, None)),
            *table.shape[1:],
            len(table),
            LOG2_E,
            margin=MARGIN,
            table_block=TABLE_BLOCK,
        )
    return packed


def _empty_packed(table: Tensor) -> Tensor:
    """Allocate what :func:`_prepare` makes of a bias table: an int64 for each padded entry."""
    num_heads, height, width = table.shape
    return table.new_empty(num_heads, height + 2 * MARGIN, width + 2 * MARGIN, dtype=torch.int64)


def _empty_outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Allocate the output and the log-sum-exp, tile by tile."""
    tiles = _count_tiles(query), TILE_HEIGHT * TILE_WIDTH
    out = empty_map(value, (*query.shape[:-1], value.shape[-1]))
    return out, query.new_empty(*query.shape[:2], *tiles, dtype=torch.float32)


def _empty_gradients(
    query: Tensor, key: Tensor, value: Tensor, locations: Tensor, table: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Allocate the gradients; those of keys and values as a map in channels-last format has them,
    of which convolutions make keys.
    """
    grad_query, grad_key, grad_value, grad_table = empty_map_gradients(query, key, value, table)
    grad_locations = torch.empty_like(locations, memory_format=torch.contiguous_format)
    return grad_query, grad_key, grad_value, grad_locations, grad_table


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
