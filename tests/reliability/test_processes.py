"""Two processes with an image each learn what one learns from both, also resumed."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import zoo
from helpers.forks import end, run_together, start
from helpers.nano import nano_config
from mmengine.config import Config

from mmdat.apis import train

# Heads whose losses are averages over the images of all processes. Most of mmdet's are not: each
# process divides by its own number of objects.
TASKS = {
    'detect': (
        'detr_dat_pp_t_coco',
        {
            'model.bbox_head.sync_cls_avg_factor': True,
            'model.encoder.layer_cfg.self_attn_cfg.dropout': 0.0,
            'model.encoder.layer_cfg.ffn_cfg.ffn_drop': 0.0,
            'model.decoder.layer_cfg.self_attn_cfg.dropout': 0.0,
            'model.decoder.layer_cfg.cross_attn_cfg.dropout': 0.0,
            'model.decoder.layer_cfg.ffn_cfg.ffn_drop': 0.0,
            # A ReLU whose input is zero but for rounding changes gradients by a part in 1e5.
            'model.encoder.layer_cfg.ffn_cfg.act_cfg': dict(type='GELU', _delete_=True),
            'model.decoder.layer_cfg.ffn_cfg.act_cfg': dict(type='GELU', _delete_=True),
        },
    ),
    # Of the norms, those of batches would see one image.
    'segment': (
        'semantic_fpn_scalablevit_s_ade20k',
        {
            'model.decode_head.norm_cfg': dict(type='GN', num_groups=8, _delete_=True),
            'model.decode_head.dropout_ratio': 0.0,
        },
    ),
    'classify': ('dat_t_in1k', {'model.train_cfg': None}),
}
STEPS = 6


def fixed_config(name: str, changes: dict[str, Any]) -> Config:
    """The nano config of that name, without random numbers but for the order of the images."""
    cfg = nano_config(name)
    dataset = cfg.train_dataloader.dataset
    load = [x for x in dataset.pipeline if x.type.split('.')[-1].startswith('Load')]
    size = (zoo.SIZE, zoo.SIZE)
    dataset.pipeline = [*load, dict(type='Resize', scale=size), dataset.pipeline[-1]]
    cfg.train_dataloader.sampler.shuffle = True
    cfg.model.backbone.drop_path_rate = 0.0
    cfg.train_cfg.max_iters = STEPS
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=STEPS // 2, save_last=True
    )
    # AdamW would make of a gradient that is zero but for rounding a step as large as any.
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
    cfg.randomness = dict(seed=0)
    cfg.merge_from_dict(changes)
    return cfg


def weights(checkpoint: Path) -> torch.Tensor:
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    return torch.cat([x.flatten() for x in state.values() if x.is_floating_point()])


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_two_processes_equal_one(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, 'NUM_IMAGES', 6)
    zoo.draw_data(tmp_path)
    for variable, value in zoo.environment(tmp_path).items():
        monkeypatch.setenv(variable, value)
    config = tmp_path / 'config.py'
    fixed_config(*TASKS[task]).dump(config)

    def run(name: str, batch_size: int, **options: Any) -> partial:
        size = {'train_dataloader.batch_size': batch_size}
        return partial(train, str(config), str(tmp_path / name), cfg_options=size, **options)

    end(start(run('one', 2), tmp_path / 'one.log'), tmp_path / 'one.log')
    run_together(run('two', 1, launcher='pytorch'), tmp_path / 'two.log')
    half, last = (f'iter_{step}.pth' for step in (STEPS // 2, STEPS))
    os.mkdir(tmp_path / 'resumed')
    shutil.copy(tmp_path / 'two' / half, tmp_path / 'resumed')
    run_together(run('resumed', 1, launcher='pytorch', resume='latest'), tmp_path / 'resumed.log')
    one, two = weights(tmp_path / 'one' / last), weights(tmp_path / 'two' / last)
    assert torch.equal(two, weights(tmp_path / 'resumed' / last))
    learned = (one - weights(tmp_path / 'one' / half)).norm()
    assert learned > 0 and (one - two).norm() < 1e-3 * learned
