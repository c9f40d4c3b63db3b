"""Attention modules on (batch, channels, height, width) maps.

They hold the parameters and project the channels; the attention itself is in ``mmdat.ops``.
"""

from .deformable import DeformableAttention
from .interactive_window import InteractiveWindowAttention
from .neighborhood import NeighborhoodAttention
from .pyramid import PyramidAttention
from .scalable import ScalableAttention
from .slide import SlideAttention
from .window import WindowAttention

__all__ = [
    'DeformableAttention',
    'InteractiveWindowAttention',
    'NeighborhoodAttention',
    'PyramidAttention',
    'ScalableAttention',
    'SlideAttention',
    'WindowAttention',
]
