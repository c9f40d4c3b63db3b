"""Times side by side and peaks of memory, on a CPU or a CUDA device."""
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Times:
    """Seconds of repeated runs."""
    seconds: list[float]

    @property
    def median(self) -> float:
        """Of the runs."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        """Median and range."""
        low, high = min(self.seconds), max(self.seconds)
        return f'{self.median:.2f} s ({low:.2f} to {high:.2f})'


def times_side_by_side(runs: Mapping[str, Callable[[], None]], repeats: int,
                       device: torch.device) -> dict[str, Times]:
    """Run each once to warm up, then all of them in turn, so that all see the same machine."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            _synchronize(device)
            start = time.perf_counter()
            run()
            _synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: Times(values) for name, values in seconds.items()}


def peak_memory(run: Callable[[], None], device: torch.device) -> int:
    """Bytes that a run takes beyond what is taken before it.

    On a CPU it is the resident memory of the process, which should be new: memory that earlier runs
    gave back to the allocator, but not to the system, would be missing.
    """
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before = _resident('VmRSS')
    run()
    return _resident('VmHWM') - before


def machine(device: torch.device) -> dict[str, str]:
    """What the figures were taken on."""
    cpuinfo = Path('/proc/cpuinfo').read_text()
    name = next(line.split(':')[1].strip() for line in cpuinfo.splitlines()
                if line.startswith('model name'))
    out = dict(cpu=name, threads=str(torch.get_num_threads()), system=platform.platform(),
               python=platform.python_version())
    if device.type == 'cuda':
        out['gpu'] = torch.cuda.get_device_name(device)
    return out


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _resident(field: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field + ':'):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f'/proc/self/status has no {field}')
