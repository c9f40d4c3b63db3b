"""Pictures of predictions, and of what attention looks at."""

import contextlib

from .attention import draw_deformed_points, draw_models, draw_offsets, draw_query
from .mapping import ImageMapping
from .recording import Attention, RecordedBlock, Recording, record_attention, record_batch

# Attention is drawn in a project of one toolbox too; truth and predictions need mmdet and mmseg.
with contextlib.suppress(ImportError, AssertionError):
    from .comparison import Comparison, draw_comparisons

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
