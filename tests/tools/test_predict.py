"""``tools/predict.py``, run as a user runs it."""

import json
from pathlib import Path

import cv2
import numpy as np
from helpers.nano import write_nano
from helpers.scripts import run_script


def test_the_tool_predicts_and_tells_what_it_could_not_read(tmp_path: Path) -> None:
    config, checkpoint = write_nano('dat_t_in1k', tmp_path)
    cv2.imwrite(str(tmp_path / 'x.png'), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / 'broken.png').touch()
    flags = ['--out-dir', 'out', '--batch-size', 2, '--no-pictures']
    options = ['--cfg-options', 'log_level=ERROR']
    done = run_script('predict.py', config, checkpoint, '*.png', *flags, *options, cwd=tmp_path)
    assert done.returncode == 1
    assert 'Predicted: 1 images' in done.stdout
    assert f'Predictions: {tmp_path}/out/predictions.json' in done.stdout
    assert done.stderr.strip().splitlines()[-1] == (
        f'error: inputs that could not be read and were skipped: 1 ({tmp_path}/broken.png)'
    )
    (entry,) = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert entry['file_name'] == 'x.png' and len(entry['classes']) == 5


def test_nothing_to_predict_is_a_sentence(tmp_path: Path) -> None:
    done = run_script('predict.py', 'x.py', 'x.pth', tmp_path, cwd=tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert f'error: there is no image or video in {tmp_path}: give images' in done.stderr
