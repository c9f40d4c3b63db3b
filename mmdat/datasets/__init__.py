"""Data sets and transforms; importing this package needs mmdet."""

import contextlib

from .coco import CocoDataset
from .loading import LoadImageFromFile
from .shapes.coco import ShapesDataset, write_shapes_coco
from .shapes.files import ShapesParameters

__all__ = [
    'CocoDataset',
    'LoadImageFromFile',
    'ShapesDataset',
    'ShapesParameters',
    'write_shapes_coco',
]

# A project of mmdet need not have mmseg and mmpretrain, nor those that its mmcv fits.
with contextlib.suppress(ImportError, AssertionError):
    from .segmentation_map import LoadSegmentationMap  # noqa: F401  registers itself
    from .shapes.segment import ShapesSegmentDataset  # noqa: F401  registers itself
with contextlib.suppress(ImportError, AssertionError):
    from .shapes.classify import ShapesClassifyDataset  # noqa: F401  registers itself
