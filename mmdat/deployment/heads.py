"""Classifiers and segmentors as modules from images to named outputs."""

import copy

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.ops.tracing import crop

from .outputs import Scores, Segments
from .pooling import replace_layers
from .preprocessing import Preprocess


class ExportableClassifier(nn.Module):
    """A classifier of mmpretrain, from images to probabilities.

    Args:
        model: The classifier; it is copied.

    Raises:
        UserError: If its head computes something else than a softmax of logits.
    """

    def __init__(self, model: BaseModel) -> None:
        from mmpretrain.models.heads import ClsHead

        super().__init__()
        if getattr(type(model.head), '_get_predictions', None) is not ClsHead._get_predictions:
            raise UserError(f'{type(model.head).__name__} cannot be exported')
        self.preprocess = Preprocess(model.data_preprocessor)
        self.model = _prepared(model)

    def forward(self, images: Tensor) -> Scores:
        """Tensor[batch, 3, height, width], RGB, 0 to 255 -> the probabilities of the classes."""
        return Scores(self.model(self.preprocess(images), mode='tensor').softmax(1))


class ExportableSegmentor(nn.Module):
    """A segmentor of mmsegmentation, from images to classes of pixels, on whole images.

    Args:
        model: The segmentor; it is copied.

    Raises:
        UserError: If its head returns something else than logits of pixels, as Mask2Former's does.
    """

    def __init__(self, model: BaseModel) -> None:
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        super().__init__()
        if not isinstance(model.decode_head, BaseDecodeHead):
            raise UserError(f'{type(model.decode_head).__name__} cannot be exported')
        self.preprocess = Preprocess(model.data_preprocessor)
        self.model = _prepared(model)

    def forward(self, images: Tensor) -> Segments:
        """Tensor[batch, 3, height, width], RGB, 0 to 255 -> logits and classes of its pixels."""
        inputs = self.preprocess(images)
        logits = self.model.decode_head(self.model.extract_feat(inputs))
        logits = F.interpolate(
            logits, inputs.shape[2:], mode='bilinear', align_corners=self.model.align_corners
        )
        if self.preprocess.divisor > 1:
            logits = crop(crop(logits, 2, images.shape[2]), 3, images.shape[3])
        if logits.shape[1] > 1:
            return Segments(logits, logits.argmax(1))
        classes = logits.sigmoid() > self.model.decode_head.threshold
        return Segments(logits, classes[:, 0].long())


def _prepared(model: BaseModel) -> BaseModel:
    model = copy.deepcopy(model).eval().requires_grad_(False)
    replace_layers(model)
    return model
