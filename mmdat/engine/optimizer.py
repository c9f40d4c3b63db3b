"""How optimizers treat the parameters of a backbone."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.utils.dl_utils import is_norm
from torch import nn

from mmdat.registry import OPTIM_WRAPPER_CONSTRUCTORS

BIAS_TABLE = 'relative_position_bias_table'


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneDecayConstructor(DefaultOptimWrapperConstructor):
    """mmengine's ``DefaultOptimWrapperConstructor``, but for weight decay in the backbone.

    Norms and bias tables of the backbone have none in any case.

    For recipes of DETR's kind: their ``custom_keys`` give the whole backbone a learning rate of its
    own, and would give it a decay too, as ``norm_decay_mult`` has no say in what a key matches.
    """

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add the parameter groups of a module and of those below it to ``params``."""
        first = len(params)
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix.split('.')[0] != 'backbone':
            return
        undecayed = {
            id(parameter)
            for name, parameter in module.named_parameters(recurse=False)
            if is_norm(module) or name == BIAS_TABLE
        }
        for group in params[first:]:
            if id(group['params'][0]) in undecayed:
                group['weight_decay'] = 0.0
