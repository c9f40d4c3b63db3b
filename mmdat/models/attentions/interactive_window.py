"""Interactive window-based self-attention, IWSA (ScalableViT, arXiv 2203.10790, section 3.3)."""

from torch import Tensor, nn

from mmdat.models.layers import PointwiseLinear, depthwise_conv
from mmdat.models.maps import merge_heads, split_heads
from mmdat.ops import window_attention


class InteractiveWindowAttention(nn.Module):
    """Window attention beside a local interactive module, LIM, that crosses the windows' borders.

    Args:
        embed_dims: Channels.
        num_heads: Attention heads.
        window_size: Side of a window.
        qkv_bias: Add a bias to queries, keys and values.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = PointwiseLinear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.project = PointwiseLinear(embed_dims, embed_dims)
        self.local_interaction = depthwise_conv(embed_dims, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        query, key, value = self.qkv(x).chunk(3, dim=1)
        out = window_attention(
            split_heads(query, self.num_heads),
            split_heads(key, self.num_heads),
            split_heads(value, self.num_heads),
            self.window_size,
        )
        out = merge_heads(out) + self.local_interaction(value)
        return self.project(out)
