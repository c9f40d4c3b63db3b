"""Backbones, one file a family."""
from .dat import DATPlusPlus

__all__ = ['DATPlusPlus']
