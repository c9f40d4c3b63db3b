"""A project with a package, a config and a training script of its own takes a backbone."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config

from mmdat.datasets import ShapesParameters, write_shapes_coco
from mmdat.datasets.shapes.classify import write_shapes_classify
from mmdat.datasets.shapes.segment import write_shapes_segment
from mmdat.registry import MODELS

PACKAGE = """
from {scope}.datasets import {dataset}
from {scope}.registry import DATASETS

@DATASETS.register_module()
class Parts({dataset}):
    METAINFO = dict(classes=('square', 'triangle', 'ring', 'cross'))
"""
CONFIG = """
_base_ = ['{scope}::_base_/models/{model}.py', '{scope}::_base_/default_runtime.py']
custom_imports = dict(imports=['{scope}_parts'])
default_scope = '{scope}'
work_dir = 'work'
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'),
    dataset=dict(type='Parts', data_root='data', {dataset_options}, pipeline=[
        dict(type='LoadImageFromFile'), {pipeline}]))
{model_options}
log_level = 'ERROR'
"""
SCRIPT = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner

runner = Runner.from_cfg(Config.fromfile(sys.argv[1]))
runner.train()
print(type(runner.model.backbone).__module__, *runner.message_hub.get_scalar('train/loss').data[0])
"""


class Project(NamedTuple):
    """What a project of a toolbox has, and the lines that swap its backbone."""

    scope: str
    write: Callable
    model: str
    dataset: str
    dataset_options: str
    pipeline: str
    swap: str
    model_options: str = ''


PROJECTS = [
    Project(
        'mmdet',
        write_shapes_coco,
        'retinanet_r50_fpn',
        'CocoDataset',
        "ann_file='annotations/instances_train.json', data_prefix=dict(img='train/')",
        "dict(type='LoadAnnotations', with_bbox=True), dict(type='Resize', scale=(64, 64)), "
        "dict(type='PackDetInputs')",
        """
custom_imports = dict(imports=['mmdet_parts', 'mmdat'])
model = dict(backbone=dict(_delete_=True, type='mmdat.DATPlusPlus', arch='nano'),
             neck=dict(in_channels=[16, 32, 64, 128]))
""",
    ),
    Project(
        'mmseg',
        write_shapes_segment,
        'upernet_swin',
        'BaseSegDataset',
        "img_suffix='.jpg', seg_map_suffix='.png', data_prefix=dict("
        "img_path='images/training', seg_map_path='annotations/training')",
        "dict(type='LoadAnnotations'), dict(type='PackSegInputs')",
        """
custom_imports = dict(imports=['mmseg_parts', 'mmdat'])
model = dict(backbone=dict(_delete_=True, type='mmdat.DATPlusPlus', arch='nano'),
             decode_head=dict(in_channels=[16, 32, 64, 128]), auxiliary_head=dict(in_channels=64))
""",
        'model = dict(data_preprocessor=dict(size=(64, 64)))',
    ),
    Project(
        'mmpretrain',
        write_shapes_classify,
        'resnet18',
        'CustomDataset',
        "data_prefix='train'",
        "dict(type='PackInputs')",
        """
custom_imports = dict(imports=['mmpretrain_parts', 'mmdat'])
model = dict(backbone=dict(_delete_=True, type='mmdat.DATPlusPlus', arch='nano',
                           out_indices=(3,)), head=dict(in_channels=128))
""",
    ),
]


@pytest.mark.parametrize('project', PROJECTS, ids=lambda project: project.scope)
def test_a_project_swaps_its_backbone_in_three_lines_and_trains(
    project: Project, tmp_path: Path
) -> None:
    fields = project._asdict()
    project.write(tmp_path / 'data', ShapesParameters(train=2, val=1, size=64))
    (tmp_path / f'{project.scope}_parts.py').write_text(PACKAGE.format(**fields))
    (tmp_path / 'parts.py').write_text(CONFIG.format(**fields))
    (tmp_path / 'parts_dat.py').write_text(f"_base_ = './parts.py'{project.swap}")
    (tmp_path / 'own_train.py').write_text(SCRIPT)
    process = subprocess.run(  # in this one mmdat is imported already
        [sys.executable, 'own_train.py', 'parts_dat.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    backbone, *losses = process.stdout.splitlines()[-1].split()
    assert backbone.startswith('mmdat.')
    assert len(losses) == 2 and all(0 < float(loss) < 1e4 for loss in losses)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_the_lines_of_the_page_build_a_model(scope: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / 'docs/projects.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    (lines,) = (block for block in blocks if f"_base_ = '{scope}::" in block)
    (tmp_path / 'project.py').write_text(lines)
    model = MODELS.build(dict(Config.fromfile(tmp_path / 'project.py').model, _scope_=scope)).eval()
    with torch.no_grad():
        outputs = (
            model(torch.rand(1, 3, 64, 64), None)
            if scope != 'mmdet'
            else model.extract_feat(torch.rand(1, 3, 64, 64))
        )
    assert len(outputs)
