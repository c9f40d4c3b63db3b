"""What is sharded together; two processes train with it in tests/apis/test_distributed.py."""

import inspect

import mmengine._strategy as mmengine

from mmdat.engine import wrap_stages
from mmdat.models import DATPlusPlus
from mmdat.models.backbones.base import Stage


def test_the_stages_of_a_backbone_are_wrapped_and_nothing_else() -> None:
    wrapped = [
        module
        for module in DATPlusPlus(arch='nano').modules()
        if wrap_stages(module, recurse=False, nonwrapped_numel=0)
    ]
    assert len(wrapped) == 4 and all(isinstance(module, Stage) for module in wrapped)


def test_mmengine_still_needs_our_strategy() -> None:
    """Once this fails, mmengine has PyTorch's order of arguments, and ours may go."""
    source = inspect.getsource(mmengine.FSDPStrategy.load_optim_state_dict)
    assert 'state_dict, self.model, self.optim_wrapper.optimizer' in source
