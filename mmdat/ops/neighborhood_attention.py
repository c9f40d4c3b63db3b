"""Neighborhood attention with a relative position bias (NAT, arXiv 2204.07143, section 3.1)."""
import torch
from torch import Tensor

from .row_blocks import attend_in_row_blocks


def neighborhood_attention(query: Tensor,
                           key: Tensor,
                           value: Tensor,
                           relative_position_bias_table: Tensor,
                           *,
                           scale: float | None = None) -> Tensor:
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

    Returns:
        Tensor[batch, num_heads, height, width, head_dim] in the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit each other or the map is smaller than the window.

    Differentiable in all tensors. Floating point of any precision; the softmax is computed in the
    precision of the bias table or better.

    Example:
        >>> qkv = torch.rand(3, 1, 2, 9, 12, 16)
        >>> neighborhood_attention(*qkv, torch.zeros(2, 13, 13)).shape
        torch.Size([1, 2, 9, 12, 16])
    """
    _check_shapes(query, key, value, relative_position_bias_table)
    height, width, head_dim = query.shape[2:]
    kernel_size = (relative_position_bias_table.shape[1] + 1) // 2
    if scale is None:
        scale = head_dim**-0.5
    row_windows = _windows(height, kernel_size, query.device)
    column_windows = _windows(width, kernel_size, query.device)
    column_offsets = column_windows - torch.arange(width, device=query.device)[:, None]

    def attend(rows: Tensor, first_row: int) -> Tensor:
        last_row = first_row + rows.shape[2]
        windows = row_windows[first_row:last_row]
        offsets = windows - torch.arange(first_row, last_row, device=query.device)[:, None]
        bias = relative_position_bias_table[  # (h, rows, W, k, k)
            :, offsets[:, None, :, None] + kernel_size - 1,
            column_offsets[None, :, None, :] + kernel_size - 1]
        neighbors = (slice(None), slice(None), windows[:, None, :, None],
                     column_windows[None, :, None, :])
        logits = torch.einsum('bhywd,bhywijd->bhywij', scale * rows, key[neighbors]) + bias
        attention = logits.flatten(-2).softmax(-1).view_as(logits).to(value.dtype)
        return torch.einsum('bhywij,bhywijd->bhywd', attention, value[neighbors])

    # The gathered keys and values weigh head_dim times what the logits do.
    return attend_in_row_blocks(attend, query, 2 * head_dim * kernel_size**2)


def _windows(size: int, kernel_size: int, device: torch.device) -> Tensor:
    """Tensor[size, kernel_size]: the positions that each position of an axis attends to."""
    position = torch.arange(size, device=device)
    first = (position - kernel_size // 2).clamp(0, size - kernel_size)
    return first[:, None] + torch.arange(kernel_size, device=device)


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> None:
    if query.ndim != 5 or query.shape != key.shape or query.shape != value.shape:
        raise ValueError('query, key and value must all be (batch, num_heads, height, width, '
                         f'head_dim), got {tuple(query.shape)}, {tuple(key.shape)} and '
                         f'{tuple(value.shape)}')
    kernel_size = (table.shape[-1] + 1) // 2
    side = 2 * kernel_size - 1
    if table.shape != (query.shape[1], side, side) or kernel_size % 2 == 0:
        raise ValueError('relative_position_bias_table must be (num_heads, 2 * k - 1, 2 * k - 1) '
                         f'with {query.shape[1]} heads and odd k, got {tuple(table.shape)}')
    if min(query.shape[2:4]) < kernel_size:
        raise ValueError(f'the map must be at least {kernel_size} x {kernel_size}, the window, '
                         f'got {query.shape[2]} x {query.shape[3]}: pad it first')
