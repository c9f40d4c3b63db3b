"""The tables in benchmarks/results are those of the figures beside them."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.mark.parametrize('name', ['backbones', 'attention'])
def test_committed_tables_show_the_committed_figures(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    figures = BENCHMARKS / 'results' / f'{name}_cpu.json'
    tables = importlib.import_module(name).markdown(json.loads(figures.read_text()))
    assert tables == figures.with_suffix('.md').read_text()
