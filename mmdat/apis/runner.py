"""mmengine's runner of a config, on GPUs and on CPUs, with mmdat's checks in every run."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import DATASETS, HOOKS, LOOPS, METRICS, MODEL_WRAPPERS, RUNNERS, Registry
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel

from mmdat.checks import config_tree
from mmdat.checks.config_file import read_config
from mmdat.checks.run import is_sharded
from mmdat.errors import enumerate_names
from mmdat.ops import cpu
from mmdat.ops.build import processor

from .terminal import short_terminal
from .toolboxes import toolbox_of

CHECKING_HOOKS = ('CheckFitHook', 'CountBrokenImagesHook', 'FiniteLossHook')
# Classes of mmdet -> where they are registered; mmdat's of the same name check what they read.
CHECKED_CLASSES = {'CocoDataset': DATASETS, 'CocoMetric': METRICS}
# Loops of mmengine -> those of mmdat, with which training resumes exactly.
RESUMABLE_LOOPS = {
    'EpochBasedTrainLoop': 'mmdat.ResumableEpochLoop',
    'IterBasedTrainLoop': 'mmdat.ResumableIterLoop',
}


def read_run_config(
    config: str, work_dir: str | None, cfg_options: dict[str, Any] | None, launcher: str
) -> Config:
    """Read a config and put into it how it is to be run.

    Args:
        config: Path of the config, or ``mmdat::NAME.py``.
        work_dir: Where logs and checkpoints go, ``work_dirs/<config's name>`` if None.
        cfg_options: Values to put into the config, by dotted key.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        UserError: If the config cannot be read, or if the options do not fit it.
    """
    cfg = read_config(config, cfg_options)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    return cfg


def build_runner(cfg: Config, warnings: Iterable[str] = ()) -> Runner:
    """Build the runner of a config, with its model, and with the checks that the config lacks.

    Args:
        warnings: What was found before there was a log; goes into it.
    """
    added = add_checks(cfg)
    # mmengine makes one visualizer of a name in a process, which writes where the first run does.
    # Without a name it gets the run's.
    (cfg.get('visualizer') or {}).pop('name', None)
    if cfg.launcher == 'pytorch' and not torch.cuda.is_available():
        prepare_processes_on_cpu(cfg)
    with short_terminal():
        runner = RUNNERS.build(cfg)
    log = Path(runner.work_dir, runner.timestamp, f'{runner.timestamp}.log').resolve()
    runner.logger.info(f'Config, environment, hooks and rates of parameters: {log}')
    for text in warnings:
        runner.logger.warning(text)
    if added:
        runner.logger.info(f'Added the checks of mmdat that the config lacks: {added}')
    if get_device() == 'cpu' and cpu.KERNELS is None and processor() is not None:
        runner.logger.info(
            'Attention runs at least twice as fast in its kernels in C++, which are not built: '
            "python -c 'from mmdat.ops.build import build; build()'"
        )
    return runner


def add_checks(cfg: Config) -> str:
    """Put the hooks, data sets and metrics that check a run into a config that lacks them.

    Returns:
        What was put in, for a sentence; empty if nothing was.
    """
    hooks = list(cfg.get('custom_hooks') or ())
    there = {_resolved(HOOKS, hook, cfg) for hook in hooks}
    missing = [
        f'mmdat.{name}' for name in CHECKING_HOOKS if HOOKS.get(f'mmdat.{name}') not in there
    ]
    if missing:
        cfg.custom_hooks = [*(dict(type=name) for name in missing), *hooks]
    splits = ('train', 'val', 'test')
    parts = [part for split in splits for _, part in config_tree.datasets(cfg, split)]
    parts += [metric for split in splits[1:] for _, metric in config_tree.metrics(cfg, split)]
    for part in parts:
        for name, registry in CHECKED_CLASSES.items():
            kind = _resolved(registry, part, cfg)
            if getattr(kind, '__module__', '').startswith('mmdet.') and kind.__name__ == name:
                part['type'] = f'mmdat.{name}'
                missing.append(part['type'])
    return enumerate_names(dict.fromkeys(missing)) if missing else ''


def use_mixed_precision(cfg: Config, on_gpu: bool) -> None:
    """Train in mixed precision: float16 or what the config says on a GPU, bfloat16 on a CPU."""
    wrapper = cfg.optim_wrapper
    if on_gpu:
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        return
    wrapper.type = 'mmdat.BFloat16OptimWrapper'
    for name in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(name, None)
    if toolbox_of(cfg).name == 'mmdet':
        wrapper.parts = ('backbone', 'neck')


def make_resumable(cfg: Config, warn: Callable[[str], None]) -> None:
    """Put the loop and the hook with which training resumes exactly in the place of mmengine's.

    Args:
        warn: Takes a sentence about a loop that is not mmengine's.
    """
    train_cfg = cfg.train_cfg
    if 'type' not in train_cfg:
        by_epoch = train_cfg.pop('by_epoch', 'max_epochs' in train_cfg)
        train_cfg.type = f'{"Epoch" if by_epoch else "Iter"}BasedTrainLoop'
    loop = _resolved(LOOPS, train_cfg, cfg)
    for name, resumable in RESUMABLE_LOOPS.items():
        if loop is LOOPS.get(name):
            train_cfg.type = resumable
    if loop is not None and train_cfg.type not in RESUMABLE_LOOPS.values():
        warn(f'If this training is resumed, it goes on as exactly as {loop.__name__} can')
    hooks = dict(cfg.get('default_hooks') or {})
    checkpoint = hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoint and _resolved(HOOKS, checkpoint, cfg) is HOOKS.get('CheckpointHook'):
        cfg.default_hooks = {**hooks, 'checkpoint': {**checkpoint, 'type': 'mmdat.CheckpointHook'}}


def leave_out_early_stopping(cfg: Config) -> None:
    """Take early stopping out of a config that is tested: it would build the training's data."""

    def stops(hook: Any) -> bool:
        kind = _resolved(HOOKS, hook, cfg)
        return isinstance(kind, type) and issubclass(kind, EarlyStoppingHook)

    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or () if not stops(hook)]
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {name: hook for name, hook in hooks.items() if not stops(hook)}


