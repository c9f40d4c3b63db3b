"""Data sets and transforms; importing this package needs mmdet."""
from .coco import CocoDataset
from .loading import LoadImageFromFile
from .shapes_coco import ShapesDataset, ShapesParameters, write_shapes_coco

__all__ = [
    'CocoDataset', 'LoadImageFromFile', 'ShapesDataset', 'ShapesParameters', 'write_shapes_coco'
]
