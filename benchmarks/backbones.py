#!/usr/bin/env python
"""Measure DAT-T++ and ScalableViT-S against mmdet's Swin-T and against dense attention.

All models of a workload run in turn, so that the ratios of their median times hold whatever else
slows the machine. On a CPU, dense attention does so in a process of its own, for after its large
arrays the memory of the others would be new to the system each time, which costs them a tenth of
their time. There each peak of memory is taken in a process of its own, too. bfloat16 is left out on
CPUs without AVX-512, where it takes many times as long as float32. The tables are printed and
written as JSON and Markdown, for each kind of machine. ``--only`` takes some anew and keeps the
others, if they are of the same day, machine and versions.
"""

import argparse
import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.registry import init_default_scope
from reporting import add_arguments, result_path, write_results
from rich.console import Console
from torch import nn

from mmdat.analysis.measure import (
    PeakMemory,
    Times,
    describe,
    machine_and_versions,
    time_side_by_side,
)
from mmdat.engine import replay_backbone
from mmdat.ops import prefer_implementation
from mmdat.registry import MODELS

SWIN = dict(type='mmdet.SwinTransformer', drop_path_rate=0.0)
DAT = dict(type='mmdat.DATPlusPlus', arch='tiny')
BACKBONES: dict[str, dict[str, Any]] = {
    'DAT-T++': DAT,
    'DAT-T++ with_cp': dict(DAT, with_cp=True),
    'DAT-T++ dense': DAT,
    'ScalableViT-S': dict(type='mmdat.ScalableViT', arch='small'),
    'Swin-T': SWIN,
}
# Those whose training passes are replayed as CUDA graphs, too.
GRAPHED = {f'{name}, CUDA graphs': name for name in ('DAT-T++', 'Swin-T')}


@dataclass(frozen=True)
class Workload:
    """Images of a size, forward alone or with the backward pass; on a GPU always in bfloat16."""

    height: int
    width: int
    batch: int
    train: bool
    bfloat16: bool = False

    def __str__(self) -> str:
        """The title of its table."""
        batch = f', batch {self.batch}' if self.batch > 1 else ''
        precision = ', bfloat16' if self.bfloat16 else ''
        passes = 'train step' if self.train else 'forward'
        return f'{self.height} x {self.width}{batch}{precision}, {passes}'

    def backbones(self) -> list[str]:
        """Names of the backbones that are measured on it, where all are."""
        names = [name for name in BACKBONES if self.train or not name.endswith('with_cp')]
        return ['DAT-T++', 'ScalableViT-S', 'Swin-T'] if self.bfloat16 else names


class Targets(NamedTuple):
    """What times should be against those of others, where there is a target."""

    least_speedup_over_dense: float | None = None
    largest_ratio_to_swin: float | None = None
    largest_ratio_of_scalablevit: float | None = None

    def __str__(self) -> str:
        """What stands behind the title of a table."""
        targets = []
        if self.least_speedup_over_dense is not None:
            targets.append(f'at least {self.least_speedup_over_dense} x faster than dense')
        if self.largest_ratio_to_swin is not None:
            targets.append(f'at most {self.largest_ratio_to_swin} x the time of Swin-T')
        if self.largest_ratio_of_scalablevit is not None:
            targets.append(f'ScalableViT-S at most {self.largest_ratio_of_scalablevit} x')
        return f' (targets: {", ".join(targets)})' if targets else ''


# Device -> workload -> number of timed runs of each model, and targets.
WORKLOADS = dict(
    cpu={
        Workload(800, 1344, 1, train=False): (7, Targets(5, 1.25, 1.0)),
        Workload(800, 1344, 1, train=True): (3, Targets(4, 1.6, 1.2)),
        Workload(224, 224, 8, train=False): (9, Targets(1.2, 1.0, 1.0)),
        Workload(224, 224, 8, train=True): (7, Targets(2, 1.1, 1.2)),
        Workload(800, 1344, 1, train=False, bfloat16=True): (5, Targets(None, 1.25, 1.0)),
        Workload(800, 1344, 1, train=True, bfloat16=True): (3, Targets(None, 1.8, 1.2)),
        Workload(224, 224, 8, train=False, bfloat16=True): (7, Targets(None, 1.1, 1.0)),
        Workload(224, 224, 8, train=True, bfloat16=True): (5, Targets(None, None, 1.2)),
    },
    cuda={
        Workload(800, 1344, 2, train=False): (7, Targets()),
        Workload(800, 1344, 2, train=True): (7, Targets(largest_ratio_to_swin=1.3)),
        Workload(224, 224, 64, train=False): (7, Targets()),
        Workload(224, 224, 64, train=True): (7, Targets()),
    },
)
# Peaks of memory at growing sizes, on a CPU. Dense attention takes more at the largest than most
# machines have.
SIZES = {
    'DAT-T++': ((512, 512), (800, 1344), (1600, 2688)),
    'DAT-T++ dense': ((512, 512), (800, 1344)),
}


