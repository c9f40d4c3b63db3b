"""What mmdat adds to mmengine's runner."""

from .attention import AttentionVisualizationHook
from .checkpoints import CheckpointHook
from .drawing import DrawPredictionsHook
from .finite import FiniteLossHook
from .graphs import CUDAGraphHook, replay_backbone
from .hooks import CheckFitHook, CountBrokenImagesHook
from .loops import ResumableEpochLoop, ResumableIterLoop
from .optimizer import BackboneDecayConstructor, BFloat16OptimWrapper, parts_in_bfloat16
from .results import WriteResultsHook
from .sharding import FSDPStrategy, wrap_stages

__all__ = [
    'AttentionVisualizationHook',
    'BFloat16OptimWrapper',
    'BackboneDecayConstructor',
    'CUDAGraphHook',
    'CheckFitHook',
    'CheckpointHook',
    'CountBrokenImagesHook',
    'DrawPredictionsHook',
    'FSDPStrategy',
    'FiniteLossHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'WriteResultsHook',
    'parts_in_bfloat16',
    'replay_backbone',
    'wrap_stages',
]
