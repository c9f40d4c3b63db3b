"""What mmdat adds to mmengine's runner."""
from .hooks import CheckFitHook, CountBrokenImagesHook
from .sharding import FSDPStrategy, wrap_stages

__all__ = ['CheckFitHook', 'CountBrokenImagesHook', 'FSDPStrategy', 'wrap_stages']
