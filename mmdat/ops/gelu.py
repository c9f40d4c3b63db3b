"""GELU, the activation of feed-forward networks, of a map (arXiv 1606.08415)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import is_differentiated, make_compiled
from .cpu import call_kernel, is_contiguous_map, why_no_kernel
from .dispatch import is_compiled


def gelu(x: Tensor, *, implementation: str = 'auto') -> Tensor:
    """GELU of a map that nobody else will read.

    It is in place where no gradient is wanted: two maps at a time, not three.

    Args:
        x: Tensor[batch, channels, height, width].
        implementation: ``'dense'``, PyTorch's; ``'compiled'``, C++ on a CPU for float32 and
            bfloat16; ``'auto'``, compiled where it can be and nothing traces operators.

    Returns:
        A tensor of the shape and dtype of ``x``; ``x`` itself where it is in place.

    Raises:
        ValueError: If there is no such implementation for this map.

    Differentiable, where it is compiled in reverse mode.
    """
    if is_compiled('gelu', implementation, _why_not_compiled(x)):
        if torch.is_grad_enabled() or is_differentiated(x):
            return _compiled(x)
        x = x.resolve_neg()
        torch.autograd.graph.increment_version(x)
        return _apply(x, out=x)
    if torch.is_grad_enabled():
        return F.gelu(x)
    # In this order of dimensions PyTorch takes oneDNN's on CPUs, which in half precision takes half
    # the time.
    torch.ops.aten.gelu_(x.permute(0, 2, 3, 1))
    return x


def _why_not_compiled(x: Tensor) -> str | None:
    reason = why_no_kernel(x)
    if reason is None and x.dtype == torch.float16:
        return f'the map is in {x.dtype}'
    if reason is None and not is_contiguous_map(x):
        return 'the map is neither contiguous nor channels-last'
    return reason


def _apply(x: Tensor, out: Tensor | None = None) -> Tensor:
    out = torch.empty_like(x) if out is None else out
    call_kernel('gelu_forward', x.dtype, (x.numel(),), x, out)
    return out


def _gradients(grad_out: Tensor, x: Tensor) -> tuple[Tensor]:
    grad = torch.empty_like(x)
    grad_out = torch.empty_like(x).copy_(grad_out) if grad_out.stride() != x.stride() else grad_out
    call_kernel('gelu_backward', x.dtype, (x.numel(),), x, grad_out, grad)
    return (grad,)


_compiled = make_compiled(_apply, _gradients, F.gelu)
