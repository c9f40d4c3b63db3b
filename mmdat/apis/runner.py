"""From a config to mmengine's runner, on GPUs and on CPUs."""

from pathlib import Path
from typing import Any

import torch
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmdat.checks.config_file import read_config
from mmdat.checks.config_tree import replace_values
from mmdat.checks.run import is_sharded


def read_run_config(
    config: str, work_dir: str | None, cfg_options: dict[str, Any] | None, launcher: str
) -> Config:
    """Read a config and put into it how it is to be run.

    Args:
        config: Path of the config.
        work_dir: Where logs and checkpoints go, ``work_dirs/<config's name>`` if None.
        cfg_options: Values to put into the config, by dotted key.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        UserError: If the config cannot be read, or if the options do not fit it.
    """
    cfg = read_config(config, cfg_options)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(config).stem}'
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, with its model."""
    setup_cache_size_limit_of_dynamo()
    if cfg.launcher == 'pytorch' and not torch.cuda.is_available():
        _prepare_processes_on_cpu(cfg)
    return RUNNERS.build(cfg)


def _prepare_processes_on_cpu(cfg: Config) -> None:
    """Start a process group on CPUs; mmengine would ask for GPUs, but takes one that is there."""
    torch.distributed.init_process_group('gloo')
    # Statistics over processes are for GPUs alone; in one process the runner does this.
    replace_values(cfg.model, 'type', 'SyncBN', 'BN')
    if is_sharded(cfg):
        # Without this the weights, which lie on the CPU, are offloaded to the CPU: PyTorch frees
        # them there, and the process dies of a segmentation fault.
        cfg.strategy.model_wrapper.update(device_id='cpu')
        cfg.strategy.state_dict_cfg = dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
            optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True),
        )
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
