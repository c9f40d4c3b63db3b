"""Checks of how a run or a tool is started: launcher, folders, parts, strategy and flags."""

import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import MODEL_WRAPPERS, RUNNERS

from mmdat.errors import UserError, Warn, enumerate_names, suggest

from .config_tree import class_name, datasets, paths, value_at

# Launcher -> environment variables by which processes find each other, first those with the number
# of this process and of all, and the program that sets them.
LAUNCHERS = {
    'pytorch': (('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'), 'torchrun'),
    'slurm': (('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'), 'srun'),
    'mpi': (
        (*(f'OMPI_COMM_WORLD_{name}' for name in ('RANK', 'SIZE', 'LOCAL_RANK')), 'MASTER_ADDR'),
        'mpirun -x MASTER_ADDR=HOST',
    ),
}
# Package -> mmengine's visual backend that needs it.
VIS_BACKENDS = dict(
    tensorboard='TensorboardVisBackend',
    wandb='WandbVisBackend',
    mlflow='MLflowVisBackend',
    clearml='ClearMLVisBackend',
    neptune='NeptuneVisBackend',
    dvclive='DVCLiveVisBackend',
    aim='AimVisBackend',
)
TTA_PARTS = ('tta_model', 'tta_pipeline')


def check_launcher(launcher: str) -> None:
    """Refuse a launcher that did not start this process, and none where torchrun did."""
    if launcher == 'none':
        # Each process would train or test by itself, and write the same files.
        if 'TORCHELASTIC_RUN_ID' in os.environ and int(os.environ.get('WORLD_SIZE', 1)) > 1:
            raise UserError(
                f'torchrun started {os.environ["WORLD_SIZE"]} processes, each of which would run '
                'all by itself: add --launcher pytorch'
            )
        return
    if launcher not in LAUNCHERS:
        raise UserError(f'launcher {launcher!r} is none: {suggest(launcher, ["none", *LAUNCHERS])}')
    variables, program = LAUNCHERS[launcher]
    if missing := [name for name in variables if name not in os.environ]:
        raise UserError(
            f'--launcher {launcher} must be started by {program}, and the environment lacks '
            f'{enumerate_names(missing)}: start it so, or leave --launcher away'
        )
    number, count = variables[:2]
    for name, end in ((count, 65536), (number, os.environ[count]), ('MASTER_PORT', 65536)):
        value = os.environ.get(name, '0')
        if not value.isdecimal() or int(value) >= int(end):
            raise UserError(
                f'{name}={value} in the environment must be a whole number below {end}'
                f'{f" ({count})" if name == number else ""}: let {program} set it'
            )
    if launcher != 'pytorch' and not torch.cuda.is_available():
        raise UserError(
            f'--launcher {launcher} needs GPUs, and none is available: on CPUs start processes by '
            'torchrun with --launcher pytorch'
        )


