#!/usr/bin/env python
"""Measure the implementations of deformable attention at the stages of DAT-T++, 800 x 1344.

They run in turn in one process. The tables are printed and written as JSON and Markdown.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from reporting import add_arguments, write_results
from torch import Tensor

from mmdat.analysis.measure import PeakMemory, describe, machine_and_versions, time_side_by_side
from mmdat.ops import deformable_attention
from mmdat.ops.deformable.triton import unsupported

NUM_KEYS = 1050
HEAD_DIM = 32


class Stage(NamedTuple):
    """Shapes of attention at a stage: heads, groups, the size of the map and of the bias table."""

    heads: int
    groups: int
    height: int
    width: int
    table_side: int


STAGES = (
    Stage(2, 1, 200, 336, 111),
    Stage(4, 2, 100, 168, 55),
    Stage(8, 4, 50, 84, 27),
    Stage(16, 8, 25, 42, 13),
)


def inputs(stage: int, batch: int, device: torch.device) -> list[Tensor]:
    """Random query, key, value, locations and bias table, laid out as the backbone has them."""
    torch.manual_seed(0)
    heads, groups, height, width, table_side = STAGES[stage]
    dtype = torch.bfloat16 if device.type == 'cuda' else torch.float32
    query = torch.randn(batch, height, width, heads, HEAD_DIM).to(dtype).movedim(3, 1)
    key, value = torch.randn(2, batch, heads, NUM_KEYS, HEAD_DIM).to(dtype)
    locations = 2 * torch.rand(batch, groups, NUM_KEYS, 2) - 1
    table = torch.randn(heads, table_side, table_side)
    return [x.to(device).requires_grad_() for x in (query, key, value, locations, table)]


def runner(tensors: list[Tensor], implementation: str, train: bool) -> Callable[[], None]:
    """Return what runs the operator forward, and backward where it trains."""

    def run() -> None:
        with torch.set_grad_enabled(train):
            out = deformable_attention(*tensors, implementation=implementation)
        if train:
            torch.autograd.grad(out, tensors, torch.ones_like(out))

    return run


def compare(
    stage: int, train: bool, batch: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Measure times, on a GPU also peaks of memory, of all implementations that run here."""
    tensors = inputs(stage, batch, device)
    names = ['dense', 'tiled']
    if unsupported(*tensors[:3]) is None:
        names.append('fused')
    runs = {name: runner(tensors, name, train) for name in names}
    times = time_side_by_side(runs, repeats, device)
    rows = [
        dict(implementation=name, median=times[name].median, seconds=times[name].seconds)
        for name in names
    ]
    if device.type == 'cuda':
        for row, run in zip(rows, runs.values(), strict=True):
            memory = PeakMemory(device)
            run()
            row['peak_bytes'] = memory.bytes
    return dict(
        stage=stage + 1, train=train, pairs=tensors[0].shape[:4].numel() * NUM_KEYS, rows=rows
    )


def markdown(results: dict[str, Any]) -> str:
    """Lay the results out as a table."""
    lines = [
        describe(results),
        '',
        f'Deformable attention at the stages of DAT-T++, 800 x 1344, batch '
        f'{results["batch"]}, medians of {results["repeats"]} runs in turn.',
        '',
        '| stage | pass | implementation | time | ns a pair of query and key | faster than dense |',
        '|---|---|---|---|---|---|',
    ]
    for table in results['tables']:
        dense = table['rows'][0]['median']
        for row in table['rows']:
            lines.append(
                f'| {table["stage"]} | {"forward and backward" if table["train"] else "forward"} | '
                f'{row["implementation"]} | {1e3 * row["median"]:.1f} ms | '
                f'{1e9 * row["median"] / table["pairs"]:.2f} | {dense / row["median"]:.1f} x |'
            )
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument('--batch', type=int, help='images; 2 on a GPU and 1 on a CPU if not given')
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args()
    batch = args.batch or (2 if args.device.type == 'cuda' else 1)
    tables = [
        compare(stage, train, batch, args.repeats, args.device)
        for train in (False, True)
        for stage in range(len(STAGES))
    ]
    results = dict(
        machine_and_versions(args.device), batch=batch, repeats=args.repeats, tables=tables
    )
    write_results(
        Path(args.out) / f'deformable_attention_{args.device.type}', results, markdown(results)
    )


if __name__ == '__main__':
    main()
