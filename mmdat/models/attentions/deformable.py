"""Deformable multi-head attention, DMHA (DAT, arXiv 2201.00520, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdat.errors import UserError, suggest
from mmdat.models.layers import Conv2d, LayerNorm2d, depthwise_conv
from mmdat.models.maps import mean_pool, merge_heads, resample_axis, resize_bias_tables, split_heads
from mmdat.ops import (
    deformable_attention,
    global_attention,
    key_locations,
    log_spaced_deformable_attention,
    sample_at,
    strided_depthwise_conv,
)
from mmdat.ops.tracing import fresh_sizes, is_exporting, larger

# Ways in which logits or outputs depend on the positions of queries and keys:
# none       they do not
# table      a table sampled at half of their displacement, for each head (the papers' choice)
# fixed      a value for each pair of a query and a key
# log        a small network of their displacement on a logarithmic scale
# depthwise  no bias: a depthwise convolution of the queries is added to the output
POSITION_BIASES = ('none', 'table', 'fixed', 'log', 'depthwise')

LOG_BIAS_DIMS = 32


class DeformableAttention(nn.Module):
    r"""Multi-head attention to keys that are sampled at locations computed from the queries.

    Each group of channels samples its own keys on a grid ``stride`` times coarser than the map,
    moved by offsets that a small convolutional network computes from the queries.

    .. math:: p = p_{ref} + r \tanh(\text{offsets}(q)) / (\text{size} - 1), k = x(p) W_k,
        v = x(p) W_v

    with r the offset range, or :math:`p = \text{clamp}(p_{ref} + \text{offsets}(q), -1, 1)`
    without one (equations 1 to 4).

    Args:
        embed_dims: Channels.
        num_heads: Attention heads.
        groups: Groups of channels with their own sampling locations; divides ``num_heads``.
        stride: Stride of the key grid.
        kernel_size: Kernel size of the convolution that computes the offsets.
        map_size: (height, width) of the map that the position bias covers.
        offset_range: Largest offset in half steps of the key grid; None for unbounded offsets, of
            which the locations are clamped to the map.
        pooled_keys: Average the map over ``stride`` x ``stride`` positions instead of sampling it.
        position_bias: One of :data:`POSITION_BIASES`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        groups: int,
        stride: int,
        kernel_size: int,
        map_size: tuple[int, int],
        offset_range: float | None = None,
        pooled_keys: bool = False,
        position_bias: str = 'table',
    ) -> None:
        super().__init__()
        _check_arguments(embed_dims, num_heads, groups, offset_range, pooled_keys, position_bias)
        self.num_heads = num_heads
        self.groups = groups
        self.stride = stride
        self.offset_range = offset_range
        self.pooled_keys = pooled_keys
        self.position_bias = position_bias
        group_dims = embed_dims // groups
        self.query = Conv2d(embed_dims, embed_dims, 1)
        self.key = Conv2d(embed_dims, embed_dims, 1)
        self.value = Conv2d(embed_dims, embed_dims, 1)
        self.project = Conv2d(embed_dims, embed_dims, 1)
        self.kernel_size = kernel_size
        self.padding = 0 if kernel_size == stride else kernel_size // 2
        if not pooled_keys:
            self.offsets = nn.Sequential(
                depthwise_conv(group_dims, kernel_size, stride, self.padding),
                LayerNorm2d(group_dims),
                nn.GELU(),
                nn.Conv2d(group_dims, 2, 1, bias=False),
            )
        height, width = map_size
        if position_bias == 'table':
            self.relative_position_bias_table = nn.Parameter(
                torch.empty(num_heads, 2 * height - 1, 2 * width - 1)
            )
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)
        elif position_bias == 'fixed':
            # A map smaller than the kernel is padded to it.
            keys = [
                max(0, side + 2 * self.padding - kernel_size) // stride + 1 for side in map_size
            ]
            self.position_bias_table = nn.Parameter(
                torch.empty(num_heads, height * width, keys[0] * keys[1])
            )
            nn.init.trunc_normal_(self.position_bias_table, std=0.01)
        elif position_bias == 'log':
            self.position_bias_network = nn.Sequential(
                nn.Linear(2, LOG_BIAS_DIMS),
                nn.ReLU(),
                nn.Linear(LOG_BIAS_DIMS, num_heads // groups, bias=False),
            )
        elif position_bias == 'depthwise':
            self.position_conv = depthwise_conv(embed_dims, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        query = self.query(x)
        if self.pooled_keys:
            # The last cell of an axis averages only the positions inside the map.
            locations, sampled = None, mean_pool(x, self.stride)
        else:
            locations = self.sampling_locations(query)  # (B, g, Hk, Wk, 2)
            sampled = sample_at(x, locations)
            locations = locations.flatten(2, 3)
        key, value = (
            split_heads(project(sampled).flatten(2), self.num_heads)
            for project in (self.key, self.value)
        )
        out = merge_heads(self.attend(split_heads(query, self.num_heads), key, value, locations))
        if self.position_bias == 'depthwise':
            out = out + self.position_conv(query)
        return self.project(out)

    def sampling_locations(self, query: Tensor) -> Tensor:
        """Locations of each group's keys, (y, x) with -1 and 1 the first and last position.

        Args:
            query: Tensor[batch, embed_dims, height, width], the projected queries.

        Returns:
            Tensor[batch, groups, key_height, key_width, 2] in float32 or better.
        """
        # A convolution without padding needs a map of its kernel's size to leave a key.
        missing = [larger(0, self.kernel_size - side) for side in query.shape[2:]]
        if self.padding == 0 and (is_exporting() or any(missing)):
            query = F.pad(query, (0, missing[1], 0, missing[0]))
        depthwise, norm, _, pointwise = self.offsets
        assert isinstance(depthwise, nn.Conv2d) and depthwise.bias is not None
        assert isinstance(norm, LayerNorm2d) and isinstance(pointwise, nn.Conv2d)
        hidden = strided_depthwise_conv(
            query, depthwise.weight, depthwise.bias, self.stride, self.padding
        )
        return key_locations(
            fresh_sizes(hidden, 2, 3),
            norm.weight,
            norm.bias,
            pointwise.weight,
            self.offset_range,
            norm.eps,
        )

    def resize_bias_table(self, table: Tensor) -> Tensor:
        """Interpolate the bias table of another map size to this one's.

        Args:
            table: Tensor[num_heads, 2 * height - 1, 2 * width - 1].

        Returns:
            A tensor of this module's table's shape; ``table`` itself if it is no such table.
        """
        if table.ndim != 3:
            return table
        height, width = self.relative_position_bias_table.shape[1:]
        return resize_bias_tables(table, (height, width))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, locations: Tensor | None) -> Tensor:
        """Attend with the bias: (B, h, H, W, d) and twice (B, h, Nk, d) -> (B, h, H, W, d)."""
        if self.position_bias == 'table':
            return deformable_attention(
                query, key, value, locations, self.relative_position_bias_table
            )
        if self.position_bias == 'log':
            assert locations is not None
            return log_spaced_deformable_attention(
                query, key, value, locations, *self.position_bias_network.parameters()
            )
        if self.position_bias == 'fixed':
            bias: Tensor = self.position_bias_table
            pairs = query.shape[2] * query.shape[3], key.shape[2]
            if is_exporting():
                bias = resample_axis(resample_axis(bias, 1, pairs[0]), 2, pairs[1])
            elif bias.shape[1:] != pairs:
                bias = F.interpolate(bias[None], pairs, mode='bilinear', align_corners=True)[0]
            return global_attention(query, key, value, bias)
        return deformable_attention(query, key, value)


def _check_arguments(
    embed_dims: int,
    num_heads: int,
    groups: int,
    offset_range: float | None,
    pooled_keys: bool,
    position_bias: str,
) -> None:
    if embed_dims % num_heads or num_heads % groups:
        raise UserError(
            f'deformable attention has {embed_dims} channels, {num_heads} heads and '
            f'{groups} groups: heads must divide channels, groups heads'
        )
    if offset_range is not None and offset_range < 0:
        raise UserError(
            f'offset_range must not be negative, got {offset_range}: None stands for '
            'unbounded offsets'
        )
    if position_bias not in POSITION_BIASES:
        raise UserError(
            f"there is no position_bias '{position_bias}': "
            f'{suggest(position_bias, POSITION_BIASES)}'
        )
    if pooled_keys and position_bias != 'none':
        raise UserError(f"pooled_keys has no position_bias '{position_bias}': set it to 'none'")
