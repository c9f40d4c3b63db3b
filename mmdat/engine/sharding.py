"""Training in shards with PyTorch's FullyShardedDataParallel (FSDP)."""

from typing import Any

import mmengine._strategy as mmengine
from torch import nn
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

from mmdat.models.backbones.base import Stage
from mmdat.registry import FUNCTIONS, STRATEGIES


@FUNCTIONS.register_module()
def wrap_stages(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Policy of FSDP: gather the weights of a backbone's stage when it runs, the rest at once.

    Heads stay together, as detectors call methods of them that FSDP does not know of.

    Args:
        recurse: Whether FSDP asks if it shall look into the part, or else if it shall wrap it.
        nonwrapped_numel: Parameters of the part that are not wrapped yet.
    """
    return recurse or isinstance(module, Stage)


@STRATEGIES.register_module()
class FSDPStrategy(mmengine.FSDPStrategy):
    """mmengine's ``FSDPStrategy``, with which training can be resumed.

    mmengine 0.10.7 hands over an optimizer's state in the order of arguments of PyTorch 2.0.
    """

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`optim_state_dict` returned on the first process."""
        optimizer = self.optim_wrapper.optimizer
        self.optim_wrapper.load_state_dict(
            FullyShardedDataParallel.optim_state_dict_to_load(
                model=self.model, optim=optimizer, optim_state_dict=state_dict
            )
        )


def whole_weights(model: FullyShardedDataParallel) -> dict[str, Any]:
    """Gather a sharded model's weights by name; all processes must call it."""
    with FullyShardedDataParallel.state_dict_type(
        model, StateDictType.FULL_STATE_DICT, FullStateDictConfig()
    ):
        return model.state_dict()
