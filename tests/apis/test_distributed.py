"""Two processes, or two steps put together, train what one process does."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zoo

TRAIN = Path(__file__).parents[2] / 'tools' / 'train.py'
EPOCHS = 3
BATCH = 2
# Without chance; of SGD, unlike AdamW, the step depends on the gradient's size.
CONFIG = """
_base_ = '{configs}/dat_pp_t_in1k.py'
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackInputs')]
loader = dict(
    num_workers=0, persistent_workers=False, sampler=dict(shuffle=False),
    dataset=dict(pipeline=pipeline))
train_dataloader = dict(**loader)
val_dataloader = dict(**loader, batch_size=1)
test_dataloader = val_dataloader
model = dict(
    backbone=dict(arch='nano', drop_path_rate=0.0), head=dict(in_channels=128), train_cfg=None)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.1, weight_decay=0.0))
param_scheduler = []
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
default_hooks = dict(checkpoint=dict(interval={epochs}), logger=dict(interval=1))
randomness = dict(seed=0)
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('distributed')
    zoo.draw_data(folder)
    (folder / 'config.py').write_text(CONFIG.format(configs=zoo.CONFIGS, epochs=EPOCHS))
    return folder


def trained(root: Path, name: str, *options: str, processes: int = 1) -> dict[str, torch.Tensor]:
    """The weights in the end."""
    start = [sys.executable]
    if processes > 1:
        start += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    command = [*start, TRAIN, root / 'config.py', '--work-dir', root / name,
               *(['--launcher', 'pytorch'] if processes > 1 else []),
               '--cfg-options', f'train_dataloader.batch_size={BATCH // processes}', *options]
    environment = dict(zoo.environment(root), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    run = subprocess.run(command, env=dict(os.environ, **environment), capture_output=True,
                         text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return torch.load(root / name / f'epoch_{EPOCHS}.pth', weights_only=True)['state_dict']


def test_the_weights_are_those_of_one_process(root: Path) -> None:
    one = trained(root, 'one')
    accumulated = trained(root, 'accumulated', 'train_dataloader.batch_size=1',
                          'optim_wrapper.accumulative_counts=2')
    two = trained(root, 'two', processes=2)
    other = trained(root, 'other', 'train_dataloader.batch_size=1')
    assert one.keys() == two.keys() == accumulated.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(accumulated[name], weight, atol=1e-5, rtol=1e-4)
    assert max((other[name] - weight).abs().max() for name, weight in one.items()) > 1e-2
