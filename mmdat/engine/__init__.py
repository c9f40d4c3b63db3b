"""What mmdat adds to mmengine's runner."""

from .attention import AttentionVisualizationHook
from .drawing import DrawPredictionsHook
from .hooks import CheckFitHook, CountBrokenImagesHook
from .optimizer import BackboneDecayConstructor
from .sharding import FSDPStrategy, wrap_stages

__all__ = [
    'AttentionVisualizationHook',
    'BackboneDecayConstructor',
    'CheckFitHook',
    'CountBrokenImagesHook',
    'DrawPredictionsHook',
    'FSDPStrategy',
    'wrap_stages',
]
