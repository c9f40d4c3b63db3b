"""What the toolboxes' data preprocessors do to images, as a module that a graph can hold."""

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.models.maps import pad_to_multiple
from mmdat.ops.tracing import fresh_sizes


class Preprocess(nn.Module):
    """Order of the channels, normalization and padding, from images in RGB or of other channels.

    Args:
        preprocessor: The model's own, of mmpretrain, mmsegmentation or mmdet.

    Raises:
        UserError: If it pads to a fixed size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessor: BaseDataPreprocessor) -> None:
        super().__init__()
        test_cfg = getattr(preprocessor, 'test_cfg', None) or {}
        if test_cfg.get('size'):
            raise UserError(
                'data_preprocessor.test_cfg.size pads images to a fixed size, which an exported '
                'model cannot do: set size_divisor instead'
            )
        divisor = getattr(preprocessor, 'pad_size_divisor', test_cfg.get('size_divisor'))
        self.divisor = divisor or 1
        self.pad_value = getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0))
        # Where the channels are not converted, the model takes what mmcv loads, BGR.
        names = 'to_rgb', 'channel_conversion', '_channel_conversion'
        self.to_bgr = not any(getattr(preprocessor, name, False) for name in names)
        normalize = preprocessor._enable_normalize
        self.register_buffer('mean', preprocessor.mean if normalize else torch.zeros(1, 1, 1))
        self.register_buffer('std', preprocessor.std if normalize else torch.ones(1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Tensor[batch, channels, height, width] -> the same, normalized and padded."""
        # Sizes that padding leaves as they are keep the least value that the trace knows of them.
        if self.divisor > 1:
            images = fresh_sizes(images, 0, 2, 3)
        if self.to_bgr:
            images = in_loaded_order(images)
        images = (images - self.mean) / self.std
        if self.divisor == 1:
            return images
        return pad_to_multiple(images - self.pad_value, self.divisor) + self.pad_value


def in_loaded_order(images: Tensor) -> Tensor:
    """Images in RGB, (batch, 3, height, width), in BGR, as mmcv loads them; others as they are."""
    return images.flip(1) if images.shape[1] == 3 else images
