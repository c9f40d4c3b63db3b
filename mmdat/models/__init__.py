"""Modules: parameters, forward passes and their registration."""
from .backbones import DATPlusPlus
from .published import published_names

__all__ = ['DATPlusPlus', 'published_names']
