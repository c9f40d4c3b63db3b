"""Deformable attention on CPUs in C++; ``csrc/deformable.cpp`` says how it works.

It computes in float32. What is in another dtype is converted before and behind it.
"""

import torch
from torch import Tensor

from ..autograd import compute_delta, empty_gradients, empty_outputs, make_operator
from ..cpu import MULTIPLIES_BFLOAT16, call_kernel, kernel_dtype, why_not_compiled


def unsupported(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> str | None:
    """Say why :func:`compiled_deformable_attention` cannot take these tensors; None if it can."""
    for size, entries in zip(query.shape[2:4], table.shape[1:], strict=True):
        if size > 1 and entries - 1 > 2 * (size - 1):
            return (
                f'the bias table of {table.shape[1]} x {table.shape[2]} is too fine for a map of '
                f'{query.shape[2]} x {query.shape[3]}'
            )
    return why_not_compiled(query, key, value, table)


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
    inputs = query, key, value, sampling_locations, relative_position_bias_table
    sizes, (query, *others) = _prepare(*inputs)
    out, lse = empty_outputs(query, others[1])
    call_kernel(
        'deformable_forward',
        query.dtype,
        sizes,
        query,
        query.stride(),
        *others,
        out,
        out.stride(),
        lse,
    )
    return out.to(value.dtype), lse


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
    delta = compute_delta(grad_out, out, lse.dtype).contiguous()
    sizes, (query, *others) = _prepare(*inputs)
    grad_query, *_ = empty_gradients(query, *others)
    # The kernel adds to the others.
    gradients = grad_query, *(torch.zeros_like(x, dtype=torch.float32) for x in others)
    grad_out = grad_out.to(query.dtype)
    call_kernel(
        'deformable_backward',
        query.dtype,
        sizes,
        query,
        query.stride(),
        *others,
        grad_out,
        grad_out.stride(),
        lse,
        delta,
        gradients[0],
        gradients[0].stride(),
        *gradients[1:],
    )
    grad_query, grad_key, grad_value, grad_locations, grad_table = (
        grad.to(x.dtype) for grad, x in zip(gradients, inputs, strict=True)
    )
    return grad_query, grad_key, grad_value, grad_locations, grad_table


def _prepare(query: Tensor, *others: Tensor) -> tuple[list[int], list[Tensor]]:
    """Return the sizes that the kernels take, and the tensors, of which the query has strides."""
    key, value, locations, table = others
    sizes = [
        *query.shape[:2],
        locations.shape[1],
        *query.shape[2:4],
        key.shape[2],
        query.shape[-1],
        value.shape[-1],
        *table.shape[1:],
    ]
    dtype = kernel_dtype(query, key, value) if MULTIPLIES_BFLOAT16 else torch.float32
    return sizes, [
        query.to(dtype),
        *(x.to(dtype).contiguous() for x in (key, value)),
        *(x.float().contiguous() for x in (locations, table)),
    ]


compiled_deformable_attention = make_operator(
    'compiled_deformable_attention',
    _attend,
    _gradients,
    lambda query, key, value, locations, table: empty_outputs(query, value),
    empty_gradients,
)
