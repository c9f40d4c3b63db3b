"""What lies in a folder of data: boxes and masks, masks of pixels, or images by class.

The readers hold back a ``share`` of the images, chosen by ``seed``, to validate on where the folder
does not say which.
"""

from .classes import Classified, read_classified
from .coco import Detection, read_detection
from .files import NotRecognizedError
from .pixels import Segmented, read_segmented, write_values

__all__ = [
    'Classified',
    'Detection',
    'NotRecognizedError',
    'Segmented',
    'read_classified',
    'read_detection',
    'read_segmented',
    'write_values',
]
