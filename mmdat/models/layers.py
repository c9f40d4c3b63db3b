"""Small layers on (batch, channels, height, width) maps that the backbones share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels at each position of a (batch, channels, height, width) map."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def depthwise_conv(
    channels: int, kernel_size: int, stride: int = 1, padding: int | None = None
) -> nn.Conv2d:
    """A convolution of each channel by itself, padded by ``kernel_size // 2`` if not said."""
    padding = kernel_size // 2 if padding is None else padding
    return nn.Conv2d(channels, channels, kernel_size, stride, padding, groups=channels)


class ResidualDepthwiseConv(nn.Conv2d):
    """A 3 x 3 convolution of each channel by itself, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.device.type != 'cpu'
            or torch.is_autocast_enabled('cpu')
            or self.weight.dtype.itemsize < 4
        ):
            # Half precision, and a GPU's TF32, have too few digits for a small weight plus one.
            return x + super().forward(x)
        # One pass over the map instead of two.
        identity = F.pad(self.weight.new_ones(1), (4, 4)).view(3, 3)
        return F.conv2d(x, self.weight + identity, self.bias, padding=1, groups=self.groups)


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Pad a map with zeros on the right and bottom until ``divisor`` divides its sides."""
    height, width = x.shape[2:]
    if height % divisor == 0 and width % divisor == 0:
        return x
    return F.pad(x, (0, -width % divisor, 0, -height % divisor))


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, C, H, W) -> (B, h, H, W, d), or (B, C, N) -> (B, h, N, d)."""
    return x.unflatten(1, (num_heads, -1)).movedim(2, -1)


def merge_heads(x: Tensor) -> Tensor:
    """(B, h, H, W, d) -> (B, C, H, W), the inverse of :func:`split_heads`, channels last."""
    # To flatten the channels while they are not last would leave one sample a stride for which
    # PyTorch's convolutions copy the map.
    return x.movedim(1, 3).flatten(3).movedim(3, 1)


class PointwiseLinear(nn.Linear):
    """The same linear map of the channels at each position of a map: a 1 x 1 convolution.

    ``Tensor[batch, in_features, height, width] -> Tensor[batch, out_features, height, width]``
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == 'cpu' and x.dtype != torch.float64:
            # PyTorch computes it with oneDNN; linear goes to MKL, which takes up to 1.4 times as
            # long on CPUs that are not Intel's.
            return F.conv2d(x, self.weight[..., None, None], self.bias)
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


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
        self.expand = PointwiseLinear(embed_dims, hidden_dims)
        self.reduce = PointwiseLinear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(F.gelu(self.expand(x)))


class ConvFFN(nn.Module):
    """Feed-forward network with a depthwise convolution inside (DAT++, section 3.4).

    ``y = W1 x; y = y + DWConv3x3(y); return W2 GELU(y)``.
    """

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(embed_dims, hidden_dims, 1)
        self.dwconv = ResidualDepthwiseConv(hidden_dims)
        self.reduce = nn.Conv2d(hidden_dims, embed_dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(F.gelu(self.dwconv(self.expand(x))))


def init_projections(module: nn.Module) -> None:
    """Truncated normal 0.02 and zero bias for the linear maps between channels in ``module``.

    Convolutions that look at more than a point keep PyTorch's own initialization, which scales
    with their fan-in.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
        ):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
