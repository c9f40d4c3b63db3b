"""What PyTorch's ``FlopCounterMode`` counts of the operators, once this module is imported.

Whatever the implementation, it is the two products of queries with keys and of weights with
values, as of the dense ones; in the backward pass, where what is made anew does not count, twice
that.
"""
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Shape = tuple[int, ...]


def _register(name: str, count_keys: Callable[..., int]) -> None:
    """Of ``mmdat::{name}`` and ``mmdat::{name}_backward``.

    Args:
        name: Of the operator.
        count_keys: How many keys a query has, from the shapes of the operator's tensors.
    """
    def forward(query: Shape, key: Shape, value: Shape, *others: Any, **_: Any) -> int:
        keys = count_keys(query, key, value, *others)
        return 2 * math.prod(query[:-1]) * keys * (query[-1] + value[-1])

    def backward(grad_out: Shape, out: Shape, log_sums: Shape, *shapes: Any, **_: Any) -> int:
        return 2 * forward(*shapes)

    register_flop_formula(getattr(torch.ops.mmdat, name))(forward)
    register_flop_formula(getattr(torch.ops.mmdat, name + '_backward'))(backward)


def _keys_of_a_window(query: Shape, key: Shape, value: Shape, table: Shape, scale: float) -> int:
    return ((table[-1] + 1) // 2)**2


for _name in ('tiled_deformable_attention', 'fused_deformable_attention'):
    _register(_name, lambda query, key, *_: key[2])
_register('tiled_neighborhood_attention', _keys_of_a_window)
