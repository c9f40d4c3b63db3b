"""The tables in benchmarks/results are those of the figures beside them."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.mark.parametrize(
    'figures',
    [
        path
        for path in sorted(BENCHMARKS.glob('results/*.json'))
        if path.with_suffix('.md').exists()
    ],
    ids=lambda path: path.stem,
)
def test_committed_tables_show_the_committed_figures(
    figures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module(figures.stem.partition('_')[0])
    tables = benchmark.markdown(json.loads(figures.read_text()))
    assert tables == figures.with_suffix('.md').read_text()
