"""Segmentation and classification go through the same launcher as detection."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import zoo

from mmdat.apis import test as evaluate
from mmdat.apis import train
from mmdat.errors import UserError

# Of each toolbox a config, options for the nano backbone, and a metric.
TASKS: dict[str, tuple[str, dict[str, Any], str]] = {
    'segment': (
        'upernet_dat_pp_t_ade20k',
        {
            'model.backbone.arch': 'nano',
            'model.decode_head.in_channels': [16, 32, 64, 128],
            'model.decode_head.channels': 8,
            'model.auxiliary_head.in_channels': 64,
            'model.auxiliary_head.channels': 8,
            'model.data_preprocessor.size': (128, 128),
            'train_dataloader.dataset.pipeline.2.scale': (128, 128),
            'train_dataloader.dataset.pipeline.3.crop_size': (128, 128),
            'val_dataloader.dataset.pipeline.1.scale': (128, 128),
            'test_dataloader.dataset.pipeline.1.scale': (128, 128),
            'train_cfg.max_iters': 2,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint.interval': 1,
        },
        'mIoU',
    ),
    'classify': (
        'dat_pp_t_in1k',
        {
            'model.backbone.arch': 'nano',
            'model.head.in_channels': 128,
            'param_scheduler': [],
            'train_cfg.max_epochs': 2,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint.interval': 1,
        },
        'accuracy/top1',
    ),
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small drawings where the configs look for their data."""
    zoo.draw_data(tmp_path)
    for variable, value in zoo.environment(tmp_path).items():
        monkeypatch.setenv(variable, value)
    return tmp_path


def arguments(task: str, data: Path, **options: Any) -> dict[str, Any]:
    """Of `train` and, but for the checkpoint, of `evaluate`."""
    name, nano, _ = TASKS[task]
    loaders = {
        f'{split}_dataloader.{key}': value
        for split in ('train', 'val', 'test')
        for key, value in dict(num_workers=0, persistent_workers=False).items()
    }
    return dict(
        config=str(zoo.CONFIGS / f'{name}.py'),
        work_dir=str(data / 'work'),
        cfg_options={
            **nano,
            **loaders,
            'train_dataloader.batch_size': 2,
            'randomness.seed': 0,
            **options,
        },
    )


