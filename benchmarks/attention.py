#!/usr/bin/env python
"""Measure the implementations of attention at the stages of DAT-T++ and ScalableViT-S.

The map is that of an image of 800 x 1344. Deformable and neighborhood attention are those of
DAT-T++, global attention is that of ScalableViT-S. The implementations run in turn in one process,
on a CPU in float32 and in bfloat16. The table is printed and written as JSON and Markdown.
"""

import argparse
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from reporting import add_arguments, result_path, write_results
from torch import Tensor

from mmdat.analysis.measure import PeakMemory, describe, machine_and_versions, time_side_by_side
from mmdat.ops import compiled, deformable_attention, global_attention, neighborhood_attention
from mmdat.ops.cpu import why_not_compiled
from mmdat.ops.deformable import triton as deformable_triton
from mmdat.ops.neighborhood import compiled as neighborhood_compiled
from mmdat.ops.neighborhood import triton as neighborhood_triton

NUM_KEYS = 1050
HEAD_DIM = 32
WINDOW = 7
# Channels of a query or key of ScalableViT-S; values have as many as elsewhere.
SCALED_DIMS = 40, 40, 40, 32


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


class Operator(NamedTuple):
    """An operator, its inputs at a stage, and the keys of each query."""

    attend: Callable[..., Tensor]
    tensors: Callable[[Stage, int], list[Tensor]]
    keys_per_query: int
    unsupported: dict[str, Callable[[list[Tensor]], str | None]]


def deformable_tensors(stage: Stage, batch: int) -> list[Tensor]:
    """Random query, key, value, locations and bias table, laid out as the backbone has them."""
    query = _map(stage, batch, stage.heads * HEAD_DIM)
    keys = torch.randn(2, batch, NUM_KEYS, stage.heads, HEAD_DIM).transpose(2, 3)
    locations = 2 * torch.rand(batch, stage.groups, NUM_KEYS, 2) - 1
    table = torch.randn(stage.heads, stage.table_side, stage.table_side)
    return [_heads(query), *keys, locations, table]


def neighborhood_tensors(stage: Stage, batch: int) -> list[Tensor]:
    """Random query, key, value and bias table, laid out as the backbone has them."""
    maps = _map(stage, batch, 3 * stage.heads * HEAD_DIM).chunk(3, dim=-1)
    return [*map(_heads, maps), torch.randn(stage.heads, 2 * WINDOW - 1, 2 * WINDOW - 1)]


def global_tensors(stage: Stage, batch: int) -> list[Tensor]:
    """Random query, key and value, laid out as the backbone has them."""
    dims = SCALED_DIMS[STAGES.index(stage)]
    query = _map(stage, batch, stage.heads * dims).unflatten(-1, (-1, dims)).movedim(3, 1)
    key, value = (
        torch.randn(batch, NUM_KEYS, stage.heads, width).movedim(2, 1) for width in (dims, HEAD_DIM)
    )
    return [query, key, value]


def _map(stage: Stage, batch: int, channels: int) -> Tensor:
    return torch.randn(batch, stage.height, stage.width, channels)


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, HEAD_DIM)).movedim(3, 1)


OPERATORS = {
    'deformable': Operator(
        deformable_attention,
        deformable_tensors,
        NUM_KEYS,
        dict(
            compiled=lambda tensors: compiled.unsupported(*tensors),
            fused=lambda tensors: deformable_triton.unsupported(*tensors[:3]),
        ),
    ),
    'neighborhood': Operator(
        neighborhood_attention,
        neighborhood_tensors,
        WINDOW**2,
        dict(
            compiled=lambda tensors: neighborhood_compiled.unsupported(*tensors),
            fused=lambda tensors: neighborhood_triton.unsupported(*tensors),
        ),
    ),
    'global': Operator(
        global_attention,
        global_tensors,
        NUM_KEYS,
        dict(compiled=lambda tensors: why_not_compiled(*tensors), fused=lambda _: None),
    ),
}


