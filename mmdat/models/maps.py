"""Functions on (batch, channels, height, width) maps, and on tables of such positions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdat.ops.tracing import ceil_div, fresh_size, is_exporting, larger


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Pad a map with zeros on the right and bottom until ``divisor`` divides its sides."""
    height, width = x.shape[2:]
    if is_exporting():
        rows, columns = (divisor * fresh_size(ceil_div(side, divisor)) for side in (height, width))
        return F.pad(x, (0, columns - width, 0, rows - height))
    if height % divisor == 0 and width % divisor == 0:
        return x
    return F.pad(x, (0, -width % divisor, 0, -height % divisor))


def mean_pool(x: Tensor, stride: int) -> Tensor:
    """Average a map over cells; the last of an axis averages only the positions inside the map."""
    if not is_exporting():
        return F.avg_pool2d(x, stride, ceil_mode=True)
    inside = pad_to_multiple(x.new_ones(1, 1, *x.shape[2:]), stride)
    return F.avg_pool2d(pad_to_multiple(x, stride), stride) / F.avg_pool2d(inside, stride)


def resample_axis(x: Tensor, dim: int, size: int) -> Tensor:
    """Interpolate linearly along a dimension, with the first and last positions kept.

    It is ``F.interpolate`` with ``align_corners``, which an export refuses for any size.
    """
    last = x.shape[dim] - 1
    positions = torch.arange(size, device=x.device) * (last / larger(1, size - 1))
    low = positions.floor().clamp(max=last)
    low_values, high_values = (
        x.index_select(dim, index.clamp(max=last).long()) for index in (low, low + 1)
    )
    weight = (positions - low).to(x.dtype).view(-1, *[1] * (x.ndim - dim - 1))
    return low_values + weight * (high_values - low_values)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Part the channels: (B, C, H, W) -> (B, h, H, W, d), or (B, C, N) -> (B, h, N, d)."""
    # With the channels last, gradients of one sample keep the strides of such a map, as below.
    return x.movedim(1, -1).unflatten(-1, (num_heads, -1)).movedim(-2, 1)


def merge_heads(x: Tensor) -> Tensor:
    """Join the heads' channels, channels last in memory: (B, h, H, W, d) -> (B, C, H, W)."""
    # To flatten the channels while they are not last would leave one sample a stride for which
    # PyTorch's convolutions copy the map.
    return x.movedim(1, 3).flatten(3).movedim(3, 1)


def resize_bias_tables(tables: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate tables of bias by displacement: (num_heads, height, width) -> (num_heads, *size).

    Half precision becomes float32.
    """
    if tables.shape[1:] == size:
        return tables
    tables = tables.to(torch.promote_types(tables.dtype, torch.float32))
    return F.interpolate(tables[None], size, mode='bicubic', align_corners=False)[0]
