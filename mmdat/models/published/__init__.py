"""The authors' checkpoints and configs: names, options and loading."""

from .checkpoints import (
    convert_published_checkpoint,
    load_pretrained,
    load_published_checkpoint,
    read_weights,
)
from .files import read_checkpoint
from .names import DAT_LAYOUT, SCALABLEVIT_LAYOUT, PublishedLayout, published_names
from .options import dat_fields, scalablevit_fields

__all__ = [
    'DAT_LAYOUT',
    'SCALABLEVIT_LAYOUT',
    'PublishedLayout',
    'convert_published_checkpoint',
    'dat_fields',
    'load_pretrained',
    'load_published_checkpoint',
    'published_names',
    'read_checkpoint',
    'read_weights',
    'scalablevit_fields',
]
