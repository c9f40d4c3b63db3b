"""How optimizers treat the parameters of a backbone."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.runner import autocast
from mmengine.utils.dl_utils import is_norm
from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.models.arch import fits
from mmdat.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

BIAS_TABLE = 'relative_position_bias_table'


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper``, with mixed precision of bfloat16, also on CPUs.

    ``AmpOptimWrapper`` needs a GPU, for a scaling of the loss that bfloat16 does without.

    Args:
        parts: Names of the parts of the model that run so, whose outputs are turned to float32; the
            whole model if there are none. Heads of detectors call operators of mmcv, such as NMS,
            that have no bfloat16.
        options: As for ``OptimWrapper``.
    """

    def __init__(self, parts: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self.parts = parts

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run what is inside in mixed precision."""
        precision = parts_in_bfloat16(model, self.parts) if self.parts else None
        with super().optim_context(model), precision or autocast(dtype=torch.bfloat16):
            yield


@contextmanager
def parts_in_bfloat16(
    model: nn.Module, parts: Sequence[str] = ('backbone', 'neck')
) -> Iterator[None]:
    """Run parts of a model that return maps in bfloat16; the maps are turned to float32.

    Args:
        model: The model, or a wrapper of it.
        parts: Names of the parts; those that it lacks are passed over.
    """
    whole: Any = getattr(model, 'module', model)
    with ExitStack() as stack:
        for name in parts:
            if isinstance(part := getattr(whole, name, None), nn.Module):
                stack.enter_context(_calls_in_bfloat16(part))
        yield


@contextmanager
def _calls_in_bfloat16(part: nn.Module) -> Iterator[None]:
    """Run the forward passes of a part that returns maps in mixed precision."""
    inside: list[Any] = []

    def enter(*_: Any) -> None:
        inside.append(autocast(dtype=torch.bfloat16))
        inside[-1].__enter__()

    def leave(_: nn.Module, __: Any, outputs: Any) -> tuple[Tensor, ...] | None:
        inside.pop().__exit__(None, None, None)
        return None if outputs is None else tuple(x.float() for x in outputs)

    hooks = (
        part.register_forward_pre_hook(enter),
        part.register_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
