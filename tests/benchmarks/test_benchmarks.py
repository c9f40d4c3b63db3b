"""The benchmark measures what it says; how long anything takes is no test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


def python(code: str) -> str:
    """What a process in the benchmarks' folder prints."""
    return subprocess.run(
        [sys.executable, '-c', code], cwd=BENCHMARKS, check=True, capture_output=True, text=True
    ).stdout


def test_the_peak_is_that_of_the_run_alone() -> None:
    peak = python("""
import torch
from measure import peak_memory
gone = torch.ones(2**26)  # 256 MiB, given back before the run
del gone
kept = torch.ones(2**24)
print(peak_memory(lambda: torch.ones(2**25), torch.device('cpu')))  # 128 MiB
""")
    assert int(peak) == pytest.approx(2**27, rel=0.1)


def test_runs_take_turns_after_one_to_warm_up() -> None:
    order = python("""
import torch
from measure import times_side_by_side
order = []
runs = dict(a=lambda: order.append('a'), b=lambda: order.append('b'))
times = times_side_by_side(runs, 3, torch.device('cpu'))
print(''.join(order), len(times['a'].seconds))
""")
    assert order.split() == ['abababab', '3']


def test_the_tables_that_are_kept_are_those_of_the_figures() -> None:
    kept = BENCHMARKS / 'results' / 'backbones_cpu.json'
    text = python(f"""
import json
from backbones import markdown
print(markdown(json.load(open({str(kept)!r}))), end='')
""")
    assert text == kept.with_suffix('.md').read_text()
    results = json.loads(kept.read_text())
    assert results['versions']['torch'].startswith('2.')
