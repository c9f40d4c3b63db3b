"""Child registries of mmengine's under the scope ``mmdat``.

``custom_imports = dict(imports=['mmdat'])`` in a config makes ``type='mmdat.Name'`` work inside
mmdet, mmsegmentation and mmpretrain.
"""

from .stack import require

require('mmengine')

from mmengine import registry as mmengine_registry  # noqa: E402  after the check
from mmengine.registry import Registry  # noqa: E402


def _child(parent: Registry, location: str) -> Registry:
    return Registry(parent.name, parent=parent, scope='mmdat', locations=[location])


MODELS = _child(mmengine_registry.MODELS, 'mmdat.models')
DATASETS = _child(mmengine_registry.DATASETS, 'mmdat.datasets')
TRANSFORMS = _child(mmengine_registry.TRANSFORMS, 'mmdat.datasets')
METRICS = _child(mmengine_registry.METRICS, 'mmdat.datasets')
FUNCTIONS = _child(mmengine_registry.FUNCTIONS, 'mmdat.engine')
STRATEGIES = _child(mmengine_registry.STRATEGIES, 'mmdat.engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS, 'mmdat.engine')
OPTIM_WRAPPERS = _child(mmengine_registry.OPTIM_WRAPPERS, 'mmdat.engine')
HOOKS = _child(mmengine_registry.HOOKS, 'mmdat.engine')
LOOPS = _child(mmengine_registry.LOOPS, 'mmdat.engine')
