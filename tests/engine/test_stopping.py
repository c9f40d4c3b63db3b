"""Processes that a training starts end with it, and when it ends them."""

import multiprocessing
import os
import signal
import subprocess
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from helpers.forks import is_all_gone, start
from torch.utils.data import DataLoader, Dataset

from mmdat.engine.stopping import requests_to_stop, shield_workers

FORK = multiprocessing.get_context('fork')


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


def end(process: BaseProcess) -> int | None:
    """Start a process and terminate it; its exit code, None if it goes on."""
    process.start()
    time.sleep(1)
    process.terminate()
    process.join(10)
    ended = process.exitcode
    process.kill()
    return ended


def end_child(ended: Any) -> None:
    ended.put(end(FORK.Process(target=time.sleep, args=(1000,))))


def test_a_training_ends_other_processes_of_its_own() -> None:
    # As pools do that metrics such as VOCMetric have, and processes of theirs.
    ended = FORK.Queue()
    with requests_to_stop():
        assert end(FORK.Process(target=time.sleep, args=(1000,))) is not None
        process = FORK.Process(target=end_child, args=(ended,))
        process.start()
        assert ended.get(timeout=60) is not None
        process.join()


def test_a_training_ends_programs_that_it_starts() -> None:
    with (
        requests_to_stop(),
        # To start one so forks this process with what is registered for forks.
        subprocess.Popen(['sleep', '1000'], preexec_fn=os.getpid) as program,
    ):
        try:
            program.terminate()
            assert program.wait(10) == -signal.SIGTERM
        finally:
            program.kill()
