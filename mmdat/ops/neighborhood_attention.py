"""Neighborhood attention with a relative position bias (NAT, arXiv 2204.07143, section 3.1)."""
import torch
from torch import Tensor

from .row_blocks import attend_in_row_blocks

# Side of the square tiles of queries that are multiplied with their keys at once: small enough
# that few of these lie outside a query's window, large enough for a matrix product.
TILE = 8


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
    rows = _AxisTiles(height, kernel_size, query.device)
    columns = _AxisTiles(width, kernel_size, query.device)

    def attend(tile_rows: Tensor, first: int) -> Tensor:
        chosen = slice(first, first + tile_rows.shape[2])
        inside = rows.inside[chosen, None, :, None, :, None] & columns.inside[:, None, :, None, :]
        bias = relative_position_bias_table[  # (h, tile rows, tile columns, t, t, s, s)
            :, rows.offsets[chosen, None, :, None, :, None], columns.offsets[:, None, :, None, :]]
        bias = bias.masked_fill(~inside, -torch.inf).flatten(-2).flatten(3, 4)
        keys, values = (_gather(x, rows.keys[chosen], columns.keys) for x in (key, value))
        logits = scale * tile_rows @ keys.transpose(-2, -1) + bias
        return logits.softmax(-1).to(value.dtype) @ values

    tiles = _gather(query, rows.queries, columns.queries)  # (B, h, tile rows, tile columns, t*t, d)
    out = attend_in_row_blocks(attend, tiles, TILE**2 * rows.keys.shape[1] * columns.keys.shape[1])
    out = out.unflatten(4, (TILE, TILE)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return out[:, :, :height, :width]


class _AxisTiles:
    """An axis cut into tiles of queries; a tile shares the span of keys that its windows cover.

    Attributes:
        queries: Tensor[tiles, TILE], positions; those past the end repeat the last.
        keys: Tensor[tiles, span], positions.
        offsets: Tensor[tiles, TILE, span], the bias table's index for key - query.
        inside: Tensor[tiles, TILE, span], whether the key lies in the query's window.
    """

    def __init__(self, size: int, kernel_size: int, device: torch.device) -> None:
        span = min(TILE + kernel_size - 1, size)
        first = torch.arange(0, size, TILE, device=device)
        self.queries = (first[:, None] + torch.arange(TILE, device=device)).clamp(max=size - 1)
        # The window is moved inside the map at a border, and so is the span of a tile.
        self.keys = (first - kernel_size // 2).clamp(0, size - span)[:, None] + torch.arange(
            span, device=device)
        window = (self.queries - kernel_size // 2).clamp(0, size - kernel_size)
        in_window = self.keys[:, None] - window[:, :, None]
        self.inside = (in_window >= 0) & (in_window < kernel_size)
        offsets = self.keys[:, None] - self.queries[:, :, None] + kernel_size - 1
        self.offsets = offsets.clamp(0, 2 * kernel_size - 2)


def _gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, h, H, W, d) at Tensor[a, s], Tensor[b, t] -> (B, h, a, b, s * t, d)."""
    x = x.index_select(2, rows.flatten()).index_select(3, columns.flatten())
    return x.unflatten(3, columns.shape).unflatten(2, rows.shape).transpose(3, 4).flatten(4, 5)


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
