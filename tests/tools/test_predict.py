"""``tools/predict.py``, run as a user runs it."""

import json
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.imports import ROOT
from helpers.nano import write_nano
from helpers.scripts import run_tool

from mmdat.apis.predictor import Predictor


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


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_keeps_what_was_predicted(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_nano('dat_t_in1k', tmp_path)
    for name in ('a', 'b'):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((48, 64, 3), np.uint8))
    original = Predictor.__call__

    def predict_once(self: Predictor, images: list[np.ndarray]) -> Any:
        monkeypatch.setattr(Predictor, '__call__', lambda *_: signal.raise_signal(number))
        assert signal.getsignal(number) != signal.SIG_DFL  # which would end the tests
        return original(self, images)

    monkeypatch.setattr(Predictor, '__call__', predict_once)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        assert run(monkeypatch, *model, str(tmp_path), '--out-dir', str(tmp_path / 'out')) == '130'
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    (entry,) = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert entry['file_name'] == 'a.png'


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run the tool in this process; what it ends with."""
    with pytest.raises(SystemExit) as ended:
        run_tool(monkeypatch, 'tools/predict.py', *arguments)
    return str(ended.value.code)


def test_the_command_of_readme_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = (ROOT / 'README.md').read_text().split('## Predict\n')[1].split('\n## ')[0]
    (command,) = re.findall(r'^tools/predict\.py (.*)$', section, re.MULTILINE)
    text = r'`(--slice [\d.]+ --overlap [\d.]+)`.*?`(--[^`]*)` are the other'
    flags = re.search(text, section, re.DOTALL)
    assert flags is not None
    values = {'--score-thr': '0', '--batch-size': '2', '--device': 'cpu', '--no-pictures': None}
    others = flags[2].split()
    assert set(others) == set(values)
    model = dict(
        zip(('CONFIG', 'CHECKPOINT'), write_nano('retinanet_dat_t_coco', tmp_path), strict=True)
    )
    arguments = [model.get(word, word) for word in shlex.split(command)]
    for path in ('photos/a/1.jpg', 'more/b/c/2.jpg'):
        Path(path).parent.mkdir(parents=True)
        cv2.imwrite(path, np.zeros((48, 64, 3), np.uint8))
    writer = cv2.VideoWriter('clip.mp4', cv2.VideoWriter.fourcc(*'mp4v'), 25, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    few = ['--cfg-options', 'model.test_cfg.max_per_img=2']
    run_tool(monkeypatch, 'tools/predict.py', *arguments, *few)
    out = Path('predictions')
    pictures = sorted(p.relative_to(out).as_posix() for p in out.glob('pictures/**/*.*'))
    assert pictures == [
        *('pictures/clip.mp4', 'pictures/more/b/c/2.jpg', 'pictures/photos/a/1.jpg')
    ]
    shutil.rmtree(out)
    given = [word for flag in others for word in (flag, values[flag]) if word]
    run_tool(monkeypatch, 'tools/predict.py', *arguments, *flags[1].split(), *given, *few)
    assert [path.name for path in out.iterdir()] == ['predictions.json']
    names = {entry['file_name'] for entry in json.loads((out / 'predictions.json').read_text())}
    assert names == {'clip.mp4', 'more/b/c/2.jpg', 'photos/a/1.jpg'}
    assert capsys.readouterr().out.count('Predicted: 3 images') == 2
