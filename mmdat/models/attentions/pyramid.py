"""Spatial-reduction attention (PVT, arXiv 2102.12122, section 3.3)."""

from torch import Tensor, nn

from mmdat.models.layers import Conv2d, LayerNorm2d
from mmdat.models.maps import merge_heads, pad_to_multiple, split_heads
from mmdat.ops import global_attention


class PyramidAttention(nn.Module):
    """Attention of each position to a map reduced by a strided convolution.

    Args:
        embed_dims: Channels.
        num_heads: Attention heads.
        reduction_ratio: Factor between the sides of the map and of the reduced one.
    """

    def __init__(self, embed_dims: int, num_heads: int, reduction_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.reduction_ratio = reduction_ratio
        self.query = Conv2d(embed_dims, embed_dims, 1)
        self.key_value = Conv2d(embed_dims, 2 * embed_dims, 1)
        self.project = Conv2d(embed_dims, embed_dims, 1)
        self.reduction = nn.Sequential()
        if reduction_ratio > 1:
            self.reduction.append(Conv2d(embed_dims, embed_dims, reduction_ratio, reduction_ratio))
            self.reduction.append(LayerNorm2d(embed_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        reduced = self.reduction(pad_to_multiple(x, self.reduction_ratio))
        key, value = (
            split_heads(y.flatten(2), self.num_heads)
            for y in self.key_value(reduced).chunk(2, dim=1)
        )
        out = global_attention(split_heads(self.query(x), self.num_heads), key, value)
        return self.project(merge_heads(out))
