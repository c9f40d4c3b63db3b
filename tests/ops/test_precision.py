"""Half precision gives no infinity and no NaN where float32 gives none."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers.compiled import needs_kernels
from packaging.version import Version
from torch import Tensor

from mmdat.ops import (
    deformable_attention,
    global_attention,
    log_spaced_deformable_attention,
    neighborhood_attention,
    slide_attention,
    window_attention,
)

LARGEST_HALF = torch.finfo(torch.float16).max
HEADS, HEIGHT, WIDTH, KEYS, DIMS = 2, 9, 10, 12, 16
MAP = (1, HEADS, HEIGHT, WIDTH, DIMS)
FEW = (1, HEADS, KEYS, DIMS)  # keys and values
TAPS = (1, HEADS, DIMS, 9, HEIGHT, WIDTH)
# Name -> operator, shapes of query, of key and value, and of the table, if there is one.
OPERATORS: dict[str, tuple[Callable[..., Tensor], Any, Any, Any]] = {
    **{
        f'deformable, {name}': (
            partial(deformable_attention, implementation=name),
            MAP,
            FEW,
            (HEADS, 17, 19),
        )
        for name in ('dense', 'tiled', 'compiled')
    },
    'log-spaced': (log_spaced_deformable_attention, MAP, FEW, None),
    **{
        f'neighborhood, {name}': (
            partial(neighborhood_attention, implementation=name),
            MAP,
            MAP,
            (HEADS, 13, 13),
        )
        for name in ('dense', 'tiled', 'traced', 'compiled')
    },
    **{
        f'window, {name}{" without a table" * (table is None)}': (
            lambda *inputs, name=name: window_attention(
                *inputs[:3], 7, *inputs[3:], shift=4, implementation=name
            ),
            MAP,
            MAP,
            table,
        )
        for name in ('dense', 'fused')
        for table in (None, (13**2, HEADS))
    },
    **{
        f'global, {name}': (
            partial(global_attention, implementation=name),
            MAP,
            FEW,
            (HEADS, HEIGHT * WIDTH, KEYS),
        )
        for name in ('dense', 'tiled', 'fused')
    },
    'global, compiled': (partial(global_attention, implementation='compiled'), MAP, FEW, None),
    'slide': (slide_attention, (1, HEADS, DIMS, HEIGHT, WIDTH), TAPS, (HEADS, 9)),
}
# Magnitudes of queries and keys, of values, of the table and of the output's gradient.
CASES = {
    'logits': (300, 1, 0.1, 1),
    'largest logits': (3e4, 1, 1, 1),
    'table': (1, 1, LARGEST_HALF, 1),
    'table past half': (1, 1, 7e4, 1),
    'values': (1, 1e4, 0.1, 1),
    'gradients': (1e-3, 1e-3, 1e-4, 6e4),
}


def inputs(operator: str, query: float, value: float, table: float, far: bool) -> list[Tensor]:
    """Tensors of the magnitudes; keys lie near, or as far away as half precision has numbers."""
    generator = torch.Generator().manual_seed(0)
    _, query_shape, key_shape, table_shape = OPERATORS[operator]

    def draw(magnitude: float, shape: tuple[int, ...]) -> Tensor:
        drawn = magnitude * torch.randn(shape, generator=generator)
        return drawn.clamp(-LARGEST_HALF, LARGEST_HALF)

    tensors = [draw(query, query_shape), draw(query, key_shape), draw(value, key_shape)]
    if operator.startswith(('deformable', 'log')):
        locations = draw(0.5, (1, HEADS, KEYS, 2))
        tensors.append(LARGEST_HALF * locations.sign() if far else locations)
    if operator == 'log-spaced':
        tensors += [draw(1, (8, 2)), draw(1, (8,)), draw(min(table, 1e3), (1, 8))]
    if table_shape:
        tensors.append(table * draw(1, table_shape).sign())
    return tensors


def results(operator: str, tensors: list[Tensor], magnitude: float) -> list[Tensor]:
    leaves = [x.requires_grad_() for x in tensors]
    out = OPERATORS[operator][0](*leaves)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    loss = (magnitude * out.float() * weights).sum()
    return [out.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize(
    'case, dtype',
    [
        *((case, torch.float16) for case in CASES),
        ('largest logits', torch.bfloat16),  # its range is that of float32
    ],
    ids=str,
)
@pytest.mark.parametrize(
    'operator',
    [pytest.param(name, marks=needs_kernels if 'compiled' in name else ()) for name in OPERATORS],
)
def test_what_float32_can_half_precision_can(operator: str, case: str, dtype: torch.dtype) -> None:
    if (
        'fused' in operator
        and dtype == torch.float16
        and Version(torch.__version__) < Version('2.6')
    ):
        pytest.skip("PyTorch's own attention overflows there on CPUs")
    query, value, table, gradient = CASES[case]
    limits = torch.finfo(dtype)
    for tables_in_half in (True, False) if table <= limits.max else (False,):
        drawn = inputs(operator, query, value, table, far=query > 1e4)
        drawn[:3] = (x.to(dtype) for x in drawn[:3])
        if tables_in_half:
            drawn[3:] = (x.to(dtype) for x in drawn[3:])
        exact = results(operator, [x.float() for x in drawn], gradient)
        found = results(operator, [x.detach() for x in drawn], gradient)
        for index, (expected, ours) in enumerate(zip(exact, found, strict=True)):
            assert expected.isfinite().all()
            if expected.abs().max() < limits.max:
                assert ours.isfinite().all(), (index, tables_in_half)
