"""Signals that ask a training to stop: Ctrl-C, a scheduler's SIGTERM, Slurm's SIGUSR1."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.util import register_after_fork
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Seconds in which a signal that a launcher passes on counts as the one that was sent to all.
SAME_REQUEST = 1.0

_requests: dict[int, float] = {}  # a signal handler can leave its word in no other place
_shielded: set[int] = set()  # ids of processes, as a fork has its parent's


def requested() -> int:
    """Number of the signal that asked this process to stop, 0 if there was none."""
    return next(iter(_requests), 0)


@contextmanager
def requests_to_stop() -> Iterator[None]:
    """Take the first signal as a request, see :func:`requested`; a second one ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # the main thread alone gets signals
        return
    before = {number: signal.signal(number, _request) for number in SIGNALS}
    try:
        yield
    finally:
        _requests.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _request(number: int, frame: FrameType | None) -> None:
    if not _requests:
        _requests[number] = time.monotonic()
    elif time.monotonic() - _requests[requested()] > SAME_REQUEST:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def shield_workers(loader: DataLoader) -> None:
    """Let a loader's worker processes end when their parent ends them, not when a launcher does.

    A launcher signals a whole group of processes, and the parent needs them until the step's end.
    Workers that are forked while requests are taken, as also a metric's are, need no more.
    """
    loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)


def _init_worker(init: Callable[[int], Any] | None, worker: int) -> None:
    _shield()
    if init is not None:
        init(worker)


def _shield_forked(_: object) -> None:
    """Let a child process not take its parent's requests: it could not be ended by SIGTERM."""
    if signal.getsignal(signal.SIGTERM) is _request:
        _shield()


def _shield() -> None:
    if os.getpid() not in _shielded:
        _shielded.add(os.getpid())
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    """End this worker when its parent says so or is gone, whatever the worker waits for."""
    parent = os.getppid()
    while os.getppid() == parent:
        sent = signal.sigtimedwait(SIGNALS, 1.0)
        if sent and sent.si_signo == signal.SIGTERM and sent.si_pid == parent:
            break
    os._exit(0)


# Only processes of multiprocessing are shielded: a program that another fork starts would keep the
# signals blocked, with nobody to wait for them.
register_after_fork(requests_to_stop, _shield_forked)
