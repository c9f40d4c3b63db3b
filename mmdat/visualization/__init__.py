"""Pictures of predictions."""

from .comparison import Comparison, draw_comparisons

__all__ = ['Comparison', 'draw_comparisons']
