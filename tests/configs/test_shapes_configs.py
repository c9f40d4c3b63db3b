"""The demos of the three tasks train on synthetic data and are evaluated."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.configs import CONFIGS, load
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmdat.datasets import ShapesParameters, write_shapes_coco
from mmdat.datasets.shapes.classify import write_shapes_classify
from mmdat.datasets.shapes.segment import write_shapes_segment
from mmdat.models import DATPlusPlus, ScalableViT
from mmdat.registry import TRANSFORMS

IN_PROCESS: dict[str, Any] = dict(num_workers=0, persistent_workers=False, batch_size=2)
TWO_ITERATIONS = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
# Environment variable, what draws the data, and configs with their backbones.
TASKS = [
    ('SHAPES_ROOT', write_shapes_coco, 'mask_rcnn_dat_pp_nano_shapes', DATPlusPlus),
    ('SHAPES_ROOT', write_shapes_coco, 'mask_rcnn_scalablevit_nano_shapes', ScalableViT),
    ('SHAPES_SEGMENT_ROOT', write_shapes_segment, 'upernet_dat_pp_nano_shapes', DATPlusPlus),
    ('SHAPES_CLASSIFY_ROOT', write_shapes_classify, 'dat_pp_nano_shapes', DATPlusPlus),
]


@pytest.mark.parametrize('variable, write, name, backbone', TASKS, ids=[task[2] for task in TASKS])
def test_two_iterations_have_a_finite_loss(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    write: Callable[[Path, ShapesParameters], None],
    name: str,
    backbone: type,
) -> None:
    write(tmp_path / 'data', ShapesParameters(train=4, val=2, size=64))
    monkeypatch.setenv(variable, str(tmp_path / 'data'))
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.work_dir = str(tmp_path / 'work')
    cfg.train_cfg = TWO_ITERATIONS
    cfg.merge_from_dict(
        dict(
            train_dataloader=IN_PROCESS,
            val_dataloader=IN_PROCESS,
            test_dataloader=IN_PROCESS,
            default_hooks=dict(
                logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=2)
            ),
        )
    )
    runner = Runner.from_cfg(cfg)
    assert type(runner.model.backbone) is backbone
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert (tmp_path / 'work' / 'iter_2.pth').exists()


def test_the_segmentor_is_tested_on_an_image_and_its_mirror_image() -> None:
    cfg = load('upernet_dat_pp_nano_shapes')
    assert cfg.tta_model.type == 'SegTTAModel'
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert len(TRANSFORMS.build(cfg.tta_pipeline[-1]).subroutines) == 2


@pytest.mark.parametrize(
    'name', ['mask_rcnn_dat_pp_nano_shapes', 'upernet_dat_pp_nano_shapes', 'dat_pp_nano_shapes']
)
def test_learning_rate_can_be_scaled_and_runs_repeated(name: str) -> None:
    cfg = load(name)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=cfg.train_dataloader.batch_size)
    assert cfg.randomness.seed == 0
    assert dict(type='mmdat.CheckFitHook') in cfg.custom_hooks


def test_the_demo_with_scalablevit_differs_in_the_backbone_alone() -> None:
    demo, other = (
        load(f'mask_rcnn_{name}_nano_shapes').to_dict() for name in ('dat_pp', 'scalablevit')
    )
    assert other['model']['backbone'] == dict(type='mmdat.ScalableViT', arch='nano')
    other['model']['backbone'] = demo['model']['backbone']
    assert other == demo
