"""Times side by side, peaks of memory and where they are kept, for a CPU or a CUDA device."""

import argparse
import datetime
import importlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / 'results'


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


def times_side_by_side(
    runs: Mapping[str, Callable[[], None]], repeats: int, device: torch.device
) -> dict[str, Times]:
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What all benchmarks take."""
    parser.add_argument(
        '--device', type=torch.device, default=torch.device('cpu'), help='cpu, cuda, cuda:1, ...'
    )
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder for JSON and Markdown')


def machine_and_versions(device: torch.device) -> dict[str, Any]:
    """When, on what and with what the figures are taken."""
    cpuinfo = Path('/proc/cpuinfo').read_text()
    name = next(
        line.split(':')[1].strip() for line in cpuinfo.splitlines() if line.startswith('model name')
    )
    machine = dict(
        cpu=name,
        threads=str(torch.get_num_threads()),
        system=platform.platform(),
        python=platform.python_version(),
    )
    if device.type == 'cuda':
        machine['gpu'] = torch.cuda.get_device_name(device)
    packages = 'torch', 'mmdet', 'mmcv', 'mmengine', 'mmdat'
    versions = {package: importlib.import_module(package).__version__ for package in packages}
    return dict(date=datetime.date.today().isoformat(), machine=machine, versions=versions)


def describe(results: dict[str, Any]) -> str:
    """When, on what and with what they were measured, in a line."""
    parts = {**results['machine'], **results['versions']}
    return (
        f'Measured on {results["date"]}: '
        + ', '.join(f'{key} {value}' for key, value in parts.items())
        + '.'
    )


def write_results(target: Path, results: dict[str, Any], markdown: str) -> None:
    """Write ``target`` with the endings .json and .md, and print the latter."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix('.json').write_text(json.dumps(results, indent=1) + '\n')
    target.with_suffix('.md').write_text(markdown)
    print(markdown)


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _resident(field: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field + ':'):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f'/proc/self/status has no {field}')
