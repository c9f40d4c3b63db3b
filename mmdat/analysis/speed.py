"""Speed and peak memory of a config's model, on synthetic images."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from rich.console import Console
from rich.table import Table

from mmdat.apis.model import build_model, load_weights
from mmdat.apis.runner import use_mixed_precision
from mmdat.apis.toolboxes import in_toolbox, toolbox_of
from mmdat.checks.mmengine_private import in_scope
from mmdat.checks.run import check_amp, check_device, check_least, check_parts
from mmdat.engine import parts_in_bfloat16, replay_backbone

from .measure import PeakMemory, Times, describe, machine_and_versions, time_once
from .model import image_shape, refuse_shape
from .synthetic import synthetic_batch


@dataclass(frozen=True)
class Speed:
    """What repeated runs over one batch took.

    Attributes:
        batch_size: Images in the batch.
        shape: Height and width of the images.
        times: Seconds of the runs.
        peak_memory: Bytes, the weights among them.
        measured_on: Date, machine and versions, in a sentence.
    """

    batch_size: int
    shape: tuple[int, int]
    times: Times
    peak_memory: int
    measured_on: str

    @property
    def images_per_second(self) -> float:
        """Images a second in the median run."""
        return self.batch_size / self.times.median


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
        amp: Run in mixed precision, on a CPU in bfloat16 as in training and tests.
        repeats: Runs that are timed.
        warmup: Runs before.

    Raises:
        UserError: For a mistake in the config or in what else was given.
    """
    check_least('--batch-size', batch_size, 1)
    check_least('--repeat-num', repeats, 1)
    check_least('--num-warmup', warmup, 0)
    if train:
        check_parts(cfg, ('optim_wrapper.optimizer',))
    shape = image_shape(cfg, shape)
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    check_device(device)
    if train and amp:
        check_amp(cfg)
    on = torch.device(device)
    memory = PeakMemory(on)
    run = prepare_run(cfg, shape, batch_size, on, checkpoint=checkpoint, train=train, amp=amp)
    with refuse_shape(shape):
        seconds = [time_once(run, on) for _ in range(warmup + repeats)]
    return Speed(
        batch_size, shape, Times(seconds[warmup:]), memory.bytes, describe(machine_and_versions(on))
    )


def prepare_run(
    cfg: Config,
    shape: tuple[int, int],
    batch_size: int,
    device: torch.device,
    *,
    checkpoint: str | None = None,
    train: bool = False,
    amp: bool = False,
) -> Callable[[], object]:
    """Build a config's model; return what runs it once over the same synthetic batch.

    The arguments are those of :func:`measure_speed`.
    """
    with in_toolbox(cfg):
        torch.manual_seed(0)
        model = build_model(cfg)
        if checkpoint is not None:
            load_weights(model, checkpoint)
        model.to(device)
        run = _training_step(model, cfg, amp) if train else _inference(model, device, amp)
    batch = synthetic_batch(cfg, batch_size, shape)

    def run_once() -> object:
        with in_scope(toolbox_of(cfg).name):
            return run(copy.deepcopy(batch))

    return run_once


def print_speed(speed: Speed) -> None:
    """Print a table, and what it was measured on."""
    height, width = speed.shape
    seconds = speed.times.seconds
    table = Table(
        'images/s (median)',
        'seconds a batch',
        'peak memory (GB)',
        title=f'{speed.batch_size} x {height} x {width}, {len(seconds)} runs',
    )
    table.add_row(
        f'{speed.images_per_second:.2f}',
        f'{min(seconds):.3f} to {max(seconds):.3f}',
        f'{speed.peak_memory / 1e9:.2f}',
    )
    Console().print(table)
    print(speed.measured_on)


def _inference(model: BaseModel, device: torch.device, amp: bool) -> Callable[[Any], object]:
    model.eval()

    def precision() -> contextlib.AbstractContextManager:
        if amp and device.type == 'cpu':
            return parts_in_bfloat16(model)
        return torch.autocast(device.type, enabled=amp)

    def run(batch: Any) -> object:
        with torch.no_grad(), precision():
            return model.test_step(batch)

    return run


def _training_step(model: BaseModel, cfg: Config, amp: bool) -> Callable[[Any], object]:
    model.train()
    cfg = copy.deepcopy(cfg)
    if amp:
        use_mixed_precision(cfg, next(model.parameters()).is_cuda)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    if next(model.parameters()).is_cuda:
        for hook in cfg.get('custom_hooks') or ():
            if isinstance(hook, dict) and hook['type'] == 'mmdat.CUDAGraphHook':
                replay_backbone(model.backbone, **{k: v for k, v in hook.items() if k != 'type'})
    return lambda batch: model.train_step(batch, optimizer)
