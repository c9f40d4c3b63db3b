"""Curves of trainings, from logs as mmengine writes them."""

import json
import math
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import pytest
from helpers.scripts import TOOLS

from mmdat.apis.curves import read_log, write_curves
from mmdat.errors import UserError

Rows = list[dict[str, Any]]


def write_log(work_dir: Path, run: str, rows: Rows, resume: bool = False) -> Path:
    folder = work_dir / run / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'config.py').write_text(f'load_from = None\nresume = {resume}\n')
    file = folder / 'scalars.json'
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return file


def step(number: int, **values: float) -> dict[str, Any]:
    """A row of training, in epochs of 10 iterations."""
    common = dict(data_time=0.1, time=0.2, memory=1, epoch=1 + (number - 1) // 10)
    return dict(lr=0.1, loss=1.0 / number, **values, **common, iter=number, step=number)


def validated(number: int, **metrics: Any) -> dict[str, Any]:
    """A row of a validation, after that many epochs or iterations."""
    return dict(**metrics, data_time=0.1, time=0.2, step=number)


def test_losses_rates_and_metrics_of_each_toolbox_are_found(tmp_path: Path) -> None:
    coco = {'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_s': -1.0, 'coco/disk_precision': 0.4}
    detector = [step(5, loss_cls=0.5, acc=9.0), step(10, loss_cls=0.2), validated(1, **coco)]
    inner = {'decode.loss_mask': 0.1, 'd3.loss_mask': 0.1, 'decode.acc_seg': 5.0}
    segmentor = [step(5, **inner), validated(8, mIoU=40.0)]
    for row in segmentor:
        row.pop('epoch', None)
    ema = {'accuracy/top1': 90.0, 'accuracy/top1_origin': 80.0, 'classwise': [1.0, 0.5]}
    classifier = [{f'train/{name}': x for name, x in step(5).items()}, validated(1, **ema)]
    classifier[0].update(step=5, iter=5)
    found = {}
    for name, rows in dict(det=detector, seg=segmentor, cls=classifier).items():
        write_log(tmp_path / name, '20260101_000000', rows)
        found[name] = read_log(tmp_path / name).curves
    rates = {'lr': [(5, 0.1), (10, 0.1)]}
    assert found['det'] == {
        'learning rate': rates,
        'loss': {'loss': [(5, 0.2), (10, 0.1)]},
        'parts of the loss': {'loss_cls': [(5, 0.5), (10, 0.2)]},
        'validation: coco/bbox': {'coco/bbox_mAP': [(10, 0.3)]},
        'validation: coco': {'coco/disk_precision': [(10, 0.4)]},
    }
    assert found['seg']['parts of the loss'] == {'decode.loss_mask': [(5, 0.1)]}
    assert found['seg']['validation'] == {'mIoU': [(8, 40.0)]}
    assert found['cls']['loss'] == {'loss': [(5, 0.2)]}
    assert found['cls']['validation: accuracy'] == {
        'accuracy/top1': [(5, 90.0)],
        'accuracy/top1_origin': [(5, 80.0)],
    }


def test_a_resumed_run_goes_on_from_the_one_before_and_a_new_one_starts_anew(
    tmp_path: Path,
) -> None:
    write_log(tmp_path, '20260101_000000', [step(10, loss_of='other')])
    write_log(tmp_path, '20260102_000000', [step(10), validated(1, mIoU=1.0), step(20), step(30)])
    write_log(tmp_path, '20260103_000000', [])
    killed = write_log(tmp_path, '20260104_000000', [step(20), validated(2, mIoU=2.0)], resume=True)
    with killed.open('a') as file:
        file.write('{"loss": 7, "iter": 3')
    log = read_log(tmp_path)
    assert log.runs == ['20260102_000000', '20260104_000000']
    assert log.curves['loss']['loss'] == [(10, 0.1), (20, 0.05)]
    assert log.curves['validation']['mIoU'] == [(10, 1.0), (20, 2.0)]
    write_log(tmp_path, '20260105_000000', [step(10)])
    assert read_log(tmp_path).runs == ['20260105_000000']


def test_a_run_that_begins_with_a_validation_goes_on_where_the_one_before_was(
    tmp_path: Path,
) -> None:
    # Killed while it validated after epoch 3, and after its first steps of epoch 4.
    write_log(tmp_path, '20260101_000000', [step(20), validated(2, mIoU=2.0), step(30), step(35)])
    write_log(tmp_path, '20260102_000000', [validated(3, mIoU=3.0)], resume=True)
    rows = [validated(3, mIoU=3.0), step(31), step(40), validated(4, mIoU=4.0)]
    write_log(tmp_path, '20260103_000000', rows, resume=True)
    curves = read_log(tmp_path).curves
    assert [iteration for iteration, _ in curves['loss']['loss']] == [20, 30, 31, 40]
    assert curves['validation']['mIoU'] == [(20, 2.0), (30, 3.0), (40, 4.0)]


def test_the_tool_draws_several_runs_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('a$b$/run', 'größe/run'):
        rows = [dict(step(number), loss=math.nan if number > 3 else 1.0) for number in range(1, 6)]
        write_log(tmp_path / name, '20260101_000000', rows)
    monkeypatch.chdir(tmp_path)
    arguments = ['a$b$/run', 'größe/run/', '--out', 'new/both.png']
    monkeypatch.setattr(sys, 'argv', ['plot.py', *arguments])
    runpy.run_path(str(TOOLS / 'analysis_tools/plot.py'), run_name='__main__')
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'a$b$/run: 20260101_000000'
    assert lines[-1] == f'Curves: {tmp_path}/new/both.png'
    picture = cv2.imread('new/both.png')
    assert all((picture == color).all(axis=-1).any() for color in ((178, 114, 0), (0, 94, 213)))


def test_characters_that_no_font_has_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr('mmdat.apis.curves.log_warning', told.append)
    monkeypatch.setattr('mmdat.visualization.fonts.findSystemFonts', list)
    metrics = {f'coco/{name}_precision': 0.5 for name in ('\U00013000$a$', '\U00013001')}
    write_log(tmp_path, '20260101_000000', [step(1), validated(1, **metrics)])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        write_curves([tmp_path])
    assert len(told) == 1 and 'the characters \U00013000\U00013001 of names' in told[0]


@pytest.mark.parametrize('loss', [math.nan, math.inf, -math.inf, 1e308])
def test_losses_that_are_no_numbers_or_huge_are_drawn(loss: float, tmp_path: Path) -> None:
    write_log(tmp_path, '20260101_000000', [dict(step(number), loss=loss) for number in (1, 2)])
    assert write_curves([tmp_path]).is_file()


def test_what_cannot_be_drawn_is_told_in_a_sentence(tmp_path: Path) -> None:
    write_log(tmp_path / 'empty', '20260101_000000', [])
    for work_dir in ('missing', 'empty'):
        with pytest.raises(UserError, match=f'{work_dir} has no log of a training'):
            write_curves([tmp_path / work_dir])
    with pytest.raises(UserError, match='--out curves.jpg must end in .png'):
        write_curves([tmp_path], 'curves.jpg')
