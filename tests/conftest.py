"""Small data and a small config for tests that train."""

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmengine.config.config
import mmengine.dataset.base_dataset
import numpy as np
import pytest
import torch
from hypothesis import settings

# `make test` draws the same few random cases each time, `make test-random` many new ones.
settings.register_profile('default', max_examples=20, derandomize=True, deadline=None)
settings.register_profile('fresh', max_examples=500, print_blob=True, deadline=None)
settings.load_profile('default')

# The models of the tests are too small for several threads to be worth their waiting for another.
torch.set_num_threads(1)
# A run writes its config half a dozen times, each time formatted by yapf for a second or more.
mmengine.config.config.FormatCode = lambda text, **_: (text, False)
# Each data set collects garbage, which takes longer than all else with the few images of a test.
mmengine.dataset.base_dataset.gc = SimpleNamespace(collect=lambda: 0)

CONFIGS = Path(__file__).parents[1] / 'configs'


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what was imported: its passes took as long as a model."""
    gc.collect()
    gc.freeze()


# What a user writes for data of their own: Mask R-CNN on the shared parts.
CONFIG = """
_base_ = [
    '{configs}/_base_/models/mask_rcnn.py', '{configs}/_base_/datasets/coco_instance.py',
    '{configs}/_base_/schedules/coco_1x.py', '{configs}/_base_/runtime/mmdet.py'
]
model = dict(
    backbone=dict(arch='nano'),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=2)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=20), rcnn=dict(sampler=dict(num=8))),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(max_per_img=5)))
data = dict(metainfo=dict(classes=('box', 'disk')))
train_pipeline = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline, **data))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys={{{{_base_.META_KEYS}}}}),
]
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline, **data))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
randomness = dict(seed=0)
"""


def make_coco(root: Path, images: dict[str, int]) -> None:
    """Draw ``{split: number}`` images of 64 x 64 with a box and a disk each, in COCO's layout."""
    rng = np.random.default_rng(0)
    categories = [dict(id=5, name='box'), dict(id=9, name='disk')]
    (root / 'annotations').mkdir(parents=True)
    for split, number in images.items():
        (root / split).mkdir()
        infos, annotations = [], []
        for image_id in range(number):
            image = rng.integers(0, 80, (64, 64, 3), dtype=np.uint8)
            x, y = (int(value) for value in rng.integers(2, 40, 2))
            cv2.rectangle(image, (x, y), (x + 20, y + 15), (0, 200, 200), -1)
            infos.append(dict(id=image_id, file_name=f'{image_id}.png', height=64, width=64))
            for category in categories:
                annotations.append(
                    dict(
                        id=len(annotations),
                        image_id=image_id,
                        category_id=category['id'],
                        iscrowd=0,
                        bbox=[x, y, 20, 15],
                        area=300,
                        segmentation=[[x, y, x + 20, y, x + 20, y + 15, x, y + 15]],
                    )
                )
            cv2.imwrite(str(root / split / f'{image_id}.png'), image)
        (root / 'annotations' / f'instances_{split}.json').write_text(
            json.dumps(dict(images=infos, annotations=annotations, categories=categories))
        )


@pytest.fixture
def coco_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data in COCO's layout that the configs find through COCO_ROOT."""
    root = tmp_path / 'coco'
    make_coco(root, dict(train2017=6, val2017=2))
    monkeypatch.setenv('COCO_ROOT', str(root))
    return root


@pytest.fixture
def config(coco_root: Path, tmp_path: Path) -> Path:
    """A config that trains a nano Mask R-CNN on ``coco_root``."""
    path = tmp_path / f'{tmp_path.name}.py'
    path.write_text(CONFIG.format(configs=CONFIGS))
    return path


@dataclass(frozen=True)
class Run:
    """A training that has ended.

    Attributes:
        config: Of the nano Mask R-CNN, for one epoch.
        work_dir: With ``epoch_1.pth``.
    """

    config: Path
    work_dir: Path

    @property
    def checkpoint(self) -> Path:
        return self.work_dir / 'epoch_1.pth'


@pytest.fixture(scope='session')
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of :func:`trained`, which trains once for all tests."""
    from mmdat.apis import train

    folder = tmp_path_factory.mktemp('trained')
    run = Run(folder / 'config.py', folder / 'work')
    run.config.write_text(CONFIG.format(configs=CONFIGS))
    make_coco(folder / 'coco', dict(train2017=6, val2017=2))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv('COCO_ROOT', str(folder / 'coco'))
        train(str(run.config), str(run.work_dir))
    return run


@pytest.fixture
def trained(shared_run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A trained nano Mask R-CNN, with its data where the configs look; not to be written to."""
    monkeypatch.setenv('COCO_ROOT', str(shared_run.config.with_name('coco')))
    return shared_run
