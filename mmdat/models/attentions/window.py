"""(Shifted) window attention (Swin, arXiv 2103.14030, section 3.2), the local attention of DAT."""

import torch
from torch import Tensor, nn

from mmdat.models.layers import PointwiseLinear
from mmdat.models.maps import merge_heads, resize_bias_tables, split_heads
from mmdat.ops import window_attention


class WindowAttention(nn.Module):
    """Attention of each position to the window of a partition that it lies in.

    Args:
        embed_dims: Channels.
        num_heads: Attention heads.
        window_size: Side of a window.
        shifted: Move the partition by half a window, rounded up.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, window_size: int, shifted: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = (window_size + 1) // 2 if shifted else 0
        self.qkv = PointwiseLinear(embed_dims, 3 * embed_dims)
        self.project = PointwiseLinear(embed_dims, embed_dims)
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        query, key, value = (split_heads(y, self.num_heads) for y in self.qkv(x).chunk(3, dim=1))
        out = window_attention(
            query, key, value, self.window_size, self.relative_position_bias_table, shift=self.shift
        )
        return self.project(merge_heads(out))

    def resize_bias_table(self, table: Tensor) -> Tensor:
        """Interpolate the bias table of another window size to this one's.

        Args:
            table: Tensor[displacements, num_heads], the displacements of a square in rows.

        Returns:
            A tensor of this module's table's shape; ``table`` itself if it is no such table.
        """
        if table.ndim != 2:
            return table
        side = round(table.shape[0] ** 0.5)
        if side**2 != table.shape[0]:
            return table
        squares = table.T.unflatten(1, (side, side))
        size = 2 * self.window_size - 1
        return resize_bias_tables(squares, (size, size)).flatten(1).T.contiguous()
