"""Operators of the models: functions on tensors that need torch alone."""

from .deformable.api import deformable_attention, log_spaced_deformable_attention
from .deformable.locations import key_locations
from .deformable.sampling import grid_points, reference_points, relative_position_bias, sample_at
from .depthwise import residual_depthwise_conv
from .dispatch import prefer_implementation
from .full import global_attention
from .neighborhood.api import neighborhood_attention
from .norm import layer_norm
from .residual import residual_add
from .slide import slide_attention
from .strided import strided_depthwise_conv
from .window import window_attention

__all__ = [
    'deformable_attention',
    'global_attention',
    'grid_points',
    'key_locations',
    'layer_norm',
    'log_spaced_deformable_attention',
    'neighborhood_attention',
    'prefer_implementation',
    'reference_points',
    'relative_position_bias',
    'residual_add',
    'residual_depthwise_conv',
    'sample_at',
    'slide_attention',
    'strided_depthwise_conv',
    'window_attention',
]
