"""Time and peak memory of runs on a CPU or a CUDA device, and what machine they ran on."""

import datetime
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmdat.engine.graphs import BATCHES_BEFORE_CAPTURE
from mmdat.ops.build import processor
from mmdat.stack import installed_version

PACKAGES = ('torch', 'mmdet', 'mmcv', 'mmengine', 'mmdat')


@dataclass(frozen=True)
class Times:
    """Seconds of repeated runs."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Median of the runs in seconds."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        """Median and range, as the tables show them."""
        low, high = min(self.seconds), max(self.seconds)
        if self.median < 0.1:
            return f'{1e3 * self.median:.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})'
        return f'{self.median:.2f} s ({low:.2f} to {high:.2f})'


def time_side_by_side(
    runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, Times]:
    """Time several runs in turn after warm-ups of each, so that all see the same machine."""
    # On a GPU the first runs compile kernels, and the last of these captures graphs.
    warmups = BATCHES_BEFORE_CAPTURE + 1 if device.type == 'cuda' else 1
    for run in runs.values():
        for _ in range(warmups):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(time_once(run, device))
    return {name: Times(values) for name, values in seconds.items()}


def time_once(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a run, with all that it started on the device."""
    if device.type == 'cuda':
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


class PeakMemory:
    """Most memory in use since this object was made, beyond what was in use then.

    On a CUDA device it is what PyTorch allocates. On a CPU it is the resident memory of the
    process, which should be new: memory that was freed before, but that the allocator kept, would
    be missing.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == 'cuda':
            torch.cuda.init()  # before it, there is nothing to reset
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            # The peak of resource.getrusage cannot be reset.
            Path('/proc/self/clear_refs').write_text('5')
            self.before = _resident_memory('VmRSS')

    @property
    def bytes(self) -> int:
        """The peak so far."""
        if self.device.type == 'cuda':
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return _resident_memory('VmHWM') - self.before


class TensorMemory(TorchDispatchMode):
    """Most bytes that tensors take at once in its context, the given ones among them.

    Counts what operators return, once where tensors share it, until it is freed; not what an
    operator takes while it computes. Tensors need no content.
    """

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.peak = self._bytes = 0
        self._alive: set[int] = set()
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self._bytes += size
        self.peak = max(self.peak, self._bytes)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._alive.remove(key)
        self._bytes -= size


def machine_and_versions(device: torch.device) -> dict[str, Any]:
    """Date, hardware and versions of packages, to keep with what was measured."""
    machine = dict(
        cpu=_cpu_name(),
        vectors=processor() or torch.backends.cpu.get_cpu_capability().lower(),
        threads=str(torch.get_num_threads()),
        system=platform.platform(),
        python=platform.python_version(),
    )
    if device.type == 'cuda':
        machine['gpu'] = torch.cuda.get_device_name(device)
    versions = {package: version for package in PACKAGES if (version := installed_version(package))}
    return dict(date=datetime.date.today().isoformat(), machine=machine, versions=versions)


def describe(measured_on: Mapping[str, Any]) -> str:
    """Write the result of :func:`machine_and_versions` as a sentence."""
    parts = {**measured_on['machine'], **measured_on['versions']}
    listed = ', '.join(f'{key} {value}' for key, value in parts.items())
    return f'Measured on {measured_on["date"]}: {listed}.'


def _resident_memory(field: str) -> int:
    """Bytes that the system gives this process: ``VmRSS`` now, ``VmHWM`` at most."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field + ':'):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f'/proc/self/status has no {field}')


def _cpu_name() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':')[1].strip()
    return platform.machine()  # ARM's have no name there
