"""Modules: parameters, forward passes and their registration."""
from .backbones import DAT, DATPlusPlus, ScalableViT
from .published import convert_published_checkpoint, load_published_checkpoint, published_names

__all__ = [
    'DAT', 'DATPlusPlus', 'ScalableViT', 'convert_published_checkpoint',
    'load_published_checkpoint', 'published_names'
]
