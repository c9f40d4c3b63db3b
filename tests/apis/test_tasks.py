"""Segmentation and classification go through the same doors as detection."""

import functools
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import zoo
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, DefaultScope
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.data import Dataset

from mmdat.apis import test as evaluate
from mmdat.apis import train
from mmdat.checks.config_file import read_config
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
            'train_cfg.max_iters': 1,
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
            'train_cfg.max_epochs': 1,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint.interval': 1,
        },
        'accuracy/top1',
    ),
}
# The option that says how long a task trains.
DURATIONS = dict(segment='train_cfg.max_iters', classify='train_cfg.max_epochs')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small drawings of which one training image of each task is broken; not to be written to."""
    folder = tmp_path_factory.mktemp('tasks')
    zoo.draw_data(folder)
    for images in ('ade20k/images/training', 'imagenet/train'):
        next((folder / images).rglob('*.jpg')).write_bytes(b'no image')
    return folder


@pytest.fixture
def data(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The drawings, where the configs look for their data."""
    for variable, value in zoo.environment(root).items():
        monkeypatch.setenv(variable, value)
    return root


def arguments(task: str, work_dir: Path, **options: Any) -> dict[str, Any]:
    """Arguments of `train` and, but for the checkpoint, of `evaluate`."""
    name, nano, _ = TASKS[task]
    loaders = {
        f'{split}_dataloader.{key}': value
        for split in ('train', 'val', 'test')
        for key, value in dict(num_workers=0, persistent_workers=False).items()
    }
    return dict(
        config=str(zoo.CONFIGS / f'{name}.py'),
        work_dir=str(work_dir),
        cfg_options={
            **nano,
            **loaders,
            'train_dataloader.batch_size': 2,
            'randomness.seed': 0,
            **options,
        },
    )


@functools.cache
def trained(task: str, root: Path) -> Path:
    """Folder of a run of one step, which all tests share; not to be written to."""
    work_dir = root / f'work_{task}'
    with pytest.MonkeyPatch.context() as monkeypatch:
        for variable, value in zoo.environment(root).items():
            monkeypatch.setenv(variable, value)
        train(**arguments(task, work_dir))
    return work_dir


def checkpoint_in(work_dir: Path) -> str:
    return (work_dir / 'last_checkpoint').read_text()


