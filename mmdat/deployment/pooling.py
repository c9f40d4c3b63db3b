"""Layers of the toolboxes that ``torch.export`` cannot trace for any size, and their stand-ins."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BinPooling(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two products with matrices of the weights of each bin.

    Args:
        output_size: Height and width of the output.
    """

    def __init__(self, output_size: tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, channels, height, width] -> Tensor[batch, channels, *output_size]."""
        rows, columns = (
            bin_weights(size, bins, x)
            for size, bins in zip(x.shape[2:], self.output_size, strict=True)
        )
        return rows @ x @ columns.mT


def bin_weights(size: int, bins: int, like: Tensor) -> Tensor:
    """Tensor[bins, size]: the weight of each position of an axis in the mean of each bin."""
    positions = torch.arange(size, device=like.device)
    index = torch.arange(bins, device=like.device)[:, None]
    first, end = index * size // bins, ((index + 1) * size + bins - 1) // bins
    inside = ((positions >= first) & (positions < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class Upsampling(nn.Module):
    """mmsegmentation's ``Upsample`` by a whole factor.

    Args:
        factor: Factor between the sides of output and input.
        align_corners: As in ``F.interpolate``.
    """

    def __init__(self, factor: int, align_corners: bool) -> None:
        super().__init__()
        self.factor = factor
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, channels, height, width] -> the same, larger by the factor."""
        size = [self.factor * side for side in x.shape[2:]]
        return F.interpolate(x, size, mode='bilinear', align_corners=self.align_corners)


def replace_layers(module: nn.Module) -> None:
    """Put the stand-ins into a model, in place."""
    for name, child in module.named_children():
        layer: Any = child
        if isinstance(child, nn.AdaptiveAvgPool2d):
            size = layer.output_size
            setattr(module, name, BinPooling(size if isinstance(size, tuple) else (size, size)))
        elif type(child).__name__ == 'Upsample' and layer.mode == 'bilinear':
            setattr(module, name, Upsampling(int(layer.scale_factor), layer.align_corners))
        else:
            replace_layers(child)