@pytest.mark.parametrize('task', TASKS)
def test_train_resume_and_test_run_through(
    task: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metric = TASKS[task][-1]
    last = 'max_iters' if task == 'segment' else 'max_epochs'
    train(**arguments(task, data, **{f'train_cfg.{last}': 1}))
    runner = train(**arguments(task, data), resume='auto')
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 2, 'the resumed run goes on with the history of the first'
    train(**arguments(task, data), resume='auto')
    assert ' 2 of 2: nothing is left to train' in capsys.readouterr().out

    checkpoint = (data / 'work' / 'last_checkpoint').read_text()
    out = data / 'results.pkl'
    metrics = evaluate(
        **arguments(task, data), checkpoint=checkpoint, out=str(out), show_dir='pictures'
    )
    assert metric in metrics
    results = pickle.loads(out.read_bytes())
    assert len(results) == zoo.NUM_IMAGES and 'seg_logits' not in results[0]
    assert len(list((data / 'work').glob('pictures/**/*.png'))) == zoo.NUM_IMAGES


@pytest.mark.parametrize('task, rate', [('segment', 6e-5 * 2 / 16), ('classify', 1e-3 * 2 / 1024)])
def test_the_learning_rate_is_scaled_to_the_batch(task: str, rate: float, data: Path) -> None:
    runner = train(**arguments(task, data, param_scheduler=[]), auto_scale_lr=True)
    assert runner.optim_wrapper.param_groups[0]['lr'] == pytest.approx(rate)


def test_segments_are_tested_on_slides_and_with_augmentation(data: Path) -> None:
    train(**arguments('segment', data, **{'train_cfg.max_iters': 1}))
    checkpoint = str(data / 'work' / 'iter_1.pth')
    plain = evaluate(**arguments('segment', data), checkpoint=checkpoint)
    slides = evaluate(
        **arguments(
            'segment',
            data,
            **{'model.test_cfg': dict(mode='slide', crop_size=(96, 96), stride=(64, 64))},
        ),
        checkpoint=checkpoint,
    )
    augmented = evaluate(**arguments('segment', data), checkpoint=checkpoint, tta=True)
    assert plain.keys() == slides.keys() == augmented.keys()


@pytest.mark.parametrize(
    'task, options, sentence',
    [
        (
            'segment',
            {'model.decode_head.in_channels': [16, 32, 64, 64]},
            r'model.decode_head.in_channels is \[16, 32, 64, 64\], but .* of \[16, 32, 64, 128\]',
        ),
        (
            'segment',
            {'model.auxiliary_head.in_channels': 32},
            r'model.auxiliary_head.in_channels is 32, but .* of 64',
        ),
        (
            'segment',
            {'model.decode_head.num_classes': 19},
            'model.decode_head.num_classes is 19, but the data set has 150 classes',
        ),
        (
            'segment',
            {'train_dataloader.dataset.data_root': 'nowhere'},
            r'data root nowhere of .* set the .* \(ADE20K_ROOT for ADE20K\)',
        ),
        (
            'classify',
            {'model.head.in_channels': 64},
            'model.head.in_channels is 64, but model.backbone returns maps of 128 channels',
        ),
        (
            'classify',
            {'default_scope': 'mmpose'},
            "default_scope of config .* is 'mmpose', which is",
        ),
        ('segment', {'model.test_cfg.mode': 'slied'}, "mode is 'slied': did you mean 'slide'?"),
        ('segment', {'model.test_cfg.mode': 'slide'}, "'slide' needs model.test_cfg.crop_size"),
        (
            'segment',
            {'val_evaluator.iou_metric': ['mIoU']},
            "unknown key 'val_evaluator.iou_metric': did you mean 'iou_metrics'",
        ),
        ('segment', {'val_evaluator.iou_metrics': ['mIou']}, "has 'mIou': did you mean 'mIoU'"),
        (
            'segment',
            {'train_dataloader.dataset.img_suffix': '.png'},
            r"found no image in its folder: check data_prefix and, .* img_suffix \(as in '.png'\)",
        ),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    task: str, options: dict[str, Any], sentence: str, data: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(**arguments(task, data, **options))


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here')
def test_mixed_precision_needs_a_gpu(data: Path) -> None:
    with pytest.raises(UserError, match='--amp needs a GPU'):
        train(**arguments('classify', data), amp=True)


def masks(data: Path) -> list[Path]:
    return sorted((data / 'ade20k' / 'annotations' / 'training').iterdir())


@pytest.mark.parametrize(
    'spoil, sentence',
    [
        (lambda path: path.unlink(), 'image .* has no mask .*: check data_prefix.seg_map_path'),
        (lambda path: path.write_bytes(b'no image'), 'mask .*png cannot be read .*: mend it'),
        (
            lambda path: cv2.imwrite(str(path), np.full((128, 128), 151, np.uint8)),
            r'mask .*png has class 150 \(counted from 0, .*\), but there are 150 classes',
        ),
    ],
)
def test_a_spoilt_mask_ends_in_one_sentence(
    spoil: Callable[[Path], Any], sentence: str, data: Path
) -> None:
    for path in masks(data):
        spoil(path)
    with pytest.raises(UserError, match=sentence):
        train(**arguments('segment', data))


@pytest.mark.parametrize(
    'task, folder', [('segment', 'ade20k/images/training'), ('classify', 'imagenet/train')]
)
def test_a_broken_image_is_skipped(
    task: str, folder: str, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    next((data / folder).rglob('*.jpg')).write_bytes(b'no image')
    train(**arguments(task, data))
    printed = ''.join(capfd.readouterr())
    assert 'Skipped an image that cannot be read' in printed


def test_a_label_of_no_class_ends_in_one_sentence(data: Path) -> None:
    labels = data / 'imagenet' / 'meta' / 'train.txt'
    labels.write_text(labels.read_text().rsplit(' ', 1)[0] + ' 1000\n')
    with pytest.raises(UserError, match=r'train.txt gives image .* the class 1000, but there are'):
        train(
            **arguments(
                'classify',
                data,
                **{
                    'train_dataloader.dataset.ann_file': 'meta/train.txt',
                    'train_dataloader.dataset.data_prefix': 'train',
                },
            )
        )


def test_masks_from_zero_need_one_word(data: Path) -> None:
    runner = train(
        **arguments(
            'segment',
            data,
            **{
                'train_dataloader.dataset.reduce_zero_label': False,
                'val_dataloader.dataset.reduce_zero_label': False,
                'model.decode_head.num_classes': 150,
            },
        )
    )
    item = runner.train_dataloader.dataset[0]
    assert not item['data_samples'].reduce_zero_label


def test_a_config_that_says_nothing_of_pictures_draws_them(data: Path) -> None:
    options = {
        'default_hooks': dict(
            _delete_=True, checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)
        ),
        'visualizer': None,
    }
    train(**arguments('segment', data, **{**options, 'train_cfg.max_iters': 1}))
    evaluate(
        **arguments('segment', data, **options),
        show_dir='pictures',
        checkpoint=str(data / 'work' / 'iter_1.pth'),
    )
    assert len(list((data / 'work').glob('pictures/**/*.png'))) == zoo.NUM_IMAGES


def test_a_config_without_a_batch_size_to_scale_from_is_refused(data: Path) -> None:
    with pytest.raises(UserError, match='--auto-scale-lr needs auto_scale_lr.base_batch_size'):
        train(**arguments('segment', data, auto_scale_lr=None), auto_scale_lr=True)
