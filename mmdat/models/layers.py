"""Small layers on (batch, channels, height, width) maps that the backbones share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdat.ops import layer_norm, residual_depthwise_conv, strided_depthwise_conv
from mmdat.ops.convolution import conv2d
from mmdat.ops.gelu import gelu


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels at each position of a (batch, channels, height, width) map.

    A map in float32 becomes one in bfloat16 on a CPU where autocast has bfloat16.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): zero a residual branch of random samples in training.

    What is left of the branch is scaled up so that its mean stays.

    Args:
        drop_prob: Probability to zero a sample.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, channels, height, width] -> the same shape."""
        if self.drop_prob == 0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        draws = torch.rand((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device)
        return x / keep_prob * (keep_prob + draws).floor()


def depthwise_conv(
    channels: int, kernel_size: int, stride: int = 1, padding: int | None = None
) -> nn.Conv2d:
    """A convolution of each channel by itself, by default with padding ``kernel_size // 2``."""
    padding = kernel_size // 2 if padding is None else padding
    return nn.Conv2d(channels, channels, kernel_size, stride, padding, groups=channels)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with ``mmdat.ops.convolution.conv2d``, whose weights may train faster."""

    def forward(self, x: Tensor) -> Tensor:
        plain = self.groups == 1 and self.padding_mode == 'zeros'
        if plain and self.dilation == (1, 1) and isinstance(self.padding, tuple):
            return conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return super().forward(x)


class StridedDepthwiseConv(nn.Conv2d):
    """A convolution of each channel by itself over cells that do not overlap."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, stride, stride, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return strided_depthwise_conv(x, self.weight, self.bias, self.stride[0])


class ResidualDepthwiseConv(nn.Conv2d):
    """A 3 x 3 convolution of each channel by itself, added to its input; then GELU, if wanted."""

    def __init__(self, channels: int, with_gelu: bool = False) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        self.with_gelu = with_gelu

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return residual_depthwise_conv(x, self.weight, self.bias, with_gelu=self.with_gelu)


class PointwiseLinear(nn.Linear):
    """Linear map of the channels at each position, a 1 x 1 convolution; then GELU, if wanted.

    ``Tensor[batch, in_features, height, width] -> Tensor[batch, out_features, height, width]``
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, with_gelu: bool = False
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.with_gelu = with_gelu

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == 'cpu' and x.dtype != torch.float64:
            # PyTorch computes it with oneDNN; linear goes to MKL, which takes up to 1.4 times as
            # long on CPUs that are not Intel's.
            out = conv2d(x, self.weight[..., None, None], self.bias)
        else:
            out = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
        return gelu(out) if self.with_gelu else out


class LayerScale(nn.Module):
    """A learned factor for each channel (CaiT, arXiv 2103.17239, section 2.1)."""

    def __init__(self, embed_dims: int, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((embed_dims,), float(value)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


class FFN(nn.Module):
    """Feed-forward network of each position: ``W2 GELU(W1 x)``."""

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.expand = PointwiseLinear(embed_dims, hidden_dims, with_gelu=True)
        self.reduce = PointwiseLinear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.expand(x))


class ConvFFN(nn.Module):
    """Feed-forward network with a depthwise convolution inside (DAT++, section 3.4).

    ``y = W1 x; y = y + DWConv3x3(y); return W2 GELU(y)``.
    """

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.expand = Conv2d(embed_dims, hidden_dims, 1)
        self.dwconv = ResidualDepthwiseConv(hidden_dims, with_gelu=True)
        self.reduce = Conv2d(hidden_dims, embed_dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.dwconv(self.expand(x)))
