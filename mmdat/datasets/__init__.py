"""Data sets and transforms; importing this package needs mmdet."""
from .coco import CocoDataset
from .loading import LoadImageFromFile

__all__ = ['CocoDataset', 'LoadImageFromFile']
