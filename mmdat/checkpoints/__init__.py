"""Checkpoint files: read without running code in them, and matched to a model's parameters."""

from mmdat.stack import require

require('mmengine')

from .layout import PublishedBackbone, PublishedLayout, published_names  # noqa: E402
from .matching import convert_published_checkpoint, load_pretrained, load_published_checkpoint  # noqa: E402
from .reading import read_checkpoint, read_weights  # noqa: E402
from .recognition import recognize  # noqa: E402

__all__ = [
    'PublishedBackbone',
    'PublishedLayout',
    'convert_published_checkpoint',
    'load_pretrained',
    'load_published_checkpoint',
    'published_names',
    'read_checkpoint',
    'read_weights',
    'recognize',
]
