"""Neighborhood attention in Triton kernels: nothing of size queries x keys leaves the GPU's chip.

A program attends from a square tile of the map to all keys near it. The backward pass recomputes
the logits three times: for the gradients of the queries, of the keys and values, and of the bias.
No sum depends on the order in which programs end.

Triton is imported when an operator first runs.
"""

import functools
import importlib
import math
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ..autograd import empty_map_gradients, empty_outputs, make_operator
from ..gpu import allows_tf32, head_block, why_no_kernels
from ..tiling import LOG2_E

# Side of a tile of queries. The widest windows for it are one position less.
TILE = 8
# The widest heads that fit into the registers of a GPU.
WIDEST_HEAD = {torch.float32: 64, torch.bfloat16: 128, torch.float16: 128}
# Columns of the block of positions around a tile, of which ``TILE + kernel_size - 1`` matter.
BLOCK_WIDTH = 16
# Rows of that block that a program takes at a time.
BLOCK_ROWS = 2
# So many programs for the gradient of the bias keep a GPU busy ...
BIAS_PROGRAMS = 1024
# ... but each writes sums of its own, so that it should take at least so many tiles.
MIN_TILES_PER_PROGRAM = 8


def unsupported(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> str | None:
    """Say why :func:`fused_neighborhood_attention` cannot take these tensors; None if it can."""
    if table.shape[1] > 2 * TILE - 3:
        return f'windows are wider than {TILE - 1} positions'
    return why_no_kernels(query, key, value, _count_tiles(query), WIDEST_HEAD)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, relative_position_bias_table: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute :func:`mmdat.ops.neighborhood_attention`, which describes the tensors.

    Returns:
        The output, and Tensor[batch, num_heads, height, width], the base-2 log-sum-exp of each
        query's logits, for the backward pass.
    """
    out, lse = empty_outputs(query, value)
    batch, num_heads, height, width, head_dim = query.shape
    with torch.cuda.device_of(query):
        _kernels().attend[_count_tiles(query), batch * num_heads](
            query,
            key,
            value,
            relative_position_bias_table.float().contiguous(),
            out,
            lse,
            _Strides.of(query, key, value, out),
            num_heads,
            height,
            width,
            LOG2_E * head_dim**-0.5,
            span=_span(relative_position_bias_table),
            **_options(query, relative_position_bias_table),
        )
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
    batch, num_heads, height, width, head_dim = query.shape
    gradients = empty_map_gradients(query, key, value, relative_position_bias_table)
    grad_query, grad_key, grad_value, grad_table = gradients
    delta = torch.empty_like(lse)
    table = relative_position_bias_table.float().contiguous()
    strides = _Strides.of(query, key, value, out, grad_out, grad_query, grad_key, grad_value)
    scale = head_dim**-0.5
    sizes = num_heads, height, width
    options = _options(query, relative_position_bias_table)

    num_tiles = _count_tiles(query)
    span = _span(relative_position_bias_table)
    blocks = math.ceil(span / BLOCK_ROWS)
    tiles_per_program = max(
        MIN_TILES_PER_PROGRAM, math.ceil(batch * num_tiles * num_heads * blocks / BIAS_PROGRAMS)
    )
    programs = math.ceil(batch * num_tiles / tiles_per_program)
    bias_sums = lse.new_empty(programs, num_heads, TILE**2, blocks * BLOCK_ROWS, BLOCK_WIDTH)
    with torch.cuda.device_of(query):
        kernels = _kernels()
        kernels.query_gradients[num_tiles, batch * num_heads](
            query,
            key,
            value,
            table,
            out,
            lse,
            grad_out,
            delta,
            grad_query,
            strides,
            *sizes,
            LOG2_E * scale,
            scale,
            span=span,
            **options,
        )
        tensors = query, key, value, table, lse, grad_out, delta
        kernels.key_gradients[num_tiles, batch * num_heads](
            *tensors, grad_key, grad_value, strides, *sizes, LOG2_E * scale, scale, **options
        )
        kernels.bias_gradients[blocks, num_heads, programs](
            *tensors,
            bias_sums,
            strides,
            *sizes,
            batch * num_tiles,
            tiles_per_program,
            LOG2_E * scale,
            blocks=blocks,
            **options,
        )
        kernels.table_gradients[table.shape[1], num_heads](
            bias_sums.sum(0),
            grad_table,
            kernel_size=options['kernel_size'],
            tile=TILE,
            block_height=blocks * BLOCK_ROWS,
            block_width=BLOCK_WIDTH,
        )
    return gradients


fused_neighborhood_attention = make_operator(
    'fused_neighborhood_attention',
    _attend,
    _gradients,
    lambda query, key, value, table: empty_outputs(query, value),
    empty_map_gradients,
)


@functools.cache
def _kernels() -> ModuleType:
    """Import the kernels, and Triton with them."""
    return importlib.import_module('.triton_kernels', __package__)


class _Strides(NamedTuple):
    """Strides of the tensors that kernels read or write in any layout."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    out: tuple[int, ...]
    grad_out: tuple[int, ...] = ()
    grad_query: tuple[int, ...] = ()
    grad_key: tuple[int, ...] = ()
    grad_value: tuple[int, ...] = ()

    @classmethod
    def of(cls, *tensors: Tensor) -> '_Strides':
        """Take the strides of tensors in the order of the fields."""
        return cls(*(x.stride() for x in tensors))


def _count_tiles(query: Tensor) -> int:
    """Count the tiles of queries that cover the map."""
    height, width = query.shape[2:4]
    return math.ceil(height / TILE) * math.ceil(width / TILE)


def _span(table: Tensor) -> int:
    """Rows of positions around a tile that its windows reach."""
    return TILE + (table.shape[1] - 1) // 2


def _options(query: Tensor, table: Tensor) -> dict[str, int | str]:
    """Arguments that a kernel is compiled for."""
    head_dim = query.shape[-1]
    return dict(
        kernel_size=(table.shape[1] + 1) // 2,
        tile=TILE,
        block_rows=BLOCK_ROWS,
        block_width=BLOCK_WIDTH,
        head_dim=head_dim,
        head_block=head_block(head_dim),
        precision='tf32x3' if allows_tf32() else 'ieee',
        num_warps=4,
        # More stages take registers and shared memory, which cost more than they gain.
        num_stages=1,
    )
