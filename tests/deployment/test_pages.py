"""What docs/export.md and README say of export runs, and finds what the model finds."""

import contextlib
import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.imports import ROOT
from mmengine.registry import DefaultScope
from pycocotools import mask as mask_api
from torch import Tensor, nn

from mmdat.apis import predict
from mmdat.apis.export import export
from mmdat.apis.model import build_model
from mmdat.checks.config_file import read_config
from mmdat.datasets import ShapesParameters, write_shapes_coco
from mmdat.deployment.checking import compare_detections, load
from mmdat.deployment.outputs import Boxes
from mmdat.errors import UserError

pytest.importorskip('onnxruntime', reason='needs mmdat[export]')
pytest.importorskip('onnxscript', reason='needs mmdat[export]')

PAGE = (ROOT / 'docs/export.md').read_text()
README = (ROOT / 'README.md').read_text().split('\n## Export\n')[1].split('\n## ')[0]
USE, CONVERT = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
DEMO = 'configs/mask_rcnn_dat_pp_nano_shapes.py'
# A detector that is traced in seconds: one stage of DAT.
SMALL = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[100, 110, 120], std=[60, 50, 40], bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type='mmdat.DAT', out_indices=(0,), pretrain_img_size=64,
        arch=dict(
            embed_dims=(8, 8), num_heads=(1, 1), blocks=('L', 'D'), window_size=4, offset_range=2,
            stride=2)),
    neck=dict(type='FPN', in_channels=[8], out_channels=8, num_outs=1),
    bbox_head=dict(
        type='RetinaHead', num_classes=4, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0], strides=[4]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=20))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(96, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
]
"""


def command(text: str) -> list[str]:
    """The words of the command in the first block of a page for the shell."""
    return shlex.split(text.split('```shell\n')[1].split('```')[0], comments=True)


@dataclass(frozen=True)
class Exported:
    """A detector of random weights that the page's command exported and checked.

    Attributes:
        folder: With ``model.onnx``, its checkpoint ``model.pth`` and ``image.jpg``.
        config: Path of the config.
        printed: What the tool printed.
    """

    folder: Path
    config: Path
    printed: str

    @property
    def arguments(self) -> dict[str, str]:
        """What stands in for words of the pages."""
        return {
            DEMO: str(self.config),
            'CONFIG': str(self.config),
            'CHECKPOINT': str(self.folder / 'model.pth'),
        }


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command prints that starts with the path of a tool, or with ``python``."""
    words = [word for word in words if word != 'python']
    monkeypatch.setattr(sys, 'argv', words)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(ROOT / words[0]), run_name='__main__')
    return printed.getvalue()


# The small detector has no masks, and no product of matrices that could be quantized.
only_demo = pytest.mark.parametrize('shared_file', ['demo'], indirect=True)


@pytest.fixture(
    scope='module',
    params=[pytest.param(name, marks=pytest.mark.slow) for name in ('small', 'demo')],
)
def shared_file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    folder = tmp_path_factory.mktemp('exported')
    write_shapes_coco(folder / 'shapes', ShapesParameters(train=2, val=2, size=160))
    drawing = sorted((folder / 'shapes/val').iterdir())[0]
    cv2.imwrite(str(folder / 'image.jpg'), cv2.imread(str(drawing))[:120])
    config = ROOT / DEMO
    if request.param == 'small':
        config = folder / 'config.py'
        config.write_text(SMALL)
    cfg = read_config(config)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_model(cfg)
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and not name.startswith('backbone'):
            nn.init.kaiming_normal_(weight)
            # Scores that are all but 1 would be suppressed in any order.
            weight.data.mul_(0.3 if 'cls' in name or 'reg' in name else 1.0)
        elif 'cls' in name:
            nn.init.normal_(weight)
    meta = dict(dataset_meta=dict(classes=('circle', 'rectangle', 'triangle', 'star')))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), folder / 'model.pth')
    exported = Exported(folder, config, '')
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setenv('SHAPES_ROOT', str(folder / 'shapes'))
        words = [exported.arguments.get(word, word) for word in command(PAGE)]
        yield Exported(folder, config, run(words, monkeypatch))


@pytest.fixture
def file(shared_file: Exported, monkeypatch: pytest.MonkeyPatch) -> Exported:
    """The file of :func:`shared_file`, in the current folder."""
    monkeypatch.chdir(shared_file.folder)
    return shared_file


