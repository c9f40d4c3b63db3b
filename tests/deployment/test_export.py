"""Exported files compute what the models do, at sizes that the trace did not see."""

import json
import runpy
import sys
import warnings
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.disk import full_disk
from helpers.scripts import TOOLS
from helpers.variants import VARIANTS, build
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmdat.apis.export import export
from mmdat.apis.model import build_model
from mmdat.checks.config_file import read_config
from mmdat.deployment.checking import TOLERANCE, compare, largest_difference, load
from mmdat.deployment.heads import ExportableClassifier, ExportableSegmentor
from mmdat.deployment.pooling import BinPooling
from mmdat.deployment.preprocessing import Preprocess
from mmdat.deployment.reference import own_predictions
from mmdat.deployment.writing import trace, write
from mmdat.errors import UserError
from mmdat.models import DAT
from mmdat.registry import MODELS

# A backbone of few layers in three stages, as tracing takes long with each.
SMALL = """
    type='mmdat.DAT',
    arch=dict(
        embed_dims=(8, 8, 16), num_heads=(1, 1, 2), blocks=('L', 'D', 'X'), window_size=3,
        offset_range=2, stride=2),
    pretrain_img_size=64"""
CLASSIFIER = f"""
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict({SMALL}, out_indices=(1,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=8),
    data_preprocessor=dict(
        mean=[120, 110, 100], std=[60, 50, 40], to_rgb=True, pad_size_divisor=32, pad_value=0.5))
"""
SEGMENTOR = f"""
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    backbone=dict({SMALL}),
    decode_head=dict(HEAD,
        in_channels=[8, 8, 16], in_index=[0, 1, 2], channels=8, num_classes=3,
        dropout_ratio=0.1, norm_cfg=dict(type='SyncBN'), align_corners=False),
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[100, 110, 120], std=[60, 50, 40], bgr_to_rgb=False,
        pad_val=0.5, test_cfg=dict(size_divisor=32)),
    test_cfg=dict(mode='whole'))
"""
CONFIGS = dict(
    classifier=CLASSIFIER,
    upernet=SEGMENTOR.replace('HEAD', "type='UPerHead', pool_scales=(1, 2, 3)"),
    semantic_fpn=SEGMENTOR.replace('HEAD', "type='FPNHead', feature_strides=[4, 8, 16]"),
)


@pytest.fixture
def onnx() -> Any:
    """The package, without which a test is skipped."""
    pytest.importorskip('onnxruntime', reason='needs mmdat[export]')
    pytest.importorskip('onnxscript', reason='needs mmdat[export]')
    return pytest.importorskip('onnx', reason='needs mmdat[export]')


