"""A training that was interrupted ends as the uninterrupted one, bit for bit."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from mmdet.datasets import MultiImageMixDataset
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import BaseDataset, InfiniteSampler
from mmengine.registry import DefaultScope
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from mmdat.engine.loops import POSITION, NumberedBatches, number_batches

EPOCHS = dict(type='mmdat.ResumableEpochLoop', max_epochs=3)
ITERS = dict(type='mmdat.ResumableIterLoop', max_iters=12, val_interval=3)
# Name of a training -> its loop and options. An epoch has 4 batches.
TRAININGS: dict[str, dict[str, Any]] = {
    'epochs': dict(loop=EPOCHS),
    'epochs, saved in between': dict(loop=EPOCHS, checkpoint=dict(by_epoch=False, interval=3)),
    'iterations': dict(loop=ITERS, checkpoint=dict(interval=4)),
    'iterations of endless data': dict(
        loop=ITERS, checkpoint=dict(interval=5), loader=dict(sampler=dict(type='InfiniteSampler'))
    ),
    'FlexibleRunner': dict(loop=EPOCHS, kind=FlexibleRunner),
}
MOMENTS = [('after_train_iter', 7), ('after_train_iter', 8), ('after_val_iter', 3)]


def run(work_dir: Path, name: str, *hooks: Any, **options: Any) -> Any:
    runner = tiny.runner(work_dir, hooks, **{**TRAININGS[name], **options})
    runner.train()
    return runner


def run_killed(work_dir: Path, name: str, moment: str, number: int, **options: Any) -> None:
    with pytest.raises(tiny.Killed):
        run(work_dir, name, tiny.KillHook(moment, number), **options)


@functools.cache
def uninterrupted(folder: Path, name: str) -> dict[str, Any]:
    return tiny.state_of(run(folder / name, name))


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('uninterrupted')


@pytest.mark.parametrize('name', TRAININGS)
def test_a_killed_training_ends_as_the_uninterrupted_one(
    name: str, folder: Path, tmp_path: Path
) -> None:
    moments = MOMENTS if name in ('epochs', 'iterations') else MOMENTS[1:2]
    for index, (moment, number) in enumerate(moments):
        work_dir = tmp_path / str(index)
        run_killed(work_dir, name, moment, number)
        resumed = run(work_dir, name, resume=True)
        found = tiny.differences(uninterrupted(folder, name), tiny.state_of(resumed))
        assert not found, (moment, number)


@pytest.mark.parametrize(
    'name, workers',
    [
        ('epochs, saved in between', dict(num_workers=2)),
        ('iterations of endless data', dict(num_workers=1, persistent_workers=True)),
    ],
)
def test_loader_workers_change_nothing(
    name: str, workers: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    loader = TRAININGS[name].get('loader', {})
    run_killed(tmp_path, name, 'after_train_iter', 6)
    resumed = run(tmp_path, name, loader={**loader, **workers}, resume=True)
    # Workers that are left to the garbage collector take PyTorch 5 s each.
    resumed.train_dataloader._iterator = resumed.train_loop.dataloader_iterator = None
    assert not tiny.differences(uninterrupted(folder, name), tiny.state_of(resumed))


@pytest.mark.parametrize('name, batches', [('epochs, saved in between', 6), ('iterations', 4)])
def test_no_earlier_image_is_loaded(name: str, batches: int, tmp_path: Path) -> None:
    run_killed(tmp_path, name, 'after_train_iter', 9 if name == 'iterations' else 7)
    dataset = run(tmp_path, name, resume=True).train_dataloader.dataset
    images = batches * tiny.BATCH - (batches + 2) // 4  # an epoch's last batch has one less
    assert len(dataset.loaded) == images


@pytest.mark.parametrize('different_ranks', [False, True])
def test_a_seed_that_nobody_gave_is_kept(different_ranks: bool, tmp_path: Path) -> None:
    options = dict(diff_rank_seed=different_ranks)
    randomness = dict(options, seed=None)
    run_killed(tmp_path / 'a', 'epochs', 'after_train_iter', 6, randomness=randomness)
    meta = torch.load(tmp_path / 'a' / 'epoch_1.pth', weights_only=True)['meta']
    whole = run(tmp_path / 'b', 'epochs', randomness=dict(options, seed=meta['seed']))
    resumed = run(tmp_path / 'a', 'epochs', randomness=dict(randomness), resume=True)
    assert not tiny.differences(tiny.state_of(whole), tiny.state_of(resumed))


def test_averaged_weights_go_on_too(tmp_path: Path) -> None:
    ema = dict(type='EMAHook', momentum=0.1)
    whole = run(tmp_path / 'a', 'epochs', ema)
    killed = tiny.KillHook('after_val_iter', 3)
    with pytest.raises(tiny.Killed):
        run(tmp_path / 'b', 'epochs', ema, killed)
    resumed = run(tmp_path / 'b', 'epochs', ema, resume=True)
    assert tiny.state_of(whole)['ema']
    assert not tiny.differences(tiny.state_of(whole), tiny.state_of(resumed))


@pytest.mark.parametrize(
    'name, stock, left',
    [
        ('epochs', EpochBasedTrainLoop, 11),
        ('iterations of endless data', IterBasedTrainLoop, 2 * tiny.BATCH),
    ],
)
def test_checkpoints_of_mmengines_loops_are_resumed(
    name: str, stock: type, left: int, tmp_path: Path
) -> None:
    loop = dict(TRAININGS[name]['loop'], type=stock)
    run_killed(tmp_path, name, 'after_train_iter', 10, loop=loop)
    runner = run(tmp_path, name, resume=True)
    assert len(runner.train_dataloader.dataset.loaded) == left


@pytest.mark.parametrize(
    'name, loaded, end',
    [
        ('epochs, saved in between', 22, '; this epoch begins anew, though 2 batches were done'),
        ('epochs', 22, ''),
    ],
)
def test_an_epoch_of_other_data_begins_anew(
    name: str, loaded: int, end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_killed(tmp_path, name, 'after_train_iter', 7)
    runner = run(tmp_path, name, resume=True, loader=dict(batch_size=4), log_level='WARNING')
    assert len(runner.train_dataloader.dataset.loaded) == loaded
    told = ' '.join(capsys.readouterr().out.split())
    assert 'An epoch had 4 batches and now has 3, as with another batch_size' in told
    assert f'stay those of the old epochs{end}' in told
    assert ('begins anew' in told) == bool(end)


def test_a_sampler_of_millions_of_images_begins_late_at_once() -> None:
    sampler = InfiniteSampler(range(20_210), seed=1)
    numbered = NumberedBatches(BatchSampler(sampler, 16, False), has_tickets=True)
    assert not list(numbered), 'nothing is loaded before it is said where to begin'
    numbered.begin(seed=1, iteration=159_999, skip=159_999, endless=True)
    ticket, *indices = next(iter(numbered))
    passes, offset = divmod(159_999 * 16, 20_210)
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(20_210, generator=generator) for _ in range(passes + 1)]
    assert ticket == (1, 0, 159_999) and indices == orders[-1][offset : offset + 16].tolist()


class Boxes(BaseDataset):
    """Gray images, each with a box."""

    def load_data_list(self) -> list[dict]:
        return [dict(gray=gray) for gray in range(40, 240, 20)]

    def prepare_data(self, index: int) -> dict[str, Any]:
        return dict(
            img=np.full((32, 32, 3), self.get_data_info(index)['gray'], np.uint8),
            gt_bboxes=HorizontalBoxes([[2.0, 3.0, 20.0, 25.0]]),
            gt_bboxes_labels=np.array([1]),
            gt_ignore_flags=np.array([False]),
        )


def test_mixed_images_are_the_same_with_any_number_of_workers() -> None:
    scale = (32, 32)
    transforms = [
        dict(type='Mosaic', img_scale=scale),
        dict(type='RandomAffine', border=(-16, -16)),
        dict(type='MixUp', img_scale=scale),
    ]
    batches = []
    for workers, done in ((0, 0), (2, 3)):
        with DefaultScope.overwrite_default_scope('mmdet'):
            dataset = MultiImageMixDataset(Boxes(), transforms)
        loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=list)
        number_batches(loader, print).begin(seed=3, iteration=done, skip=done, endless=False)
        batches.append([(i['img'], i['gt_bboxes'].tensor) for batch in loader for i in batch])
    whole, rest = batches
    for (image, boxes), (found, found_boxes) in zip(whole[6:], rest, strict=True):
        assert np.array_equal(image, found) and torch.equal(boxes, found_boxes)
    assert len(whole) == 10 and not np.array_equal(whole[0][0], whole[1][0])


class OwnBatches(BatchSampler):
    """A batch sampler of a user's."""


