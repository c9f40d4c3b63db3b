"""Attention of a map to keys on CPUs in C++, with a bias by position or none.

``csrc/deformable.cpp`` says how it works. It sums in float32; where the processor has instructions
for products of bfloat16 it takes them, else it converts what is in another dtype to float32.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import isqrt

import torch
from torch import Tensor

from .autograd import empty_gradients, empty_map, empty_outputs, make_operator
from .cpu import (
    MULTIPLIES_BFLOAT16,
    call_kernel,
    kernel_dtype,
    why_not_compiled,
    with_channels_together,
)
from .tracing import ceil_div


def unsupported(
    query: Tensor, key: Tensor, value: Tensor, locations: Tensor, table: Tensor
) -> str | None:
    """Say why :func:`compiled_deformable_attention` cannot take these tensors; None if it can."""
    for size, entries in zip(query.shape[2:4], table.shape[1:], strict=True):
        if size > 1 and entries - 1 > 2 * (size - 1):
            return (
                f'the bias table of {table.shape[1]} x {table.shape[2]} is too fine for a map of '
                f'{query.shape[2]} x {query.shape[3]}'
            )
    return why_not_compiled(query, key, value, locations, table)


def _attend(query: Tensor, key: Tensor, value: Tensor, *bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`mmdat.ops.deformable_attention`, which describes the tensors.

    Args:
        query: The queries.
        key: The keys.
        value: The values.
        bias: Sampling locations and bias table, or nothing.

    Returns:
        The output, and Tensor[batch, num_heads, height, width], the base-2 log-sum-exp of each
        query's logits, for the backward pass.
    """
    sizes, inputs = _prepare(query, key, value, *bias)
    out, lse = empty_outputs(query, inputs[2])
    seen = _seen(out, bias)
    call_kernel(
        'deformable_forward', out.dtype, sizes, *_arguments(inputs), out, seen.stride(), lse
    )
    return out.to(value.dtype), lse


def _gradients(grad_out: Tensor, out: Tensor, lse: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Compute the gradients of query, key, value and, if there is one, the bias."""
    query, _, _, *bias = tensors
    sizes, inputs = _prepare(*tensors)
    grad_query = empty_map(inputs[0], query.shape)
    # The kernel adds to the others.
    others = [torch.zeros_like(x, dtype=torch.float32) for x in inputs[1:]]
    grad_out, out = (_seen(x.to(grad_query.dtype), bias) for x in (grad_out, out))
    call_kernel(
        'deformable_backward',
        grad_query.dtype,
        sizes,
        *_arguments(inputs),
        grad_out,
        grad_out.stride(),
        out,
        out.stride(),
        lse,
        *_arguments([_seen(grad_query, bias), *others]),
    )
    gradients = grad_query, *others
    return tuple(grad.to(x.dtype) for grad, x in zip(gradients, tensors, strict=True))


def _prepare(
    query: Tensor, key: Tensor, value: Tensor, *bias: Tensor
) -> tuple[list[int], list[Tensor]]:
    """Return the sizes that the kernels take, and the tensors, of which the query has strides."""
    groups, table_sizes = (bias[0].shape[1], bias[1].shape[1:]) if bias else (1, (0, 0))
    dtype = kernel_dtype(query, key, value) if MULTIPLIES_BFLOAT16 else torch.float32
    query = _seen(query.to(dtype), bias)
    sizes = [
        *query.shape[:2],
        groups,
        *query.shape[2:4],
        key.shape[2],
        query.shape[-1],
        value.shape[-1],
        *table_sizes,
    ]
    keys = (x.to(dtype).contiguous() for x in (key, value))
    return sizes, [query, *keys, *(x.float().contiguous() for x in bias)]


def _seen(x: Tensor, bias: Sequence[Tensor]) -> Tensor:
    """A map as the kernels see it: without a bias, positions lie where their tiles cover them."""
    x = with_channels_together(x)
    if bias or not x.numel():
        return x
    return x.reshape(*x.shape[:2], *_covered_sides(x.shape[2] * x.shape[3]), x.shape[4])


@lru_cache
def _covered_sides(positions: int) -> tuple[int, int]:
    """Sides of a map that the tiles, of rows by threes and 8 or 16 columns, cover well."""
    divisors = [n for n in range(1, isqrt(positions) + 1) if positions % n == 0]

    def covered(width: int) -> tuple[int, int]:
        return ceil_div(positions // width, 3) * ceil_div(width, 16), width

    width = min((w for n in divisors for w in (n, positions // n)), key=covered)
    return positions // width, width


def _arguments(tensors: list[Tensor]) -> list[Tensor | tuple[int, ...] | None]:
    """Return the arguments for a query with its strides, key, value and the bias, if any."""
    query, *others = tensors
    return [query, query.stride(), *others, *[None] * (4 - len(others))]


def _attend_deformable(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
) -> tuple[Tensor, Tensor]:
    return _attend(query, key, value, sampling_locations, relative_position_bias_table)


def _deformable_gradients(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sampling_locations: Tensor,
    relative_position_bias_table: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias = sampling_locations, relative_position_bias_table
    grad_query, grad_key, grad_value, grad_locations, grad_table = _gradients(
        grad_out, out, lse, query, key, value, *bias
    )
    return grad_query, grad_key, grad_value, grad_locations, grad_table


def _attend_globally(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return _attend(query, key, value)


def _global_gradients(
    grad_out: Tensor, out: Tensor, lse: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad_query, grad_key, grad_value = _gradients(grad_out, out, lse, query, key, value)
    return grad_query, grad_key, grad_value


compiled_deformable_attention = make_operator(
    'compiled_deformable_attention',
    _attend_deformable,
    _deformable_gradients,
    lambda query, key, value, locations, table: empty_outputs(query, value),
    empty_gradients,
)
compiled_global_attention = make_operator(
    'compiled_global_attention',
    _attend_globally,
    _global_gradients,
    lambda query, key, value: empty_outputs(query, value),
    lambda query, key, value: (
        empty_map(query, query.shape),
        *(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (key, value)),
    ),
)
