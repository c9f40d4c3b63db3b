"""A config of each task trains and is tested; `make test-zoo` takes all of them, these too."""

import math
from pathlib import Path

import pytest
from helpers import zoo

BOXES = {'coco/bbox_mAP'}
MASKS = {'coco/segm_mAP'}
# The backbones take turns. Of each config a metric for each thing that its heads predict.
METRICS = {
    'retinanet_dat_t_coco': BOXES,
    'mask_rcnn_scalablevit_s_coco': BOXES | MASKS,
    'dino_dat_pp_t_coco': BOXES,
    'detr_dat_pp_t_coco': BOXES,
    'upernet_dat_t_ade20k': {'mIoU'},
    'semantic_fpn_scalablevit_s_ade20k': {'mIoU'},
    'mask2former_dat_pp_t_ade20k': {'mIoU'},
    'scalablevit_s_in1k': {'accuracy/top1'},
}
QUICK = ('mask_rcnn_scalablevit_s_coco', 'semantic_fpn_scalablevit_s_ade20k', 'scalablevit_s_in1k')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('zoo')
    zoo.draw_data(folder)
    return folder


@pytest.mark.parametrize(
    'name',
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METRICS],
)
def test_a_config_trains_and_is_tested(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in zoo.environment(root).items():
        monkeypatch.setenv(variable, value)
    steps = zoo.take_steps(name, root)
    assert math.isfinite(steps.loss)
    assert not steps.without_gradient
    assert METRICS[name] <= steps.metrics.keys()
    # COCO's metrics are -1 where there are no objects to find.
    assert all(steps.metrics[metric] >= 0 for metric in METRICS[name])