def test_the_code_of_the_page_finds_the_boxes_that_are_predicted(file: Exported) -> None:
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(USE, names)
    (expected,) = predict(str(file.config), 'model.pth', 'image.jpg')
    objects = expected.instances
    assert objects is not None and len(objects.scores) >= 3
    reference = [values[None] for values in (objects.boxes, objects.scores, objects.labels)]
    found = [names[name][names['found']][None] for name in ('boxes', 'scores', 'labels')]
    agreement = compare_detections(reference, found)
    assert agreement.same, agreement
    assert agreement.box_difference < 1e-2 and agreement.score_difference < 1e-4
    lines = printed.getvalue().splitlines()
    assert len(lines) == len(objects.scores)
    assert {line.split()[0] for line in lines} == {expected.classes[i] for i in objects.labels}


@pytest.mark.slow
@only_demo
def test_masks_are_those_that_are_predicted_without_mmdat(file: Exported) -> None:
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(USE, names)
    copied = (ROOT / 'mmdat/deployment/masks.py').read_text()
    assert re.findall(r'^(?:from|import) .*', copied, re.M) == ['import numpy as np']
    exec(copied, names)
    (call,) = re.findall(r'`(paste_masks\([^`]*)`', PAGE)
    masks = eval(call.replace('\n', ' '), names)
    (expected,) = predict(str(file.config), 'model.pth', 'image.jpg')
    assert expected.instances is not None and expected.instances.masks
    reference = mask_api.decode(expected.instances.masks).transpose(2, 0, 1).astype(bool)
    assert masks.shape == reference.shape and reference.any()
    assert (masks != reference).mean() < 1e-4


def test_the_file_says_what_comes_before_it(file: Exported) -> None:
    import onnx

    metadata = {entry.key: entry.value for entry in onnx.load('model.onnx').metadata_props}
    scale, keep_ratio = ([96, 64], True) if file.config.name == 'config.py' else ([192] * 2, False)
    step = dict(type='Resize', scale=scale, keep_ratio=keep_ratio)
    assert json.loads(metadata['test_pipeline']) == [step]
    assert metadata['channels'] == 'RGB'
    assert re.search(
        rf'before the file.*: Resize\(.*scale=\({scale[0]}, {scale[1]}\)', file.printed
    )
    assert f'keep_ratio={keep_ratio}' in file.printed


@pytest.mark.slow
def test_the_command_of_readme_checks_a_file_of_pytorch(
    file: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [file.arguments.get(word, word) for word in command(README)]
    assert words[-2:] == ['model.onnx', '--check'] and '# or model.pt2' in README
    printed = run([*words[:-2], 'model.pt2', '--check'], monkeypatch)
    objects = re.findall(r'(\d+) +│$', printed, re.M)
    assert len(objects) == 3 and all(map(int, objects))

    extra = {'metadata.json': ''}
    assert repr(extra) in PAGE
    outputs = torch.export.load('model.pt2', extra_files=extra).module()(torch.rand(1, 3, 64, 96))
    outputs['boxes'].numpy()  # which a tensor with a gradient refuses
    assert json.loads(json.loads(extra['metadata.json'])['classes'])[0] == 'circle'


class Nothing(nn.Module):
    """A detector that finds no object."""

    def forward(self, images: Tensor) -> Boxes:
        boxes = images[:, 0, :1, :1].expand(-1, -1, 4) * 0
        return Boxes(boxes, boxes[..., 0] - 1, boxes[..., 0].long() - 1)


def test_a_check_that_compares_nothing_fails(
    file: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmdat.apis.export._exportable', lambda *_: (Nothing(), Nothing()))
    out = tmp_path / 'model.pt2'
    with pytest.raises(UserError, match='is written, but not checked, as the model finds no obj'):
        export(str(file.config), 'model.pth', str(out), check=True)
    assert out.exists()


@pytest.mark.slow
@only_demo
def test_the_code_of_the_page_converts(file: Exported) -> None:
    exec(CONVERT, {})
    image = np.random.default_rng(0).random((1, 3, 64, 96), np.float32) * 255
    for name in ('model_fp16.onnx', 'model_int8.onnx'):
        assert Path(name).stat().st_size < Path('model.onnx').stat().st_size
        assert np.isfinite(load(Path(name))(image)[0]).all()


@pytest.mark.slow
@only_demo
def test_the_benchmark_of_the_page_evaluates(
    file: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tool,) = re.findall(r'`(benchmarks/exported_precision.py [^`]*)`', PAGE)
    words = [dict(CONFIG=str(file.config)).get(word, word.lower()) for word in tool.split()]
    printed = run(words, monkeypatch)
    for name in ('model.onnx', 'model_fp16.onnx', 'model_int8.onnx'):
        assert re.search(rf'^\| {name} \| [\d.]+ \| [\d.]+ \| [\d.]+ \| \d+ \|$', printed, re.M)
