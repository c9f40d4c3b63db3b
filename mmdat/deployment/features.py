"""Backbone and neck of a model as a module from images to maps."""

import copy
from collections import namedtuple
from typing import Any

from torch import Tensor, nn

from .preprocessing import Preprocess


class BackboneAndNeck(nn.Module):
    """What exported detectors share: pixels in, features of backbone and neck out.

    Args:
        model: A detector, or a segmentor; its layers are shared.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.preprocess = Preprocess(model.data_preprocessor)
        self.backbone = model.backbone
        neck: Any = copy.copy(model.neck) if model.with_neck else nn.Identity()
        self.neck = neck
        self.pooled_levels = 0
        if type(neck).__name__ == 'FPN' and not neck.add_extra_convs:
            # torch.export cannot pool a map whose size it does not know to be odd or even.
            used = neck.backbone_end_level - neck.start_level
            self.pooled_levels = neck.num_outs - used
            neck.num_outs = used

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the neck, fine to coarse."""
        maps = list(self.neck(self.backbone(self.preprocess(images))))
        for _ in range(self.pooled_levels):
            maps.append(maps[-1][:, :, ::2, ::2])
        return tuple(maps)


class ExportableFeatures(BackboneAndNeck):
    """The backbone and neck of a model that does not export end to end.

    It takes images as an exported detector does.
    """

    def forward(self, images: Tensor) -> Any:
        """Maps (batch, channels, height, width) named ``feature0``, ..., fine to coarse."""
        maps = self.features(images)
        return namedtuple('Features', [f'feature{i}' for i in range(len(maps))])(*maps)
