"""``tools/visualize.py``, run as a user runs it, and the page about it."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.imports import ROOT
from helpers.nano import write_nano
from helpers.scripts import TOOLS


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """Run the tool in this process, in a folder with images; what it ends with."""
    monkeypatch.chdir(tmp_path)
    for path in ('photos/a/x.png', 'photos/y.jpg'):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(path, np.full((48, 64, 3), 99, np.uint8))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, 'argv', ['visualize.py', *arguments])
        try:
            runpy.run_path(str(TOOLS / 'visualize.py'), run_name='__main__')
        except SystemExit as ended:
            return str(ended.code)
        return ''

    return run


def files(folder: str) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob('*') if p.is_file())


def test_pictures_lie_as_their_images_do(
    run: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_nano('dat_t_in1k', tmp_path)
    Path('photos/broken.png').write_bytes(b'no image')
    flags = ['--query', '9,9', '63.5,0', '--stage', '4']
    assert run('photos', *model, *flags) == (
        f'error: inputs that could not be read and were skipped: 1 ({tmp_path}/photos/broken.png)'
    )
    out = capsys.readouterr().out
    assert 'Drawn: 2 images' in out and f'Query_63.5_0: {tmp_path}/attention/query_63.5_0' in out
    kinds = ('offsets', 'points', 'query_63.5_0', 'query_9_9')
    assert files('attention') == [f'{k}/{name}.png' for k in kinds for name in ('a/x.png', 'y.jpg')]
    assert cv2.imread('attention/points/y.jpg.png').shape[1] == 480 + 16

    # A stage without deformable blocks.
    assert run('photos/y.jpg', *model, '--stage', '1', '--out', 'local') == ''
    assert files('local') == ['query_center/y.jpg.png']
    assert run('photos/y.jpg', *model, '--stage', '5', '--out', 'none').startswith(
        f'error: {tmp_path}/photos/y.jpg: there is no block in stage 5: choose from stage 1: '
    )
    cv2.imwrite('photos/z.png', np.full((8, 8, 3), 99, np.uint8))
    assert run('photos', *model, '--query', '2,2', '9,9', '--out', 'none') == (
        f'error: {tmp_path}/photos/z.png: query 9,9 lies outside the image of 8 x 8 pixels'
    )
    Path('clip.mp4').touch()
    assert run('clip.mp4', *model) == (
        f'error: inputs that could not be read and were skipped: 1 ({tmp_path}/clip.mp4)'
    )
    told = capsys.readouterr().err
    assert f'{tmp_path}/clip.mp4 cannot be read: it is a video, and attention is drawn in' in told
    assert run('photos', *model, '--query', '3') == (
        'error: --query takes X,Y in pixels, such as 320,240, got 3'
    )
    assert not Path('none').exists()


@pytest.mark.parametrize('name', ['retinanet_dat_t_coco', 'semantic_fpn_scalablevit_s_ade20k'])
def test_the_command_of_the_page_draws(name: str, run: object, tmp_path: Path) -> None:
    page = (ROOT / 'docs' / 'see.md').read_text()
    (command,) = re.findall(r'^tools/visualize\.py (.*)$', page, re.MULTILINE)
    given = dict(zip(('CONFIG', 'CHECKPOINT'), write_nano(name, tmp_path), strict=True))
    cv2.imwrite('photos/y.jpg', np.full((250, 330, 3), 99, np.uint8))
    Path('photos/a/x.png').unlink()
    assert run(*(given.get(word, word) for word in shlex.split(command))) == ''
    queries = ['query_100_80/y.jpg.png', 'query_320_240/y.jpg.png']
    points = ['offsets/y.jpg.png', 'points/y.jpg.png'] if 'dat' in name else []
    assert files('attention') == points + queries


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('photo.jpg', np.full((96, 128, 3), 99, np.uint8))
    config, checkpoint = write_nano('mask2former_dat_pp_t_ade20k', tmp_path)
    page = (ROOT / 'docs' / 'see.md').read_text()
    (code,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    names: dict = {}
    exec(code.replace("'CONFIG'", repr(config)).replace("'CHECKPOINT'", repr(checkpoint)), names)
    assert cv2.imread('seen.png').shape[1] == 480 + 16
    assert names['weights'].shape[:2] == (4, 1) and names['points'].shape[:2] == (2, 1)
