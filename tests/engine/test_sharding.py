"""What is sharded together; two processes train with it in tests/apis/test_distributed.py."""

import inspect

import mmengine._strategy as mmengine
import pytest
from helpers import zoo
from mmengine.config import Config
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from mmdat.apis.runner import use_mixed_precision
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


def test_mixed_precision_scales_the_loss_alike_in_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    cfg = Config.fromfile(zoo.CONFIGS / 'cascade_mask_rcnn_dat_pp_b_3x_fsdp_coco.py')
    use_mixed_precision(cfg, on_gpu=True)
    strategy = mmengine.FSDPStrategy.__new__(mmengine.FSDPStrategy)
    wrapper = strategy.build_optim_wrapper(cfg.optim_wrapper, nn.Linear(1, 1))
    assert isinstance(wrapper.loss_scaler, ShardedGradScaler)
    use_mixed_precision(cfg, on_gpu=False)
    assert 'use_fsdp' not in cfg.optim_wrapper, 'bfloat16 needs no scaling'


def test_mmengine_still_needs_our_strategy() -> None:
    """Once this fails, mmengine has PyTorch's order of arguments, and ours may go."""
    source = inspect.getsource(mmengine.FSDPStrategy.load_optim_state_dict)
    assert 'state_dict, self.model, self.optim_wrapper.optimizer' in source
