"""tools/make_shapes.py draws the data of each task."""

import runpy
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'make_shapes.py'


def run_tool(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *arguments])
    runpy.run_path(str(TOOL), run_name='__main__')


@pytest.mark.parametrize(
    'task, image',
    [
        ('detect', 'train/000001.jpg'),
        ('segment', 'images/training/000001.jpg'),
        ('classify', 'train/*/000001.jpg'),
    ],
)
def test_it_draws_the_layout_of_a_task(
    task: str, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = '--task', task, '--train', '2', '--val', '1', '--size', '64'
    run_tool(monkeypatch, str(tmp_path / 'shapes'), *arguments)
    assert len(list((tmp_path / 'shapes').rglob('*.jpg'))) == 3
    assert len(list((tmp_path / 'shapes').glob(image))) == 1


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (
            ('--task', 'paint'),
            "--task paint is none: give one of 'detect', 'segment' and 'classify'",
        ),
        (('--size', '8'), 'size=8 is too small: give at least 64'),
    ],
)
def test_a_mistake_ends_in_a_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_tool(monkeypatch, str(tmp_path / 'shapes'), *arguments)
    assert caught.value.code == f'error: {sentence}'
    assert not (tmp_path / 'shapes').exists()
