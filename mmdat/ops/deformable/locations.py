"""Where the keys of deformable attention lie (DAT, arXiv 2201.00520, section 3.2; DAT++, arXiv
2309.01430, section 3.2).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd import make_compiled
from ..cpu import call_kernel, channels_last, kernel_dtype, why_no_kernel_of_channels
from ..dispatch import is_compiled
from ..norm import layer_norm
from ..reference import compute_dtype, without_autocast
from ..tracing import larger
from .sampling import reference_points


def key_locations(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    offset_range: float | None = None,
    eps: float = 1e-5,
    *,
    implementation: str = 'auto',
) -> Tensor:
    r"""Move the keys from a regular grid by offsets, which each group of channels has of its own.

    .. math:: p + \Delta, \Delta = W \, \text{GELU}(\text{LayerNorm}(x))

    ``p`` are :func:`mmdat.ops.deformable.sampling.reference_points`. The sum is clamped to the
    map; bounded offsets are ``offset_range * tanh(offset)`` half steps of the grid, not clamped.

    Args:
        x: Tensor[batch, groups * channels, key_height, key_width], a map with a position for each
            key.
        norm_weight: Tensor[channels], of LayerNorm.
        norm_bias: Tensor[channels], of LayerNorm.
        weight: Tensor[2, channels, 1, 1], W.
        offset_range: Largest offset, in half steps of the grid; None for unbounded offsets.
        eps: Added to the variance in LayerNorm.
        implementation: ``'dense'``, PyTorch's; ``'compiled'``, C++ on a CPU, for groups of a
            multiple of 16 channels; ``'auto'``, compiled where it can be and nothing traces
            operators.

    Returns:
        Tensor[batch, groups, key_height, key_width, 2], (y, x) with -1 and 1 at the centers of the
        first and last position of an axis, in float32 or better.

    Raises:
        ValueError: If shapes do not fit each other, or if there is no such implementation for these
            inputs.

    Differentiable in all tensors.

    Example:
        >>> norm, weight = torch.rand(2, 16), torch.rand(2, 16, 1, 1)
        >>> key_locations(torch.rand(1, 32, 3, 4), *norm, weight).shape
        torch.Size([1, 2, 3, 4, 2])
    """
    channels = norm_weight.numel()
    if (
        x.ndim != 4
        or not channels
        or x.shape[1] % channels
        or norm_weight.ndim != 1
        or norm_bias.shape != norm_weight.shape
        or weight.shape != (2, channels, 1, 1)
    ):
        raise ValueError(
            'x must be (batch, groups * channels, height, width), norm_weight and norm_bias '
            f'(channels,), weight (2, channels, 1, 1), got {tuple(x.shape)}, '
            f'{tuple(norm_weight.shape)}, {tuple(norm_bias.shape)} and {tuple(weight.shape)}'
        )
    reason = why_no_kernel_of_channels(x, channels, norm_weight, norm_bias, weight)
    compute = _compiled if is_compiled('key_locations', implementation, reason) else _dense
    return compute(x, norm_weight, norm_bias, weight, offset_range, eps)


def _dense(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    offset_range: float | None,
    eps: float,
) -> Tensor:
    groups = x.shape[1] // len(norm_weight)
    hidden = x.unflatten(1, (groups, -1)).flatten(0, 1)
    hidden = F.gelu(layer_norm(hidden, norm_weight, norm_bias, eps, implementation='dense'))
    # Half precision would move the keys by up to a third of a position on a large map.
    dtype = compute_dtype(hidden)
    with without_autocast(x):
        offsets = F.conv2d(hidden.to(dtype), weight.to(dtype))
    offsets = offsets.unflatten(0, (-1, groups)).permute(0, 1, 3, 4, 2)
    grid = offsets.shape[2:4]
    points = reference_points(*grid, device=x.device, dtype=dtype)
    if offset_range is None:
        return (points + offsets).clamp(-1, 1)
    # A tensor of a list would be copied to a GPU, which has to wait for it.
    step = torch.stack([offsets.new_full((), 1 / larger(1, side - 1)) for side in grid])
    return points + offsets.tanh() * offset_range * step


# The kernels in C++; ``csrc/locations.cpp`` says how they work.
def _locate(x: Tensor, *args: Any) -> Tensor:
    dtype, arguments = _arguments(x, *args)
    groups = x.shape[1] // len(args[0])
    out = torch.empty(len(x), groups, *x.shape[2:], 2, device=x.device, dtype=torch.float32)
    call_kernel('locations_forward', dtype, *arguments, out)
    return out


def _gradients(grad_out: Tensor, *args: Any) -> tuple[Tensor, ...]:
    dtype, arguments = _arguments(*args)
    grads = [torch.empty_like(tensor) for tensor in arguments[1:5]]
    grad_out = grad_out.float().contiguous()
    call_kernel('locations_backward', dtype, *arguments, grad_out, *grads)
    return tuple(grad.to(x.dtype) for grad, x in zip(grads, args[:4], strict=True))


def _arguments(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    offset_range: float | None,
    eps: float,
) -> tuple[torch.dtype, tuple[Any, ...]]:
    """Return the kernels' dtype and first arguments: sizes, tensors and numbers."""
    dtype = kernel_dtype(x)
    batch, all_channels, *grid = x.shape
    channels = len(norm_weight)
    groups = all_channels // channels
    sizes = batch * groups * grid[0] * grid[1], channels, groups, *grid, offset_range is not None
    tensors = (y.float().contiguous() for y in (norm_weight, norm_bias, weight))
    reach = ((offset_range or 0.0) / max(1, side - 1) for side in grid)
    return dtype, (sizes, channels_last(x.to(dtype)), *tensors, float(eps), *reach)


_compiled = make_compiled(_locate, _gradients, _dense)
