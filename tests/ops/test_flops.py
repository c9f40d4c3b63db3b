"""What PyTorch counts of an operator does not depend on the implementation."""

from functools import partial

import pytest
import torch
from helpers.compiled import needs_kernels
from packaging.version import Version
from torch.utils.flop_counter import FlopCounterMode

import mmdat.ops.flops  # noqa: F401
from mmdat.ops import (
    deformable_attention,
    global_attention,
    neighborhood_attention,
    window_attention,
)

# PyTorch counts its attention on CPUs itself from 2.15 on, and the logits that it recomputes.
PYTORCH_BACKWARD = 2 if Version(torch.__version__) < Version('2.15') else 2.5


def flops(operator, *inputs: torch.Tensor, implementation: str) -> tuple[int, int]:
    """Count FLOPs of the forward and the backward pass."""
    with FlopCounterMode(display=False) as forward:
        out = operator(*inputs, implementation=implementation)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize('value_dim', [4, 6])
def test_deformable_attention(value_dim: int) -> None:
    inputs = [
        torch.randn(shape, requires_grad=True)
        for shape in ((2, 2, 5, 6, 4), (2, 2, 7, 4), (2, 2, 7, value_dim), (2, 1, 7, 2), (2, 3, 3))
    ]
    tiled = flops(deformable_attention, *inputs, implementation='tiled')
    assert tiled[0] == 2 * 2 * 2 * 30 * 7 * (4 + value_dim)
    assert tiled == flops(deformable_attention, *inputs, implementation='dense')


def test_neighborhood_attention() -> None:
    inputs = [
        torch.randn(shape, requires_grad=True) for shape in ((2, 2, 5, 6, 4),) * 3 + ((2, 5, 5),)
    ]
    tiled = flops(neighborhood_attention, *inputs, implementation='tiled')
    assert tiled[0] == 2 * 2 * 2 * 30 * 9 * 8
    assert tiled == flops(neighborhood_attention, *inputs, implementation='dense')


def test_attention_of_pytorch_on_a_cpu() -> None:
    inputs = [
        torch.randn(shape, requires_grad=True)
        for shape in ((2, 2, 5, 6, 4), (2, 2, 7, 4), (2, 2, 7, 4))
    ]
    fused = flops(global_attention, *inputs, implementation='fused')
    assert fused[0] == 2 * 2 * 2 * 30 * 7 * 8
    assert fused[1] == PYTORCH_BACKWARD * fused[0]
    dense = flops(global_attention, *inputs, implementation='dense')
    assert dense == (fused[0], 2 * fused[0])


def test_values_narrower_than_keys_count_with_their_own_width() -> None:
    inputs = [
        torch.randn(shape, requires_grad=True)
        for shape in ((2, 2, 5, 6, 4), (2, 2, 7, 4), (2, 2, 7, 3))
    ]
    tiled = flops(global_attention, *inputs, implementation='tiled')
    assert tiled[0] == 2 * 2 * 2 * 30 * 7 * (4 + 3)
    assert tiled == flops(global_attention, *inputs, implementation='dense')


def test_window_attention() -> None:
    inputs = [torch.randn((2, 2, 4, 6, 4), requires_grad=True) for _ in range(3)]
    forward, backward = flops(
        partial(window_attention, window_size=2), *inputs, implementation='fused'
    )
    assert forward == 2 * 2 * 2 * 24 * 4 * 8
    assert backward == PYTORCH_BACKWARD * forward


@needs_kernels
def test_the_kernel_of_windows_counts_padding_as_the_equation_does() -> None:
    inputs = [torch.randn((2, 2, 5, 7, 4), requires_grad=True) for _ in range(3)]
    operator = partial(window_attention, window_size=3)
    compiled = flops(operator, *inputs, implementation='compiled')
    assert compiled[0] == 2 * 2 * 2 * (6 * 9) * 9 * 8
    assert compiled == flops(operator, *inputs, implementation='dense')
