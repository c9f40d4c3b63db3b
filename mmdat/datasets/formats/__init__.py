"""What lies in a folder of data: boxes and masks, masks of pixels, or images by class.

In all files ``images`` are those of the folder, ``share`` of them, chosen by ``seed``, is held back
to validate on where the folder does not say which, and ``notes`` are told what is not as expected.
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
