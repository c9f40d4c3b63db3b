"""Neighborhood and window attention on CPUs in C++; ``csrc/neighborhood.cpp`` says how it works.

It computes in float32. Maps in bfloat16 are read and written as they are; what is in another
dtype is converted before and behind it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..autograd import empty_map, empty_map_gradients, empty_outputs, make_operator
from ..cpu import call_kernel, kernel_dtype, why_not_compiled, with_channels_together

MAX_HEAD_DIM = 32


def unsupported(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> str | None:
    """Say why :func:`compiled_neighborhood_attention` cannot take these; None if it can."""
    if query.shape[-1] > MAX_HEAD_DIM:
        return f'heads have {query.shape[-1]} dimensions, more than {MAX_HEAD_DIM}'
    return why_not_compiled(query, key, value, table)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, in_partition: bool
) -> tuple[Tensor, Tensor]:
    """Attend to the nearest window, or in a partition to that in which a query lies.

    Returns:
        The output, and Tensor[batch, num_heads, height, width], the base-2 log-sum-exp of each
        query's logits, for the backward pass.
    """
    dtype = kernel_dtype(query, key, value)
    out, lse = empty_outputs(query, value.to(dtype))
    call_kernel(
        'neighborhood_forward',
        dtype,
        *_arguments(dtype, query, key, value, table, in_partition),
        out,
        out.stride(),
        lse,
    )
    return out.to(value.dtype), lse


def _gradients(
    grad_out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    in_partition: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of query, key, value and bias table."""
    inputs = query, key, value, table
    dtype = kernel_dtype(query, key, value)
    gradients = (
        empty_map(query.new_empty(0, dtype=dtype), query.shape),
        # The kernel adds to the others.
        *(empty_map(lse, x.shape).zero_() for x in (key, value)),
        table.new_zeros(table.shape, dtype=lse.dtype),
    )
    *grad_maps, grad_table = gradients
    grad_out = with_channels_together(grad_out.to(dtype))
    call_kernel(
        'neighborhood_backward',
        dtype,
        *_arguments(dtype, query, key, value, table, in_partition),
        grad_out,
        grad_out.stride(),
        lse,
        *(argument for grad in grad_maps for argument in (grad, grad.stride())),
        grad_table,
    )
    grad_query, grad_key, grad_value, grad_table = (
        grad.to(x.dtype) for grad, x in zip(gradients, inputs, strict=True)
    )
    return grad_query, grad_key, grad_value, grad_table


def _arguments(
    dtype: torch.dtype, query: Tensor, key: Tensor, value: Tensor, table: Tensor, in_partition: bool
) -> list[Tensor | tuple[int, ...]]:
    """Return the first arguments of both kernels: sizes, maps with their strides, and table."""
    kernel_size = (table.shape[1] + 1) // 2
    arguments: list[Tensor | tuple[int, ...]] = [(*query.shape, kernel_size, in_partition)]
    for x in (query, key, value):
        x = with_channels_together(x.to(dtype))
        arguments += x, x.stride()
    return [*arguments, table.float().contiguous()]


def _make(name: str, in_partition: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """Make the operator for windows of a partition, or for those nearest to each query."""

    def attend(
        query: Tensor, key: Tensor, value: Tensor, relative_position_bias_table: Tensor
    ) -> tuple[Tensor, Tensor]:
        return _attend(query, key, value, relative_position_bias_table, in_partition)

    def gradients(
        grad_out: Tensor,
        out: Tensor,
        lse: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        relative_position_bias_table: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # The output is not needed: the kernel has all weights of a query at a time.
        inputs = query, key, value, relative_position_bias_table
        return _gradients(grad_out, lse, *inputs, in_partition)

    return make_operator(
        name,
        attend,
        gradients,
        lambda query, key, value, table: empty_outputs(query, value),
        empty_map_gradients,
    )


compiled_neighborhood_attention = _make('compiled_neighborhood_attention', in_partition=False)
compiled_window_attention = _make('compiled_window_attention', in_partition=True)
