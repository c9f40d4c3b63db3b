"""A residual branch added to its map (ResNet, arXiv 1512.03385)."""

from typing import Any

import torch
from torch import Tensor

from .autograd import apply, is_differentiated
from .cpu import call_kernel, is_contiguous_map, why_no_kernel
from .dispatch import is_compiled
from .tracing import is_exporting


def residual_add(x: Tensor, branch: Tensor, *, implementation: str = 'auto') -> Tensor:
    """Add a residual branch to its map.

    Args:
        x: Tensor[batch, channels, height, width].
        branch: A tensor of the same shape.
        implementation: ``'dense'``, PyTorch's, which writes a branch in bfloat16 in float32 before
            it adds it to a map in float32 on a CPU; ``'compiled'``, C++ for these dtypes, in one
            pass; ``'auto'``, compiled where it can be and nothing traces operators.

    Returns:
        Tensor[batch, channels, height, width] in the wider one of the dtypes.

    Raises:
        ValueError: If the shapes differ, or if there is no such implementation for these inputs.

    Differentiable in both tensors.

    Example:
        >>> residual_add(torch.rand(1, 2, 3, 4), torch.rand(1, 2, 3, 4)).shape
        torch.Size([1, 2, 3, 4])
    """
    if not is_exporting() and x.shape != branch.shape:
        raise ValueError(
            f'x and branch must have one shape, got {tuple(x.shape)} and {tuple(branch.shape)}'
        )
    if not is_compiled('residual_add', implementation, _why_not_compiled(x, branch)):
        return x + branch
    x, branch = x.resolve_neg(), branch.resolve_neg()
    return apply(_Compiled, x, branch) if is_differentiated(x, branch) else _add(x, branch)


def _why_not_compiled(x: Tensor, branch: Tensor) -> str | None:
    if (x.dtype, branch.dtype) != (torch.float32, torch.bfloat16):
        return f'the map is in {x.dtype} and the branch in {branch.dtype}'
    reason = why_no_kernel(x, branch)
    if reason is None and not is_contiguous_map(x, branch):
        return 'the map and the branch are not both contiguous or both channels-last'
    return reason


def _add(x: Tensor, branch: Tensor) -> Tensor:
    out = torch.empty_like(x)
    call_kernel('residual_add', x.dtype, (x.numel(),), x, branch, out)
    return out


class _Compiled(torch.autograd.Function):
    """The kernel in C++; it keeps nothing, since the gradients are those of a sum."""

    @staticmethod
    def forward(x: Tensor, branch: Tensor) -> Tensor:
        return _add(x, branch)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor]:
        return grad_out, grad_out.bfloat16()
