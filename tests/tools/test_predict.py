"""``tools/predict.py``, run as a user runs it."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.nano import write_nano
from helpers.scripts import TOOLS


def test_the_tool_predicts_and_tells_what_it_could_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config, checkpoint = write_nano('dat_t_in1k', tmp_path)
    cv2.imwrite('x.png', np.zeros((48, 64, 3), np.uint8))
    Path('broken.png').touch()
    flags = ['--out-dir', 'out', '--batch-size', '2', '--no-pictures']
    assert run(monkeypatch, str(config), str(checkpoint), '*.png', *flags) == (
        f'error: inputs that could not be read and were skipped: 1 ({tmp_path}/broken.png)'
    )
    printed = capsys.readouterr().out
    assert 'Predicted: 1 images' in printed
    assert f'Predictions: {tmp_path}/out/predictions.json' in printed
    (entry,) = json.loads(Path('out/predictions.json').read_text())
    assert entry['file_name'] == 'x.png' and len(entry['classes']) == 5


def test_nothing_to_predict_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run(monkeypatch, 'x.py', 'x.pth', str(tmp_path))
    assert ended.startswith(f'error: there is no image or video in {tmp_path}: give images')


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run the tool in this process; what it ends with."""
    monkeypatch.setattr(sys, 'argv', ['predict.py', *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOLS / 'predict.py'), run_name='__main__')
    return str(ended.value.code)
