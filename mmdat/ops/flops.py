"""What PyTorch's ``FlopCounterMode`` counts of the operators, once this module is imported.

Whatever the implementation, it is the two products of queries with keys and of weights with
values, as of the dense ones; in the backward pass, where what is made anew does not count, twice
that. Only fused attention of keys and values that differ in width counts as if both had the larger
one, since zeros make it so before PyTorch sees them; ``'tiled'`` counts what is needed.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Shape = tuple[int, ...]


def _register(
    forward_operator: Any, backward_operator: Any, first_shape: int, count_keys: Callable[..., int]
) -> None:
    """Let PyTorch count an operator of attention and its backward pass.

    Args:
        forward_operator: Takes query, key, value and others.
        backward_operator: Takes the same after ``first_shape`` others.
        first_shape: See there.
        count_keys: How many keys a query has, from the shapes of the operator's tensors.
    """

    def forward(query: Shape, key: Shape, value: Shape, *others: Any, **_: Any) -> int:
        keys = count_keys(query, key, value, *others)
        return 2 * math.prod(query[:-1]) * keys * (query[-1] + value[-1])

    def backward(*shapes: Any, **_: Any) -> int:
        return 2 * forward(*shapes[first_shape:])

    register_flop_formula(forward_operator)(forward)
    register_flop_formula(backward_operator)(backward)


def _number_of_keys(query: Shape, key: Shape, *_: Any) -> int:
    return key[2]


def _keys_of_a_window(query: Shape, key: Shape, value: Shape, table: Shape, scale: float) -> int:
    return ((table[-1] + 1) // 2) ** 2


for _name, _count_keys in (
    ('tiled_deformable_attention', _number_of_keys),
    ('fused_deformable_attention', _number_of_keys),
    ('tiled_neighborhood_attention', _keys_of_a_window),
):
    _register(
        getattr(torch.ops.mmdat, _name),
        getattr(torch.ops.mmdat, _name + '_backward'),
        3,
        _count_keys,
    )
# PyTorch counts its kernels for GPUs alone.
_register(
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
    1,
    _number_of_keys,
)
