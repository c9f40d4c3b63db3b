"""Checks of how a run is started: its launcher, folders, parts, strategy and flags."""

import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS

from mmdat.errors import UserError, suggest

from .config_tree import value_at

# Name -> an environment variable that it sets, and the program.
LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}
TTA_PARTS = ('tta_model', 'tta_pipeline')


def check_launcher(launcher: str) -> None:
    """Refuse a launcher that did not start this process.

    Raises:
        UserError: Names the program that must start it.
    """
    if launcher == 'none':
        return
    if launcher not in LAUNCHERS:
        raise UserError(f'launcher {launcher!r} is none: {suggest(launcher, ["none", *LAUNCHERS])}')
    variable, program = LAUNCHERS[launcher]
    if variable not in os.environ:
        raise UserError(
            f'--launcher {launcher} must be started by {program}: '
            'start it so, or leave --launcher away'
        )


def check_writable(option: str, folder: str | Path) -> None:
    """Refuse a folder that can neither be written to nor made.

    Raises:
        UserError: Names the option, and the part of the path that is in the way.
    """
    path = Path(folder).resolve()
    existing = next(path for path in (path, *path.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(
            f'{option} {folder} cannot be written to: {existing} '
            + ('is not writable' if existing.is_dir() else 'is not a folder')
        )


def check_results_file(out: str) -> None:
    """Refuse a path to which no predictions can be written.

    Raises:
        UserError: Says what is wrong with it.
    """
    if not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {out} must end in .pkl')
    if Path(out).is_dir():
        raise UserError(f'--out {out} is a folder: give a file')
    check_writable('--out', Path(out).parent)


def check_parts(cfg: Config, parts: tuple[str, ...]) -> None:
    """Refuse a config without a part that a run or a tool needs.

    Args:
        cfg: The config.
        parts: Dotted keys.

    Raises:
        UserError: Names the part.
    """
    for part in parts:
        if value_at(cfg, part) is None:  # an empty dict is one
            raise UserError(f'config {cfg.filename} has no {part}: add one')


def is_sharded(cfg: Config) -> bool:
    """Whether a config shares a model's weights among processes."""
    return (cfg.get('strategy') or {}).get('type') in ('FSDPStrategy', 'mmdat.FSDPStrategy')


def check_strategy(cfg: Config) -> None:
    """Refuse a runner that does not exist, and a strategy that would train something else.

    Raises:
        UserError: Says what to do instead.
    """
    runner_type = cfg.get('runner_type', 'Runner')
    if RUNNERS.get(runner_type) is None:
        raise UserError(
            f'runner_type {runner_type!r} is no runner: {suggest(runner_type, RUNNERS.module_dict)}'
        )
    if not is_sharded(cfg):
        return
    if cfg.launcher == 'none':
        raise UserError(
            f'config {cfg.filename} shares a model among processes (FSDPStrategy): '
            'start it with tools/dist_train.sh or tools/slurm_train.sh'
        )
    if (cfg.get('optim_wrapper') or {}).get('clip_grad'):
        raise UserError(
            'optim_wrapper.clip_grad clips each shard by itself under FSDPStrategy: '
            'set it to None, or train without the strategy'
        )


def check_amp() -> None:
    """Refuse mixed precision without a GPU."""
    if not torch.cuda.is_available():
        raise UserError('--amp needs a GPU, and none is available: train without it')


def check_lr_scaling(cfg: Config) -> None:
    """Refuse to scale the learning rate of a config that names no batch size to scale from."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {cfg.filename}')


def check_tta(cfg: Config) -> None:
    """Refuse test-time augmentation by a config that does not say how."""
    missing = [part for part in TTA_PARTS if not cfg.get(part)]
    if missing:
        raise UserError(f'--tta needs {" and ".join(missing)} in {cfg.filename}')
