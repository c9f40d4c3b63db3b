"""Deformable attention in one kernel a pass: nothing of size queries x keys leaves the GPU's chip.

A program attends from a small rectangle of the map, block by block of keys, and interpolates the
bias as it goes. The backward pass makes the logits anew, once for the queries' gradient and once
for all others. It adds up the table's gradient with atomic operations, whose order varies: from
run to run that gradient may differ by rounding. All else is deterministic.

Triton is imported when an operator first runs.
"""

import functools
import importlib
import importlib.metadata
import math
import os
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tiling import LOG2_E, empty_gradients, empty_outputs, make_differentiable


class Limits(NamedTuple):
    """What the registers of a GPU hold.

    Attributes:
        head_dim: The largest.
        key_block: Keys that a program takes at a time.
        key_gradients_block: Those of a program for the gradients of keys.
    """

    head_dim: int
    key_block: int
    key_gradients_block: int


LIMITS = {
    torch.float32: Limits(64, 16, 32),
    torch.bfloat16: Limits(128, 32, 64),
    torch.float16: Limits(128, 32, 64),
}
# Rows and columns of queries that a program takes at a time.
TILE_HEIGHT, TILE_WIDTH = 8, 8
# Rows of a window of the table that a program takes at a time.
MAX_WINDOW_BLOCK = 4
# Triton multiplies no narrower matrices.
MIN_HEAD_BLOCK = 16
# Zeros on each side of the table: a query beyond reach looks at two of them.
MARGIN = 2
# So many programs for the gradients of keys keep a GPU busy. Each takes some tiles of queries and
# writes sums of its own, so that they must not be too few.
KEY_PROGRAMS = 1024
MIN_TILES_PER_PROGRAM = 8
# Of the second axis of a CUDA grid.
MAX_GRID = 65535
# Earlier ones have not been tried.
MIN_TRITON = 3, 6
TRITON_VERSION = next(
    (found.version for found in importlib.metadata.distributions(name='triton')), None
)


def unsupported(query: Tensor, value: Tensor) -> str | None:
    """Why :func:`fused_deformable_attention` cannot take these, for a message, or None."""
    if TRITON_VERSION is None:
        return 'Triton is not installed'
    if tuple(map(int, TRITON_VERSION.split('.')[:2])) < MIN_TRITON:
        return f'Triton is {TRITON_VERSION}, older than {".".join(map(str, MIN_TRITON))}'
    if query.device.type == 'cuda':
        if torch.version.hip:
            return 'the GPU is not one of NVIDIA'
        capability = torch.cuda.get_device_capability(query.device)
        if capability < (8, 0):
            return f'the GPU has compute capability {capability[0]}.{capability[1]}, below 8.0'
        if torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled():
            return (
                "the table's gradient is added up in no fixed order, but PyTorch is to be "
                'deterministic'
            )
    elif os.environ.get('TRITON_INTERPRET') != '1':
        return f'the tensors are on {query.device.type} rather than a CUDA device'
    if query.shape[:2].numel() > MAX_GRID:
        return f'there are more than {MAX_GRID} samples times heads'
    for x in (query, value):
        if x.dtype not in LIMITS:
            return f'{x.dtype} is none of {", ".join(map(str, LIMITS))}'
        limit = LIMITS[x.dtype].head_dim
        if x.shape[-1] > limit:
            return f'heads have {x.shape[-1]} dimensions, more than {limit} in {x.dtype}'
    return None


