"""What mmdat adds to mmengine's runner."""

from .hooks import CheckFitHook, CountBrokenImagesHook
from .optimizer import BackboneDecayConstructor
from .sharding import FSDPStrategy, wrap_stages

__all__ = [
    'BackboneDecayConstructor',
    'CheckFitHook',
    'CountBrokenImagesHook',
    'FSDPStrategy',
    'wrap_stages',
]
