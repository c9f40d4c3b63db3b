"""Backbones, the modules that they are made of, and what loads the authors' weights."""

import contextlib

from mmdat.stack import require

require('mmengine')

from mmdat.checkpoints import (  # noqa: E402  after the check
    convert_published_checkpoint,
    load_published_checkpoint,
    published_names,
)

from .backbones import DAT, DATPlusPlus, ScalableViT  # noqa: E402

__all__ = [
    'DAT',
    'DATPlusPlus',
    'ScalableViT',
    'convert_published_checkpoint',
    'load_published_checkpoint',
    'published_names',
]

# An mmdet that is missing, or has no mmcv that fits, is no reason to be without the backbones.
with contextlib.suppress(ImportError):
    from .tta import InstanceTTAModel  # noqa: F401  registers itself