def _resolved(registry: Registry, part: Any, cfg: Config) -> Any:
    """Class that a part of a config is built from; None if there is none."""
    kind = part.get('type') if isinstance(part, Mapping) else type(part)
    if not isinstance(kind, str):
        return kind
    scope = part.get('_scope_') or cfg.get('default_scope')
    with registry.switch_scope_and_registry(scope) as scoped:
        return scoped.get(kind)


def prepare_processes_on_cpu(cfg: Config) -> None:
    """Start a process group on CPUs; mmengine would ask for GPUs, but takes one that is there."""
    torch.distributed.init_process_group('gloo')
    # Statistics over processes are for GPUs alone; in one process the runner does this.
    config_tree.replace_values(cfg.model, 'type', 'SyncBN', 'BN')
    cfg.pop('sync_bn', None)
    if is_sharded(cfg):
        # Without this the weights, which lie on the CPU, are offloaded to the CPU: PyTorch frees
        # them there, and the process dies of a segmentation fault.
        cfg.strategy.model_wrapper.update(device_id='cpu')
        cfg.strategy.state_dict_cfg = dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
            optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True),
        )
    given = cfg.get('model_wrapper_cfg') or {}
    if config_tree.class_name(given) == 'MMFullyShardedDataParallel':  # for GPUs alone
        given = {}
    wrapper = {'type': 'MMDistributedDataParallel', **given}
    if issubclass(_resolved(MODEL_WRAPPERS, wrapper, cfg) or object, DistributedDataParallel):
        wrapper = {
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **wrapper,
            'device_ids': None,  # else mmengine gives it a GPU
        }
    cfg.model_wrapper_cfg = wrapper
