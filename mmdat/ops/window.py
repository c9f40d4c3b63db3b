"""Attention inside the windows of a regular partition (Swin, arXiv 2103.14030, section 3.2)."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import choose_implementation
from .reference import dense_attention

# Added to the logits of positions that only the shift brought together, as published.
REGION_PENALTY = -100.0


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window_size: int,
    relative_position_bias_table: Tensor | None = None,
    *,
    shift: int = 0,
    scale: float | None = None,
    dropout_p: float = 0.0,
    implementation: str = 'auto',
) -> Tensor:
    r"""Attention of each position to the w x w window of a partition that it lies in.

    .. math:: \text{softmax}(\text{scale} \cdot q k^T + B[p_q - p_k] + M) v

    A map that the windows do not divide is padded on the right and bottom with positions that
    nothing attends to. With ``shift``, the (padded) map is first rolled by that many positions
    towards its origin, and ``M`` is -100 between positions that were not neighbors before.

    Args:
        query: Tensor[batch, num_heads, height, width, head_dim].
        key: Like query.
        value: Like query.
        window_size: Side w of a window.
        relative_position_bias_table: Tensor[(2 * w - 1) ** 2, num_heads], the bias of a key that
            lies at ``query - (dy, dx)`` in row ``(dy + w - 1) * (2 * w - 1) + dx + w - 1``; None
            for no bias.
        shift: Positions to roll by, 0 to w.
        scale: Factor of the logits, ``head_dim ** -0.5`` if None.
        dropout_p: Probability to drop a weight; above 0, the dense implementation runs.
        implementation: ``'dense'``, the equation as written; ``'fused'``, PyTorch's
            ``scaled_dot_product_attention``, which keeps no logits if there is no bias table;
            ``'auto'``, fused without a table.

    Returns:
        Tensor[batch, num_heads, height, width, head_dim] in the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit each other, or if there is no such implementation.

    Differentiable in all tensors. Floating point of any precision; the softmax is computed in
    float32 or better.

    Example:
        >>> qkv = torch.rand(3, 1, 2, 9, 12, 16)
        >>> window_attention(*qkv, window_size=7, shift=4).shape
        torch.Size([1, 2, 9, 12, 16])
    """
    _check_shapes(query, key, value, window_size, relative_position_bias_table)
    table = relative_position_bias_table
    chosen = choose_implementation(
        'window_attention',
        implementation,
        'fused' if table is None else 'dense',
        ('dense', 'fused'),
        dropout_p,
    )
    height, width, head_dim = query.shape[2:]
    if scale is None:
        scale = head_dim**-0.5
    query, key, value = (_to_windows(x, window_size, shift) for x in (query, key, value))
    bias = _bias(table, height, width, window_size, shift, query)
    if chosen == 'dense':
        out = dense_attention(query, key, value, bias, scale, dropout_p)
    else:
        out = _fused(query, key, value, bias, scale)
    return _from_windows(out, window_size, shift)[:, :, :height, :width]


def _fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    if bias is not None:
        bias = bias.expand(*query.shape[:4], -1, -1).flatten(0, 2).to(query.dtype)
    windows = query.shape[:3]
    query, key, value = (x.flatten(0, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    return out.unflatten(0, windows)


def _bias(
    table: Tensor | None, height: int, width: int, window_size: int, shift: int, query: Tensor
) -> Tensor | None:
    """What is added to logits of (B, window rows, window columns, h, w * w, w * w)."""
    terms = []
    if table is not None:
        terms.append(
            _window_bias(table, window_size).to(torch.promote_types(query.dtype, torch.float32))
        )
    if shift:
        terms.append(_region_penalty(height, width, window_size, shift, query.device))
    if height % window_size or width % window_size:
        padded = _padded_keys(height, width, window_size, shift, query.device)
        terms.append(torch.zeros_like(padded, dtype=torch.float32).masked_fill(padded, -torch.inf))
    return functools.reduce(torch.add, terms) if terms else None


def _to_windows(x: Tensor, window_size: int, shift: int) -> Tensor:
    """(B, h, H, W, d) -> (B, window rows, window columns, h, w * w, d), padded, then rolled."""
    height, width = x.shape[2:4]
    x = F.pad(x, (0, 0, 0, -width % window_size, 0, -height % window_size))
    if shift:
        x = x.roll((-shift, -shift), (2, 3))
    x = x.unflatten(3, (-1, window_size)).unflatten(2, (-1, window_size))
    return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5)


def _from_windows(x: Tensor, window_size: int, shift: int) -> Tensor:
    """(B, window rows, window columns, h, w * w, d) -> (B, h, padded H, padded W, d)."""
    x = x.unflatten(4, (window_size, window_size)).permute(0, 3, 1, 4, 2, 5, 6)
    x = x.flatten(4, 5).flatten(2, 3)
    return x.roll((shift, shift), (2, 3)) if shift else x


def _window_bias(table: Tensor, window_size: int) -> Tensor:
    """Tensor[num_heads, w * w, w * w]: the bias of each pair of positions in a window."""
    position = torch.arange(window_size, device=table.device)
    offset = position[:, None] - position + window_size - 1  # (query, key) on an axis
    rows = offset[:, None, :, None] * (2 * window_size - 1) + offset[None, :, None, :]
    return table[rows.flatten(2, 3).flatten(0, 1)].permute(2, 0, 1)


def _region_penalty(
    height: int, width: int, window_size: int, shift: int, device: torch.device
) -> Tensor:
    """Tensor[window rows, window columns, 1, w * w, w * w]: what keeps rolled regions apart."""
    regions = []
    for size in (height, width):
        size += -size % window_size
        position = torch.arange(size, device=device)
        regions.append((position >= size - window_size).long() + (position >= size - shift).long())
    region = _partition(3 * regions[0][:, None] + regions[1], window_size)
    apart = region[:, :, None, :, None] != region[:, :, None, None, :]
    return apart * REGION_PENALTY


def _padded_keys(
    height: int, width: int, window_size: int, shift: int, device: torch.device
) -> Tensor:
    """Tensor[window rows, window columns, 1, 1, w * w]: True where a key is padding."""
    padded = []
    for size in (height, width):
        grown = size + -size % window_size
        padded.append((torch.arange(grown, device=device) + shift) % grown >= size)
    return _partition(padded[0][:, None] | padded[1], window_size)[:, :, None, None, :]


def _partition(x: Tensor, window_size: int) -> Tensor:
    """(padded H, padded W) -> (window rows, window columns, w * w)."""
    x = x.unflatten(1, (-1, window_size)).unflatten(0, (-1, window_size))
    return x.transpose(1, 2).flatten(2, 3)


def _check_shapes(
    query: Tensor, key: Tensor, value: Tensor, window_size: int, table: Tensor | None
) -> None:
    if query.ndim != 5 or query.shape != key.shape or query.shape != value.shape:
        raise ValueError(
            'query, key and value must all be (batch, num_heads, height, width, '
            f'head_dim), got {tuple(query.shape)}, {tuple(key.shape)} and '
            f'{tuple(value.shape)}'
        )
    if window_size < 1:
        raise ValueError(f'window_size must be at least 1, got {window_size}')
    rows = (2 * window_size - 1) ** 2
    if table is not None and table.shape != (rows, query.shape[1]):
        raise ValueError(
            'relative_position_bias_table must be ((2 * window_size - 1) ** 2, '
            f'num_heads) = {(rows, query.shape[1])}, got {tuple(table.shape)}'
        )
