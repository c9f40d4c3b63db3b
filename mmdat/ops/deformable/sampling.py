"""Where queries and keys lie on the map, and what is sampled there (DAT, arXiv 2201.00520, section
3.2).

A location is (y, x), with -1 and 1 at the centers of the first and last position of an axis.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd import is_transformed, make_compiled
from ..cpu import call_kernel, channels_last, kernel_dtype, why_no_kernel_of_channels
from ..dispatch import is_compiled
from ..reference import compute_dtype
from ..tracing import is_exporting, larger


def relative_position_bias(
    query_points: Tensor, sampling_locations: Tensor, table: Tensor
) -> Tensor:
    """Sample the bias table bilinearly at half of (query - key), zero outside (DAT, equation 9).

    Args:
        query_points: Tensor[num_queries, 2], (y, x) in [-1, 1].
        sampling_locations: Tensor[batch, groups, num_keys, 2], (y, x) of the keys.
        table: Tensor[num_heads, table_height, table_width].

    Returns:
        Tensor[batch, num_heads, num_queries, num_keys], in float32 or better.
    """
    batch, groups = sampling_locations.shape[:2]
    dtype = compute_dtype(table)
    # Halved and in grid_sample's order, (x, y), before they become as many as the pairs.
    queries, keys = (points.flip(-1) / 2 for points in (query_points, sampling_locations))
    displacement = queries[:, None] - keys[:, :, None]
    bias = _sample_bilinearly(
        table.to(dtype).unflatten(0, (groups, -1)).repeat(batch, 1, 1, 1),
        displacement.to(dtype).flatten(0, 1),
    )
    return bias.unflatten(0, (batch, groups)).flatten(1, 2)


def sample_at(x: Tensor, sampling_locations: Tensor, *, implementation: str = 'auto') -> Tensor:
    """Sample a feature map bilinearly at each group's own locations, zero outside.

    Args:
        x: Tensor[batch, channels, height, width]; the channels are split over the groups in order.
        sampling_locations: Tensor[batch, groups, key_height, key_width, 2], (y, x) with -1 and 1
            at the centers of the first and last position of an axis.
        implementation: ``'dense'``, PyTorch's; ``'compiled'``, C++ on a CPU, for groups of a
            multiple of 16 channels; ``'auto'``, compiled where it can be and nothing traces
            operators.

    Returns:
        Tensor[batch, channels, key_height, key_width] in the dtype of ``x``, in channels-last
        memory where ``x`` is or where it is compiled.

    Raises:
        ValueError: If shapes do not fit each other, or if there is no such implementation for these
            inputs.

    Differentiable in both tensors, where it is compiled in reverse mode.

    Example:
        >>> sample_at(torch.rand(1, 6, 8, 8), torch.zeros(1, 2, 3, 4, 2)).shape
        torch.Size([1, 6, 3, 4])
    """
    if not _fits(x, sampling_locations):
        raise ValueError(
            'x must be (batch, channels, height, width), sampling_locations (batch, groups, '
            'key_height, key_width, 2), and groups must divide channels, '
            f'got {tuple(x.shape)} and {tuple(sampling_locations.shape)}'
        )
    group_channels = x.shape[1] // sampling_locations.shape[1]
    reason = why_no_kernel_of_channels(x, group_channels, sampling_locations)
    if is_compiled('sample_at', implementation, reason):
        return _compiled(x, sampling_locations)
    return _dense(x, sampling_locations)


def _fits(x: Tensor, sampling_locations: Tensor) -> bool:
    shape = sampling_locations.shape
    return (
        x.ndim == 4
        and len(shape) == 5
        and shape[-1] == 2
        and shape[1] > 0
        and x.shape[1] % shape[1] == 0
        and (is_exporting() or len(x) == shape[0])  # unknown numbers cannot be compared
    )


def _dense(x: Tensor, sampling_locations: Tensor) -> Tensor:
    batch, groups = sampling_locations.shape[:2]
    dtype = compute_dtype(x)
    sampled = _sample_bilinearly(
        x.to(dtype).unflatten(1, (groups, -1)).flatten(0, 1),
        sampling_locations.to(dtype).flatten(0, 1).flip(-1),
    )
    sampled = sampled.unflatten(0, (batch, groups)).flatten(1, 2)
    if is_exporting() or is_transformed():
        return sampled.to(x.dtype)
    # Kernels of attention would copy the keys that convolutions make of it in another order.
    last = x.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.preserve_format
    return sampled.to(x.dtype, memory_format=order)


# The kernels in C++; ``csrc/sampling.cpp`` says how they work.
def _sample(x: Tensor, sampling_locations: Tensor) -> Tensor:
    dtype, arguments = _arguments(x, sampling_locations)
    shape = x.shape[:2] + sampling_locations.shape[2:4]
    out = torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
    call_kernel('sampling_forward', dtype, *arguments, out)
    return out.to(x.dtype)


def _gradients(grad_out: Tensor, x: Tensor, sampling_locations: Tensor) -> tuple[Tensor, Tensor]:
    dtype, arguments = _arguments(x, sampling_locations)
    grad, grad_locations = (torch.empty_like(tensor) for tensor in arguments[1:])
    grad_out = channels_last(grad_out.to(dtype))
    call_kernel('sampling_backward', dtype, *arguments, grad_out, grad, grad_locations)
    return grad.to(x.dtype), grad_locations.to(sampling_locations.dtype)


def _arguments(x: Tensor, sampling_locations: Tensor) -> tuple[torch.dtype, tuple[Any, ...]]:
    """Return the kernels' dtype and first arguments: sizes, map and locations."""
    dtype = kernel_dtype(x)
    sizes = *x.shape, sampling_locations.shape[1], sampling_locations[0, 0, ..., 0].numel()
    return dtype, (sizes, channels_last(x.to(dtype)), sampling_locations.float().contiguous())