def build(name: str, device: torch.device) -> nn.Module:
    """Build a backbone of :data:`BACKBONES` or :data:`GRAPHED` with random weights."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    registry = DETECTORS if name.startswith('Swin') else MODELS
    backbone = registry.build(dict(BACKBONES[GRAPHED.get(name, name)])).to(device)
    if name in GRAPHED:
        replay_backbone(backbone)
    return backbone


def runner(
    name: str, model: nn.Module, workload: Workload, device: torch.device
) -> Callable[[], None]:
    """Return what runs a forward pass, or a step without the optimizer."""
    mixed = workload.bfloat16 or device.type == 'cuda'
    torch.manual_seed(0)
    images = torch.rand(workload.batch, 3, workload.height, workload.width, device=device)

    def run() -> None:
        implementation = (
            prefer_implementation('dense') if name.endswith('dense') else contextlib.nullcontext()
        )
        with implementation, torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            model.train(workload.train)  # returns None for mmdet's Swin
            if not workload.train:
                with torch.no_grad():
                    model(images)
                return
            features = model(images)
            sum(feature.float().square().mean() for feature in features).backward()
            model.zero_grad()

    return run


def compare(
    workload: Workload, device: torch.device, chosen: list[str], memory: bool
) -> dict[str, Any]:
    """Measure times, and peaks of memory if wanted, of the chosen backbones on a workload."""
    repeats, targets = WORKLOADS[device.type][workload]
    names = [name for name in workload.backbones() if name in chosen]
    if workload.train and device.type == 'cuda':
        names += [graphed for graphed, name in GRAPHED.items() if name in chosen]
    with contextlib.ExitStack() as stack:
        runs = {
            name: stack.enter_context(worker(name, workload, device))
            if name.endswith('dense') and device.type == 'cpu'
            else runner(name, build(name, device), workload, device)
            for name in names
        }
        times = time_side_by_side(runs, repeats, device)
    rows = [
        dict(
            backbone=name,
            median=times[name].median,
            seconds=times[name].seconds,
            peak_bytes=peak(name, workload, device) if memory else None,
        )
        for name in names
    ]
    return dict(
        workload=str(workload),
        batch=workload.batch,
        train=workload.train,
        targets=targets,
        rows=rows,
    )


@contextlib.contextmanager
def worker(name: str, workload: Workload, device: torch.device) -> Iterator[Callable[[], None]]:
    """Start a process that builds a backbone; yield what runs it there."""
    with subprocess.Popen(
        _command('--worker', name, workload, device),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None and answers is not None

        def run() -> None:
            print(file=requests, flush=True)
            if not answers.readline():
                raise RuntimeError(f'the process of {name} has ended')

        yield run
        requests.close()


def _command(kind: str, name: str, workload: Workload, device: torch.device) -> list[str]:
    """Command line that starts this file as another process, for one backbone."""
    return [
        sys.executable,
        __file__,
        '--device',
        str(device),
        kind,
        name,
        str(workload.height),
        str(workload.width),
        str(workload.batch),
        str(int(workload.train)),
        str(int(workload.bfloat16)),
    ]


@functools.cache
def peak(name: str, workload: Workload, device: torch.device) -> int:
    """Peak of memory of one run in bytes, on a CPU measured in a new process."""
    if device.type == 'cuda':
        run = runner(name, build(name, device), workload, device)
        run()  # what libraries allocate once is no part of a run
        memory = PeakMemory(device)
        for _ in range(2):  # the second captures a graph, if any
            run()
        return memory.bytes
    command = _command('--peak', name, workload, device)
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def growth(device: torch.device) -> list[dict[str, Any]]:
    """Measure the peaks of memory at growing sizes of the image."""
    rows = []
    for name, sizes in SIZES.items():
        for train in (False, True):
            for height, width in sizes:
                workload = Workload(height, width, 1, train)
                rows.append(
                    dict(
                        backbone=name,
                        workload=str(workload),
                        pixels=height * width,
                        peak_bytes=peak(name, workload, device),
                    )
                )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Lay the results out as tables."""
    lines = [
        describe(results),
        '',
        'Seconds are medians with their range; memory is the peak of a run beyond what the '
        'process had before it. Targets are for DAT-T++ where they name no other.',
    ]
    for table in results['workloads']:
        by_name = {row['backbone']: row for row in table['rows']}
        dense, swin = by_name.get('DAT-T++ dense'), by_name['Swin-T']
        targets = Targets(*table['targets'])
        lines += [
            '',
            f'**{table["workload"]}**{targets}',
            '',
            '| backbone | time | faster than dense | time / Swin-T | peak memory |'
            ' memory / dense |',
            '|---|---|---|---|---|---|',
        ]
        for row in table['rows']:
            dat = dense is not None and row['backbone'].startswith('DAT')
            speedup = f'{dense["median"] / row["median"]:.1f} x' if dat else ''
            share = f'{row["peak_bytes"] / dense["peak_bytes"]:.2f}' if dat else ''
            lines.append(
                f'| {row["backbone"]} | {Times(row["seconds"])} | {speedup} | '
                f'{row["median"] / swin["median"]:.2f} | {_gigabytes(row)} | {share} |'
            )
    if results['growth']:
        lines += [
            '',
            '**Peak memory at growing sizes**',
            '',
            '| backbone | workload | peak memory | bytes a pixel |',
            '|---|---|---|---|',
        ]
        lines += [
            f'| {row["backbone"]} | {row["workload"]} | {_gigabytes(row)} | '
            f'{row["peak_bytes"] / row["pixels"]:,.0f} |'
            for row in results['growth']
        ]
    return '\n'.join(lines) + '\n'


