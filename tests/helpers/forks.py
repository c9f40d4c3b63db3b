"""Trainings in processes of their own, with the packages that this one has imported."""

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from .scripts import free_port


def start(run: Callable[[], object], log: Path, **variables: str) -> int:
    """Run in a new process, with some environment variables; its output goes to a file."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        os.environ.update(variables)
        file = log.open('w', buffering=1)
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        # pytest's own streams do not write to these.
        sys.stdout = sys.stderr = file
        run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end(process: int, log: Path) -> None:
    _, status = os.waitpid(process, 0)
    assert status == 0, log.read_text()[-3000:]


def is_all_gone(process: int, seconds: float = 15) -> bool:
    """Whether nothing that a process started is left, after at most that time."""
    for _ in range(int(10 * seconds)):
        try:
            os.killpg(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def run_together(run: Callable[[], object], log: Path, count: int = 2) -> None:
    """Run in so many processes, as a launcher starts them; fail if one fails."""
    meeting = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), WORLD_SIZE=str(count))
    logs = [log.with_suffix(f'.{rank}') for rank in range(count)]
    processes = [
        start(run, path, RANK=str(rank), LOCAL_RANK=str(rank), **meeting)
        for rank, path in enumerate(logs)
    ]
    for process, path in zip(processes, logs, strict=True):
        end(process, path)
