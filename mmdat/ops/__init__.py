"""Attention operators: functions on tensors that need torch alone."""
from .deformable_attention import (
                                   deformable_attention,
                                   grid_points,
                                   reference_points,
                                   relative_position_bias,
                                   sample_at,
)
from .neighborhood_attention import neighborhood_attention

__all__ = [
    'deformable_attention', 'grid_points', 'neighborhood_attention', 'reference_points',
    'relative_position_bias', 'sample_at'
]
