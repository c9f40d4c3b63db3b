"""The notebooks in examples run from their first cell to their last, as they stand."""

import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize('name', ['your_data', 'see', 'operators'])
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use('agg')
    for folder in ('configs', 'docs'):  # what a notebook in a clone finds
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / 'examples').mkdir()  # where Jupyter runs it
    monkeypatch.chdir(tmp_path / 'examples')
    cells = json.loads((ROOT / 'examples' / f'{name}.ipynb').read_text())['cells']
    names: dict[str, Any] = {}
    for cell in cells:
        if cell['cell_type'] == 'code':
            assert not cell['outputs']
            exec(compile(''.join(cell['source']), name, 'exec'), names)
