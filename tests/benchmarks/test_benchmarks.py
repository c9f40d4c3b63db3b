"""The tables in benchmarks/results are those of the figures beside them."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.mark.parametrize(
    'name', ['attention_cpu', 'attention_cuda', 'backbones_cpu', 'backbones_cuda', 'steps_cuda']
)
def test_committed_tables_show_the_committed_figures(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    figures = BENCHMARKS / 'results' / f'{name}.json'
    benchmark = importlib.import_module(name.rpartition('_')[0])
    tables = benchmark.markdown(json.loads(figures.read_text()))
    assert tables == figures.with_suffix('.md').read_text()
