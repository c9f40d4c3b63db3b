"""FLOPs of the operators for PyTorch's ``FlopCounterMode``, once this module is imported.

An implementation counts as the dense one: two products in the forward pass, of queries with keys
and of weights with values, and four in the backward pass; what is recomputed does not count. One
exception: fused attention whose keys and values differ in width counts as if both had the larger
one, since they are padded with zeros before PyTorch sees them; ``'tiled'`` counts what is needed.
PyTorch counts its own attention on GPUs, and from 2.15 on CPUs too, with what it recomputes.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

from .tracing import ceil_div

Shape = tuple[int, ...]


def _register(
    forward_operator: Any,
    backward_operator: Any,
    num_leading: int,
    keys_per_query: Callable[..., int | Fraction],
) -> None:
    """Let PyTorch count an attention operator and its backward pass.

    Args:
        forward_operator: Takes query, key, value and others.
        backward_operator: Takes ``num_leading`` arguments, then those of the forward operator.
        num_leading: Number of arguments before those.
        keys_per_query: Counts a query's keys, from the shapes of the forward operator's tensors.
    """

    def forward(query: Shape, key: Shape, value: Shape, *others: Any, **_: Any) -> int:
        keys = keys_per_query(query, key, value, *others)
        return int(2 * math.prod(query[:-1]) * keys * (query[-1] + value[-1]))

    def backward(*shapes: Any, **_: Any) -> int:
        return 2 * forward(*shapes[num_leading:])

    for operator, formula in ((forward_operator, forward), (backward_operator, backward)):
        # PyTorch 2.4 keeps it by another name than the one that it looks for.
        flop_registry[operator] = register_flop_formula(operator)(formula)


def _all_keys(query: Shape, key: Shape, *_: Any) -> int:
    return key[2]


def _keys_in_window(query: Shape, key: Shape, value: Shape, table: Shape) -> int:
    return ((table[-1] + 1) // 2) ** 2


def _keys_in_partition(query: Shape, key: Shape, value: Shape, table: Shape) -> Fraction:
    """The dense one pads the map until windows divide it: as many pairs by query of the map."""
    side = (table[-1] + 1) // 2
    padded = math.prod(ceil_div(size, side) * side for size in query[2:4])
    return Fraction(side**2 * padded, math.prod(query[2:4]))


for _name, _keys_per_query in (
    ('tiled_deformable_attention', _all_keys),
    ('fused_deformable_attention', _all_keys),
    ('compiled_deformable_attention', _all_keys),
    ('compiled_global_attention', _all_keys),
    ('tiled_neighborhood_attention', _keys_in_window),
    ('fused_neighborhood_attention', _keys_in_window),
    ('compiled_neighborhood_attention', _keys_in_window),
    ('compiled_window_attention', _keys_in_partition),
):
    _register(
        getattr(torch.ops.mmdat, _name),
        getattr(torch.ops.mmdat, _name + '_backward'),
        3,  # the gradient of the output, the output and its log-sum-exp
        _keys_per_query,
    )
if torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry:
    _register(
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
        1,  # the gradient of the output
        _all_keys,
    )
