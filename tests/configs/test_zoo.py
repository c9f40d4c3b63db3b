"""One config of each head trains and is tested; `make test-zoo` takes all of them."""

import math
from pathlib import Path

import pytest
from helpers import zoo

# The backbones take turns.
NAMES = [
    'retinanet_dat_t_coco',
    'mask_rcnn_scalablevit_s_coco',
    'cascade_mask_rcnn_dat_pp_t_coco',
    'dino_dat_pp_t_coco',
    'detr_dat_pp_t_coco',
    'mask2former_dat_pp_t_coco',
    'mask_rcnn_r50_dcn_v2_coco',
    'upernet_dat_t_ade20k',
    'semantic_fpn_scalablevit_s_ade20k',
    'mask2former_dat_pp_t_ade20k',
    'scalablevit_s_in1k',
]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('zoo')
    zoo.draw_data(folder)
    return folder


@pytest.mark.parametrize('name', NAMES)
def test_a_config_trains_and_is_tested(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in zoo.environment(root).items():
        monkeypatch.setenv(variable, value)
    steps = zoo.take_steps(name, root)
    assert math.isfinite(steps.loss)
    # COCO's metrics are -1 for sizes of objects that there are none of.
    assert all(-1 <= value <= 100 for value in steps.metrics.values())