_compiled = make_compiled(_sample, _gradients, _dense)


def _sample_bilinearly(x: Tensor, grid: Tensor) -> Tensor:
    """Sample a map as ``F.grid_sample`` does, in PyTorch's deterministic mode too.

    Args:
        x: Tensor[batch, channels, height, width].
        grid: Tensor[batch, rows, columns, 2], (x, y) in [-1, 1].

    Returns:
        Tensor[batch, channels, rows, columns].
    """
    if _adds_up_in_any_order(x):
        return _sample_by_index(x, grid)
    return F.grid_sample(x, grid, align_corners=True)


def _adds_up_in_any_order(x: Tensor) -> bool:
    """Whether the backward pass of ``F.grid_sample`` raises in PyTorch's deterministic mode."""
    return x.is_cuda and torch.are_deterministic_algorithms_enabled()


def _sample_by_index(x: Tensor, grid: Tensor) -> Tensor:
    """Like ``F.grid_sample``, with indices, whose backward pass can add up in order."""
    features = x.permute(0, 2, 3, 1)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    places = [(grid[..., axis] + 1) / 2 * (x.shape[-1 - axis] - 1) for axis in (0, 1)]
    columns, rows = (_weighted_entries(*axis) for axis in zip(places, x.shape[:1:-1], strict=True))
    out = sum(
        (row_weight * column_weight)[..., None] * features[batch, row, column]
        for (row, row_weight), (column, column_weight) in itertools.product(rows, columns)
    )
    assert isinstance(out, Tensor)
    return out.permute(0, 3, 1, 2)


def _weighted_entries(places: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Entries of an axis before and behind places, and their weights, zero outside the axis."""
    before = places.detach().floor()
    fraction = places - before
    return [
        # At a NaN, any entry will do.
        (
            entry.nan_to_num().clamp(0, size - 1).long(),
            weight.where((entry >= 0) & (entry < size) | entry.isnan(), 0),
        )
        for entry, weight in ((before, 1 - fraction), (before + 1, fraction))
    ]


def grid_points(
    height: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Positions of a map as (y, x): -1 for the first, 1 for the last, 0 on an axis of size 1.

    Returns:
        Tensor[height, width, 2].

    Example:
        >>> grid_points(1, 3)[0].tolist()
        [[0.0, -1.0], [0.0, 0.0], [0.0, 1.0]]
    """
    y, x = (axis_points(size, device=device, dtype=dtype) for size in (height, width))
    return torch.stack(torch.meshgrid(y, x, indexing='ij'), dim=-1)


def reference_points(
    height: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Where the keys lie before they are offset, as (y, x): ``(i + 0.5) / (size - 1) * 2 - 1``.

    The divisor is ``size - 1``, as published, so the last point lies past 1. On an axis of size 1
    the coordinate is 0.

    Returns:
        Tensor[height, width, 2].

    Example:
        >>> reference_points(1, 3)[0].tolist()
        [[0.0, -0.5], [0.0, 0.5], [0.0, 1.5]]
    """
    y, x = (axis_points(size, 0.5, device=device, dtype=dtype) for size in (height, width))
    return torch.stack(torch.meshgrid(y, x, indexing='ij'), dim=-1)


def axis_points(
    size: int,
    shift: float = 0.0,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Coordinates of an axis: ``(i + shift) / (size - 1) * 2 - 1``, or 0 if its size is 1.

    Returns:
        Tensor[size].
    """
    if is_exporting():
        points = torch.arange(size, device=device, dtype=dtype) + shift
        points = points / larger(1, size - 1) * 2 - 1
        return points * (size - larger(1, size - 1))
    if size == 1:
        return torch.zeros(1, device=device, dtype=dtype)
    # In few operators: a GPU takes as long to start one as to place all keys.
    middle = (size - 1) / 2
    return (torch.arange(size, device=device, dtype=dtype) + (shift - middle)) / middle
