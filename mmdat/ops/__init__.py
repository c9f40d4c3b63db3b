"""Attention operators: functions on tensors that need torch alone."""

from .deformable_attention import (
    deformable_attention,
    grid_points,
    log_spaced_deformable_attention,
    reference_points,
    relative_position_bias,
    sample_at,
)
from .global_attention import global_attention
from .implementations import prefer_implementation
from .neighborhood_attention import neighborhood_attention
from .slide_attention import slide_attention
from .window_attention import window_attention

__all__ = [
    'deformable_attention',
    'global_attention',
    'grid_points',
    'log_spaced_deformable_attention',
    'neighborhood_attention',
    'prefer_implementation',
    'reference_points',
    'relative_position_bias',
    'sample_at',
    'slide_attention',
    'window_attention',
]
