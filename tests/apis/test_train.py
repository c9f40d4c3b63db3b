"""Training, resuming and testing a detector; each way on which a sentence reaches the user."""

import importlib.util
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from helpers.forks import end, start

from mmdat.analysis.data import check_data
from mmdat.apis import test as evaluate
from mmdat.apis import train
from mmdat.checks.config_file import read_config
from mmdat.datasets import LoadImageFromFile
from mmdat.engine import CountBrokenImagesHook
from mmdat.errors import UserError
from mmdat.files import alone_in
from mmdat.ops import cpu


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def repeated(config: Path, split: str, *parts: list[int]) -> dict[str, Any]:
    """Options that put a config's data set into wrappers: parts of it, one behind the other."""
    dataset = read_config(config)[f'{split}_dataloader'].dataset.to_dict()
    both = dict(type='ConcatDataset', datasets=[dict(dataset, indices=part) for part in parts])
    wrapper = dict(_delete_=True, type='RepeatDataset', times=1, dataset=both)
    return {f'{split}_dataloader.dataset': wrapper}


def test_training_goes_on_where_it_stopped(trained: Any, tmp_path: Path) -> None:
    work_dir = tmp_path / 'work'
    shutil.copytree(trained.work_dir, work_dir)
    hook = dict(type='mmdat.AttentionVisualizationHook', num_images=1)
    options = {'train_cfg.max_epochs': 2, 'custom_hooks': [hook]}
    runner = train(str(trained.config), str(work_dir), resume='auto', cfg_options=options)
    assert torch.load(work_dir / 'epoch_2.pth', weights_only=True)['meta']['epoch'] == 2
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 6, 'the resumed run goes on with the history of the first'
    (picture,) = work_dir.glob('*/vis_data/vis_image/deformed*')
    assert picture.name == 'deformed_points_0.png_2.png'
    assert cv2.imread(str(picture)).shape[1] == 496


def test_a_training_that_is_refused_leaves_the_files_of_the_one_that_runs(
    config: Path, tmp_path: Path
) -> None:
    work_dir = tmp_path / 'work'

    def be_refused() -> None:
        with pytest.raises(UserError, match=f'another training is writing to {work_dir}: give'):
            train(str(config), str(work_dir))

    with alone_in(work_dir):
        end(start(be_refused, tmp_path / 'log'), tmp_path / 'log')
    assert [path.name for path in work_dir.iterdir()] == ['.lock']


