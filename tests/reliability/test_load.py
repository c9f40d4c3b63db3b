"""A long training takes no more of the machine at its end than at its start."""

import json
import multiprocessing
import os
import threading
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from helpers.configs import CONFIGS
from helpers.forks import end, start
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmdat.apis import train
from mmdat.datasets import ShapesParameters
from mmdat.datasets.shapes.classify import write_shapes_classify

STEPS, EVERY = 2000, 20
SIZES = [(side, other) for side in (32, 64, 96) for other in (40, 72, 128)]
pytestmark = pytest.mark.slow


@HOOKS.register_module()
class MeasureHook(Hook):
    """Write what the process has, in MiB and in numbers, now and then."""

    def __init__(self, path: str) -> None:
        self.path = path

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        if (runner.iter + 1) % EVERY:
            return
        status = dict(
            line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines()
        )
        found = dict(
            memory=int(status['VmRSS'].split()[0]) / 1024,
            descriptors=len(os.listdir('/proc/self/fd')),
            threads=threading.active_count(),
            native_threads=int(status['Threads']),
            processes=len(multiprocessing.active_children()),
        )
        with open(self.path, 'a') as file:
            file.write(json.dumps(found) + '\n')


@HOOKS.register_module()
class KillWorkerHook(Hook):
    """Kill a worker of the data loader after some steps, as a machine short of memory does."""

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        if runner.iter == 5:
            multiprocessing.active_children()[0].kill()


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config of a nano classifier on images of changing sizes, with workers that come and go."""
    folder = tmp_path_factory.mktemp('load')
    write_shapes_classify(folder / 'data', ShapesParameters(train=100, val=4, size=64, seed=0))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv('SHAPES_CLASSIFY_ROOT', str(folder / 'data'))
        cfg = Config.fromfile(CONFIGS / 'dat_pp_nano_shapes.py')
        load, *_, pack = cfg.train_dataloader.dataset.pipeline
        resize = dict(type='RandomChoiceResize', scales=SIZES, keep_ratio=False)
        cfg.train_dataloader.dataset.pipeline = [load, resize, pack]
        cfg.train_dataloader.batch_size = 1
        cfg.train_dataloader.num_workers = 2
        cfg.train_dataloader.persistent_workers = False
        cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval = STEPS // 100, 5
        cfg.default_hooks.checkpoint.interval = 1
        cfg.dump(folder / 'config.py')
        yield str(folder / 'config.py')


def test_memory_descriptors_threads_and_processes_stay(config: str, tmp_path: Path) -> None:
    hook = dict(type='MeasureHook', path=str(tmp_path / 'measured'))
    log = tmp_path / 'log'
    run = partial(train, config, str(tmp_path / 'run'), cfg_options=dict(custom_hooks=[hook]))
    end(start(run, log), log)
    measured = [json.loads(line) for line in (tmp_path / 'measured').read_text().splitlines()]
    assert len(measured) == STEPS // EVERY
    quarter = len(measured) // 4
    early, late = measured[quarter : 2 * quarter], measured[-quarter:]
    growth = {
        name: [f([x[name] for x in part]) for part in (early, late)]
        for name, f in (('memory', median), *((name, max) for name in [*measured[0]][1:]))
    }
    print(growth)
    before, after = growth.pop('memory')
    assert after < 1.03 * before
    for name, (before, after) in growth.items():
        assert after <= before, name


def test_a_killed_loader_worker_is_told_and_training_goes_on_by_resuming(
    config: str, tmp_path: Path
) -> None:
    log = tmp_path / 'log'
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=1)
    options = {'train_cfg.max_epochs': 1, 'default_hooks.checkpoint': checkpoint}

    def run(name: str, *hooks: str, resume: str | None = None) -> int:
        more = dict(custom_hooks=[dict(type=hook) for hook in hooks])
        return start(
            partial(train, config, str(tmp_path / name), resume, cfg_options=options | more), log
        )

    end(run('whole'), log)
    _, status = os.waitpid(run('killed', 'KillWorkerHook'), 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert 'UserError: a worker process of a data loader was ended' in log.read_text()
    end(run('killed', resume='latest'), log)
    whole, resumed = (
        torch.load(tmp_path / name / 'iter_100.pth', weights_only=True)['state_dict']
        for name in ('whole', 'killed')
    )
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
