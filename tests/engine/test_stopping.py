"""Workers of a data loader end with the training that started them."""

import os
import signal
import time
from pathlib import Path

from helpers.forks import is_all_gone, start
from torch.utils.data import DataLoader, Dataset

from mmdat.engine.stopping import shield_workers


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
