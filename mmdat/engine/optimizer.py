"""How optimizers treat the parameters of a backbone."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.utils.dl_utils import is_norm
from torch import nn

from mmdat.errors import UserError
from mmdat.models.arch import fits
from mmdat.registry import OPTIM_WRAPPER_CONSTRUCTORS

BIAS_TABLE = 'relative_position_bias_table'


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneDecayConstructor(DefaultOptimWrapperConstructor):
    """mmengine's ``DefaultOptimWrapperConstructor``, but for decays in the backbone.

    Norms and bias tables of the backbone have no weight decay in any case.

    For recipes of DETR's kind: their ``custom_keys`` give the whole backbone a learning rate of its
    own, and would give it a decay too, as ``norm_decay_mult`` has no say in what a key matches.

    ``paramwise_cfg`` may have a ``layer_decay_rate`` above 0 and up to 1, by which the learning
    rate is multiplied from layer to layer, from the last, with heads and neck, to the first (BEiT,
    arXiv 2106.08254). It needs a backbone with ``get_layer_depth``, as those of mmdat and many of
    mmpretrain have, and works in all toolboxes.

    Raises:
        UserError: If ``layer_decay_rate`` is out of range, the backbone has no layers or the
            optimizer no ``lr``.
    """

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add the parameter groups of a module and of those below it to ``params``."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        # Each group has one parameter.
        groups = {id(group['params'][0]): group for group in params}
        for path, part in module.named_modules():
            if path.split('.')[0] != 'backbone':
                continue
            for name, parameter in part.named_parameters(recurse=False):
                if id(parameter) in groups and (is_norm(part) or name == BIAS_TABLE):
                    groups[id(parameter)]['weight_decay'] = 0.0
        if 'layer_decay_rate' in self.paramwise_cfg:
            self._decay_by_layer(groups, module, self.paramwise_cfg['layer_decay_rate'])

    def _decay_by_layer(
        self, groups: dict[int, dict[str, Any]], model: nn.Module, rate: Any
    ) -> None:
        if not fits(rate, float) or not 0 < rate <= 1:
            raise UserError(
                f'paramwise_cfg.layer_decay_rate must be above 0 and at most 1, got {rate!r}'
            )
        backbone: Any = getattr(model, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise UserError(
                'paramwise_cfg.layer_decay_rate needs a backbone with get_layer_depth, such as '
                f"mmdat's, got {type(backbone).__name__}"
            )
        if self.base_lr is None:
            raise UserError(
                'paramwise_cfg.layer_decay_rate needs a learning rate: set optimizer.lr'
            )
        for name, parameter in model.named_parameters():
            if id(parameter) in groups:
                group = groups[id(parameter)]
                layer, num_layers = backbone.get_layer_depth(name, 'backbone.')
                scale = rate ** (num_layers - layer - 1)
                group['lr'] = group.get('lr', self.base_lr) * scale
