"""The classifiers of ImageNet-1k are the published models, and train."""

import pytest
import torch
from helpers.configs import NAMES, load
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from mmdat.checkpoints.shapes import without_values
from mmdat.registry import MODELS

PARAMETERS = {
    'dat_t': 28_319_138,
    'dat_s': 49_700_402,
    'dat_b': 87_881_632,
    'dat_pp_t': 23_962_876,
    'dat_pp_s': 53_127_366,
    'dat_pp_b': 93_690_640,
    # Their tables of position biases are larger than at 224, and DAT-B's windows are.
    'dat_b_384': 87_881_632 + 224_640 + 72_000,
    'dat_pp_b_384': 93_690_640 + 428_800,
    'scalablevit_s': 32_000_472,
    'scalablevit_b': 81_881_624,
    'scalablevit_l': 109_288_840,
}


def build(cfg: Config) -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('name', [name for name in NAMES if name.endswith('_in1k')])
def test_a_classifier_has_the_published_number_of_parameters(name: str) -> None:
    cfg = load(name)
    # Batch augmentation is built with tensors, which have no values on the device `meta`.
    cfg.model.train_cfg = None
    with without_values():
        model = build(cfg)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PARAMETERS[name.removesuffix('_in1k')]


@pytest.mark.parametrize('name', ['dat_t', 'dat_pp_t', 'scalablevit_s'])
def test_a_classifier_trains_a_step(name: str) -> None:
    torch.manual_seed(0)
    cfg = load(f'{name}_in1k')
    cfg.model.backbone.arch = 'nano'
    cfg.model.head.in_channels = 128
    cfg.model.data_preprocessor = cfg.data_preprocessor
    model = build(cfg)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    data = dict(inputs=images, data_samples=[DataSample().set_gt_label(k) for k in (3, 7)])
    losses = []
    for _ in range(3):
        batch = model.data_preprocessor(data, training=False)
        loss = model.loss(batch['inputs'].float(), batch['data_samples'])['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
