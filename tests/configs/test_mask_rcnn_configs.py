"""What the flags of the tools need of a config is in each configuration of a detector."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdat.registry import TRANSFORMS

CONFIGS = sorted((Path(__file__).parents[2] / 'configs').glob('mask_rcnn_*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_tta_resizes_as_testing_does_and_packs_what_merging_reads(path: Path) -> None:
    cfg = Config.fromfile(path)
    assert cfg.tta_model.type == 'mmdat.InstanceTTAModel'
    [resize], flips, _, [pack] = cfg.tta_pipeline[-1].transforms
    assert resize == cfg.test_pipeline[1]
    assert len(flips) == 2
    assert set(pack.meta_keys) == {*cfg.test_pipeline[-1].meta_keys, 'flip', 'flip_direction'}
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert len(TRANSFORMS.build(cfg.tta_pipeline[-1]).subroutines) == len(flips)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_learning_rate_can_be_scaled(path: Path) -> None:
    cfg = Config.fromfile(path)
    assert not cfg.auto_scale_lr.enable
    assert cfg.auto_scale_lr.base_batch_size >= cfg.train_dataloader.batch_size
