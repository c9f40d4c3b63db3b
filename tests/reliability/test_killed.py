"""A training that SIGKILL ends at any moment goes on as if nothing had been."""

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.configs import CONFIGS
from helpers.forks import end, is_all_gone, start
from mmengine.config import Config
from mmengine.runner import ValLoop

import mmdat.files
from mmdat.apis import train
from mmdat.datasets import ShapesParameters
from mmdat.datasets.shapes.classify import write_shapes_classify
from mmdat.datasets.shapes.coco import write_shapes_coco
from mmdat.datasets.shapes.segment import write_shapes_segment

MOMENTS = int(os.environ.get('KILLED_MOMENTS', 20))  # of each task
DRAWINGS = ShapesParameters(train=10, val=4, size=64, seed=0)
# How images are loaded must not matter either; run after run takes the next.
WORKERS = (
    dict(num_workers=0, persistent_workers=False),
    dict(num_workers=2, persistent_workers=False),
    dict(num_workers=4, persistent_workers=True),
)
# Task -> what draws its data and the variable that names them, config and options.
# Each has what another lacks: epochs or iterations, checkpoints in the midst of an epoch,
# averaged weights, mixed images, gradients of several batches, few kept checkpoints.
TASKS: dict[str, tuple[Callable, str, str, dict[str, Any]]] = {
    'detect': (
        write_shapes_coco,
        'SHAPES_ROOT',
        'mask_rcnn_dat_pp_nano_shapes',
        {
            'train_cfg.max_epochs': 3,
            'train_cfg.val_interval': 1,
            'default_hooks.checkpoint': dict(interval=1, max_keep_ckpts=1, save_best='auto'),
            'optim_wrapper.accumulative_counts': 2,
        },
    ),
    'segment': (
        write_shapes_segment,
        'SHAPES_SEGMENT_ROOT',
        'upernet_dat_pp_nano_shapes',
        {
            'train_cfg.max_iters': 12,
            'train_cfg.val_interval': 4,
            'default_hooks.checkpoint': dict(interval=3, max_keep_ckpts=2, save_best='mIoU'),
        },
    ),
    'classify': (
        write_shapes_classify,
        'SHAPES_CLASSIFY_ROOT',
        'dat_pp_nano_shapes',
        {
            'train_cfg.max_epochs': 3,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint': dict(by_epoch=False, interval=2, save_best='auto'),
            'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
        },
    ),
}


@pytest.fixture(scope='module', params=TASKS)
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Train a task in a folder, with options."""
    draw, variable, name, options = TASKS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    draw(folder / 'data', DRAWINGS)
    config = folder / 'config.py'
    options = {'train_dataloader.batch_size': 2, 'val_dataloader.batch_size': 2} | options
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(variable, str(folder / 'data'))
        cfg = Config.fromfile(f'{CONFIGS}/{name}.py')
        if request.param == 'detect':
            paste_copies(cfg)
        cfg.dump(config)
        yield partial(trained, str(config), folder, options)


def paste_copies(cfg: Config) -> None:
    """Let each training image get objects of another."""
    dataset = cfg.train_dataloader.dataset
    load, augment = dataset.pipeline[:3], dataset.pipeline[3:]
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset',
        dataset=dict(dataset, pipeline=load),
        pipeline=[dict(type='CopyPaste', max_num_pasted=3), *augment],
    )


def trained(config: str, folder: Path, options: dict, name: str, **arguments: Any) -> None:
    loader = {f'train_dataloader.{key}': value for key, value in arguments.pop('loader').items()}
    train(config, str(folder / name), cfg_options=options | loader, **arguments)


def kill_at_call(owner: Any, name: str, number: int) -> None:
    """Let this process kill itself when a function is called so many times."""
    function = getattr(owner, name)
    left = [number]

    def counted(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(owner, name, counted)


def final_state(folder: Path) -> dict[str, Any]:
    """What the last checkpoint of a run holds, but for times and paths."""
    content = torch.load((folder / 'last_checkpoint').read_text(), weights_only=True)
    hub = content.pop('message_hub')
    content['meta'] = {name: content['meta'][name] for name in ('epoch', 'iter', 'seed')}
    content['scalars'] = {
        name: [values.tolist() for values in scalar.data]
        for name, scalar in hub['log_scalars'].items()
        if name.split('/')[-1] not in tiny.TIMES
    }
    content['info'] = {
        name: value for name, value in hub['runtime_info'].items() if name not in tiny.TIMES
    }
    return content


@pytest.mark.slow
def test_a_killed_training_ends_as_the_uninterrupted_one(task: Any, tmp_path: Path) -> None:
    folder = task.args[1]
    log = tmp_path / 'log.txt'
    began = time.monotonic()
    end(start(partial(task, 'whole', loader=WORKERS[0]), log), log)
    duration = time.monotonic() - began
    whole = final_state(folder / 'whole')
    assert whole['scalars']['train/loss'] and whole['optimizer']['state']
    chance = random.Random(0)
    num_killed = num_resumed = 0
    for moment in range(MOMENTS):
        name = f'killed_{moment}'
        loaders = [WORKERS[(moment + number) % len(WORKERS)] for number in range(2)]

        def run(name: str = name, moment: int = moment, loader: dict = loaders[0]) -> None:
            if moment % 5 == 0:  # as a checkpoint is written
                kill_at_call(mmdat.files, '_sync', chance.randint(1, 16))
            elif moment % 5 == 1:  # in a validation
                kill_at_call(ValLoop, 'run_iter', chance.randint(1, 4))
            task(name, loader=loader)

        chance.random()  # in the parent too
        process = start(run, log)
        if moment % 5 > 1:
            time.sleep(chance.uniform(0.3, 1.0) * duration)
            os.kill(process, signal.SIGKILL)
        num_killed += os.WIFSIGNALED(os.waitpid(process, 0)[1])
        assert is_all_gone(process), moment
        end(start(partial(task, name, resume='auto', loader=loaders[1]), log), log)
        if 'resumed epoch' in log.read_text():
            num_resumed += 1
        found = tiny.differences(whole, final_state(folder / name))
        assert not found, (moment, found[:5])
        left = {path.name for path in (folder / name).glob('*.pth')}
        assert left == {path.name for path in (folder / 'whole').glob('*.pth')}, moment
    print(f'{num_killed} of {MOMENTS} were killed, {num_resumed} went on from a checkpoint')
    assert num_killed >= MOMENTS // 2, 'too many had ended before they were killed'
    assert num_resumed >= MOMENTS // 3, 'too many were killed before their first checkpoint'
