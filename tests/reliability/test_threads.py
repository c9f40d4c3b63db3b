"""One seed gives one training on a CPU, also with several threads."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import zoo
from helpers.forks import end, start
from helpers.nano import nano_config

from mmdat.apis import train


def train_with_threads(count: int, config: str, work_dir: str) -> None:
    torch.set_num_threads(count)
    train(config, work_dir)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    ['mask_rcnn_scalablevit_s_coco', 'dino_dat_pp_t_coco', 'upernet_dat_t_ade20k', 'dat_t_in1k'],
)
def test_several_threads_train_the_same_twice(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.draw_data(tmp_path)
    for variable, value in zoo.environment(tmp_path).items():
        monkeypatch.setenv(variable, value)
    cfg = nano_config(name)
    cfg.train_cfg.max_iters = 4
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=4)
    cfg.randomness = dict(seed=0)
    cfg.dump(tmp_path / 'config.py')
    weights = []
    for run in ('first', 'second'):
        log, folder = tmp_path / f'{run}.log', tmp_path / run
        end(
            start(partial(train_with_threads, 2, str(tmp_path / 'config.py'), str(folder)), log),
            log,
        )
        weights.append(torch.load(folder / 'iter_4.pth', weights_only=True)['state_dict'])
    differing = [
        key for key, value in weights[0].items() if not torch.equal(value, weights[1][key])
    ]
    assert not differing
