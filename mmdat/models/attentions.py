"""Attention modules on (batch, channels, height, width) maps: they hold the parameters, the
equations are in ``mmdat.ops``.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdat.ops import deformable_attention, neighborhood_attention, reference_points, sample_at

from .layers import LayerNorm2d, depthwise_conv


class DeformableAttention(nn.Module):
    """Deformable multi-head attention, DMHA (DAT, arXiv 2201.00520, section 3.2).

    Each group of channels looks at keys sampled where its own queries say: on a grid ``stride``
    times coarser than the map, moved by learned offsets and clamped to the map.

    Args:
        embed_dims: Channels.
        num_heads: Attention heads.
        groups: Groups of channels with their own sampling locations; divides ``num_heads``.
        stride: Of the key grid.
        kernel_size: Of the convolution that computes the offsets.
        bias_map_size: (height, width) of the map that the bias table covers.
    """

    def __init__(self, embed_dims: int, num_heads: int, groups: int, stride: int,
                 kernel_size: int, bias_map_size: tuple[int, int]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.groups = groups
        group_dims = embed_dims // groups
        self.query = nn.Conv2d(embed_dims, embed_dims, 1)
        self.key = nn.Conv2d(embed_dims, embed_dims, 1)
        self.value = nn.Conv2d(embed_dims, embed_dims, 1)
        self.project = nn.Conv2d(embed_dims, embed_dims, 1)
        self.offsets = nn.Sequential(
            depthwise_conv(group_dims, kernel_size, stride,
                           0 if kernel_size == stride else kernel_size // 2),
            LayerNorm2d(group_dims), nn.GELU(), nn.Conv2d(group_dims, 2, 1, bias=False))
        height, width = bias_map_size
        self.relative_position_bias_table = nn.Parameter(
            torch.empty(num_heads, 2 * height - 1, 2 * width - 1))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        query = self.query(x)
        locations = self.sampling_locations(query)  # (B, g, Hk, Wk, 2)
        sampled = sample_at(x, locations)
        key, value = (self._heads(project(sampled)).flatten(2, 3)
                      for project in (self.key, self.value))
        out = deformable_attention(self._heads(query), key, value, locations.flatten(2, 3),
                                   self.relative_position_bias_table)
        return self.project(out.permute(0, 1, 4, 2, 3).flatten(1, 2))

    def sampling_locations(self, query: Tensor) -> Tensor:
        """Where each group samples its keys, (y, x) in [-1, 1].

        Args:
            query: Tensor[batch, embed_dims, height, width], the projected queries.

        Returns:
            Tensor[batch, groups, key_height, key_width, 2] in float32 or better.
        """
        offsets = self.offsets(query.unflatten(1, (self.groups, -1)).flatten(0, 1))
        # Half precision would move the keys by up to an eighth of a position on a large map.
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        offsets = offsets.unflatten(0, (-1, self.groups)).permute(0, 1, 3, 4, 2)
        points = reference_points(*offsets.shape[2:4], device=query.device, dtype=offsets.dtype)
        return (points + offsets).clamp(-1, 1)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h, H, W, d)."""
        return x.unflatten(1, (self.num_heads, -1)).permute(0, 1, 3, 4, 2)


class NeighborhoodAttention(nn.Module):
    """Neighborhood attention (NAT, arXiv 2204.07143), the local attention of DAT++.

    Args:
        embed_dims: Channels.
        num_heads: Attention heads.
        kernel_size: Side of the window that a query attends to.
    """

    def __init__(self, embed_dims: int, num_heads: int, kernel_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.project = nn.Linear(embed_dims, embed_dims)
        self.relative_position_bias_table = nn.Parameter(
            torch.empty(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        height, width = x.shape[2:]
        # A map smaller than the window grows to it; the new positions are queries and keys too.
        x = F.pad(x, (0, max(0, self.kernel_size - width), 0, max(0, self.kernel_size - height)))
        qkv = self.qkv(x.permute(0, 2, 3, 1)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(3, 0, 4, 1, 2, 5)  # each (B, h, H, W, d)
        out = neighborhood_attention(query, key, value, self.relative_position_bias_table)
        out = self.project(out[:, :, :height, :width].permute(0, 2, 3, 1, 4).flatten(-2))
        return out.permute(0, 3, 1, 2)
