"""Processes that a training starts end with it, and when it ends them."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from helpers.forks import is_all_gone, start
from torch.utils.data import DataLoader, Dataset

from mmdat.engine.stopping import requests_to_stop, shield_workers


class Stuck(Dataset):
    """Says that a worker has begun, and never gives an item."""

    def __init__(self, begun: Path) -> None:
        self.begun = begun

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        (self.begun / str(index)).touch()
        time.sleep(1000)
        return index


def test_a_stuck_worker_of_a_killed_training_ends(tmp_path: Path) -> None:
    def run() -> None:
        loader = DataLoader(Stuck(tmp_path), num_workers=2, multiprocessing_context='fork')
        shield_workers(loader)
        next(iter(loader))

    process = start(run, tmp_path / 'log')
    while len(list(tmp_path.iterdir())) < 3:  # the log, and what two workers say
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert is_all_gone(process)


def test_a_training_ends_other_processes_of_its_own() -> None:
    # As pools do that metrics such as VOCMetric have.
    context = multiprocessing.get_context('fork')
    with requests_to_stop():
        process = context.Process(target=time.sleep, args=(1000,))
        process.start()
        time.sleep(1)
        process.terminate()
        process.join(60)
        ended = process.exitcode
        process.kill()
    assert ended is not None
