"""A 3 x 3 convolution of each channel by itself, added to its input (DAT++, arXiv 2309.01430,
section 3.4; conditional position encoding, arXiv 2102.10882).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import is_differentiated, is_traced, is_transformed
from .cpu import call_kernel, kernel_dtype, why_not_compiled
from .dispatch import choose_implementation
from .reference import is_autocast_enabled, without_autocast
from .tracing import ceil_div

# The kernels take channels by vectors, of at most so many.
CHANNELS = 16
# Rows of which they give a sum of the gradients of the weights, their BAND.
ROWS = 16


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
    chosen = choose_implementation(
        'residual_depthwise_conv',
        implementation,
        'dense' if reason else 'compiled',
        ('dense', 'compiled'),
        {'compiled': reason} if reason else {},
    )
    if chosen == 'dense':
        return _dense(x, weight, bias, with_gelu)
    x, weight, bias = (tensor.resolve_neg() for tensor in (x, weight, bias))
    if is_differentiated(x, weight, bias):
        return _Compiled.apply(x, weight, bias, with_gelu)
    return _convolve(x, weight, bias, with_gelu)


def gelu(x: Tensor) -> Tensor:
    """GELU of a (batch, channels, height, width) map that nobody else will read.

    It is in place where no gradient is wanted: two maps at a time, not three.
    """
    if torch.is_grad_enabled():
        return F.gelu(x)
    # In this order of dimensions PyTorch takes oneDNN's on CPUs, which in half precision takes half
    # the time.
    torch.ops.aten.gelu_(x.permute(0, 2, 3, 1))
    return x


def _dense(x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool) -> Tensor:
    if x.device.type != 'cpu' or min(x.dtype.itemsize, weight.dtype.itemsize) < 4:
        # Half precision, and a GPU's TF32, have too few digits for a small weight plus one.
        out = F.conv2d(x, weight, bias, padding=1, groups=x.shape[1])
        out = out.add_(x) if out.dtype == x.dtype else x + out
    else:
        # One pass over the map instead of two; autocast does not round what the blocks add to.
        identity = _identity(weight)
        with without_autocast(x):
            out = F.conv2d(x, weight + identity, bias, padding=1, groups=x.shape[1])
    return gelu(out) if with_gelu else out


def _identity(weight: Tensor) -> Tensor:
    return F.pad(weight.new_ones(1), (4, 4)).view(3, 3)


def _why_not_compiled(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    if is_traced(x, weight, bias) or is_transformed():
        return 'something traces or transforms operators'
    if x.shape[1] % CHANNELS or not x.numel():
        return f'a map of {tuple(x.shape)} is empty or has no multiple of {CHANNELS} channels'
    if x.dtype != weight.dtype and not is_autocast_enabled(x):
        return f'the map is in {x.dtype}, the weight in {weight.dtype}, and autocast is off'
    return why_not_compiled(x, weight, bias)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool) -> Tensor:
    dtype, arguments = _arguments(x, weight, bias, with_gelu)
    out = torch.empty_like(arguments[1])
    call_kernel('depthwise_forward', dtype, *arguments, out)
    return out.to(x.dtype)


class _Compiled(torch.autograd.Function):
    """The kernels in C++; ``csrc/depthwise.cpp`` says how they work."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool) -> Tensor:
        return _convolve(x, weight, bias, with_gelu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.with_gelu = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed():
            # A second derivative is wanted, or torch.func maps over the backward pass.
            def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                # Autocast, which lets dtypes differ, is off by now.
                return _dense(x.float(), weight.float(), bias.float(), ctx.with_gelu)

            gradients = torch.func.vjp(dense, x, weight, bias)[1]
            return *gradients(grad_out.float()), None
        return *_gradients(grad_out, x, weight, bias, ctx.with_gelu), None


def _gradients(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, arguments = _arguments(x, weight, bias, with_gelu)
    batch, channels, height, _ = x.shape
    grad = torch.empty_like(arguments[1])
    # Of each band of rows: the gradients of the nine weights of each channel, and of its bias.
    sums = grad.new_empty(batch * ceil_div(height, ROWS), 10, channels, dtype=torch.float32)
    grad_out = _channels_last(grad_out.resolve_neg().to(dtype))
    call_kernel('depthwise_backward', dtype, *arguments, grad_out, grad, sums)
    sums = sums.sum(0)
    # Copies, which hold no memory of others.
    grad_weight, grad_bias = sums[:9].t().contiguous().view(weight.shape), sums[9].clone()
    return grad.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _arguments(
    x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool
) -> tuple[torch.dtype, tuple[Any, ...]]:
    """Return the kernels' dtype and first arguments: sizes, map, weights by tap, and bias."""
    batch, channels, height, width = x.shape
    dtype = kernel_dtype(x)
    weight = weight.float()
    weights = (weight + _identity(weight)).reshape(channels, 9).t().contiguous()
    sizes = batch, height, width, channels, with_gelu
    return dtype, (sizes, _channels_last(x.to(dtype)), weights, bias.float().contiguous())


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.ndim != 4 or weight.shape != (x.shape[1], 1, 3, 3) or bias.shape != (x.shape[1],):
        raise ValueError(
            'x must be (batch, channels, height, width), weight (channels, 1, 3, 3) and bias '
            f'(channels,), got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}'
        )
