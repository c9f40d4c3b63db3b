"""Modules: parameters, forward passes and their registration."""
from importlib.util import find_spec

from .backbones import DAT, DATPlusPlus, ScalableViT
from .published import convert_published_checkpoint, load_published_checkpoint, published_names

__all__ = [
    'DAT', 'DATPlusPlus', 'ScalableViT', 'convert_published_checkpoint',
    'load_published_checkpoint', 'published_names'
]

if find_spec('mmdet') is not None:
    from .test_time_augmentation import InstanceTTAModel  # noqa: F401  registers itself
