"""Segmentation and classification go through the same launcher as detection."""
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo

from mmdat.apis import test as evaluate
from mmdat.apis import train
from mmdat.errors import UserError

# Of each toolbox a config, options for the nano backbone, and a metric.
TASKS: dict[str, tuple[str, dict[str, Any], str]] = {
    'segment': ('upernet_dat_pp_t_ade20k', {
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
    }, 'mIoU'),
    'classify': ('dat_pp_t_in1k', {
        'model.backbone.arch': 'nano',
        'model.head.in_channels': 128,
        'param_scheduler': [],
        'train_cfg.max_epochs': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 1,
    }, 'accuracy/top1'),
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
    loaders = {f'{split}_dataloader.{key}': value for split in ('train', 'val', 'test')
               for key, value in dict(num_workers=0, persistent_workers=False).items()}
    return dict(config=str(zoo.CONFIGS / f'{name}.py'), work_dir=str(data / 'work'), cfg_options={
        **nano, **loaders, 'train_dataloader.batch_size': 2, 'randomness.seed': 0, **options})


@pytest.mark.parametrize('task', TASKS)
def test_train_resume_and_test_run_through(task: str, data: Path) -> None:
    metric = TASKS[task][-1]
    last = 'max_iters' if task == 'segment' else 'max_epochs'
    train(**arguments(task, data, **{f'train_cfg.{last}': 1}))
    runner = train(**arguments(task, data), resume='auto')
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 2, 'the resumed run goes on with the history of the first'

    checkpoint = (data / 'work' / 'last_checkpoint').read_text()
    out = data / 'results.pkl'
    metrics = evaluate(**arguments(task, data), checkpoint=checkpoint, out=str(out),
                       show_dir='pictures')
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
    slides = evaluate(**arguments('segment', data, **{
        'model.test_cfg': dict(mode='slide', crop_size=(96, 96), stride=(64, 64))}),
        checkpoint=checkpoint)
    augmented = evaluate(**arguments('segment', data), checkpoint=checkpoint, tta=True)
    assert plain.keys() == slides.keys() == augmented.keys()


@pytest.mark.parametrize('task, options, sentence', [
    ('segment', {'model.decode_head.in_channels': [16, 32, 64, 64]},
     r'model.decode_head.in_channels is \[16, 32, 64, 64\], but .* of \[16, 32, 64, 128\]'),
    ('segment', {'model.auxiliary_head.in_channels': 32},
     r'model.auxiliary_head.in_channels is 32, but .* of 64'),
    ('segment', {'model.decode_head.num_classes': 19},
     'model.decode_head.num_classes is 19, but the data set has 150 classes'),
    ('segment', {'train_dataloader.dataset.data_root': 'nowhere'},
     r'data root nowhere of .* set the .* \(ADE20K_ROOT for ADE20K\)'),
    ('classify', {'model.head.in_channels': 64},
     'model.head.in_channels is 64, but model.backbone returns maps of 128 channels'),
    ('classify', {'default_scope': 'mmpose'}, "default_scope of config .* is 'mmpose', which is"),
])
def test_a_mistake_ends_in_one_sentence(task: str, options: dict[str, Any], sentence: str,
                                        data: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        train(**arguments(task, data, **options))


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here')
def test_mixed_precision_needs_a_gpu(data: Path) -> None:
    with pytest.raises(UserError, match='--amp needs a GPU'):
        train(**arguments('classify', data), amp=True)
