"""Two processes, or two steps put together, train what one process does."""

import pickle
from pathlib import Path

import pytest
import torch
from helpers import zoo
from helpers.scripts import free_port, run_script
from mmengine.config import Config

from mmdat.apis import test as evaluate
from mmdat.apis import train
from mmdat.errors import UserError

EPOCHS = 3
BATCH = 2
TWO_PROCESSES = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
# Without chance. A step of SGD, unlike one of AdamW, depends on the gradient's size.
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
optim_wrapper = dict(
    clip_grad=None, optimizer=dict(_delete_=True, type='SGD', lr=0.05, momentum=0.9,
                                  weight_decay=0.0))
param_scheduler = []
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
default_hooks = dict(checkpoint=dict(interval={epochs}), logger=dict(interval=1))
randomness = dict(seed=0)
"""

SHARDED = "_base_ = ['./config.py', '{configs}/_base_/runtime/fsdp.py']"
SHARDED_DETECTOR = """
_base_ = ['./small.py', '{configs}/_base_/runtime/fsdp.py']
model = dict(backbone=dict(arch='nano'), neck=dict(in_channels=[16, 32, 64, 128]))
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook'))
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('distributed')
    zoo.draw_data(folder)
    (folder / 'config.py').write_text(CONFIG.format(configs=zoo.CONFIGS, epochs=EPOCHS))
    (folder / 'sharded.py').write_text(SHARDED.format(configs=zoo.CONFIGS))
    return folder


@pytest.fixture(autouse=True)
def data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the configs find the drawings, in this process and in those that it starts; on CPUs."""
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cpu')
    for variable, value in zoo.environment(root).items():
        monkeypatch.setenv(variable, value)


def weights_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)['state_dict']


def trained(
    root: Path, name: str, batch_size: int = BATCH, accumulative_counts: int = 1
) -> dict[str, torch.Tensor]:
    """The weights that one process ends with; a run of the same name is not repeated."""
    checkpoint = root / name / f'epoch_{EPOCHS}.pth'
    if not checkpoint.exists():
        options = {
            'train_dataloader.batch_size': batch_size,
            'optim_wrapper.accumulative_counts': accumulative_counts,
        }
        train(str(root / 'config.py'), str(root / name), cfg_options=options)
    return weights_in(checkpoint)


def trained_by_two(
    root: Path, name: str, config: str = 'config.py', epochs: int = EPOCHS, *arguments: str
) -> dict[str, torch.Tensor]:
    """The weights that two processes end with, each of which takes half of a batch."""
    options = [
        f'train_dataloader.batch_size={BATCH // 2}',
        f'train_cfg.max_epochs={epochs}',
        f'default_hooks.checkpoint.interval={epochs}',
    ]
    run = run_script(
        'dist_train.sh',
        *(config, 2, '--work-dir', name, *arguments, '--cfg-options', *options),
        cwd=root,
        **TWO_PROCESSES,
        PORT=free_port(),
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return weights_in(root / name / f'epoch_{epochs}.pth')


def test_the_weights_are_those_of_one_process(root: Path) -> None:
    one = trained(root, 'one')
    others = dict(
        accumulated=trained(root, 'accumulated', batch_size=1, accumulative_counts=2),
        two=trained_by_two(root, 'two'),
    )
    for other in others.values():
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)
    smaller = trained(root, 'smaller', batch_size=1)
    assert max((smaller[name] - weight).abs().max() for name, weight in one.items()) > 1e-2


@pytest.mark.slow
def test_the_weights_of_shards_are_those_of_one_process(root: Path) -> None:
    trained_by_two(root, 'sharded', 'sharded.py', 2)
    sharded = trained_by_two(root, 'sharded', 'sharded.py', EPOCHS, '--resume')
    torch.testing.assert_close(sharded, trained(root, 'one'), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_shards_train_in_mixed_precision(root: Path) -> None:
    whole = trained_by_two(root, 'mixed', 'config.py', 1, '--amp')
    sharded = trained_by_two(root, 'mixed_sharded', 'sharded.py', 1, '--amp')
    torch.testing.assert_close(sharded, whole, atol=1e-3, rtol=1e-2)


@pytest.mark.slow
def test_two_processes_test_as_one_does(root: Path) -> None:
    trained(root, 'one')
    checkpoint = f'one/epoch_{EPOCHS}.pth'
    out = str(root / 'one.pkl')
    one = evaluate(str(root / 'config.py'), str(root / checkpoint), str(root / 'tested'), out)
    two = run_script(
        'dist_test.sh',
        *('config.py', checkpoint, 2, '--work-dir', 'tested_by_two', '--out', 'two.pkl'),
        cwd=root,
        **TWO_PROCESSES,
        PORT=free_port(),
    )
    assert two.returncode == 0, two.stderr[-2000:]
    assert f'accuracy/top1: {one["accuracy/top1"]:.4f}' in two.stdout
    by_one, by_two = (pickle.loads((root / f'{name}.pkl').read_bytes()) for name in ('one', 'two'))
    assert [sample['img_path'] for sample in by_two] == [sample['img_path'] for sample in by_one]
    assert by_two[0]['classes'] == by_one[0]['classes']


def test_a_sharded_model_is_tested_like_any_other(root: Path) -> None:
    trained(root, 'one')
    whole = root / 'one' / f'epoch_{EPOCHS}.pth'
    one, sharded = (
        evaluate(str(root / config), str(whole), str(root / 'tested'))
        for config in ('config.py', 'sharded.py')
    )
    assert one == sharded and 'accuracy/top1' in one


@pytest.mark.slow
def test_a_detector_trains_in_shards_and_is_tested_whole(root: Path) -> None:
    cfg = Config.fromfile(zoo.CONFIGS / 'cascade_mask_rcnn_dat_pp_b_3x_fsdp_coco.py')
    zoo.shrink(cfg)
    for head in cfg.model.roi_head.bbox_head:
        head.fc_out_channels = 16
    cfg.dump(root / 'small.py')
    (root / 'detector.py').write_text(SHARDED_DETECTOR.format(configs=zoo.CONFIGS))
    weights = trained_by_two(root, 'detector', 'detector.py', 1, '--amp')
    assert all(weight.isfinite().all() for weight in weights.values())
    # A checkpoint that does not fill the model would be refused.
    evaluate(
        str(root / 'detector.py'),
        str(root / 'detector' / 'epoch_1.pth'),
        work_dir=str(root / 'tested'),
    )


def test_a_model_in_shards_needs_several_processes(root: Path) -> None:
    with pytest.raises(UserError, match=r'shares a model among processes \(FSDPStrategy\): start'):
        train(str(root / 'sharded.py'), str(root / 'refused'))
    assert not (root / 'refused').exists()