@torch.library.custom_op('mmdat::fused_deformable_attention', mutates_args=())
def fused_deformable_attention(
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
    rows, columns = _axes(query, relative_position_bias_table)
    batch, num_heads = query.shape[:2]
    grid = _count_tiles(query), batch * num_heads
    with torch.cuda.device_of(query):
        _kernels().attend[grid](
            query,
            key,
            value,
            sampling_locations,
            _pairs(relative_position_bias_table),
            out,
            log_sums,
            Strides.of(query, key, value, sampling_locations, out),
            rows,
            columns,
            key.shape[2],
            num_heads,
            num_heads // sampling_locations.shape[1],
            LOG2_E * scale,
            **_options(query, value, LIMITS[query.dtype].key_block),
        )
    return out, log_sums


@fused_deformable_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return empty_outputs(query, value)


@torch.library.custom_op('mmdat::fused_deformable_attention_backward', mutates_args=())
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
    rows, columns = _axes(query, relative_position_bias_table)
    batch, num_heads = query.shape[:2]
    num_keys = key.shape[2]
    # The gradient of a logit is its weight times (the weight's gradient - this).
    means = (grad_out.to(log_sums.dtype) * out).sum(-1).contiguous()
    table = _pairs(relative_position_bias_table)
    read = query, key, value, sampling_locations, table, grad_out, log_sums, means
    shared = (
        Strides.of(query, key, value, sampling_locations, grad_out),
        rows,
        columns,
        num_keys,
        num_heads,
        num_heads // sampling_locations.shape[1],
        LOG2_E * scale,
    )

    limits = LIMITS[query.dtype]
    num_tiles = _count_tiles(query)
    key_blocks = math.ceil(num_keys / limits.key_gradients_block)
    tiles_per_program = max(
        MIN_TILES_PER_PROGRAM, math.ceil(num_tiles * key_blocks * batch * num_heads / KEY_PROGRAMS)
    )
    programs = math.ceil(num_tiles / tiles_per_program)
    key_sums, value_sums, place_sums = (
        log_sums.new_empty(programs, *key.shape[:3], size)
        for size in (key.shape[-1], value.shape[-1], 2)
    )
    table_sums = torch.zeros_like(table, dtype=log_sums.dtype)
    window_rows = rows.window(TILE_HEIGHT)
    with torch.cuda.device_of(query):
        _kernels().query_gradients[num_tiles, batch * num_heads](
            *read,
            gradients[0],
            gradients[0].stride(),
            scale,
            *shared,
            **_options(query, value, limits.key_block),
        )
        _kernels().key_gradients[key_blocks, batch * num_heads, programs](
            *read,
            key_sums,
            value_sums,
            place_sums,
            table_sums,
            window_rows,
            columns.window(TILE_WIDTH),
            num_tiles,
            tiles_per_program,
            min(MAX_WINDOW_BLOCK, _power_of_two(window_rows)),
            *shared,
            **_options(query, value, limits.key_gradients_block),
        )
    gradients[1].copy_(scale * key_sums.sum(0))
    gradients[2].copy_(value_sums.sum(0))
    grad_places = place_sums.sum(0).unflatten(1, (sampling_locations.shape[1], -1)).sum(2)
    for index, axis in enumerate((rows, columns)):
        # The kernel's table is scaled like the logits.
        gradients[3][..., index] = -axis.factor / LOG2_E * grad_places[..., index]
    gradients[4].copy_(table_sums[:, MARGIN:-MARGIN, MARGIN:-MARGIN])
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


make_differentiable(fused_deformable_attention, _gradients)


@functools.cache
def _kernels() -> ModuleType:
    return importlib.import_module('.triton_kernels', __package__)


class Strides(NamedTuple):
    """Of what kernels read or write in any layout."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    locations: tuple[int, ...]
    out: tuple[int, ...]

    @classmethod
    def of(cls, *tensors: Tensor) -> 'Strides':
        """Of the tensors."""
        return cls(*(x.stride() for x in tensors))


class Axis(NamedTuple):
    """An axis of the map and of the table, which has zeros around.

    A query at position i looks from a key at location y at entry ``origin - factor * y + step *
    i``, but not before 0 or behind ``last_place``.
    """

    size: int
    padded_size: int
    step: float
    origin: float
    factor: float
    last_place: float

    @classmethod
    def of(cls, size: int, table_size: int) -> 'Axis':
        """Of a map and a table of these sizes."""
        factor = (table_size - 1) / 4
        step = 2 * factor / (size - 1) if size > 1 else 0.0
        # The first query lies at -1, the only one of an axis at 0.
        origin = MARGIN + factor * (1 if size > 1 else 2)
        return cls(size, table_size + 2 * MARGIN, step, origin, factor, float(table_size + MARGIN))

    def window(self, tile: int) -> int:
        """Entries that the queries of a tile may look at from a key."""
        reach = math.ceil((min(tile, self.size) - 1) * self.step) + 2
        return min(reach, self.padded_size)


def _axes(query: Tensor, table: Tensor) -> tuple[Axis, Axis]:
    """Rows and columns."""
    return (Axis.of(query.shape[2], table.shape[1]), Axis.of(query.shape[3], table.shape[2]))


def _pairs(table: Tensor) -> Tensor:
    """Tensor[num_heads, padded_height, padded_width] in int64, each entry with the one behind it.

    Scaled like the logits, with zeros around. A kernel waits for loads more than for anything
    else, and one of two entries takes no longer than of one.
    """
    padded = F.pad(LOG2_E * table.float(), (MARGIN, MARGIN + 1, MARGIN, MARGIN))
    return torch.stack((padded[..., :-1], padded[..., 1:]), -1).view(torch.int64).squeeze(-1)


def _count_tiles(query: Tensor) -> int:
    """Rectangles of queries that cover the map."""
    height, width = query.shape[2:4]
    return math.ceil(height / TILE_HEIGHT) * math.ceil(width / TILE_WIDTH)


def _options(query: Tensor, value: Tensor, key_block: int) -> dict[str, int]:
    """What a kernel is compiled for."""
    head_dim, value_dim = query.shape[-1], value.shape[-1]
    return dict(
        head_dim=head_dim,
        value_dim=value_dim,
        head_block=max(MIN_HEAD_BLOCK, _power_of_two(head_dim)),
        value_block=max(MIN_HEAD_BLOCK, _power_of_two(value_dim)),
        tile_height=TILE_HEIGHT,
        tile_width=TILE_WIDTH,
        key_block=key_block,
        num_warps=4 if max(head_dim, value_dim) <= 64 else 8,
        # With more, Triton has what is read from the table wait in shared memory, of which it is
        # far too much.
        num_stages=1,
    )


def _power_of_two(size: int) -> int:
    """The next one, for Triton has no other sizes."""
    return 1 << (size - 1).bit_length()
