"""Scalable self-attention, SSA (ScalableViT, arXiv 2203.10790, section 3.2)."""

from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.models.layers import Conv2d, LayerNorm2d, PointwiseLinear, StridedDepthwiseConv
from mmdat.models.maps import merge_heads, pad_to_multiple, split_heads
from mmdat.ops import global_attention


class ScalableAttention(nn.Module):
    """Attention of each position to a map that is reduced in space and scaled in channels.

    Args:
        embed_dims: Channels.
        num_heads: Attention heads.
        reduction_ratio: Factor between the sides of the map and of the reduced one (1 / r_n).
        channel_ratio: Factor between the channels of queries and keys and ``embed_dims`` (r_c).
        qkv_bias: Add a bias to queries, keys and values.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        reduction_ratio: int,
        channel_ratio: float,
        qkv_bias: bool,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.reduction_ratio = reduction_ratio
        self.scale = (embed_dims // num_heads * channel_ratio) ** -0.5
        self.project = PointwiseLinear(embed_dims, embed_dims)
        # Where nothing is reduced, the published models do not scale the channels either.
        dims = embed_dims if reduction_ratio == 1 else int(embed_dims * channel_ratio)
        if dims < 1 or dims % num_heads:
            raise UserError(
                f'channel_ratio {channel_ratio} makes {dims} of {embed_dims} channels: '
                f'choose one that makes a multiple of the {num_heads} heads'
            )
        self.query = PointwiseLinear(embed_dims, dims, bias=qkv_bias)
        if reduction_ratio == 1:
            self.key_value = PointwiseLinear(embed_dims, 2 * embed_dims, bias=qkv_bias)
            return
        self.reduction = nn.Sequential(
            StridedDepthwiseConv(embed_dims, reduction_ratio),
            Conv2d(embed_dims, dims, 1),
            LayerNorm2d(dims),
            nn.GELU(),
        )
        self.key = PointwiseLinear(dims, dims, bias=qkv_bias)
        self.value = PointwiseLinear(dims, embed_dims, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        query = self.query(x)
        if self.reduction_ratio == 1:
            key, value = self.key_value(x).chunk(2, dim=1)
        else:
            reduced = self.reduction(pad_to_multiple(x, self.reduction_ratio))
            key, value = self.key(reduced), self.value(reduced)
        key, value = (split_heads(y.flatten(2), self.num_heads) for y in (key, value))
        out = global_attention(split_heads(query, self.num_heads), key, value, scale=self.scale)
        return self.project(merge_heads(out))
