"""DAT, DAT++ and ScalableViT for detection and segmentation with OpenMMLab.

Importing mmdat registers its modules: ``custom_imports = dict(imports=['mmdat'])`` in a config of
mmdet, mmsegmentation or mmpretrain is all that ``type='mmdat.DATPlusPlus'`` needs.
"""

from .stack import allow_training_history, check_stack
from .version import __version__

check_stack()
allow_training_history()

from . import registry  # noqa: E402  after the check, so that its message comes first

__all__ = ['__version__', 'registry']
