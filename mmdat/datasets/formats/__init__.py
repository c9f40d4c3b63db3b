"""What lies in a folder of data: boxes and masks, masks of pixels, or images by class."""

from .classes import Classified, read_classified
from .coco import CocoSplit, read_detection
from .files import Images
from .pixels import Segmented, read_segmented

__all__ = [
    'Classified',
    'CocoSplit',
    'Images',
    'Segmented',
    'read_classified',
    'read_detection',
    'read_segmented',
]
