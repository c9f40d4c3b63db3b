"""Neighborhood attention with a relative position bias (NAT, arXiv 2204.07143, section 3.1)."""

import torch
from torch import Tensor

from ..dispatch import choose_implementation
from ..reference import dense_attention
from .tiled import tiled_neighborhood_attention


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_position_bias_table: Tensor,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    implementation: str = 'auto',
) -> Tensor:
    r"""Attention of each position to the k x k window nearest to it inside the map.

    .. math:: \text{softmax}(\text{scale} \cdot q k^T + B[p_k - p_q]) v

    At a border the window is moved inside the map, not padded.

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim].
        key: Like query.
        value: Like query.
        relative_position_bias_table: Tensor[num_heads, 2 * k - 1, 2 * k - 1], the bias of a key
            that lies (dy, dx) from its query at [:, dy + k - 1, dx + k - 1]. k is odd.
        scale: Factor of the logits, ``head_dim ** -0.5`` if None.
        dropout_p: Probability to drop a weight; above 0, the dense implementation runs.
        implementation: ``'dense'``, the equation as written, with each query's own copy of its
            keys; ``'tiled'``, square tiles of queries that share their keys and that the backward
            pass makes anew; ``'auto'``, tiled.

    Returns:
        Tensor[batch, num_heads, height, width, head_dim] in the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit each other, if the map is smaller than the window, or if
            there is no such implementation.

    Differentiable in all tensors, once if tiled. Floating point of any precision; the softmax is
    computed in float32 or better.

    Example:
        >>> qkv = torch.rand(3, 1, 2, 9, 12, 16)
        >>> neighborhood_attention(*qkv, torch.zeros(2, 13, 13)).shape
        torch.Size([1, 2, 9, 12, 16])
    """
    _check_shapes(query, key, value, relative_position_bias_table)
    chosen = choose_implementation(
        'neighborhood_attention',
        implementation,
        'tiled' if query.numel() else 'dense',
        ('dense', 'tiled'),
        dropout_p,
    )
    if scale is None:
        scale = query.shape[-1] ** -0.5
    if chosen == 'dense':
        return _dense(query, key, value, relative_position_bias_table, scale, dropout_p)
    out, _ = tiled_neighborhood_attention(query, key, value, relative_position_bias_table, scale)
    return out


def _dense(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, scale: float, dropout_p: float
) -> Tensor:
    kernel_size = (table.shape[1] + 1) // 2
    rows, columns = (_windows(size, kernel_size, query.device) for size in query.shape[2:4])
    row_offsets, column_offsets = (
        windows - torch.arange(len(windows), device=query.device)[:, None] + kernel_size - 1
        for windows in (rows, columns)
    )
    keys, values = (
        x[:, :, rows[:, None, :, None], columns[:, None]].flatten(4, 5) for x in (key, value)
    )  # (B, h, H, W, k * k, d)
    bias = table[:, row_offsets[:, None, :, None], column_offsets[:, None]].flatten(3)
    return dense_attention(
        query[..., None, :], keys, values, bias[..., None, :], scale, dropout_p
    ).squeeze(-2)


def _windows(size: int, kernel_size: int, device: torch.device) -> Tensor:
    """Tensor[size, kernel_size], the positions in the window of each position of an axis."""
    first = torch.arange(size, device=device) - kernel_size // 2
    return first.clamp(0, size - kernel_size)[:, None] + torch.arange(kernel_size, device=device)


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> None:
    if query.ndim != 5 or query.shape != key.shape or query.shape != value.shape:
        raise ValueError(
            'query, key and value must all be (batch, num_heads, height, width, '
            f'head_dim), got {tuple(query.shape)}, {tuple(key.shape)} and '
            f'{tuple(value.shape)}'
        )
    kernel_size = (table.shape[-1] + 1) // 2
    side = 2 * kernel_size - 1
    if table.shape != (query.shape[1], side, side) or kernel_size % 2 == 0:
        raise ValueError(
            'relative_position_bias_table must be (num_heads, 2 * k - 1, 2 * k - 1) '
            f'with {query.shape[1]} heads and odd k, got {tuple(table.shape)}'
        )
    if min(query.shape[2:4]) < kernel_size:
        raise ValueError(
            f'the map must be at least {kernel_size} x {kernel_size}, the window, '
            f'got {query.shape[2]} x {query.shape[3]}: pad it first'
        )