class OwnItems(tiny.Draws):
    """A data set that loads a batch at once in its own way."""

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


def test_a_sampler_and_a_data_set_of_ones_own_are_left_and_named() -> None:
    told: list[str] = []
    batches = OwnBatches(SequentialSampler(range(4)), 2, False)
    loader = DataLoader(OwnItems(), batch_sampler=batches, collate_fn=list)
    numbered = number_batches(loader, told.append)
    numbered.begin(seed=1, iteration=1, skip=1, endless=False)
    assert list(loader) == [[2, 3]]
    assert told == [
        'If this training is resumed, it goes on as exactly as OwnBatches and OwnItems of '
        'train_dataloader can'
    ]
    told.clear()
    assert number_batches(DataLoader(tiny.Draws(), batch_size=None), told.append) is None
    assert len(told) == 1


def test_a_position_of_an_epoch_is_in_each_checkpoint(tmp_path: Path) -> None:
    run_killed(tmp_path, 'epochs, saved in between', 'after_train_iter', 7)
    for iteration, batch in ((3, 3), (6, 2)):
        content = torch.load(tmp_path / f'iter_{iteration}.pth', weights_only=True)
        position = content['message_hub']['runtime_info'][POSITION]
        assert position == dict(batch=batch, batches=4, sampler_seed=5)
