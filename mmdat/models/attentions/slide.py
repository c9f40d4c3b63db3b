"""Slide attention (Slide-Transformer, arXiv 2304.04237, section 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdat.models.layers import PointwiseLinear
from mmdat.ops import slide_attention

TAPS = 9  # of a 3 x 3 kernel


class SlideAttention(nn.Module):
    """Attention of each position to its 3 x 3 neighbors, found by depthwise convolutions.

    A fixed convolution shifts the map by one position in each direction; a learned one beside it
    lets the neighbors move. Both are shared by the heads, and by keys and values.

    Args:
        embed_dims: Channels; the attention works in a quarter of them.
        num_heads: Attention heads; four times their number divides ``embed_dims``.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (embed_dims // num_heads) ** -0.5
        self.head_dim = embed_dims // 4 // num_heads
        inner_dims = num_heads * self.head_dim
        self.qkv = PointwiseLinear(embed_dims, 3 * inner_dims)
        self.project = PointwiseLinear(inner_dims, embed_dims)
        self.shifts = self._taps()
        self.deformed_shifts = self._taps()
        with torch.no_grad():
            # Tap 3 * y + x looks at (y, x) of the kernel.
            self.shifts.weight.copy_(torch.eye(TAPS).repeat(self.head_dim, 1).view(-1, 1, 3, 3))
        self.shifts.weight.requires_grad_(False)
        self.relative_position_bias_table = nn.Parameter(torch.empty(1, num_heads, 1, TAPS, 1, 1))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        qkv = self.qkv(x).unflatten(1, (self.num_heads, 3, self.head_dim))
        query, key, value = qkv.unbind(2)  # each (B, h, d, H, W)
        out = slide_attention(
            query,
            self.neighbors(key),
            self.neighbors(value),
            self.relative_position_bias_table.view(self.num_heads, TAPS),
            scale=self.scale,
        )
        return self.project(out.flatten(1, 2))

    def neighbors(self, x: Tensor) -> Tensor:
        """Gather the 3 x 3 neighbors: (B, h, d, H, W) -> (B, h, d, taps, H, W)."""
        # The sum of two convolutions is the convolution with the sum of their weights.
        weight, bias = (
            getattr(self.shifts, name) + getattr(self.deformed_shifts, name)
            for name in ('weight', 'bias')
        )
        out = F.conv2d(x.flatten(0, 1), weight, bias, padding=1, groups=self.head_dim)
        return out.unflatten(1, (self.head_dim, TAPS)).unflatten(0, (-1, self.num_heads))

    def _taps(self) -> nn.Conv2d:
        """A depthwise convolution with an output channel for each tap."""
        conv = nn.Conv2d(self.head_dim, TAPS * self.head_dim, 3, padding=1, groups=self.head_dim)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        return conv
