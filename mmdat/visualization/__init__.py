"""Pictures of predictions, and of what attention looks at."""

from mmdat.stack import require

require('matplotlib')

from .attention import draw_deformed_points, draw_models, draw_offsets, draw_query  # noqa: E402
from .comparison import arrange, compare_objects  # noqa: E402
from .mapping import ImageMapping  # noqa: E402
from .recording import Attention, RecordedBlock, Recording, record_attention, record_batch  # noqa: E402

__all__ = [
    'Attention',
    'ImageMapping',
    'RecordedBlock',
    'Recording',
    'arrange',
    'compare_objects',
    'draw_deformed_points',
    'draw_models',
    'draw_offsets',
    'draw_query',
    'record_attention',
    'record_batch',
]
