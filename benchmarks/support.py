#!/usr/bin/env python
"""Try what runs, compiles and exports on this machine, for each family, device and dtype.

A nano backbone of each family, and DAT++ with tiled attention, which large maps take, is run on two
sizes of images, where it can be. Compiled it must be one graph, for one size, and compute what it
computes otherwise, gradients included. The table is printed and written as JSON and Markdown.
"""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from reporting import RESULTS, write_results
from rich.progress import track
from torch import Tensor, nn

from mmdat.analysis.measure import describe, machine_and_versions
from mmdat.apis.export import PACKAGES
from mmdat.deployment import checking, writing
from mmdat.models import DAT, DATPlusPlus, ScalableViT
from mmdat.ops import prefer_implementation

SIZES = ((64, 96), (96, 130))
# Largest difference over the largest value that two orders of computing may have.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1}
# Family, and the implementation of attention that it shall use where it can.
BACKBONES = ((DAT, 'auto'), (DATPlusPlus, 'auto'), (DATPlusPlus, 'tiled'), (ScalableViT, 'auto'))


def forward(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Run a backbone in evaluation; return its maps."""
    model.eval()
    with torch.no_grad():
        return list(model(images))


def training_step(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Run a backbone and its backward pass; return its maps and the gradients."""
    model.train()
    model.zero_grad()
    maps = list(model(images))
    # The norms of the maps leave the mean of squares constant, and its gradients rounding errors.
    weights = (torch.arange(y.numel(), device=y.device).cos().view_as(y) for y in maps)
    torch.autograd.backward([(w * y).mean() for w, y in zip(weights, maps, strict=True)])
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [y.detach() for y in maps] + gradients


def run(step: Callable, model: nn.Module, images: list[Tensor]) -> None:
    """Refuse results that are not finite."""
    for batch in images:
        if not all(result.isfinite().all() for result in step(model, batch)):
            raise ArithmeticError('results are not finite')


def compile_whole(step: Callable, model: nn.Module, images: list[Tensor]) -> None:
    """Refuse a graph in parts, and one that does not compute what the model does.

    The graph is for one size, since inductor takes up to half an hour for one of any.
    """
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    compare(step(compiled, images[0]), step(model, images[0]))


class Maps(NamedTuple):
    """The maps of a backbone, by the stage that makes them."""

    stage1: Tensor
    stage2: Tensor
    stage3: Tensor
    stage4: Tensor


class Exportable(nn.Module):
    """A backbone that takes and returns float32 on the CPU, wherever and in whatever it computes.

    Args:
        backbone: Of four stages.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Maps:
        """Tensor[batch, 3, height, width] -> the maps."""
        images = images.to(next(self.backbone.parameters()))
        return Maps(*(y.float().cpu() for y in self.backbone(images)))


def export(suffix: str, model: Any, images: list[Tensor]) -> None:
    """Write a file for any batch and size; refuse one that computes something else.

    The file is run on sizes of its own.
    """
    exportable, smallest = Exportable(model.eval()), model.smallest_image
    with TemporaryDirectory() as folder:
        path = Path(folder, f'backbone{suffix}')
        writing.write(writing.trace(exportable, smallest), path, {})
        for comparison in checking.compare(exportable, path, smallest):
            check_difference(comparison.difference, images[0].dtype)


def compare(results: list[Tensor], expected: list[Tensor]) -> None:
    """Refuse results that differ."""
    # Some gradients, as of the keys' biases, are zero but for rounding.
    least = 1e-3 * max(float(theirs.abs().max()) for theirs in expected)
    for ours, theirs in zip(results, expected, strict=True):
        difference = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=least)
        check_difference(float(difference), theirs.dtype)


def check_difference(difference: float, dtype: torch.dtype) -> None:
    """Refuse a difference, relative to the largest value, that another order does not explain."""
    if not difference <= TOLERANCES[dtype]:
        raise ArithmeticError(f'results differ by {difference:.1e} of the largest')


CHECKS: dict[str, Callable[[nn.Module, list[Tensor]], Any]] = {
    'evaluation': partial(run, forward),
    'training': partial(run, training_step),
    'compiled evaluation': partial(compile_whole, forward),
    'compiled training': partial(compile_whole, training_step),
    'torch.export': partial(export, '.pt2'),
    'ONNX': partial(export, '.onnx'),
}


def reason_against(check: str, model: nn.Module, images: list[Tensor]) -> str:
    """Run a check; return nothing, or the first line of what went wrong."""
    try:
        CHECKS[check](model, images)
    except Exception as error:  # whatever PyTorch's compilers raise is a result here
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = str(cause).strip().splitlines() or ['']
        return f'{type(cause).__name__}: {lines[0]}'[:200]
    return ''


def try_backbone(
    family: type[nn.Module], implementation: str, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Run all checks on a backbone; return a row of the table."""
    torch.manual_seed(0)
    model = family('nano', pretrain_img_size=64).to(device, dtype)
    images = [torch.randn(1, 3, *size, device=device, dtype=dtype) for size in SIZES]
    with prefer_implementation(implementation):
        reasons = {check: reason_against(check, model, images) for check in CHECKS}
    return dict(
        backbone=family.__name__,
        implementation=implementation,
        device=device.type,
        dtype=str(dtype).removeprefix('torch.'),
        reasons=reasons,
    )


def summary(rows: list[dict[str, Any]]) -> str:
    """Lay out as a table which backbones pass each check, for each device and dtype."""
    lines = [f'| device | dtype | {" | ".join(CHECKS)} |', '|---' * (2 + len(CHECKS)) + '|']
    for device, dtype in dict.fromkeys((row['device'], row['dtype']) for row in rows):
        tried = [row for row in rows if (row['device'], row['dtype']) == (device, dtype)]
        cells = [device, dtype]
        for check in CHECKS:
            passed = [
                f'{row["backbone"]} {row["implementation"]}'.removesuffix(' auto')
                for row in tried
                if not row['reasons'][check]
            ]
            cells.append('all' if len(passed) == len(tried) else ', '.join(passed) or 'none')
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def markdown(results: dict[str, Any]) -> str:
    """Lay the results out as a table, with what went wrong below it."""
    lines = [
        describe(results),
        '',
        'Nano backbones, whole, on images of '
        + ' and '.join(f'{height} x {width}' for height, width in results['sizes'])
        + '. Compiled means in one graph, for one size; exported, for any.',
        '',
        summary(results['rows']),
        '',
        f'| backbone | attention | device | dtype | {" | ".join(CHECKS)} |',
        '|---' * (4 + len(CHECKS)) + '|',
    ]
    notes: list[str] = []
    for row in results['rows']:
        cells = [row[key] for key in ('backbone', 'implementation', 'device', 'dtype')]
        for check in CHECKS:
            why = row['reasons'][check]
            if why and why not in notes:
                notes.append(why)
            cells.append(f'no ({notes.index(why) + 1})' if why else 'yes')
        lines.append(f'| {" | ".join(cells)} |')
    if notes:
        lines += ['', *(f'{number}. `{note}`' for number, note in enumerate(notes, start=1))]
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Try, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder for JSON and Markdown')
    args = parser.parse_args()
    devices = [torch.device('cpu')]
    torch.backends.cudnn.allow_tf32 = False  # so that float32 is no less
    if torch.cuda.is_available():
        devices.append(torch.device('cuda'))
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            parser.error(f"{package} is not installed: install mmdat's extra 'export'")
    cases = [
        (*backbone, device, dtype)
        for device in devices
        for dtype in TOLERANCES
        for backbone in BACKBONES
        if dtype == torch.float32 or backbone[1] == 'auto'
    ]
    rows = [try_backbone(*case) for case in track(cases, 'Trying')]
    results = dict(machine_and_versions(devices[-1]), sizes=SIZES, rows=rows)
    write_results(args.out / 'support', results, markdown(results))


if __name__ == '__main__':
    main()
