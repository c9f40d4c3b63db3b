"""A 3 x 3 convolution of each channel by itself, added to its input (DAT++, arXiv 2309.01430,
section 3.4; conditional position encoding, arXiv 2102.10882).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import make_compiled
from .cpu import call_kernel, channels_last, kernel_dtype, why_no_kernel_of_channels
from .dispatch import is_compiled
from .gelu import gelu
from .reference import is_autocast_enabled, without_autocast


def residual_depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    with_gelu: bool = False,
    implementation: str = 'auto',
) -> Tensor:
    r"""Add a map and its 3 x 3 convolution of each channel by itself; then GELU, if wanted.

    .. math:: \text{GELU}(x + w * x + b)

    Args:
        x: Tensor[batch, channels, height, width].
        weight: Tensor[channels, 1, 3, 3].
        bias: Tensor[channels].
        with_gelu: Whether to apply GELU.
        implementation: ``'dense'``, the equation with PyTorch's convolution; ``'compiled'``, C++ on
            a CPU, which keeps nothing but ``x`` for the backward pass; ``'auto'``, compiled where
            it can be and nothing traces operators.

    Returns:
        A tensor of the shape and dtype of ``x``, in channels-last memory where it is compiled.

    Raises:
        ValueError: If shapes do not fit each other, or if there is no such implementation.

    Differentiable in all tensors, where it is compiled in reverse mode. Floating point of any
    precision.

    Example:
        >>> x = torch.rand(1, 16, 6, 8)
        >>> residual_depthwise_conv(x, torch.rand(16, 1, 3, 3), torch.rand(16)).shape
        torch.Size([1, 16, 6, 8])
    """
    _check_shapes(x, weight, bias)
    reason = _why_not_compiled(x, weight, bias)
    if is_compiled('residual_depthwise_conv', implementation, reason):
        return _compiled(x, weight, bias, with_gelu)
    return _dense(x, weight, bias, with_gelu, implementation)


def _dense(
    x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool, implementation: str = 'dense'
) -> Tensor:
    if x.device.type != 'cpu' or min(x.dtype.itemsize, weight.dtype.itemsize) < 4:
        # Half precision, and a GPU's TF32, have too few digits for a small weight plus one.
        out = F.conv2d(x, weight, bias, padding=1, groups=x.shape[1])
        out = out.add_(x) if out.dtype == x.dtype else x + out
    else:
        # One pass over the map instead of two; autocast does not round what the blocks add to.
        identity = F.pad(weight.new_ones(1), (4, 4)).view(3, 3)
        with without_autocast(x):
            out = F.conv2d(x, weight + identity, bias, padding=1, groups=x.shape[1])
    return gelu(out, implementation=implementation) if with_gelu else out


def _why_not_compiled(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    reason = why_no_kernel_of_channels(x, x.shape[1], weight, bias)
    if reason is None and x.dtype != weight.dtype and not is_autocast_enabled(x):
        return f'the map is in {x.dtype}, the weight in {weight.dtype}, and autocast is off'
    return reason


# The kernels in C++; ``csrc/depthwise.cpp`` says how they work.
def _convolve(x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool) -> Tensor:
    dtype, arguments = _arguments(x, weight, bias, with_gelu)
    out = torch.empty_like(arguments[1])
    call_kernel('depthwise_forward', dtype, *arguments, out)
    return out.to(x.dtype)


def _gradients(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, arguments = _arguments(x, weight, bias, with_gelu)
    grads = [torch.empty_like(tensor) for tensor in arguments[1:]]
    grad_out = channels_last(grad_out.to(dtype))
    call_kernel('depthwise_backward', dtype, *arguments, grad_out, *grads)
    grad, grad_weight, grad_bias = grads
    return grad.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _arguments(
    x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool
) -> tuple[torch.dtype, tuple[Any, ...]]:
    """Return the kernels' dtype and first arguments: sizes, map, weight and bias."""
    batch, channels, height, width = x.shape
    dtype = kernel_dtype(x)
    sizes = batch, height, width, channels, with_gelu
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    return dtype, (sizes, channels_last(x.to(dtype)), weight, bias)


_compiled = make_compiled(_convolve, _gradients, _dense)


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.ndim != 4 or weight.shape != (x.shape[1], 1, 3, 3) or bias.shape != (x.shape[1],):
        raise ValueError(
            'x must be (batch, channels, height, width), weight (channels, 1, 3, 3) and bias '
            f'(channels,), got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}'
        )
