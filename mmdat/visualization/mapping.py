"""From the pixels of an image to those of what a network is given of it, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Points = Any  # what torch.as_tensor takes


@dataclass(frozen=True)
class ImageMapping:
    """``input = scale * image + shift`` for points (x, y), where pixel i covers [i, i + 1).

    Padding on the right and bottom changes nothing; a flip has a negative scale.

    Attributes:
        scale: Of x and y.
        shift: Of x and y, in pixels of the network's input.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def from_meta(cls, metainfo: Mapping[str, Any]) -> 'ImageMapping':
        """The mapping that a data sample's pipeline did: resizing, a crop of the center, a flip.

        Args:
            metainfo: ``ori_shape`` (height, width) of the image, and ``img_shape`` of the input
                without padding; where they are there, ``scale_factor`` (x, y), ``flip`` and
                ``flip_direction``. What the resized image exceeds ``img_shape`` by was cropped
                equally on both sides, as by the pipelines of classifiers.
        """
        scales, shifts = [], []
        direction = metainfo.get('flip_direction') if metainfo.get('flip') else None
        for axis, name in enumerate(('horizontal', 'vertical')):
            before, after = (metainfo[key][1 - axis] for key in ('ori_shape', 'img_shape'))
            scale = metainfo.get('scale_factor', (after / before,) * 2)[axis]
            shift = -max(0, round((round(before * scale) - after) / 2))
            if direction in (name, 'diagonal'):
                scale, shift = -scale, after - shift
            scales.append(float(scale))
            shifts.append(float(shift))
        return cls((scales[0], scales[1]), (shifts[0], shifts[1]))

    def to_input(self, points: Points) -> Tensor:
        """Points (..., 2) in pixels of the image -> of the network's input, float64."""
        scale, shift = self._tensors()
        return torch.as_tensor(points, dtype=torch.float64) * scale + shift

    def to_image(self, points: Points) -> Tensor:
        """Points (..., 2) in pixels of the network's input -> of the image, float64."""
        scale, shift = self._tensors()
        return (torch.as_tensor(points, dtype=torch.float64) - shift) / scale

    def _tensors(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.scale).double(), torch.tensor(self.shift).double()


UNCHANGED = ImageMapping()  # where the network's input is the image