def test_an_interrupted_training_says_where_to_look_and_leaves_curves(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        """As KeyboardInterrupt, which would end the tests."""

    def interrupt(hook: object, runner: object, batch_idx: int, **_: object) -> None:
        if batch_idx == 1:
            raise Killed

    monkeypatch.setattr(CountBrokenImagesHook, 'after_train_iter', interrupt)
    monkeypatch.setattr(cpu, 'KERNELS', None)
    work_dir = tmp_path / 'a work dir'
    backends = ['tensorboard'] if importlib.util.find_spec('tensorboard') else []
    with pytest.raises(Killed):
        train(
            str(config),
            str(work_dir),
            cfg_options={'default_hooks.logger.interval': 1},
            vis_backends=backends,
        )
    (path,) = work_dir.glob('*/*.log')
    log = path.read_text()
    assert torch.cuda.is_available() or 'kernels in C++, which are not built: python -c' in log
    terminal, errors = capfd.readouterr()
    before_first_step = terminal.partition('Epoch(train)')[0].splitlines() + errors.splitlines()
    assert len(before_first_step) < 40, 'what is long is in the file alone'
    assert f'Config, environment, hooks and rates of parameters: {path}' in terminal
    for long in ('System environment:', '\nmodel', 'CheckFitHook', 'paramwise_options -- '):
        assert long in log and long not in terminal
    assert f'Watch this training in {work_dir}: log 20' in log
    assert log.count(f"`tensorboard --logdir '{work_dir}'`") == len(backends)
    assert len(list(work_dir.glob('*/vis_data/events.*'))) == len(backends)
    assert f'Curves: {work_dir}/curves.png' in log
    assert cv2.imread(str(work_dir / 'curves.png')).std() > 10


def test_no_picture_is_promised_without_the_backend_that_keeps_its_numbers(
    trained: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work_dir = tmp_path / 'work'
    shutil.copytree(trained.work_dir, work_dir)
    options = {'train_cfg.max_epochs': 2, 'visualizer.vis_backends': []}
    train(str(trained.config), str(work_dir), resume='latest', cfg_options=options)
    told = capfd.readouterr().out
    assert f'Watch this training in {work_dir}: log 20' in told
    assert 'curves' not in told.lower()


def test_a_missing_visual_backend_is_told_in_a_sentence(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    with pytest.raises(UserError, match='needs the package tensorboard: run `pip install tensorb'):
        train(str(config), str(tmp_path / 'work'), vis_backends=['tensorboard'])
    with pytest.raises(UserError, match=r'WandbVisBackend needs .* wandb: run `pip install wandb`'):
        train(str(config), str(tmp_path / 'work'), vis_backends=['wandb'])
    with pytest.raises(UserError, match=r"'tensorbord' is no visual backend: did you mean 'tensor"):
        train(str(config), str(tmp_path / 'work'), vis_backends=['tensorbord'])
    named = {'visualizer.vis_backends': [dict(type='mmengine.AimVisBackend')]}
    with pytest.raises(UserError, match='AimVisBackend needs the package aim'):
        train(str(config), str(tmp_path / 'work'), cfg_options=named)


@pytest.mark.parametrize(
    'monitor, sentence',
    [
        ('coco/bbox_mAP50', "which val_evaluator does not give: did you mean 'coco/bbox_mAP_50'"),
        ('coco/bbox_mPA', 'custom_hooks.* goes by coco/bbox_mPA, of .* check its spelling, or set'),
    ],
)
def test_a_metric_that_never_comes_ends_a_training_before_it_begins(
    monitor: str, sentence: str, config: Path, tmp_path: Path
) -> None:
    hook = dict(type='EarlyStoppingHook', monitor=monitor)
    with pytest.raises(UserError, match=sentence):
        train(str(config), str(tmp_path / 'work'), cfg_options={'custom_hooks': [hook]})
    assert not list(tmp_path.glob('work/*.pth'))


def test_mlflow_writes_to_a_database(config: Path) -> None:
    cfg = read_config(config)
    cfg.work_dir = 'runs/mine/'
    importlib.import_module('mmdat.apis.train')._add_vis_backends(cfg, ['mlflow'])
    added = dict(cfg.visualizer.vis_backends[-1], type='MLflowVisBackend')
    assert added.items() >= dict(exp_name='mine', tracking_uri='sqlite:///mlflow.db').items()


def test_a_checkpoint_is_tested_and_its_predictions_kept(trained: Any, tmp_path: Path) -> None:
    out = tmp_path / 'results.pkl'
    arguments = (str(trained.config), str(trained.checkpoint), str(tmp_path))
    metrics = evaluate(*arguments, out=str(out), show_dir='pictures')
    assert 'coco/segm_mAP_50' in metrics
    assert len(pickle.loads(out.read_bytes())) == 2
    assert sorted(path.name for path in tmp_path.glob('pictures/*')) == ['0.png', '1.png']

    # In wrapped data each data set has a pipeline of its own, which must augment the images.
    wrapped = repeated(trained.config, 'test', [0], [1])
    augmented = evaluate(*arguments, tta=True, cfg_options=wrapped)
    assert augmented.keys() == metrics.keys()


def test_each_of_several_test_sets_has_figures_of_its_own(trained: Any, tmp_path: Path) -> None:
    cfg = read_config(trained.config)
    dataset, metric = cfg.test_dataloader.dataset.to_dict(), cfg.test_evaluator.to_dict()
    root = trained.config.with_name('coco')
    content = json.loads((root / 'annotations' / 'instances_val2017.json').read_text())
    arguments = (str(trained.config), str(trained.checkpoint), str(tmp_path))
    expected, parts, metrics = {}, [], []
    for name, image in zip(('first', 'second'), content['images'], strict=True):
        own = [item for item in content['annotations'] if item['image_id'] == image['id']]
        path = tmp_path / f'{name}.json'
        path.write_text(json.dumps(content | dict(images=[image], annotations=own)))
        files = {f'test_{part}.ann_file': str(path) for part in ('dataloader.dataset', 'evaluator')}
        alone = evaluate(*arguments, cfg_options=files)
        expected |= {f'{name}/{key}': value for key, value in alone.items()}
        # mmdet's ConcatDataset has a list of what its parts know where colors differ.
        palette = [(len(parts), 0, 0), (0, 0, 0)]
        metainfo = dict(dataset['metainfo'], palette=palette)
        parts.append(dict(dataset, ann_file=str(path), metainfo=metainfo))
        metrics.append(dict(metric, ann_file=str(path)))
    concatenated = dict(_delete_=True, type='ConcatDataset', datasets=parts)
    evaluator = dict(_delete_=True, type='MultiDatasetsEvaluator', metrics=metrics)
    evaluator['dataset_prefixes'] = ['first', 'second']
    options = {'test_dataloader.dataset': concatenated, 'test_evaluator': evaluator}
    out = tmp_path / 'results.pkl'
    assert evaluate(*arguments, str(out), 'pictures', cfg_options=options) == expected
    results = pickle.loads(out.read_bytes())
    assert [sample['img_id'] for sample in results] == [0, 1]
    assert results[0]['classes'] == ('box', 'disk')
    assert len(list(tmp_path.glob('pictures/*'))) == 2
    assert check_data(str(trained.config), str(tmp_path), cfg_options=options).errors == []

    # A metric or a data set more would be left out.
    for key, value in (('dataset_prefixes', ['first']), ('metrics', metrics * 2)):
        wrong = options | dict(test_evaluator=evaluator | {key: value})
        with pytest.raises(UserError, match='for 2 data sets: give one of each'):
            evaluate(*arguments, cfg_options=wrong)


def test_a_test_needs_no_data_of_the_training(trained: Any, tmp_path: Path) -> None:
    options = {
        'custom_hooks': [dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP')],
        'default_hooks.stopping': dict(type='EarlyStoppingHook', monitor='coco/segm_mAP'),
        'train_dataloader.dataset.ann_file': 'missing.json',
    }
    arguments = (str(trained.config), str(trained.checkpoint), str(tmp_path))
    assert 'coco/bbox_mAP' in evaluate(*arguments, cfg_options=options)


@pytest.mark.parametrize('forget', [dict.clear, lambda content: content['annotations'].clear()])
def test_detections_in_images_without_annotations_are_written(
    forget: Callable[[dict], object], trained: Any, tmp_path: Path
) -> None:
    content = json.loads(
        trained.config.with_name('coco').joinpath('annotations/instances_val2017.json').read_text()
    )
    kept = {key: content[key] for key in ('images', 'categories')}
    forget(content)
    annotations = tmp_path / 'images.json'
    annotations.write_text(json.dumps(content | kept))
    options = {
        'test_dataloader.dataset.ann_file': str(annotations),
        'test_evaluator.ann_file': str(annotations),
        'test_evaluator.format_only': True,
        'test_evaluator.outfile_prefix': str(tmp_path / 'found'),
        'model.test_cfg.rcnn.score_thr': 0.0,
    }
    evaluate(str(trained.config), str(trained.checkpoint), str(tmp_path), cfg_options=options)
    found = json.loads((tmp_path / 'found.segm.json').read_text())
    assert {detection['image_id'] for detection in found} == {0, 1}


def test_broken_training_images_are_skipped_and_counted_in_wrapped_data_too(
    config: Path, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (coco_root / 'train2017' / '0.png').write_bytes(b'no image')
    link = tmp_path / 'Größe 中 {{x}} %s [1]'
    link.symlink_to(coco_root)
    monkeypatch.setenv('COCO_ROOT', str(link))
    before = {path: path.stat().st_mtime_ns for path in coco_root.rglob('*')}
    options = repeated(config, 'train', [0, 1, 2], [3, 4, 5])
    runner = train(str(config), str(tmp_path / 'work'), cfg_options=options)
    after = {path: path.stat().st_mtime_ns for path in coco_root.rglob('*')}
    assert before == after, 'nothing is written where the data are'
    first, second = runner.train_dataloader.dataset.dataset.datasets
    loaders = [dataset.pipeline.transforms[0] for dataset in (first, second)]
    assert all(isinstance(loader, LoadImageFromFile) for loader in loaders)
    assert [loader.num_broken for loader in loaders] == [1, 0]
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    assert log.count('/0.png') == 1 and log.count('1 images cannot be read') == 1


def break_annotations(config: Path, root: Path) -> None:
    path = root / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    del content['annotations'][3]['category_id']
    path.write_text(json.dumps(content))


def break_images(config: Path, root: Path) -> None:
    for index in range(5):
        (root / 'train2017' / f'{index}.png').write_bytes(b'no image')


# When it is found -> the mistake, and the sentence; all others are tested in tests/checks.
MISTAKES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    'the config is read': (
        lambda config, root: config.write_text('model = dict('),
        r'config .* is not valid Python: .* in line 1',
    ),
    'before anything is built': (
        lambda config, root: root.rename(root.with_name('elsewhere')),
        r'data root .*/coco/ of train_dataloader does not exist: set .*COCO_ROOT',
    ),
    'a part of the model is built': (
        lambda config, root: replace(config, "arch='nano'", "arch='nano', drop_path_rat=0.1"),
        r"unknown key 'model.backbone.drop_path_rat' for DATPlusPlus: did you mean 'drop_path_r",
    ),
    'the training data are built': (
        break_annotations,
        r"not in COCO format: in 'annotations' the item with id 3 has no 'category_id'",
    ),
    'the optimizer is built': (
        lambda config, root: config.write_text(
            config.read_text() + "optim_wrapper = dict(optimizer=dict(lr='high'))"
        ),
        r'optim_wrapper cannot be used: ',
    ),
    'the files of the validation data are looked for': (
        lambda config, root: (root / 'val2017' / '1.png').unlink(),
        r'1 of the 2 images of .*val2017.json do not exist, such as .*val2017/1.png',
    ),
    'the loader of the validation data is built': (
        lambda config, root: config.write_text(config.read_text() + "val_dataloader['x'] = 0\n"),
        r"unknown key 'val_dataloader.x' for DataLoader: allowed are .*'batch_size'",
    ),
    'all is built': (  # also with hooks of one's own in place of ours
        lambda config, root: config.write_text(
            config.read_text() + "model['roi_head']['bbox_head']['num_classes'] = 80\n"
            "custom_hooks = [dict(type='EMAHook')]\n"
        ),
        r'model.roi_head.bbox_head.num_classes is 80, but the data set has 2 classes \(box, disk',
    ),
    'a step is taken': (break_images, r'of the first \d+ images cannot be read, the last is .*png'),
}


@pytest.mark.parametrize('moment', MISTAKES)
def test_a_mistake_ends_training_in_one_sentence(
    moment: str, config: Path, coco_root: Path, tmp_path: Path
) -> None:
    apply, sentence = MISTAKES[moment]
    apply(config, coco_root)
    with pytest.raises(UserError, match=sentence) as caught:
        train(str(config), str(tmp_path / 'work'))
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.rglob('*.pth'))


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (dict(resume='latest'), r'--resume found no checkpoint in .*work'),
        (dict(resume=''), r"there is no checkpoint '': give"),
        (
            dict(cfg_options={'load_from': 'nowhere.pth'}),
            r"there is no checkpoint 'nowhere.pth': give",
        ),
        (
            dict(cfg_options={'train_dataloder.batch_size': 1}),
            r"unknown key 'train_dataloder.batch_size' in --cfg-options",
        ),
        (dict(cfg_options={'default_scope': 'mmpose'}), "is 'mmpose', which is none of"),
        (dict(launcher='slurm'), '--launcher slurm must be started by srun'),
        (dict(auto_scale_lr=True, cfg_options={'auto_scale_lr': None}), '--auto-scale-lr needs'),
        pytest.param(
            dict(amp=True, cfg_options={'optim_wrapper.dtype': 'float16'}),
            r'--amp with optim_wrapper.dtype float16 needs a GPU',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here'),
        ),
    ],
)
def test_a_wrong_argument_ends_before_anything_is_written(
    arguments: dict, sentence: str, config: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(str(config), str(tmp_path / 'work'), **arguments)
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (dict(checkpoint='damaged.pth'), 'damaged.pth cannot be loaded as a checkpoint'),
        (dict(out='results.json'), '--out results.json must end in .pkl'),
        (dict(tta=True, cfg_options={'tta_model': None}), '--tta needs tta_model in .*py'),
        (dict(cfg_options={'test_dataloader': None}), 'config .* has no test_dataloader: add one'),
    ],
)
def test_a_wrong_argument_ends_a_test_before_anything_is_written(
    arguments: dict[str, Any],
    sentence: str,
    trained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('damaged.pth').write_bytes(b'no checkpoint')
    given = dict(checkpoint=str(trained.checkpoint), work_dir='work') | arguments
    with pytest.raises(UserError, match=sentence):
        evaluate(str(trained.config), **given)
    assert not Path('work').exists()


def test_a_work_dir_that_is_a_file_is_refused(config: Path) -> None:
    with pytest.raises(UserError, match=r'work dir .* cannot be written to: .* is not a folder'):
        train(str(config), str(config))


@pytest.mark.parametrize(
    'options, sentence',
    [
        (
            {
                'model.backbone.arch': dict(
                    _delete_=True,
                    embed_dims=(16, 32, 64, 128),
                    num_heads=(1, 2, 4, 8),
                    groups=(1, 1, 2, 4),
                    blocks=('D', 'D', 'D', 'D'),
                )
            },
            'lacks backbone.stages.0',
        ),
        ({'model.roi_head.mask_head.num_convs': 2}, r'lacks roi_head.mask_head.convs.1.*bias'),
    ],
)
def test_a_checkpoint_of_another_model_is_not_tested(
    options: dict[str, Any], sentence: str, trained: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f'epoch_1.pth is of another model.*{sentence}'):
        evaluate(str(trained.config), str(trained.checkpoint), str(tmp_path), cfg_options=options)


def test_other_heads_can_be_trained_from_a_checkpoint(trained: Any, tmp_path: Path) -> None:
    options = {
        'model.roi_head.mask_head.num_convs': 2,
        'load_from': str(trained.checkpoint),
        # Half of the data: what counts is that it starts.
        'train_dataloader.dataset.indices': 2,
    }
    runner = train(str(trained.config), str(tmp_path), cfg_options=options)
    assert runner.epoch == 1
