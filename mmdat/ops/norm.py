"""LayerNorm over the channels of a map (arXiv 1607.06450)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import apply, is_differentiated, undifferentiable
from .cpu import call_kernel, channels_last, why_no_kernel_of_channels
from .dispatch import is_compiled
from .reference import is_autocast_enabled


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, implementation: str = 'auto'
) -> Tensor:
    r"""Normalize the channels at each position of a map.

    .. math:: (x - \text{mean}(x)) / \sqrt{\text{var}(x) + \text{eps}} \cdot w + b

    Args:
        x: Tensor[batch, channels, height, width].
        weight: Tensor[channels].
        bias: Tensor[channels].
        eps: Added to the variance.
        implementation: ``'dense'``, PyTorch's; ``'compiled'``, C++ on a CPU, for multiples of 16
            channels and a result in bfloat16; ``'auto'``, compiled where it can be and nothing
            traces operators.

    Returns:
        Tensor[batch, channels, height, width]: in bfloat16 where ``x`` is in float32 on a CPU and
        autocast has bfloat16, to which the next convolution would round it, else in the dtype of
        ``torch.nn.functional.layer_norm``. Channels-last in memory where it is compiled.

    Raises:
        ValueError: If shapes do not fit each other, or if there is no such implementation for these
            inputs.

    Differentiable in all tensors, ``'compiled'`` once and in reverse mode.

    Example:
        >>> layer_norm(torch.rand(1, 16, 6, 8), torch.rand(16), torch.rand(16)).shape
        torch.Size([1, 16, 6, 8])
    """
    if x.ndim != 4 or weight.shape != (x.shape[1],) or bias.shape != weight.shape:
        raise ValueError(
            'x must be (batch, channels, height, width), weight and bias (channels,), '
            f'got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}'
        )
    reason = _why_not_compiled(x, weight, bias)
    if not is_compiled('layer_norm', implementation, reason):
        return _dense(x, weight, bias, eps)
    x, weight, bias = (tensor.resolve_neg() for tensor in (x, weight, bias))
    if is_differentiated(x, weight, bias):
        return apply(_Compiled, x, weight, bias, eps)[0]
    return _normalize(x, weight, bias, eps, keep=False)[0]


def _dense(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    dtype = torch.bfloat16 if _is_rounded(x) else x.dtype
    is_half_on_cpu = x.device.type == 'cpu' and dtype.itemsize < 4
    x = x.permute(0, 2, 3, 1)
    if is_half_on_cpu:
        # PyTorch sums gradients of weights in half precision there: they were a quarter off.
        x, weight, bias = (tensor.float() for tensor in (x, weight, bias))
    out = F.layer_norm(x, weight.shape, weight, bias, eps)
    return (out.to(dtype) if is_half_on_cpu else out).permute(0, 3, 1, 2)


def _is_rounded(x: Tensor) -> bool:
    """Whether the result for a map in float32 is in bfloat16; float16 might not hold the map."""
    return (
        x.device.type == 'cpu'
        and x.dtype == torch.float32
        and is_autocast_enabled(x)
        and torch.get_autocast_dtype('cpu') == torch.bfloat16
    )


def _why_not_compiled(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    reason = why_no_kernel_of_channels(x, x.shape[1], weight, bias)
    if reason is None and x.dtype != torch.bfloat16 and not _is_rounded(x):
        return f'the result is in {x.dtype}, as autocast does not round it'
    return reason


def _normalize(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the result and, if they are to be kept for the backward pass, the normalized map and
    the factor of each position.
    """
    x = channels_last(x)
    out = torch.empty_like(x, dtype=torch.bfloat16)
    positions, channels = x.numel() // x.shape[1], x.shape[1]
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    kept = (torch.empty_like(out), weight.new_empty(positions)) if keep else (None, None)
    call_kernel(
        'layer_norm_forward',
        x.dtype,
        (positions, channels),
        x,
        weight,
        bias,
        float(eps),
        out,
        *kept,
    )
    return out, *kept


class _Compiled(torch.autograd.Function):
    """The kernels in C++; ``csrc/norm.cpp`` says how they work."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return _normalize(x, weight, bias, eps, keep=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, _ = inputs
        # What is kept depends on the map, so that a second derivative is refused.
        _, *kept = output
        ctx.set_materialize_grads(False)
        ctx.dtypes = x.dtype, bias.dtype
        ctx.save_for_backward(weight, *kept)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad_out is None:
            return None, None, None, None
        return *_gradients(grad_out.resolve_neg(), *ctx.dtypes, *ctx.saved_tensors), None


@undifferentiable
def _gradients(
    grad_out: Tensor,
    dtype: torch.dtype,
    bias_dtype: torch.dtype,
    weight: Tensor,
    normalized: Tensor,
    factors: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    positions, channels = len(factors), len(weight)
    grad = torch.empty_like(normalized, dtype=dtype)
    grad_weight, grad_bias = factors.new_empty(channels), factors.new_empty(channels)
    call_kernel(
        'layer_norm_backward',
        dtype,
        (positions, channels),
        channels_last(grad_out.bfloat16()),
        normalized,
        factors,
        weight.float().contiguous(),
        grad,
        grad_weight,
        grad_bias,
    )
    return grad, grad_weight.to(weight.dtype), grad_bias.to(bias_dtype)