def _gigabytes(row: dict[str, Any]) -> str:
    return '' if row['peak_bytes'] is None else f'{row["peak_bytes"] / 1e9:.2f} GB'


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        '--only',
        default='',
        metavar='TEXT',
        help='measure the workloads alone whose name has this, such as forward',
    )
    parser.add_argument(
        '--backbones',
        nargs='+',
        choices=BACKBONES,
        default=[*BACKBONES],
        metavar='NAME',
        help='measure these alone; Swin-T must be among them',
    )
    parser.add_argument('--no-memory', action='store_true', help='measure times alone')
    for kind in ('--peak', '--worker'):
        parser.add_argument(kind, nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak or args.worker:
        name, *numbers = args.peak or args.worker
        height, width, batch, train, bfloat16 = map(int, numbers)
        workload = Workload(height, width, batch, bool(train), bool(bfloat16))
        run = runner(name, build(name, args.device), workload, args.device)
        if args.peak:
            memory = PeakMemory(args.device)
            run()
            print(memory.bytes)
            return
        for _ in sys.stdin:
            run()
            print(flush=True)
        return
    if 'Swin-T' not in args.backbones:
        parser.error('--backbones needs Swin-T, with which all are compared')
    target = result_path(args.out, 'backbones', args.device)
    current = machine_and_versions(args.device)
    results = dict(current, workloads=[], growth=[])
    chosen = [workload for workload in WORKLOADS[args.device.type] if args.only in str(workload)]
    if args.device.type == 'cpu' and torch.backends.cpu.get_cpu_capability() == 'AVX2':
        # There PyTorch has no fast bfloat16: Swin-T's train step takes 19 times as long.
        chosen = [workload for workload in chosen if not workload.bfloat16]
    if args.only and target.with_suffix('.json').exists():
        results = json.loads(target.with_suffix('.json').read_text())
        if any(results[key] != current[key] for key in current):
            parser.error(
                '--only keeps other tables, and those are of another day, machine or '
                'versions: measure all'
            )
    console = Console()
    taken = {table['workload']: table for table in results['workloads']}
    for workload in chosen:
        with console.status(str(workload)):
            taken[str(workload)] = compare(
                workload, args.device, args.backbones, not args.no_memory
            )
    results['workloads'] = list(taken.values())
    if not (args.only or args.no_memory) and args.device.type == 'cpu':
        with console.status('memory at growing sizes'):
            results['growth'] = growth(args.device)
    write_results(target, results, markdown(results))


if __name__ == '__main__':
    main()
