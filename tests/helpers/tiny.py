"""A training of a tiny model on numbers that are drawn, which takes milliseconds a step."""

import random
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

IMAGES, BATCH = 11, 3
NUMBERS = count()  # of the runners, whose names must differ
# Entries of the message hub that differ from run to run, or say what a run did last.
TIMES = {'time', 'data_time', 'experiment_name', 'cfg', 'last_ckpt', 'best_ckpt', 'eta'}
TIMES |= {'epoch', 'iter', 'loop_stage'}


class Killed(BaseException):
    """What ends a run as SIGKILL does, without a step more."""


class Draws(Dataset):
    """Items that are augmented with all kinds of random numbers, and mixed with another's.

    Attributes:
        loaded: Indices of all items that this process loaded.
    """

    def __init__(self, length: int = IMAGES) -> None:
        self.length = length
        self.metainfo = dict(classes=('a', 'b'))
        self.loaded: list[int] = []
        self.pipeline = Compose([])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.loaded.append(index)
        drawn = random.random() + np.random.rand() + torch.rand(())
        mixed = random.randrange(self.length)
        return dict(inputs=torch.tensor([index, mixed, drawn]) / self.length)


class Model(BaseModel):
    """Two layers with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1)
        )

    def forward(self, inputs: list[Tensor], data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Give the loss of the items, or what is predicted of them."""
        outputs = self.layers(torch.stack(inputs))
        return dict(loss=(outputs - 1).square().mean()) if mode == 'loss' else list(outputs)


class Score(BaseMetric):
    """The mean prediction, which is the better the greater it is."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [float(sample) for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(score=sum(results) / len(results))


class KillHook(Hook):
    """Raise an exception at a moment, such as ``('after_train_iter', 7)`` for the seventh call."""

    priority = 'LOWEST'

    def __init__(self, moment: str, number: int = 1, error: BaseException | None = None) -> None:
        self.left = number
        self.error = error or Killed()
        setattr(self, moment, self._count)

    def _count(self, *_: Any, **__: Any) -> None:
        self.left -= 1
        if not self.left:
            raise self.error


def runner(
    work_dir: Path, hooks: Any, loop: dict[str, Any], kind: type = Runner, **options: Any
) -> Any:
    """Build a runner; ``options`` are changes of its arguments, of the loader by ``loader``."""
    torch.manual_seed(0)  # for the weights
    loader = dict(
        dataset=Draws(),
        batch_size=BATCH,
        sampler=dict(type='DefaultSampler', shuffle=True),
        num_workers=0,
    )
    by_epoch = 'max_epochs' in loop
    checkpoint = dict(type='CheckpointHook', interval=1, by_epoch=by_epoch)
    arguments = dict(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader={**loader, **options.pop('loader', {})},
        val_dataloader={**loader, 'sampler': dict(type='DefaultSampler', shuffle=False)},
        train_cfg=dict(loop),
        val_cfg=dict(),
        val_evaluator=Evaluator([Score(prefix='tiny')]),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=[dict(type='CosineAnnealingLR', T_max=9, by_epoch=False)],
        default_hooks=dict(checkpoint={**checkpoint, **options.pop('checkpoint', {})}),
        custom_hooks=list(hooks),
        randomness=dict(seed=5),
        log_level='ERROR',
        default_scope='mmengine',
        experiment_name=f'{work_dir.name}_{next(NUMBERS)}',
    )
    return kind(**{**arguments, **options})


def state_of(run: Any) -> dict[str, Any]:
    """All of a runner that a resumed training must have in common with an uninterrupted one."""
    optim_wrapper = run.optim_wrapper if isinstance(run, Runner) else run.strategy.optim_wrapper
    model = run.model
    hub = run.message_hub
    scalars = {
        name: [values.tolist() for values in scalar.data]
        for name, scalar in hub.log_scalars.items()
        if name.split('/')[-1] not in TIMES
    }
    info = {name: value for name, value in hub.runtime_info.items() if name not in TIMES}
    ema = [hook.ema_model.state_dict() for hook in run.hooks if hasattr(hook, 'ema_model')]
    return dict(
        weights=dict(model.state_dict()),
        optimizer=optim_wrapper.state_dict(),
        schedule=[scheduler.state_dict() for scheduler in run.param_schedulers],
        scalars=scalars,
        info=info,
        ema=[dict(part) for part in ema],
    )


def differences(one: Any, other: Any, path: str = '') -> list[str]:
    """Paths of what is not equal, bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = [*one, *(name for name in other if name not in one)]
        return [
            place
            for name in names
            for place in differences(one.get(name), other.get(name), f'{path}.{name}')
        ]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [place for index, pair in pairs for place in differences(*pair, f'{path}.{index}')]
    if isinstance(one, Tensor):
        return [] if torch.equal(one, other) else [path]
    return [] if one == other else [path]
