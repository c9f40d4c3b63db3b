"""A convolution whose gradient of the weight is one matrix product, where that is faster."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .autograd import apply, is_traced, is_transformed
from .dispatch import choose_implementation
from .reference import is_autocast_enabled, without_autocast

Pair = tuple[int, ...]  # rows, columns


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    *,
    implementation: str = 'auto',
) -> Tensor:
    """Convolve a map, as PyTorch does.

    Args:
        x: Tensor[batch, in_channels, height, width].
        weight: Tensor[out_channels, in_channels, kernel_height, kernel_width].
        bias: Tensor[out_channels] or None.
        stride: Distance between the positions of neighboring outputs, or those in rows and columns.
        padding: Zeros on each side of the map, or those above and below it and beside it.
        implementation: What computes gradients of weight and bias: ``'dense'``, PyTorch's
            convolution; ``'product'``, a matrix product with the windows of the map, which are
            copied one by one if the kernel is larger than 1 x 1 (9/4 of the map for 3 x 3 by steps
            of 2); ``'auto'``, the product in float32 on CPUs with AVX2 alone, where oneDNN takes up
            to 1.5 times as long for kernels of 1 x 1 and 6 times for strided ones.

    Returns:
        Tensor[batch, out_channels, rows, columns] in the dtype of PyTorch's convolution.

    Raises:
        ValueError: If there is no such implementation, or the product cannot take the inputs.

    Differentiable twice; in forward mode the dense implementation alone.
    """
    reason = _why_no_product(x, weight, bias)
    fast = reason is None and _PREFERS_PRODUCTS and x.is_cpu and x.dtype == torch.float32
    chosen = choose_implementation(
        'conv2d',
        implementation,
        'product' if fast and torch.is_grad_enabled() and weight.requires_grad else 'dense',
        ('dense', 'product'),
        {'product': reason} if reason else {},
    )
    if chosen == 'dense':
        return F.conv2d(x, weight, bias, stride, padding)
    return apply(_ConvolutionWithProduct, x, weight, bias, _pair(stride), _pair(padding))


# Measured where oneDNN has AVX2 alone; elsewhere nothing was.
_PREFERS_PRODUCTS = (
    torch.backends.cpu.get_cpu_capability() == 'AVX2' and torch.backends.mkl.is_available()
)


def _pair(number: int | Pair) -> Pair:
    return (number, number) if isinstance(number, int) else number


def _why_no_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    tensors = [y for y in (x, weight, bias) if y is not None]
    if is_traced(*tensors) or is_transformed():
        return 'something traces or transforms operators'
    if is_autocast_enabled(x):
        return 'autocast is on'
    if not x.is_floating_point():
        return f'the map is in {x.dtype}'
    if x.ndim != 4 or not x.numel():
        return f'a map of {tuple(x.shape)} is no batch of maps, or is empty'
    return None


class _ConvolutionWithProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, *ctx.options = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        # Of operators that are differentiable themselves.
        x, weight = ctx.saved_tensors
        stride, padding = ctx.options
        grad = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            mask = True, False, False
            geometry = stride, padding, (1, 1), False, (0, 0), 1
            grad, _, _ = torch.ops.aten.convolution_backward(
                grad_out, x, weight, None, *geometry, mask
            )
        if ctx.needs_input_grad[1]:
            taps = weight.shape[2:]
            positions = grad_out.permute(0, 2, 3, 1).reshape(-1, len(weight))
            with without_autocast(x):  # it may be on in the backward pass alone
                products = positions.t() @ _windows(x, taps, stride, padding)
            grad_weight = products.view(len(weight), *taps, -1).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_out.sum((0, 2, 3))
        return grad, grad_weight, grad_bias, None, None


def _windows(x: Tensor, taps: torch.Size, stride: Pair, padding: Pair) -> Tensor:
    """What each position of the output sees, Tensor[positions, taps * in_channels]."""
    rows, columns = padding
    if any(padding):
        x = F.pad(x, (columns, columns, rows, rows))
    windows = x.permute(0, 2, 3, 1).unfold(1, taps[0], stride[0]).unfold(2, taps[1], stride[1])
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