def check_writable(option: str, folder: str | Path) -> None:
    """Refuse a folder that can neither be written to nor made, and an empty text."""
    if not os.fspath(folder):  # of a variable that is not set; Path takes it for the current folder
        raise UserError(f'{option} is empty: give a folder')
    path = Path(folder).resolve()
    existing = next(path for path in (path, *path.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(
            f'{option} {folder} cannot be written to: {existing} '
            + ('is not writable' if existing.is_dir() else 'is not a folder')
        )


def vis_backends_in(cfg: Config) -> set[str]:
    """Names of the visual backends (and of the visualizer) in a config."""
    parts = cfg.get('visualizer')
    return {str(value_at(parts, path)).split('.')[-1] for path in paths(parts, 'type')}


def check_vis_backends(cfg: Config) -> None:
    """Refuse a visual backend of mmengine whose package is not installed."""
    for package, backend in VIS_BACKENDS.items():
        if backend in vis_backends_in(cfg) and not find_spec(package):
            raise UserError(
                f'the visual backend {backend} needs the package {package}: '
                f'run `pip install {package}`, or train without it'
            )


def check_results_file(out: str) -> None:
    """Refuse a path to which no predictions can be written."""
    if not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {out} must end in .pkl')
    if Path(out).is_dir():
        raise UserError(f'--out {out} is a folder: give a file')
    check_writable('--out', Path(out).parent)


def check_parts(cfg: Config, parts: tuple[str, ...]) -> None:
    """Refuse a config without a part that a run or a tool needs.

    Args:
        parts: Dotted keys.
    """
    for part in parts:
        if value_at(cfg, part) is None:  # an empty dict is a part
            raise UserError(f'config {cfg.filename} has no {part}: add one')


def check_least(option: str, value: int, least: int) -> None:
    """Refuse a number that is too small, and what is no integer."""
    if not isinstance(value, Integral):
        raise UserError(f'{option} must be a whole number, got {value!r}')
    if value < least:
        raise UserError(f'{option} must be at least {least}, got {value}')


def check_share(option: str, value: float, most: float = 1) -> None:
    """Refuse a number that is below 0 or above ``most``, and what is no number."""
    if not isinstance(value, Real) or not 0 <= value <= most:
        raise UserError(f'{option} must be a number from 0 to {most:g}, got {value!r}')


def check_shape(shape: Sequence[int]) -> None:
    """Refuse what is no shape of an image: one or two positive numbers."""
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise UserError(
            f'--shape takes a height and a width, or one number for both, all positive;'
            f' got {" ".join(map(str, shape)) or "none"}'
        )


def check_cfg_option(text: str) -> None:
    """Refuse a value for a config that is not written as ``KEY=VALUE``."""
    if not re.match(r'[^=]+=', text):
        raise UserError(f'--cfg-options takes KEY=VALUE, got {text!r}')


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError(f'--device {name} is no device: give cpu, cuda or cuda:N') from error
    available = dict(cpu=1, cuda=torch.cuda.device_count())
    if (device.index or 0) >= available.get(device.type, 0):
        raise UserError(
            f'--device {device} is not here: there are the CPU and {available["cuda"]} GPUs'
        )


def check_display(show: bool, output_dir: str | Path | None) -> None:
    """Refuse to show pictures without a display, and to neither show nor write them."""
    displays = ('DISPLAY', 'WAYLAND_DISPLAY')
    if show and sys.platform == 'linux' and not any(map(os.environ.get, displays)):
        raise UserError('there is no display to show pictures on: give --not-show and --output-dir')
    if output_dir is None and not show:
        raise UserError('--not-show leaves nothing to do without --output-dir: give a folder')


def is_sharded(cfg: Config) -> bool:
    """Whether a config shards the model's weights over processes (FSDP)."""
    return class_name(cfg.get('strategy')) == 'FSDPStrategy'


def check_strategy(cfg: Config) -> None:
    """Refuse an unknown runner, and FSDP in one process or with clipping or scaling by shard."""
    for key, registry in {'runner_type': RUNNERS, 'model_wrapper_cfg.type': MODEL_WRAPPERS}.items():
        name = value_at(cfg, key)
        if not isinstance(name, str):
            continue
        with registry.switch_scope_and_registry(cfg.get('default_scope')) as scoped:
            if scoped.get(name) is None:
                kind, known = registry.name.replace('_', ' '), registry.module_dict
                raise UserError(f'{key} {name!r} is no {kind}: {suggest(name, known)}')
    wrapper = cfg.get('optim_wrapper') or {}
    if not is_sharded(cfg):
        if wrapper.get('use_fsdp') and cfg.launcher == 'none':
            raise UserError(
                'optim_wrapper.use_fsdp is for several processes, and there is one: leave it out'
            )
        return
    if cfg.launcher == 'none':
        raise UserError(
            f'config {cfg.filename} shares a model among processes (FSDPStrategy): '
            'start it with tools/dist_train.sh or tools/slurm_train.sh'
        )
    if wrapper.get('clip_grad'):
        raise UserError(
            'optim_wrapper.clip_grad clips each shard by itself under FSDPStrategy: '
            'set it to None, or train without the strategy'
        )
    # mmengine's strategy sets it where it knows the wrapper by this name or class.
    is_set = wrapper.get('type') in ('AmpOptimWrapper', AmpOptimWrapper)
    if class_name(wrapper) == 'AmpOptimWrapper' and not wrapper.get('use_fsdp', is_set):
        raise UserError(
            'optim_wrapper (AmpOptimWrapper) scales the loss by each shard by itself under '
            'FSDPStrategy: set optim_wrapper.use_fsdp=True'
        )


def check_amp(cfg: Config) -> None:
    """Refuse mixed precision in float16 without a GPU, or in place of another ``optim_wrapper``."""
    dtype = str(cfg.optim_wrapper.get('dtype', 'bfloat16')).removeprefix('torch.')
    if dtype != 'bfloat16' and not torch.cuda.is_available():
        raise UserError(
            f'--amp with optim_wrapper.dtype {dtype} needs a GPU, and none is available: leave the '
            'dtype out for bfloat16'
        )
    name = class_name(cfg.optim_wrapper)
    if name not in ('', 'OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(
            f'--amp would replace optim_wrapper.type {name!r} by AmpOptimWrapper: train without '
            '--amp, or leave the type out'
        )


def is_mixed(cfg: Config) -> bool:
    """Whether the config itself trains in bfloat16, also on a CPU."""
    return class_name(cfg.optim_wrapper) == 'BFloat16OptimWrapper'


def warn_of_slow_bfloat16(warn: Warn) -> None:
    """Warn of mixed precision on a CPU for which PyTorch has no fast bfloat16.

    With AVX2 alone oneDNN refuses it, and forward passes of Swin-T and DAT-T++ took 6 times as long
    as in float32, train steps 11 to 19 times (224 x 224, batch 8, PyTorch 2.11).
    """
    if not torch.cuda.is_available() and torch.backends.cpu.get_cpu_capability() == 'AVX2':
        warn(
            'Mixed precision is bfloat16 here, which takes many times as long as float32, as this '
            'CPU has no AVX-512: do without'
        )


def check_bfloat16(cfg: Config) -> None:
    """Refuse to train in bfloat16 what has none on a GPU: mmcv's RoIAlign."""
    if str(cfg.optim_wrapper.get('dtype')).removeprefix('torch.') != 'bfloat16':
        return
    for path in paths(cfg, 'type', 'RoIAlign'):
        layer = path.removesuffix('.type')
        if not value_at(cfg, f'{layer}.use_torchvision'):
            raise UserError(
                "optim_wrapper.dtype is bfloat16, for which mmcv's RoIAlign has no kernel on a "
                f'GPU: set {layer}.use_torchvision=True, or leave the dtype out for float16'
            )


def check_lr_scaling(cfg: Config, warn: Warn) -> None:
    """Refuse to scale the learning rate of a config that names no batch size to scale from.

    Args:
        warn: Takes a warning if batches are added up to steps, of which mmengine's scaling knows
            nothing.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {cfg.filename}')
    counts = cfg.optim_wrapper.get('accumulative_counts') or 1
    if counts > 1:
        warn(
            f'--auto-scale-lr goes by the images of a batch, but a step takes {counts} batches '
            f'(optim_wrapper.accumulative_counts): divide auto_scale_lr.base_batch_size by {counts}'
        )


def check_tta(cfg: Config, warn: Warn) -> None:
    """Refuse test-time augmentation if the config lacks ``tta_model`` or ``tta_pipeline``.

    Args:
        warn: Takes a warning if none of its image sizes is the test's.
    """
    missing = [part for part in TTA_PARTS if not cfg.get(part)]
    if missing:
        raise UserError(f'--tta needs {" and ".join(missing)} in {cfg.filename}')
    augmented = _image_sizes(cfg.tta_pipeline)
    for path, dataset in datasets(cfg, 'test'):
        tested = _image_sizes(dataset.get('pipeline'))
        if augmented and tested and not set(augmented.values()) & set(tested.values()):
            warn(
                f'--tta resizes images to {" and ".join(dict.fromkeys(augmented.values()))}, but '
                f'{path}.pipeline to {" and ".join(dict.fromkeys(tested.values()))}: set '
                f'{enumerate_names(f"tta_pipeline.{place}" for place in augmented)} to fit'
            )


def _image_sizes(pipeline: Any) -> dict[str, str]:
    """Dotted key -> each size that a pipeline in a config resizes images to, as text."""
    values = {place: value_at(pipeline, place) for place in paths(pipeline, 'scale')}
    return {
        place: str(tuple(value) if isinstance(value, (list, tuple)) else value)
        for place, value in values.items()
    }
