"""Data sets, metrics and transforms; those of a toolbox are there if it is installed."""

import contextlib

from mmdat.stack import require

require('mmengine', 'mmcv')

from .loading import LoadImageFromFile  # noqa: E402  after the check
from .shapes.files import ShapesParameters  # noqa: E402

__all__ = [
    'CocoDataset',
    'CocoMetric',
    'LoadImageFromFile',
    'ShapesDataset',
    'ShapesParameters',
    'write_shapes_coco',
]

# A project of one toolbox need not have the others, nor those that its mmcv fits.
with contextlib.suppress(ImportError, AssertionError):
    from .coco import CocoDataset
    from .coco_metric import CocoMetric
    from .shapes.coco import ShapesDataset, write_shapes_coco
with contextlib.suppress(ImportError, AssertionError):
    from .segmentation import SegmentationDataset  # noqa: F401  registers itself
    from .segmentation_map import LoadSegmentationMap, PackSegInputs  # noqa: F401  register
    from .shapes.segment import ShapesSegmentDataset  # noqa: F401  registers itself
with contextlib.suppress(ImportError, AssertionError):
    from .classification import ClassificationDataset  # noqa: F401  registers itself
    from .shapes.classify import ShapesClassifyDataset  # noqa: F401  registers itself
