"""Neighborhood attention as the equation is written: each query has its own copy of its keys."""

import torch
from torch import Tensor

from ..reference import dense_attention


def dense_neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, relative_position_bias_table: Tensor
) -> Tensor:
    """Compute :func:`mmdat.ops.neighborhood_attention`, which describes the tensors."""
    height, width, head_dim = query.shape[2:]
    kernel_size = (relative_position_bias_table.shape[1] + 1) // 2
    rows, columns = (_windows(size, kernel_size, query.device) for size in (height, width))
    row_offsets, column_offsets = (
        windows - torch.arange(len(windows), device=query.device)[:, None] + kernel_size - 1
        for windows in (rows, columns)
    )
    keys, values = (
        x[:, :, rows[:, None, :, None], columns[:, None]].flatten(4, 5) for x in (key, value)
    )  # (B, h, H, W, k * k, d)
    bias = relative_position_bias_table[
        :, row_offsets[:, None, :, None], column_offsets[:, None]
    ].flatten(3)  # (h, H, W, k * k)
    out = dense_attention(
        query[..., None, :], keys, values, bias[..., None, :], head_dim**-0.5
    )  # (B, h, H, W, 1, d)
    return out.squeeze(-2)


def _windows(size: int, kernel_size: int, device: torch.device) -> Tensor:
    """Tensor[size, kernel_size], the positions in the window of each position of an axis."""
    first = torch.arange(size, device=device) - kernel_size // 2
    return first.clamp(0, size - kernel_size)[:, None] + torch.arange(kernel_size, device=device)
