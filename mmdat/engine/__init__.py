"""What mmdat adds to mmengine's runner."""

from .attention import AttentionVisualizationHook
from .checkpoints import CheckpointHook
from .drawing import DrawPredictionsHook
from .finite import FiniteLossHook
from .hooks import CheckFitHook, CountBrokenImagesHook
from .loops import ResumableEpochLoop, ResumableIterLoop
from .optimizer import BackboneDecayConstructor
from .sharding import FSDPStrategy, wrap_stages

__all__ = [
    'AttentionVisualizationHook',
    'BackboneDecayConstructor',
    'CheckFitHook',
    'CheckpointHook',
    'CountBrokenImagesHook',
    'DrawPredictionsHook',
    'FSDPStrategy',
    'FiniteLossHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'wrap_stages',
]
