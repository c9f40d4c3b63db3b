"""How fast a model runs, and how much memory it takes, on made images."""

import copy
import importlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from rich.console import Console
from rich.table import Table

from mmdat.checks.exceptions import explained
from mmdat.errors import UserError, reason

from .analysis import build_model, image_shape, made_batch, refuse_shape
from .toolboxes import toolbox_of


@dataclass(frozen=True)
class Speed:
    """What repeated runs over one batch took."""

    batch_size: int
    shape: tuple[int, int]
    seconds: tuple[float, ...]  # of each run
    peak_memory: int  # bytes, the weights among them
    machine: str

    @property
    def images_per_second(self) -> float:
        """Median over the runs."""
        return self.batch_size / statistics.median(self.seconds)


def measure_speed(
    cfg: Config,
    shape: Sequence[int] | None = None,
    batch_size: int = 1,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    train: bool = False,
    amp: bool = False,
    repeats: int = 10,
    warmup: int = 2,
) -> Speed:
    """Time inference or a training step of a config's model, from uint8 images in memory.

    Inference ends with what the toolbox makes of the model's output, such as boxes and masks in the
    size of the image. With random weights a detector finds next to nothing, which spares it the
    masks: give a checkpoint for the time of those. A training step has forward and backward pass
    and the optimizer's step; before it, images are padded to the size that the config trains at, if
    it says one.

    Memory on a CPU is what the process grows by, which should be new; on a GPU it is what PyTorch
    allocates.

    Args:
        cfg: The config, of mmdet, mmsegmentation or mmpretrain.
        shape: Height and width of the images; None for 800 x 1280 (detection), 512 x 512
            (segmentation) or the config's (classification).
        batch_size: Images in a batch.
        checkpoint: Weights of the model, random ones if None.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'`` and so on; None for a GPU if there is one.
        train: Time a training step.
        amp: Run in mixed precision; needs a GPU.
        repeats: Runs that are timed.
        warmup: Runs before.

    Raises:
        UserError: For a mistake in the config or in what else was given.
    """
    for option, value, least in (
        ('--batch-size', batch_size, 1),
        ('--repeat-num', repeats, 1),
        ('--num-warmup', warmup, 0),
    ):
        if value < least:
            raise UserError(f'{option} must be at least {least}, got {value}')
    shape = image_shape(cfg, shape)
    on = _check_device(device)
    if amp and on.type != 'cuda':
        raise UserError('--amp needs a GPU: measure without it, or on one')
    memory = PeakMemory(on)
    with DefaultScope.overwrite_default_scope(toolbox_of(cfg).name):
        with explained(cfg):
            torch.manual_seed(0)
            model = build_model(cfg)
            _load_weights(model, checkpoint)
            model.to(on)
            run = _training_step(model, cfg, amp) if train else _inference(model, on, amp)
        batch = made_batch(cfg, batch_size, shape)
        with refuse_shape(shape):
            seconds = [_time(run, copy.deepcopy(batch), on) for _ in range(warmup + repeats)]
    return Speed(
        batch_size, shape, tuple(seconds[warmup:]), memory.peak(), _machine_and_versions(on)
    )


def print_speed(speed: Speed) -> None:
    """Print a table, and what it was measured on."""
    height, width = speed.shape
    table = Table(
        'images/s (median)',
        'seconds a batch',
        'peak memory (GB)',
        title=f'{speed.batch_size} x {height} x {width}, {len(speed.seconds)} runs',
    )
    table.add_row(
        f'{speed.images_per_second:.2f}',
        f'{min(speed.seconds):.3f} to {max(speed.seconds):.3f}',
        f'{speed.peak_memory / 1e9:.2f}',
    )
    Console().print(table)
    print(speed.machine)


class PeakMemory:
    """Bytes that are taken at most from here on, beyond what was taken before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            Path('/proc/self/clear_refs').write_text('5')  # resets the peak
            self.before = _resident('VmRSS')

    def peak(self) -> int:
        """Of the time since this object was made."""
        if self.device.type == 'cuda':
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return _resident('VmHWM') - self.before


def _check_device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
    except RuntimeError as error:
        raise UserError(f'--device {name} is no device: give cpu, cuda or cuda:N') from error
    available = dict(cpu=1, cuda=torch.cuda.device_count())
    if (device.index or 0) >= available.get(device.type, 0):
        raise UserError(
            f'--device {device} is not here: there are the CPU and {available["cuda"]} GPUs'
        )
    return device


def _load_weights(model: BaseModel, checkpoint: str | None) -> None:
    if checkpoint is None:
        return
    try:
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    except RuntimeError as error:
        raise UserError(
            f"checkpoint {checkpoint} is of another model than the config's: {reason(error)}"
        ) from error


def _inference(model: BaseModel, device: torch.device, amp: bool) -> Callable[[Any], object]:
    model.eval()

    def run(batch: Any) -> object:
        with torch.no_grad(), torch.autocast(device.type, enabled=amp):
            return model.test_step(batch)

    return run


def _training_step(model: BaseModel, cfg: Config, amp: bool) -> Callable[[Any], object]:
    model.train()
    wrapper = copy.deepcopy(cfg.get('optim_wrapper'))
    if not wrapper:
        raise UserError(f'--train needs an optim_wrapper in {cfg.filename}')
    if amp:
        wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    optimizer = build_optim_wrapper(model, wrapper)
    return lambda batch: model.train_step(batch, optimizer)


def _time(run: Callable[[Any], object], batch: Any, device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run(batch)
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _resident(field: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field + ':'):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f'/proc/self/status has no {field}')


def _machine_and_versions(device: torch.device) -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    parts = [f'CPU {(names or [platform.machine()])[0]}', f'{torch.get_num_threads()} threads']
    if device.type == 'cuda':
        parts.insert(0, f'GPU {torch.cuda.get_device_name(device)}')
    packages = 'torch', 'mmcv', 'mmengine', 'mmdat'
    parts += [
        f'Python {platform.python_version()}',
        *(f'{name} {importlib.import_module(name).__version__}' for name in packages),
    ]
    return ', '.join(parts)
