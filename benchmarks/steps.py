#!/usr/bin/env python
"""Measure a training step of whole models with DAT-T++, ScalableViT-S and Swin-T.

Forward and backward pass and the optimizer's step, in float32 on a CPU and in mixed precision
(float16) on a GPU, on synthetic images. The models of a task run in turn. The table is printed and
written as JSON and Markdown.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from reporting import add_arguments, result_path, write_results

from mmdat.analysis.measure import (
    PeakMemory,
    Times,
    describe,
    machine_and_versions,
    time_side_by_side,
)
from mmdat.analysis.speed import prepare_run

CONFIGS = Path(__file__).parents[1] / 'configs'
# Task -> the size of its images, and the configs of its models.
TASKS = {
    'Mask R-CNN': (
        (800, 1344),
        {
            'DAT-T++': 'mask_rcnn_dat_pp_t_coco',
            'ScalableViT-S': 'mask_rcnn_scalablevit_s_coco',
            'Swin-T': 'mask_rcnn_swin_t_coco',
        },
    ),
    'UperNet': (
        (512, 512),
        {
            'DAT-T++': 'upernet_dat_pp_t_ade20k',
            'ScalableViT-S': 'upernet_scalablevit_s_ade20k',
            'Swin-T': 'upernet_swin_t_ade20k',
        },
    ),
}


def compare(task: str, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Measure the models of a task, on a GPU also their memory."""
    shape, names = TASKS[task]
    on_gpu = device.type == 'cuda'
    configs = {
        backbone: Config.fromfile(CONFIGS / f'{name}.py') for backbone, name in names.items()
    }
    if on_gpu:
        for backbone, cfg in [*configs.items()]:
            graphs = [dict(type='mmdat.CUDAGraphHook')]
            configs[f'{backbone}, CUDA graphs'] = Config(dict(cfg, custom_hooks=graphs))
    runs = {
        backbone: prepare_run(cfg, shape, batch, device, train=True, amp=on_gpu)
        for backbone, cfg in configs.items()
    }
    times = time_side_by_side(runs, repeats, device)
    rows: list[dict[str, Any]] = [
        dict(backbone=name, median=times[name].median, seconds=times[name].seconds) for name in runs
    ]
    if on_gpu:
        for row, run in zip(rows, runs.values(), strict=True):
            memory = PeakMemory(device)
            run()
            if row['backbone'] in names:  # what graphs hold, PyTorch does not count in a step
                row['peak_bytes'] = memory.bytes
    return dict(task=task, shape=shape, rows=rows)


def markdown(results: dict[str, Any]) -> str:
    """Lay the results out as a table."""
    on_gpu = 'gpu' in results['machine']
    lines = [
        describe(results),
        '',
        f'A training step of {results["batch"]} synthetic images '
        f'{"in mixed precision (float16)" if on_gpu else "in float32"}, medians of '
        f'{results["repeats"]} with their range, in turn.'
        + (' Memory is what a step takes beyond weights and optimizer.' if on_gpu else ''),
        '',
        '| model | images | backbone | time | time / Swin-T |' + (' memory |' if on_gpu else ''),
        '|---|---|---|---|---|' + ('---|' if on_gpu else ''),
    ]
    for table in results['tables']:
        [swin] = [row['median'] for row in table['rows'] if row['backbone'] == 'Swin-T']
        for row in table['rows']:
            line = (
                f'| {table["task"]} | {table["shape"][0]} x {table["shape"][1]} | '
                f'{row["backbone"]} | {Times(row["seconds"])} | {row["median"] / swin:.2f} |'
            )
            if on_gpu:
                line += f' {row["peak_bytes"] / 1e9:.2f} GB |' if 'peak_bytes' in row else ' |'
            lines.append(line)
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    # One image is too few for UperNet, which normalizes over maps of one pixel.
    parser.add_argument('--batch', type=int, default=2, help='images (2)')
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args()
    results = dict(
        machine_and_versions(args.device),
        batch=args.batch,
        repeats=args.repeats,
        tables=[compare(task, args.batch, args.repeats, args.device) for task in TASKS],
    )
    write_results(result_path(args.out, 'steps', args.device), results, markdown(results))


if __name__ == '__main__':
    main()
