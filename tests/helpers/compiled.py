"""What tests of kernels in C++ share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmdat.ops.cpu import KERNELS

needs_kernels = pytest.mark.skipif(
    KERNELS is None, reason='the kernels in C++ are not built (mmdat.ops.build.build())'
)


def differentiate(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output of an operator and the gradients of its inputs, for numbers from -3 to 3."""
    direction = torch.arange(out.numel()).view(out.shape) % 7 - 3
    return [out.detach(), *torch.autograd.grad(out, inputs, direction.to(out.dtype))]


def differentiate_twice(
    function: Callable[..., Tensor], inputs: list[Tensor]
) -> tuple[Tensor, ...]:
    """Derivatives of the gradients that a function gives its inputs."""
    first = torch.autograd.grad(function(*inputs).sin().sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum(x.square().sum() for x in first), inputs)
