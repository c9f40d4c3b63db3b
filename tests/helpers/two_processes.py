"""What one of two processes does that train models together."""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import distributed
from torch.nn.utils import parameters_to_vector

from mmdat.apis.model import build_model

from . import zoo
from .nano import nano_config


def train_heads(rank: int, names: list[str], root: Path, backbone: dict[str, Any]) -> None:
    """Train each head for two steps; the second process has images without any object.

    Args:
        rank: 0 or 1.
        names: Those of ``nano.HEADS`` to train.
        root: Folder that ``zoo.draw_data`` filled.
        backbone: Changes of the backbone's arguments.
    """
    torch.set_num_threads(1)
    os.environ.update(zoo.environment(root))
    meeting = f'file://{root / "meeting"}'
    distributed.init_process_group('gloo', init_method=meeting, rank=rank, world_size=2)
    for name in names:
        cfg = nano_config(name)
        cfg.model.backbone.update(backbone)
        cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = build_model(cfg)
            loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        model.init_weights()
        # All images for each process, since batch normalization needs two.
        batch: Any = loader.collate_fn([*loader.dataset])
        if rank:
            _take_objects_out(batch['data_samples'])
        wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-4))
        for step in range(2):
            try:
                wrapped.train_step(copy.deepcopy(batch), optimizer)
            except Exception as error:
                raise RuntimeError(f'{name} fails at step {step + 1}') from error
        weights = parameters_to_vector(model.parameters()).detach()
        both = [torch.empty_like(weights) for _ in range(2)]
        distributed.all_gather(both, weights)
        if not weights.isfinite().all() or not torch.equal(*both):
            raise RuntimeError(f'{name} has weights that differ or are not finite')
    distributed.destroy_process_group()


def _take_objects_out(samples: list[Any]) -> None:
    for sample in samples:
        if 'gt_instances' in sample:
            sample.gt_instances = sample.gt_instances[:0]
        if 'gt_sem_seg' in sample:
            sample.gt_sem_seg.data.fill_(255)  # what is ignored
