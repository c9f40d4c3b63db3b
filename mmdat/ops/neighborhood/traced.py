"""Neighborhood attention in square tiles of queries, all in one product: for ``torch.export``.

No step branches on the size of the map, so that a graph of it holds for all sizes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reference import compute_dtype, dense_attention
from ..tracing import ceil_div, crop, fresh_size

TILE = 8  # side of a tile


def traced_neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, relative_position_bias_table: Tensor
) -> Tensor:
    """Compute :func:`mmdat.ops.neighborhood_attention`, which describes the tensors."""
    height, width, head_dim = query.shape[2:]
    kernel_size = (relative_position_bias_table.shape[1] + 1) // 2
    query_rows, query_columns = (_query_positions(size, query.device) for size in (height, width))
    key_rows, key_columns = (
        _key_positions(queries, size, kernel_size)
        for queries, size in ((query_rows, height), (query_columns, width))
    )
    queries = _gather_tiles(query, query_rows, query_columns)
    keys, values = (_gather_tiles(x, key_rows, key_columns) for x in (key, value))
    # A last row and column of minus infinity stand for keys outside a query's window.
    table = F.pad(
        relative_position_bias_table.to(compute_dtype(query)), (0, 1, 0, 1), value=-torch.inf
    )
    row_entries, column_entries = (
        _table_entries(queries, keys, size, kernel_size)
        for queries, keys, size in (
            (query_rows, key_rows, height),
            (query_columns, key_columns, width),
        )
    )
    bias = table[:, row_entries][..., column_entries]  # (h, Th, t, keys, Tw, t, keys)
    bias = bias.permute(1, 4, 0, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
    out = dense_attention(queries, keys, values, bias, head_dim**-0.5)
    out = out.unflatten(4, (TILE, TILE)).permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)
    return crop(crop(out, 2, height), 3, width)


def _query_positions(size: int, device: torch.device) -> Tensor:
    """Tensor[tiles, TILE]: the positions of an axis, the last repeated to fill the last tile."""
    tiles = fresh_size(ceil_div(size, TILE))
    positions = torch.arange(tiles, device=device)[:, None] * TILE
    return (positions + torch.arange(TILE, device=device)).clamp(max=size - 1)


def _key_positions(queries: Tensor, size: int, kernel_size: int) -> Tensor:
    """Tensor[tiles, TILE + kernel_size - 1]: positions of the keys of each tile of an axis.

    Those of the first and last tile are moved inside the map, as the queries' windows are. On a map
    that is smaller than them, the last position is repeated.
    """
    count = TILE + kernel_size - 1
    first = queries[:, :1] - kernel_size // 2
    first = first.clamp(max=size - count).clamp(min=0)
    return (first + torch.arange(count, device=queries.device)).clamp(max=size)


def _table_entries(queries: Tensor, keys: Tensor, size: int, kernel_size: int) -> Tensor:
    """Tensor[tiles, TILE, keys]: an axis's index into the bias table, of each query and key.

    A key outside the query's window has the index behind the table's last.
    """
    queries, keys = queries[:, :, None], keys[:, None]
    first = (queries - kernel_size // 2).clamp(0, size - kernel_size)
    inside = (keys >= first) & (keys < first + kernel_size)
    return torch.where(inside, keys - queries + kernel_size - 1, 2 * kernel_size - 1)


def _gather_tiles(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, h, H, W, d) -> (B, tile rows, tile columns, h, positions, d)."""
    height, width = x.shape[2:4]
    x = x[:, :, rows.clamp(max=height - 1)][:, :, :, :, columns.clamp(max=width - 1)]
    return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5)  # from (B, h, Th, t, Tw, t, d)