@pytest.mark.parametrize('task', TASKS)
def test_train_resume_and_test_run_through(
    task: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metric = TASKS[task][-1]
    work_dir = tmp_path / 'work'
    shutil.copytree(trained(task, data), work_dir)
    longer = {DURATIONS[task]: 2}
    runner = train(**arguments(task, work_dir, **longer), resume='auto')
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 2, 'the resumed run goes on with the history of the first'
    runner = train(**arguments(task, work_dir, **longer), resume='auto', amp=True)
    told, log = capsys.readouterr().out, next(Path(runner.log_dir).glob('*.log')).read_text()
    for sentence in (' 2 of 2: nothing is left to train', ' without mixed precision and goes on'):
        assert told.count(sentence) == log.count(sentence) == 1

    out = tmp_path / 'results.pkl'
    metrics = evaluate(
        **arguments(task, work_dir),
        checkpoint=checkpoint_in(work_dir),
        out=str(out),
        show_dir='pictures',
    )
    assert metric in metrics
    results = pickle.loads(out.read_bytes())
    assert len(results) == zoo.NUM_IMAGES and 'seg_logits' not in results[0]
    # From which reports know that they name classes as the test did.
    assert results[0]['classes'] == tuple(runner.train_dataloader.dataset.metainfo['classes'])
    assert len(list(work_dir.glob('pictures/*.jpg'))) == zoo.NUM_IMAGES
    assert f'Pictures: {work_dir}/pictures\n' in capsys.readouterr().out


class Failing(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict:
        raise ZeroDivisionError


def test_predictions_outlast_a_metric_that_fails(data: Path, tmp_path: Path) -> None:
    given = arguments('classify', tmp_path)
    given['cfg_options']['test_evaluator'] = dict(_delete_=True, type=Failing)
    out = tmp_path / 'out.pkl'
    with pytest.raises(ZeroDivisionError):
        evaluate(**given, checkpoint=checkpoint_in(trained('classify', data)), out=str(out))
    assert len(pickle.loads(out.read_bytes())) == zoo.NUM_IMAGES


class WithoutMeta(Dataset):
    """A data set that knows no classes, as PyTorch's own wrappers."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def test_predictions_are_written_of_a_data_set_that_knows_no_classes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS.module_dict, 'WithoutMeta', WithoutMeta)
    checkpoint = checkpoint_in(trained('classify', data))
    given = arguments('classify', tmp_path)
    inner = read_config(given['config']).test_dataloader.dataset
    wrapped = dict(_delete_=True, type='WithoutMeta', dataset=inner.to_dict())
    given['cfg_options']['test_dataloader.dataset'] = wrapped
    evaluate(**given, checkpoint=checkpoint, out=str(tmp_path / 'out.pkl'))
    results = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert len(results) == zoo.NUM_IMAGES and results[0]['classes'] == ()


@pytest.mark.parametrize('task', TASKS)
def test_backbones_are_tested_in_bfloat16(task: str, data: Path, tmp_path: Path) -> None:
    dtypes: list[torch.dtype] = []

    def record(module: nn.Module, _: Any, outputs: Any) -> None:
        if type(module).__module__.startswith('mmdat.models.backbones'):
            dtypes.extend(x.dtype for x in outputs if isinstance(outputs, tuple))

    checkpoint = checkpoint_in(trained(task, data))
    hook = register_module_forward_hook(record)  # before that which turns maps to float32
    try:
        metrics = evaluate(**arguments(task, tmp_path), checkpoint=checkpoint, amp=True)
    finally:
        hook.remove()
    assert TASKS[task][-1] in metrics
    assert {*dtypes} == {torch.bfloat16}


@pytest.mark.parametrize('task', TASKS)
def test_a_broken_image_is_skipped(task: str, data: Path) -> None:
    log = next(trained(task, data).rglob('*.log')).read_text()
    assert 'Skipped an image that cannot be read' in log


@pytest.mark.parametrize('task, rate', [('segment', 6e-5 * 2 / 16), ('classify', 1e-3 * 2 / 1024)])
def test_the_learning_rate_is_scaled_to_the_batch(
    task: str, rate: float, data: Path, tmp_path: Path
) -> None:
    options = {'param_scheduler': [], DURATIONS[task]: 0}
    runner = train(**arguments(task, tmp_path, **options), auto_scale_lr=True)
    assert runner.optim_wrapper.param_groups[0]['lr'] == pytest.approx(rate)


def test_segments_are_tested_on_slides_and_with_augmentation(data: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_in(trained('segment', data))
    slides = evaluate(
        **arguments(
            'segment',
            tmp_path,
            **{'model.test_cfg': dict(mode='slide', crop_size=(96, 96), stride=(64, 64))},
        ),
        checkpoint=checkpoint,
    )
    small = {f'tta_pipeline.1.transforms.0.{index}.scale': (128, 128) for index in range(6)}
    augmented = evaluate(**arguments('segment', tmp_path, **small), checkpoint=checkpoint, tta=True)
    assert 'mIoU' in slides and slides.keys() == augmented.keys()


@pytest.mark.parametrize('tta', [False, True])
def test_segments_of_images_without_masks_are_written(
    tta: bool, data: Path, tmp_path: Path
) -> None:
    (tmp_path / 'images').mkdir()
    for name in ('a.jpg', 'b.jpg'):
        shutil.copy(data / 'ade20k/images/validation/0.jpg', tmp_path / 'images' / name)
    small = {f'tta_pipeline.1.transforms.0.{index}.scale': (128, 128) for index in range(6)}
    metric = dict(type='IoUMetric', format_only=True, output_dir=str(tmp_path / 'out'))
    evaluator = dict(_delete_=True, type='mmengine.Evaluator', metrics=[metric])
    options = {
        'test_dataloader.dataset.data_root': str(tmp_path),
        'test_dataloader.dataset.data_prefix.img_path': 'images',
        'test_evaluator': metric if tta else evaluator,
        **small,
    }
    evaluate(
        **arguments('segment', tmp_path / 'work', **options),
        checkpoint=checkpoint_in(trained('segment', data)),
        show_dir='pictures',
        tta=tta,
    )
    for name in ('a', 'b'):
        assert cv2.imread(str(tmp_path / 'out' / f'{name}.png')).shape == (128, 128, 3)
        assert (tmp_path / 'work' / 'pictures' / f'{name}.jpg').exists()


def test_masks_of_one_name_are_refused_before_the_test(data: Path, tmp_path: Path) -> None:
    for folder in 'ab':
        (tmp_path / 'images' / folder).mkdir(parents=True)
        image = data / 'ade20k/images/validation/0.jpg'
        shutil.copy(image, tmp_path / 'images' / folder / '0.jpg')
    options = {
        'test_dataloader.dataset.data_root': str(tmp_path),
        'test_dataloader.dataset.data_prefix.img_path': 'images',
        'test_evaluator.format_only': True,
        'test_evaluator.output_dir': str(tmp_path / 'out'),
    }
    with pytest.raises(
        UserError, match=r'masks of .*/a/0.jpg and .*/b/0.jpg would both be .* 0.png'
    ):
        evaluate(
            **arguments('segment', tmp_path / 'work', **options),
            checkpoint=checkpoint_in(trained('segment', data)),
        )
    assert not list((tmp_path / 'out').glob('*.png'))


def test_a_class_too_many_in_a_mask_ends_training(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / 'ade20k', tmp_path / 'ade20k')
    monkeypatch.setenv('ADE20K_ROOT', str(tmp_path / 'ade20k'))
    for path in (tmp_path / 'ade20k' / 'annotations' / 'training').iterdir():
        cv2.imwrite(str(path), np.full((zoo.SIZE, zoo.SIZE), 151, np.uint8))
    with pytest.raises(
        UserError, match=r'mask .*png has the value 151, which is none of the 150 classes after red'
    ):
        train(**arguments('segment', tmp_path / 'work'))


def test_masks_that_count_classes_from_zero_need_one_option(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / 'ade20k', tmp_path / 'ade20k')
    monkeypatch.setenv('ADE20K_ROOT', str(tmp_path / 'ade20k'))
    for path in (tmp_path / 'ade20k' / 'annotations' / 'validation').iterdir():
        cv2.imwrite(str(path), np.tile(np.arange(zoo.SIZE, dtype=np.uint8), (zoo.SIZE, 1)))
    config = zoo.CONFIGS / f'{TASKS["segment"][0]}.py'
    items = []
    for reduce_zero_label in (True, False):
        cfg = read_config(config, {'val_dataloader.dataset.reduce_zero_label': reduce_zero_label})
        with DefaultScope.overwrite_default_scope('mmseg'):
            items.append(DATASETS.build(cfg.val_dataloader.dataset)[0]['data_samples'])
    one_less, as_they_are = (item.gt_sem_seg.data for item in items)
    assert [item.reduce_zero_label for item in items] == [True, False]
    assert as_they_are.min() == 0 and as_they_are.max() > 0
    assert (one_less[as_they_are == 0] == 255).all()
    assert (one_less == as_they_are - 1)[as_they_are > 0].all()


def test_a_config_that_says_nothing_of_pictures_draws_them(data: Path, tmp_path: Path) -> None:
    options = {'default_hooks': dict(_delete_=True), 'visualizer': None}
    evaluate(
        **arguments('segment', tmp_path, **options),
        show_dir='pictures',
        checkpoint=checkpoint_in(trained('segment', data)),
    )
    assert len(list(tmp_path.glob('pictures/*.jpg'))) == zoo.NUM_IMAGES