def convert(x: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Convert a tensor that stays laid out as it is; ``to`` would lay parts of a map out anew."""
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=device).copy_(x)


def runner(
    attend: Callable[..., Tensor], tensors: list[Tensor], implementation: str, train: bool
) -> Callable[[], None]:
    """Return what runs the operator forward, and backward where it trains."""

    def run() -> None:
        with torch.set_grad_enabled(train):
            out = attend(*tensors, implementation=implementation)
        if train:
            torch.autograd.grad(out, tensors, torch.ones_like(out))

    return run


def kernel_seconds(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds that the kernels of a run keep a CUDA device busy, on average.

    Without the time in which the device waits for the next kernel to be started.
    """
    run()
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(repeats):
            run()
        torch.cuda.synchronize(device)
    return sum(event.self_device_time_total for event in profile.key_averages()) / repeats / 1e6


def compare(
    name: str,
    number: int,
    train: bool,
    dtype: torch.dtype,
    batch: int,
    repeats: int,
    device: torch.device,
) -> dict[str, Any]:
    """Measure all implementations that run here; on a GPU also their kernels and their memory."""
    operator, stage = OPERATORS[name], STAGES[number]
    torch.manual_seed(0)
    tensors = operator.tensors(stage, batch)
    # As under autocast, positions and tables stay in float32.
    tensors[:3] = [convert(x, dtype, device) for x in tensors[:3]]
    tensors[3:] = [x.to(device) for x in tensors[3:]]
    tensors = [x.requires_grad_() for x in tensors]
    names = ['dense', 'tiled']
    names += [name for name, why in operator.unsupported.items() if why(tensors) is None]
    runs = {name: runner(operator.attend, tensors, name, train) for name in names}
    times = time_side_by_side(runs, repeats, device)
    rows: list[dict[str, Any]] = [
        dict(implementation=name, median=times[name].median, seconds=times[name].seconds)
        for name in names
    ]
    if device.type == 'cuda':
        for row, run in zip(rows, runs.values(), strict=True):
            row['kernel_seconds'] = kernel_seconds(run, repeats, device)
            memory = PeakMemory(device)
            run()
            row['peak_bytes'] = memory.bytes
    pairs = tensors[0].shape[:4].numel() * operator.keys_per_query
    return dict(
        operator=name,
        precision=str(dtype).removeprefix('torch.'),
        stage=number + 1,
        train=train,
        pairs=pairs,
        rows=rows,
    )


def markdown(results: dict[str, Any]) -> str:
    """Lay the results out as a table."""
    on_gpu = 'gpu' in results['machine']
    lines = [
        describe(results),
        '',
        'Attention at the stages of DAT-T++ (global: of ScalableViT-S), 800 x 1344, batch '
        f'{results["batch"]}, medians of {results["repeats"]} runs in turn.'
        + (' Kernels are what the GPU is busy with; the rest is starting them.' if on_gpu else ''),
        '',
        '| operator | precision | stage | pass | implementation | time | '
        'ns a pair of query and key | faster than dense |'
        + (' kernels | faster than dense | memory |' if on_gpu else ''),
        '|---|---|---|---|---|---|---|---|' + ('---|---|---|' if on_gpu else ''),
    ]
    for table in results['tables']:
        dense = table['rows'][0]
        for row in table['rows']:
            line = (
                f'| {table["operator"]} | {table["precision"]} | {table["stage"]} | '
                f'{"forward and backward" if table["train"] else "forward"} | '
                f'{row["implementation"]} | {_milliseconds(row["median"])} | '
                f'{1e9 * row["median"] / table["pairs"]:.2f} | '
                f'{dense["median"] / row["median"]:.1f} x |'
            )
            if on_gpu:
                line += (
                    f' {_milliseconds(row["kernel_seconds"])} | '
                    f'{dense["kernel_seconds"] / row["kernel_seconds"]:.1f} x | '
                    f'{row["peak_bytes"] / 1e6:,.0f} MB |'
                )
            lines.append(line)
    return '\n'.join(lines) + '\n'


def _milliseconds(seconds: float) -> str:
    return f'{1e3 * seconds:.2f} ms' if seconds < 0.01 else f'{1e3 * seconds:.1f} ms'


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument('--batch', type=int, help='images; 2 on a GPU and 1 on a CPU if not given')
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args()
    batch = args.batch or (2 if args.device.type == 'cuda' else 1)
    dtypes = [torch.bfloat16] if args.device.type == 'cuda' else [torch.float32, torch.bfloat16]
    tables = [
        compare(name, number, train, dtype, batch, args.repeats, args.device)
        for name, dtype, train, number in itertools.product(
            OPERATORS, dtypes, (False, True), range(len(STAGES))
        )
    ]
    results = dict(
        machine_and_versions(args.device), batch=batch, repeats=args.repeats, tables=tables
    )
    write_results(result_path(args.out, 'attention', args.device), results, markdown(results))


if __name__ == '__main__':
    main()
