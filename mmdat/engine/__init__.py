"""What mmdat adds to mmengine's runner."""
from .hooks import CheckFitHook, CountBrokenImagesHook

__all__ = ['CheckFitHook', 'CountBrokenImagesHook']
