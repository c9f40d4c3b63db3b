"""A convolution of each channel by itself, of any kernel and stride, in float32 on CPUs: what
computes the offsets of keys (DAT, arXiv 2201.00520, section 3.2).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import make_compiled
from .cpu import call_kernel, channels_last, kernel_dtype, why_no_kernel_of_channels
from .dispatch import is_compiled
from .reference import compute_dtype, without_autocast


def strided_depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int,
    padding: int = 0,
    *,
    implementation: str = 'auto',
) -> Tensor:
    """Convolve each channel by itself; groups of channels, one behind the other, share weights.

    Args:
        x: Tensor[batch, groups * channels, height, width].
        weight: Tensor[channels, 1, kernel_height, kernel_width].
        bias: Tensor[channels].
        stride: Distance between the positions of neighboring outputs.
        padding: Zeros on each side of the map.
        implementation: ``'dense'``, PyTorch's convolution, on CPUs in float32 or better, since its
            backward pass in half precision took 9 times as long; ``'compiled'``, C++ on a CPU,
            which sums in float32; ``'auto'``, compiled where it can be and nothing traces
            operators.

    Returns:
        Tensor[batch, groups * channels, rows, columns], on CPUs in the dtype of ``x``, else in that
        of PyTorch's convolution. Channels-last in memory where it is compiled.

    Raises:
        ValueError: If shapes do not fit each other, if ``stride`` or ``padding`` cannot be, or if
            there is no such implementation.

    Differentiable in all tensors, where it is compiled in reverse mode.

    Example:
        >>> x = torch.rand(1, 32, 6, 8)
        >>> strided_depthwise_conv(x, torch.rand(16, 1, 2, 2), torch.rand(16), 2).shape
        torch.Size([1, 32, 3, 4])
    """
    _check_shapes(x, weight, bias)
    if stride < 1 or padding < 0:
        raise ValueError(
            f'stride must be positive and padding no less than 0, got {stride}, {padding}'
        )
    reason = _why_not_compiled(x, weight, bias, padding)
    if is_compiled('strided_depthwise_conv', implementation, reason):
        return _compiled(x, weight, bias, stride, padding)
    return _dense(x, weight, bias, stride, padding)


def _dense(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    channels = x.shape[1]
    groups = channels // len(weight)
    if groups > 1:
        # What expand or cat make of them, torch.compile takes for views, and no view for a bias.
        weight, bias = weight.repeat(groups, 1, 1, 1), bias.repeat(groups)
    if x.device.type != 'cpu':
        return F.conv2d(x, weight, bias, stride, padding, groups=channels)
    dtype = compute_dtype(x)
    with without_autocast(x):
        out = F.conv2d(
            x.to(dtype), weight.to(dtype), bias.to(dtype), stride, padding, groups=channels
        )
    return out.to(x.dtype)


def _why_not_compiled(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> str | None:
    reason = why_no_kernel_of_channels(x, len(weight), weight, bias)
    if reason is None and any(
        side + 2 * padding < taps for side, taps in zip(x.shape[2:], weight.shape[2:], strict=True)
    ):
        return f'a kernel of {tuple(weight.shape[2:])} is larger than the padded map'
    return reason


# The kernels in C++; ``csrc/strided.cpp`` says how they work.
def _convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    sides = zip(x.shape[2:], weight.shape[2:], strict=True)
    shape = torch.Size(
        [*x.shape[:2], *((side + 2 * padding - taps) // stride + 1 for side, taps in sides)]
    )
    dtype, arguments = _arguments(x, weight, shape, stride, padding)
    out = torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
    call_kernel('strided_forward', dtype, *arguments, bias.float().contiguous(), out)
    return out.to(x.dtype)


def _gradients(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, arguments = _arguments(x, weight, grad_out.shape, stride, padding)
    grad, grad_weight = (torch.empty_like(tensor) for tensor in arguments[1:])
    grad_bias = grad_weight.new_empty(bias.shape)
    grad_out = channels_last(grad_out.to(dtype))
    call_kernel('strided_backward', dtype, *arguments, grad_out, grad, grad_weight, grad_bias)
    return grad.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _arguments(
    x: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int
) -> tuple[torch.dtype, tuple[Any, ...]]:
    """Return the kernels' dtype and, for an output of a shape, sizes, map and weight."""
    dtype = kernel_dtype(x)
    sizes = [*x.shape[:2], len(weight)]
    for axis in zip(x.shape[2:], shape[2:], weight.shape[2:], strict=True):
        sizes += [*axis, stride, padding]
    return dtype, (sizes, channels_last(x.to(dtype)), weight.float().contiguous())


_compiled = make_compiled(_convolve, _gradients, _dense)


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if (
        x.ndim != 4
        or weight.ndim != 4
        or weight.shape[1] != 1
        or not len(weight)
        or x.shape[1] % len(weight)
        or bias.shape != weight.shape[:1]
    ):
        raise ValueError(
            'x must be (batch, groups * channels, height, width), weight (channels, 1, '
            'kernel_height, kernel_width) and bias (channels,), '
            f'got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}'
        )
