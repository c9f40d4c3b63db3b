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


# The packages of all projects are imported once, without mmdat, and each runs its script in a copy
# of that process.
IN_COPIES = """
import os, runpy, sys
import mmdet.datasets, mmdet.models, mmpretrain.datasets, mmpretrain.models
import mmseg.datasets, mmseg.models
assert 'mmdat' not in sys.modules
for folder in sys.argv[1:]:
    if os.fork():
        assert os.wait()[1] == 0, folder
        continue
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = ['own_train.py', 'parts_dat.py']
    runpy.run_path('own_train.py', run_name='__main__')
    break
"""


def test_projects_swap_their_backbones_in_three_lines_and_train(tmp_path: Path) -> None:
    folders = [tmp_path / project.scope for project in PROJECTS]
    for folder, project in zip(folders, PROJECTS, strict=True):
        fields = project._asdict()
        project.write(folder / 'data', ShapesParameters(train=2, val=1, size=64))
        (folder / f'{project.scope}_parts.py').write_text(PACKAGE.format(**fields))
        (folder / 'parts.py').write_text(CONFIG.format(**fields))
        (folder / 'parts_dat.py').write_text(f"_base_ = './parts.py'{project.swap}")
        (folder / 'own_train.py').write_text(SCRIPT)
    process = subprocess.run(  # in this one mmdat is imported already
        [sys.executable, '-c', IN_COPIES, *folders], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    said = re.findall(r'^mmdat\.\S+ (\S+) (\S+)$', process.stdout, re.MULTILINE)
    assert len(said) == len(PROJECTS)
    assert all(0 < float(loss) < 1e4 for losses in said for loss in losses)


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
