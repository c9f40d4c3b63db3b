"""Modules: parameters, forward passes and their registration."""
from importlib.util import find_spec

from .backbones import DATPlusPlus
from .published import published_names

__all__ = ['DATPlusPlus', 'published_names']

if find_spec('mmdet') is not None:
    from .test_time_augmentation import InstanceTTAModel  # noqa: F401  registers itself
