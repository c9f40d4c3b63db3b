"""Neighborhood attention (NAT, arXiv 2204.07143), the local attention of DAT++."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdat.models.layers import PointwiseLinear
from mmdat.models.maps import merge_heads, split_heads
from mmdat.ops import neighborhood_attention
from mmdat.ops.tracing import crop, fresh_size, is_exporting, larger


class NeighborhoodAttention(nn.Module):
    """Attention of each position to the window nearest to it.

    Args:
        embed_dims: Channels.
        num_heads: Attention heads.
        kernel_size: Side of the window that a query attends to.
    """

    def __init__(self, embed_dims: int, num_heads: int, kernel_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.qkv = PointwiseLinear(embed_dims, 3 * embed_dims)
        self.project = PointwiseLinear(embed_dims, embed_dims)
        self.relative_position_bias_table = nn.Parameter(
            torch.empty(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        height, width = x.shape[2:]
        # A map smaller than the window grows to it; the new positions are queries and keys too.
        rows, columns = (
            fresh_size(larger(side, self.kernel_size), least=self.kernel_size)
            for side in (height, width)
        )
        if is_exporting() or (rows, columns) != (height, width):
            x = F.pad(x, (0, columns - width, 0, rows - height))
        query, key, value = (split_heads(y, self.num_heads) for y in self.qkv(x).chunk(3, dim=1))
        out = neighborhood_attention(query, key, value, self.relative_position_bias_table)
        return self.project(crop(crop(merge_heads(out), 2, height), 3, width))
