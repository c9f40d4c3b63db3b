"""Pictures of what a model does."""

from .grid import Comparison, draw_grid

__all__ = ['Comparison', 'draw_grid']
