"""What is said of data before anything is trained on them."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.scripts import TOOLS
from mmcv.transforms import Compose, Resize
from mmdet.models.task_modules import AnchorGenerator
from PIL import Image
from torch import nn

from mmdat.analysis.data import check_data, print_data_report
from mmdat.analysis.data_summary import small_boxes
from mmdat.datasets import ShapesParameters
from mmdat.datasets.shapes.classify import write_shapes_classify
from mmdat.datasets.shapes.segment import write_shapes_segment

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_a_detector_s_data_are_counted_and_drawn(
    config: Path, coco_root: Path, tmp_path: Path
) -> None:
    shutil.copy(coco_root / 'train2017' / '3.png', coco_root / 'val2017' / '1.png')
    report = check_data(str(config), str(tmp_path / 'out'), 4)
    assert report.errors == []
    train, val = report.splits['train'], report.splits['val']
    assert (train.images, train.empty, val.images) == (6, 0, 2)
    assert train.counts == dict(box=6, disk=6)
    assert train.sides == ((64, 64, 64), (64, 64, 64))
    assert "train has fewer than 10 examples of 'box' and 'disk': collect more" in report.warnings
    (same,) = (text for text in report.warnings if 'alike' in text)
    assert same == (
        f'images that are in train and val alike: 1, such as {coco_root}/train2017/3.png and '
        f'{coco_root}/val2017/1.png; take them out of one, or figures are too good'
    )
    assert report.pictures == tmp_path / 'out' / 'data.png'
    picture = cv2.imread(str(report.pictures))
    # Four pictures in a row, and the boxes' colors in them, which the images do not have.
    assert picture.shape[1] > 3 * picture.shape[0]
    plain = cv2.imread(str(coco_root / 'train2017' / '0.png'))
    assert len(np.unique(picture[40:500, :480].reshape(-1, 3), axis=0)) > len(
        np.unique(plain.reshape(-1, 3), axis=0)
    )


def test_objects_that_are_there_twice_are_told(
    config: Path, coco_root: Path, tmp_path: Path
) -> None:
    """But no crowds, and no objects of two classes in one place, as these images have."""
    path = coco_root / 'annotations' / 'instances_val2017.json'
    content = json.loads(path.read_text())
    first = content['annotations'][0]
    content['annotations'] += [first | dict(id=100), first | dict(id=101, iscrowd=1)]
    path.write_text(json.dumps(content))
    report = check_data(str(config), str(tmp_path / 'out'), 4)
    (same,) = (text for text in report.warnings if 'box of another' in text)
    assert same.startswith('objects in val that have the class and box of another: 1, such as in ')


def test_what_cannot_be_used_is_an_error_and_the_rest_is_shown(
    config: Path,
    coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (coco_root / 'annotations' / 'instances_train2017.json').write_text('{')
    (coco_root / 'val2017' / '1.png').write_bytes(b'')
    arguments = ['check_data.py', str(config), '--out-dir', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOLS / 'check_data.py'), run_name='__main__')
    assert ended.value.code == f'error: errors in the data of {config}: 2, see above'
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith('Errors: 2, warnings: ') for line in printed)
    errors = [line for line in printed if line.startswith('error: ')]
    assert len(errors) == 2
    assert 'instances_train2017.json is not JSON' in errors[0]
    assert 'val2017/1.png' in errors[1]
    assert (tmp_path / 'out' / 'data.png').is_file()


def test_broken_images_and_those_that_are_gone_are_told_of(
    config: Path, coco_root: Path, tmp_path: Path
) -> None:
    image = coco_root / 'train2017' / '0.png'
    image.write_bytes(image.read_bytes()[:-40])
    (coco_root / 'train2017' / '5.png').unlink()
    report = check_data(str(config), str(tmp_path / 'out'), 12)
    assert report.errors == []
    assert any(
        text.startswith(f'1 of 5 images in train are broken, such as {image}: they are skipped')
        for text in report.warnings
    )
    assert any(text.startswith('1 of the 6 images') for text in report.warnings)
    assert report.splits['train'].left_out == 0
    assert report.pictures is not None and report.pictures.is_file()


@pytest.mark.parametrize(
    'name, variable, write',
    [
        ('upernet_dat_pp_nano_shapes', 'SHAPES_SEGMENT_ROOT', write_shapes_segment),
        ('dat_pp_nano_shapes', 'SHAPES_CLASSIFY_ROOT', write_shapes_classify),
    ],
)
def test_segments_and_classes_are_counted(
    name: str, variable: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / 'shapes', ShapesParameters(train=4, val=2, size=64))
    monkeypatch.setenv(variable, str(tmp_path / 'shapes'))
    report = check_data(str(CONFIGS / f'{name}.py'), str(tmp_path / 'out'), 4)
    assert report.errors == []
    train = report.splits['train']
    assert (train.images, train.empty) == (4, None)
    is_segmentor = name.startswith('upernet')
    assert sum(train.counts.values()) == (pytest.approx(1) if is_segmentor else 4)
    assert train.counts.keys() >= {'square', 'triangle', 'ring', 'cross'}
    assert report.pictures is not None and report.pictures.is_file()


def test_images_of_more_pixels_than_pillow_takes_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shapes_classify(tmp_path / 'shapes', ShapesParameters(train=4, val=2, size=64))
    monkeypatch.setenv('SHAPES_CLASSIFY_ROOT', str(tmp_path / 'shapes'))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1500)
    report = check_data(str(CONFIGS / 'dat_pp_nano_shapes.py'), str(tmp_path / 'out'), 2)
    assert report.errors == []
    assert report.splits['train'].sides == ((64, 64, 64), (64, 64, 64))


def test_sides_are_of_all_images_or_it_is_told(
    config: Path,
    coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr('mmdat.analysis.data_summary.READ', 2)
    file = coco_root / 'annotations' / 'instances_train2017.json'
    content = json.loads(file.read_text())
    content['images'][2].update(height=70, width=90)
    file.write_text(json.dumps(content))
    cv2.imwrite(str(coco_root / 'train2017' / '2.png'), np.zeros((70, 90, 3), np.uint8))
    report = check_data(str(config), str(tmp_path / 'detector'), 1)
    assert report.splits['train'].sides == ((64, 64, 70), (64, 64, 90))
    print_data_report(report)
    assert 'are those of' not in capsys.readouterr().out
    write_shapes_segment(tmp_path / 'shapes', ShapesParameters(train=3, val=2, size=64))
    monkeypatch.setenv('SHAPES_SEGMENT_ROOT', str(tmp_path / 'shapes'))
    name = 'upernet_dat_pp_nano_shapes.py'
    print_data_report(check_data(str(CONFIGS / name), str(tmp_path / 'segmentor'), 1))
    assert "Sides and parts of the pixels are those of 200 images of 'train'\n" in (
        capsys.readouterr().out
    )


def test_images_without_labels_are_not_counted_by_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes_classify(tmp_path / 'shapes', ShapesParameters(train=4, val=2, size=64))
    monkeypatch.setenv('SHAPES_CLASSIFY_ROOT', str(tmp_path / 'shapes'))
    options = {'val_dataloader.dataset.with_label': False}
    name = str(CONFIGS / 'dat_pp_nano_shapes.py')
    broken = sorted((tmp_path / 'shapes' / 'train').rglob('*.jpg'))[0]
    broken.write_bytes(b'')
    report = check_data(name, str(tmp_path / 'out'), 1, options)
    assert report.splits['train'].sides == ((64, 64, 64), (64, 64, 64))
    assert report.splits['val'].counts == {} and report.splits['val'].images == 2
    print_data_report(report)
    row = next(line for line in capsys.readouterr().out.splitlines() if ' square ' in line)
    train, val = row.split('│')[2:4]
    assert train.strip().isdigit() and val.strip() == '-'


class Detector(nn.Module):
    """A detector as far as its smallest objects are concerned."""

    def __init__(self, scale: int | None) -> None:
        super().__init__()
        self.backbone = SimpleNamespace(out_strides=(16,))
        if scale is not None:
            generator = AnchorGenerator(strides=[4], ratios=[1.0], scales=[scale])
            self.rpn_head = SimpleNamespace(prior_generator=generator)


class Boxes:
    """A data set of an image with boxes of some sides."""

    def __init__(self, *sides: int) -> None:
        self.pipeline = Compose([Resize(scale=(200, 200), keep_ratio=True)])
        self.sides = sides

    def __len__(self) -> int:
        return 1

    def get_data_info(self, index: int) -> dict[str, Any]:
        instances = [dict(bbox=[0, 0, side, side], ignore_flag=0) for side in self.sides]
        return dict(height=100, width=50, instances=instances)


@pytest.mark.parametrize(
    'scale, sentence',
    [
        # 8 and 16 pixels are 16 and 32 when the image is resized.
        (8, '1 of 2 boxes in val are too small for the smallest anchors, of about 32 pixels'),
        (4, None),
        (16, '2 of 2 boxes in val'),
        (None, None),
    ],
)
def test_small_boxes_are_those_that_no_anchor_fits(scale: int | None, sentence: str | None) -> None:
    found = list(small_boxes(Detector(scale), dict(val=Boxes(8, 16))))
    assert [text[: len(sentence or '')] for text in found] == ([sentence] if sentence else [])


def test_boxes_below_a_cell_are_small_without_anchors() -> None:
    (sentence,) = small_boxes(Detector(None), dict(val=Boxes(7, 16)))
    assert sentence.startswith('1 of 2 boxes in val are too small for a cell of the finest map')


def test_of_a_model_that_wraps_detectors_nothing_is_told() -> None:
    model = nn.Module()
    model.student = Detector(8)
    assert not [*small_boxes(model, dict(val=Boxes(8, 16)))]
