"""Processes that are asked to stop, or lose another, end in time and leave none behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.configs import CONFIGS
from helpers.scripts import TOOLS, free_port

from mmdat.datasets import ShapesParameters
from mmdat.datasets.shapes.classify import write_shapes_classify

MINUTE = 60.0  # seconds
OPTIONS = (
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=2',
    'train_cfg.max_epochs=3',
    'train_cfg.val_interval=3',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.logger.interval=1',
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('stopped')
    write_shapes_classify(folder / 'data', ShapesParameters(train=80, val=4, size=64, seed=0))
    return folder


@contextmanager
def training(folder: Path, name: str, processes: int, *flags: str) -> Iterator[Any]:
    """Train by the command line in a group of processes of its own, none of which is left."""
    config = CONFIGS / 'dat_pp_nano_shapes.py'
    script = [sys.executable, TOOLS / 'train.py', config]
    if processes > 1:
        script = [TOOLS / 'dist_train.sh', config, str(processes)]
    variables = dict(
        SHAPES_CLASSIFY_ROOT=str(folder / 'data'),
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='',
        PORT=free_port(),
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
    )
    log = (folder / f'{name}.log').open('w')
    process = subprocess.Popen(
        [*script, '--work-dir', folder / name, *flags, '--cfg-options', *OPTIONS],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | variables,
        start_new_session=True,
    )
    try:
        yield process
        wait_for(lambda: not members(str(folder / name)), 15, 'a process is left behind')
    finally:
        for number in members(str(folder / name)):
            os.kill(number, signal.SIGKILL)


def members(work_dir: str) -> list[int]:
    """Processes of a training, loader workers too, by its work dir in their command lines."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if work_dir.encode() in path.read_bytes().split(b'\0'):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def wait_for(condition: Any, seconds: float, problem: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, problem
        time.sleep(0.05)


def wait_for_step(folder: Path, name: str, text: str) -> None:
    log = folder / f'{name}.log'
    wait_for(lambda: text in log.read_text(), 3 * MINUTE, f'{text} is not reached')


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / name / 'epoch_3.pth', weights_only=True)['state_dict']


def train_on(folder: Path, name: str, processes: int, *flags: str) -> None:
    with training(folder, name, processes, *flags) as process:
        assert process.wait(5 * MINUTE) == 0, (folder / f'{name}.log').read_text()[-2000:]


@pytest.fixture(scope='module')
def whole(folder: Path) -> dict[str, torch.Tensor]:
    train_on(folder, 'whole', 1)
    return weights(folder, 'whole')


@pytest.mark.parametrize('request_', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_training_ends_it_after_the_step(
    request_: int, folder: Path, whole: dict[str, torch.Tensor]
) -> None:
    name = f'signal_{request_}'
    with training(folder, name, 1) as process:
        wait_for_step(folder, name, 'Epoch(train) [2][ 5/40]')
        os.killpg(process.pid, request_)
        assert process.wait(MINUTE) == 128 + request_
    log = (folder / f'{name}.log').read_text()
    assert 'stopped.pth has all of it' in log and 'Traceback' not in log
    assert (folder / name / 'curves.png').exists()
    train_on(folder, name, 1, '--resume', 'auto')
    assert all(torch.equal(whole[key], value) for key, value in weights(folder, name).items())


@pytest.fixture(scope='module')
def whole_of_two(folder: Path) -> dict[str, torch.Tensor]:
    train_on(folder, 'two', 2)
    return weights(folder, 'two')


@pytest.mark.parametrize('event', ['killed', 'asked to stop'])
def test_two_processes_end_together_and_go_on(
    event: str, folder: Path, whole_of_two: dict[str, torch.Tensor]
) -> None:
    name = event.replace(' ', '_')
    with training(folder, name, 2) as process:
        wait_for_step(folder, name, 'Epoch(train) [2][ 5/20]')
        if event == 'killed':
            ranks = [
                number
                for number in members(str(folder / name))
                if b'RANK=1' in Path(f'/proc/{number}/environ').read_bytes().split(b'\0')
            ]
            os.kill(min(ranks), signal.SIGKILL)  # the others are its loader workers
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(MINUTE) != 0
    sentence = dict(killed='another process of this run has ended').get(
        event, 'stopped.pth has all'
    )
    assert sentence in (folder / f'{name}.log').read_text()
    train_on(folder, name, 2, '--resume', 'auto')
    resumed = weights(folder, name)
    assert all(torch.equal(whole_of_two[key], value) for key, value in resumed.items())
