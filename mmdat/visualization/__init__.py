"""Pictures of predictions, and of what attention looks at."""

from .attention import draw_deformed_points, draw_models, draw_offsets, draw_query
from .comparison import Comparison, draw_comparisons
from .mapping import ImageMapping
from .recording import Attention, RecordedBlock, Recording, record_attention, record_batch

__all__ = [
    'Attention',
    'Comparison',
    'ImageMapping',
    'RecordedBlock',
    'Recording',
    'draw_comparisons',
    'draw_deformed_points',
    'draw_models',
    'draw_offsets',
    'draw_query',
    'record_attention',
    'record_batch',
]
