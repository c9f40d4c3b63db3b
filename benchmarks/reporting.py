"""Command line and result files of the benchmarks."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from mmdat.analysis.measure import machine_and_versions

RESULTS = Path(__file__).parent / 'results'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks take."""
    parser.add_argument(
        '--device', type=torch.device, default=torch.device('cpu'), help='cpu, cuda, cuda:1, ...'
    )
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder for JSON and Markdown')


def result_path(folder: Path, benchmark: str, device: torch.device) -> Path:
    """Return where results go, by kind of machine, as ``steps_amd_epyc_avx512_bf16``; no ending."""
    machine = machine_and_versions(device)['machine']
    name = machine.get('gpu', machine['cpu']).replace('(R)', '')
    kind = re.findall(r'\w+', name)[:2] + [machine['vectors']] * ('gpu' not in machine)
    return folder / '_'.join([benchmark, *kind]).lower()


def write_results(target: Path, results: dict[str, Any], markdown: str) -> None:
    """Write ``target`` with the endings .json and .md, and print the latter."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix('.json').write_text(json.dumps(results, indent=1) + '\n')
    target.with_suffix('.md').write_text(markdown)
    print(markdown)
