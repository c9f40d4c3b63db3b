"""Backbones, one file a family."""

from .dat import DAT
from .dat_pp import DATPlusPlus
from .scalablevit import ScalableViT

__all__ = ['DAT', 'DATPlusPlus', 'ScalableViT']
