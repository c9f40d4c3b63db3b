"""Modules: parameters, forward passes and their registration."""

import contextlib

from .backbones import DAT, DATPlusPlus, ScalableViT
from .published import convert_published_checkpoint, load_published_checkpoint, published_names

__all__ = [
    'DAT',
    'DATPlusPlus',
    'ScalableViT',
    'convert_published_checkpoint',
    'load_published_checkpoint',
    'published_names',
]

# An mmdet that is missing, or has no mmcv that fits, is no reason to be without the backbones.
with contextlib.suppress(ImportError):
    from .test_time_augmentation import InstanceTTAModel  # noqa: F401  registers itself
