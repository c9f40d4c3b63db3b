"""DAT, DAT++ and ScalableViT for detection and segmentation with OpenMMLab.

Importing mmdat registers its modules: ``custom_imports = dict(imports=['mmdat'])`` in a config of
mmdet, mmsegmentation or mmpretrain is all that ``type='mmdat.DATPlusPlus'`` needs.

``mmdat.ops`` needs torch alone, the backbones mmengine too; nothing is registered without it.
"""

from .stack import (
    check_installed,
    check_versions,
    ignore_unavoidable_warnings,
    installed_version,
    let_waiting_threads_sleep,
)
from .version import __version__

ignore_unavoidable_warnings()
let_waiting_threads_sleep()
check_installed('torch')

if installed_version('mmengine') is not None:
    check_versions('torch', 'mmengine', 'mmcv')

    from . import registry  # noqa: F401  makes the scope mmdat known
    from .checkpoints.patches import patch_mmengine
    from .config_bases import patch_config

    patch_mmengine()
    patch_config()

__all__ = ['__version__']