class Backbone(nn.Module):
    """A backbone that returns a named tuple."""

    def __init__(self, backbone: nn.Module, indices: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.maps = namedtuple('Maps', [f'map{i}' for i in indices])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.maps(*self.backbone(images / 255 - 0.5))


def randomized(model: nn.Module) -> nn.Module:
    """The model with parameters of which each matters."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1 or parameter.std() < 0.03:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['.onnx', '.pt2'])
@pytest.mark.parametrize('name', ['dat_blocks', 'dat_pp_blocks', 'scalablevit_blocks', *VARIANTS])
def test_a_backbone_in_a_file_computes_the_same_at_any_size(
    name: str, suffix: str, tmp_path: Path, onnx: Any
) -> None:
    backbone = randomized(build(name))
    model, path = Backbone(backbone, backbone.out_indices), tmp_path / f'model{suffix}'
    write(trace(model, backbone.smallest_image), path, {})
    for comparison in compare(model, path, backbone.smallest_image):
        assert comparison.difference < TOLERANCE
    smallest = torch.rand(1, 3, backbone.smallest_image, backbone.smallest_image) * 255
    with torch.no_grad():
        expected = model(smallest)
    for ours, theirs in zip(expected, load(path)(smallest.numpy()), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'task',
    ['classifier', *(pytest.param(task, marks=pytest.mark.slow) for task in list(CONFIGS)[1:])],
)
def test_the_tool_writes_a_file_that_it_checks(
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    onnx: Any,
) -> None:
    config, checkpoint = write_model(tmp_path, CONFIGS[task])
    out = tmp_path / 'model.onnx'
    out.touch()  # an older one is replaced
    arguments = ['export.py', *map(str, (config, checkpoint, out)), '--check']
    monkeypatch.setattr(sys, 'argv', arguments)
    runpy.run_path(str(TOOLS / 'deployment' / 'export.py'), run_name='__main__')
    printed, warned = capfd.readouterr()
    first, *table = printed.splitlines()
    outputs = 'scores' if task == 'classifier' else 'logits, classes'
    assert first.startswith(f'{out}: ') and first.endswith(f'-> {outputs}')
    assert [line for line in table if '2 x 193 x 257' in line]
    assert not warned
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'config.py',
        'model.onnx',
        'model.pth',
    ]
    content = onnx.load(out)
    assert {node.domain for node in content.graph.node} == {''}
    sizes = [size.dim_param for size in content.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ['batch', '', 'height', 'width']
    metadata = {entry.key: entry.value for entry in content.metadata_props}
    assert metadata['config'] == 'config.py'
    assert json.loads(metadata['classes']) == ['disk', 'square', 'star']


def write_model(folder: Path, config: str) -> tuple[Path, Path]:
    """Write a config and a checkpoint of random weights."""
    path, checkpoint = folder / 'config.py', folder / 'model.pth'
    path.write_text(config)
    cfg = read_config(path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = randomized(build_model(cfg))
    meta = dict(dataset_meta=dict(classes=('disk', 'square', 'star')))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), checkpoint)
    return path, checkpoint


@pytest.mark.parametrize(
    'name, sentence',
    [
        ('model.pb', 'must end in .onnx, or in .pt2'),
        ('file/model.onnx', 'cannot be written to: .* is not a folder'),
    ],
)
def test_a_wrong_name_is_refused(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=sentence):
        export('missing.py', 'missing.pth', str(tmp_path / name))


def test_a_missing_package_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"install them with pip install 'mmdat\[export\]'"):
        export('missing.py', 'missing.pth', str(tmp_path / 'model.onnx'))


@pytest.mark.parametrize('suffix', ['.onnx', '.pt2'])
def test_a_full_disk_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'model{suffix}'
    path.write_text('before')
    traced = trace(Pixels(), 1)
    with full_disk(), pytest.raises(UserError, match='cannot be written: File too large'):
        write(traced, path, {})
    assert [file.read_text() for file in tmp_path.iterdir()] == ['before']


class Pixels(nn.Module):
    """A model that returns its input."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return namedtuple('Out', 'pixels')(images * 1)


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmseg', 'mmdet'])
@pytest.mark.parametrize('convert', [False, True])
def test_images_in_rgb_are_prepared_as_the_toolbox_prepares_what_it_loads(
    scope: str, convert: bool
) -> None:
    options = dict(mean=[100.0, 110, 120], std=[60.0, 50, 40])
    options |= dict(
        mmpretrain=dict(
            type='mmpretrain.ClsDataPreprocessor',
            to_rgb=convert,
            pad_size_divisor=32,
            pad_value=0.5,
        ),
        mmseg=dict(
            type='mmseg.SegDataPreProcessor',
            bgr_to_rgb=convert,
            pad_val=0.5,
            test_cfg=dict(size_divisor=32),
        ),
        mmdet=dict(
            type='mmdet.DetDataPreprocessor', bgr_to_rgb=convert, pad_size_divisor=32, pad_value=0.5
        ),
    )[scope]
    with DefaultScope.overwrite_default_scope(scope):
        preprocessor = MODELS.build(options)
    rgb = torch.randint(256, (3, 40, 50))
    sample = dict(inputs=[rgb.flip(0)])  # mmcv loads BGR
    if scope == 'mmseg':
        from mmseg.structures import SegDataSample

        sample['data_samples'] = [SegDataSample()]
    expected = preprocessor(sample)['inputs']
    torch.testing.assert_close(Preprocess(preprocessor)(rgb[None].float()), expected)


def test_a_backbone_with_a_least_size_is_traced_without_padding() -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        preprocessor = MODELS.build(dict(type='ClsDataPreprocessor', mean=[110], std=[60]))
    backbone = DAT(
        dict(
            embed_dims=(8, 8), num_heads=(1, 1), blocks=('L', 'D'), window_size=4, offset_range=2,
            stride=2),
        out_indices=(0,), pretrain_img_size=64,
    )  # fmt: skip
    assert backbone.smallest_image > 1
    model = Backbone(nn.Sequential(Preprocess(preprocessor), backbone), backbone.out_indices)
    assert trace(model, backbone.smallest_image).outputs == ('map0',)


def test_maps_of_other_sizes_have_names_of_their_own(tmp_path: Path, onnx: Any) -> None:
    class Maps(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            maps = images * 2, images[:, :, ::4, ::4] * 2, images[:, :, ::8, ::8] * 2
            return namedtuple('Maps', 'logits, feature0, feature1')(*maps)

    path = tmp_path / 'model.onnx'
    write(trace(Maps(), 32), path, {})
    sizes = {
        output.name: [
            size.dim_param or size.dim_value for size in output.type.tensor_type.shape.dim
        ]
        for output in onnx.load(path).graph.output
    }
    assert sizes == dict(
        logits=['batch', 3, 'height', 'width'],
        feature0=['batch', 3, 'feature0_height', 'feature0_width'],
        feature1=['batch', 3, 'feature1_height', 'feature1_width'],
    )


def test_classes_that_differ_are_a_difference() -> None:
    logits, classes = np.ones((1, 2, 4, 5), np.float32), np.zeros((1, 4, 5), np.int64)
    wrong = classes.copy()
    wrong[0, 1, :2] = 7
    assert largest_difference((logits, classes), (logits, classes)) == 0
    assert largest_difference((logits, classes), (logits, wrong)) == pytest.approx(0.1)
    assert largest_difference((logits, classes), (logits, wrong[:, :3])) == np.inf
    assert np.isnan(largest_difference((logits, classes), (logits * np.nan, classes)))


@pytest.mark.parametrize('size', [(1, 1), (2, 5), (7, 13), (12, 6)])
def test_pooling_by_weights_of_bins_is_adaptive_pooling(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    for bins in (1, 2, 3, 6):
        expected = nn.AdaptiveAvgPool2d(bins)(x)
        torch.testing.assert_close(BinPooling((bins, bins))(x), expected)


@MODELS.register_module(force=True)
class Kernels(BaseModule):
    """A backbone of one convolution, on images of four channels."""

    in_channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.conv(images),)


def test_the_check_compares_with_the_toolbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the file is made, and images of four channels are not reordered."""
    config = CLASSIFIER.replace('mean=[120, 110, 100], std=[60, 50, 40],', 'mean=[0], std=[60],')
    config = config.replace(f'{SMALL}, out_indices=(1,)', "type='mmdat.Kernels'")
    assert 'Kernels' in config
    config, checkpoint = write_model(tmp_path, config)
    paths = str(config), str(checkpoint), str(tmp_path / 'new' / 'model.pt2')
    with warnings.catch_warnings(record=True) as warned:
        assert len(export(*paths, check=True)) == 3
    assert not warned
    monkeypatch.setattr(Preprocess, 'forward', lambda self, images: images / 50)
    with pytest.raises(UserError, match=r'model.pt2 and the model differ by more than 0.0001'):
        export(*paths, check=True)


def test_a_head_without_softmax_is_not_taken_for_one() -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='LeNet5'),
                head=dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=8),
            )
        )
    with pytest.raises(UserError, match='MultiLabelLinearClsHead cannot be exported'):
        ExportableClassifier(model)


@pytest.mark.parametrize('task', ['classifier', 'semantic_fpn', 'one_class'])
def test_the_modules_compute_what_the_toolboxes_do(task: str, tmp_path: Path) -> None:
    config = CONFIGS.get(task, CONFIGS['semantic_fpn'].replace('num_classes=3', 'num_classes=1'))
    cfg = read_config(write_model(tmp_path, config)[0])
    toolbox = cfg.default_scope
    images = torch.rand(2, 3, 50, 70) * 255
    with DefaultScope.overwrite_default_scope(toolbox), torch.no_grad():
        model = randomized(build_model(cfg))
        kind = ExportableClassifier if toolbox == 'mmpretrain' else ExportableSegmentor
        for ours, theirs in zip(
            kind(model)(images), own_predictions(model, toolbox)(images), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
