"""A config in pure Python, which imports its classes, is read as one that names them."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmdat.checks import after_reading
from mmdat.checks.config_file import read_config

BASE = """
from mmcv.ops import nms
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.models import RetinaNet
from mmengine.dataset import DefaultSampler
from mmengine.visualization import TensorboardVisBackend
from torch.optim import AdamW

from mmdat.engine import BackboneDecayConstructor
from mmdat.models import DATPlusPlus

default_scope = None
dataset_type = CocoDataset
vis_backends = [dict(type=TensorboardVisBackend)]
optim_wrapper = dict(optimizer=dict(type=AdamW), constructor=BackboneDecayConstructor)
model = dict(type=RetinaNet, backbone=dict(type=DATPlusPlus), test_cfg=dict(nms=dict(type=nms)))
pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations)]
train_dataloader = dict(
    sampler=dict(type=DefaultSampler), dataset=dict(type=dataset_type, pipeline=pipeline))
"""
LEAF = """
from mmengine.config import read_base

with read_base():
    from .base import *
from fractions import Fraction

model.update(data_preprocessor=dict(type=Fraction))  # what no registry has
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'leaf.py').write_text(LEAF)
    return tmp_path / 'leaf.py'


def test_classes_are_named_as_the_toolbox_of_the_model_finds_them(config: Path) -> None:
    cfg = read_config(config)
    assert cfg.default_scope == 'mmdet'
    assert cfg.model.type == 'RetinaNet'
    assert cfg.model.backbone.type == 'mmdat.DATPlusPlus'
    assert cfg.model.test_cfg.nms.type == 'nms'
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.optim_wrapper.constructor == 'mmdat.BackboneDecayConstructor'
    assert cfg.vis_backends[0].type == 'TensorboardVisBackend'
    loader = cfg.train_dataloader
    assert (loader.sampler.type, loader.dataset.type) == ('DefaultSampler', 'CocoDataset')
    assert [step.type for step in loader.dataset.pipeline] == [
        'LoadImageFromFile',
        'LoadAnnotations',
    ]
    assert cfg.model.data_preprocessor.type.__name__ == 'Fraction'
    assert not {'RetinaNet', 'nms'} & set(cfg)  # imports are no keys
    after_reading(cfg)


def test_a_dump_of_such_a_config_is_read_alike(config: Path) -> None:
    dump = config.with_name('dump.py')
    Config.fromfile(config).dump(dump)
    assert "'mmdet.models.RetinaNet'" in dump.read_text()
    cfg, expected = read_config(dump), read_config(config)
    for key in ('default_scope', 'optim_wrapper', 'train_dataloader', 'vis_backends'):
        assert cfg[key] == expected[key]
    assert cfg.model.test_cfg == expected.model.test_cfg


def test_a_name_that_is_another_class_in_the_scope_is_not_taken(config: Path) -> None:
    config.with_name('base.py').write_text(
        'from mmcv.transforms import LoadAnnotations\n'  # mmdet has its own
        "default_scope = 'mmdet'\nmodel = dict(type='RetinaNet')\n"
        'test_pipeline = [dict(type=LoadAnnotations)]\n'
    )
    step = read_config(config).test_pipeline[0]
    assert step.type.__module__.startswith('mmcv.')


def test_a_class_of_a_project_stays_so_that_a_dump_finds_it(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(config.parent)
    config.with_name('own_parts.py').write_text(
        'from mmdet.models import FPN, RetinaNet\nfrom mmdet.registry import MODELS\n'
        '@MODELS.register_module(force=True)\nclass OwnNeck(FPN): ...\n'
        'class OwnDetector(RetinaNet): ...\n'
    )
    config.write_text(
        'from mmengine.model import PretrainedInit\n'  # registered by another name
        'from own_parts import OwnDetector, OwnNeck\n'
        'model = dict(type=OwnDetector, neck=dict(type=OwnNeck))\n'
        'model.update(init_cfg=dict(type=PretrainedInit))\n'
    )
    cfg, dump = read_config(config), config.with_name('dump.py')
    cfg.dump(dump)
    assert cfg.default_scope == 'mmdet'
    assert cfg.model.neck.type.__name__ == 'OwnNeck'
    assert read_config(dump).model.neck.type == 'own_parts.OwnNeck'
    assert read_config(dump).model.init_cfg.type == 'mmengine.model.PretrainedInit'


@pytest.mark.parametrize('name', ['.jpg', 'own_script.py', 'mmdet.', 'torch.yml'])
def test_what_is_no_type_of_a_part_is_not_imported(
    name: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(config.parent)
    config.with_name('own_script.py').write_text("raise SystemExit('run')")
    config.write_text(f"model = dict(type='RetinaNet')\nfiles = dict(type={name!r})\n")
    assert read_config(config).files.type == name
