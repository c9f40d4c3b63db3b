"""The toolboxes' own inferencers take each config, where no data are."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import configs
from helpers.nano import CLASSIFIERS, DETECTORS, SEGMENTORS, write_nano
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.registry import DefaultScope
from mmpretrain import ImageClassificationInferencer, get_model
from mmseg.apis import MMSegInferencer, inference_model, init_model

ON_CPU = dict(device='cpu')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images and no data set."""
    folder = tmp_path_factory.mktemp('inferencers')
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir()
    for name in 'ab':
        image = rng.integers(256, size=(60, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / 'images' / f'{name}.png'), image)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder, as in a new process: without the scope of an earlier model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DefaultScope, '_instance_dict', type(DefaultScope._instance_dict)())
    yield


write_once = functools.cache(write_nano)


def inputs_in(folder: Path) -> list[Any]:
    """The two images: a path, and an array."""
    first, second = sorted((folder / 'images').iterdir())
    return [str(first), cv2.imread(str(second))]


@pytest.mark.parametrize('name', configs.NAMES)
def test_each_config_has_the_transforms_that_inferencers_look_for(name: str) -> None:
    cfg = configs.load(name)
    pipeline = cfg.test_dataloader.dataset.pipeline
    # They find and replace the loaders by these names, without a scope.
    first, *loaders = [step.type for step in pipeline if 'Load' in step.type]
    assert first == pipeline[0].type == 'LoadImageFromFile'
    assert loaders == ([] if cfg.default_scope == 'mmpretrain' else ['LoadAnnotations'])
    if cfg.default_scope == 'mmseg':  # whose inference_model looks at the top of the config
        assert cfg.test_pipeline == pipeline


@pytest.mark.parametrize('name', DETECTORS)
def test_a_detector_is_used(name: str, folder: Path) -> None:
    config, checkpoint = write_once(name, folder)
    both = DetInferencer(config, checkpoint, show_progress=False, **ON_CPU)
    alone = DetInferencer(weights=checkpoint, show_progress=False, **ON_CPU)
    expected = both(inputs_in(folder), no_save_vis=True)['predictions']
    found = alone(str(folder / 'images'), batch_size=2, no_save_vis=True)['predictions']
    for sample in found + expected:
        assert len(sample['labels']) and np.isfinite(sample['bboxes']).all()
    assert len(found) == 2
    model = init_detector(config, checkpoint, **ON_CPU)
    assert model.dataset_meta['classes'][0] == 'person'
    for sample, image in zip(expected, inputs_in(folder), strict=True):
        instances = inference_detector(model, image).pred_instances
        assert instances.labels.tolist() == sample['labels']
        np.testing.assert_allclose(instances.scores, sample['scores'], atol=1e-5)


def test_the_checkpoint_of_a_training_is_enough(
    trained: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('COCO_ROOT')
    inferencer = DetInferencer(weights=str(trained.checkpoint), show_progress=False, **ON_CPU)
    assert inferencer.model.dataset_meta['classes'] == ('box', 'disk')
    assert inferencer(inputs_in(folder), no_save_vis=True)['predictions'][1]['labels']


@pytest.mark.parametrize('name', SEGMENTORS)
def test_a_segmentor_is_used(name: str, folder: Path) -> None:
    config, checkpoint = write_once(name, folder)
    both = MMSegInferencer(config, checkpoint, **ON_CPU)
    alone = MMSegInferencer(None, checkpoint, **ON_CPU)
    expected = both(inputs_in(folder))['predictions']
    found = alone(str(folder / 'images'), batch_size=2)['predictions']
    assert [classes.shape for classes in found + expected] == [(60, 80)] * 4
    model = init_model(config, checkpoint, **ON_CPU)
    assert model.dataset_meta['classes'][0] == 'wall'
    for classes, image in zip(expected, inputs_in(folder), strict=True):
        np.testing.assert_array_equal(inference_model(model, image).pred_sem_seg.data[0], classes)


@pytest.mark.parametrize(
    'name', ['retinanet_dat_t_coco', 'semantic_fpn_scalablevit_s_ade20k', 'dat_t_in1k']
)
def test_pictures_are_written(name: str, folder: Path, tmp_path: Path) -> None:
    model, images, out = write_once(name, folder), str(folder / 'images'), str(tmp_path)
    if name in DETECTORS:
        detector = DetInferencer(*model, show_progress=False, **ON_CPU)
        detector(images, out_dir=out, pred_score_thr=0.0)
    elif name in SEGMENTORS:
        MMSegInferencer(*model, **ON_CPU)(images, out_dir=out)
    else:
        ImageClassificationInferencer(*model, **ON_CPU)(images, show_dir=out)
    pictures = [path for path in tmp_path.rglob('*') if path.parent.name != 'pred']
    pictures = [path for path in pictures if path.suffix in ('.png', '.jpg')]
    assert len(pictures) == 2
    original = cv2.imread(str(folder / 'images' / 'a.png'))
    drawn = cv2.imread(str(min(pictures)))
    assert drawn.shape != original.shape or (drawn != original).any()


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_a_classifier_is_used(name: str, folder: Path) -> None:
    config, checkpoint = write_once(name, folder)
    inferencer = ImageClassificationInferencer(config, checkpoint, **ON_CPU)
    model = get_model(config, checkpoint, **ON_CPU)
    expected = inferencer(inputs_in(folder))
    found = ImageClassificationInferencer(model)(str(folder / 'images'), batch_size=2)
    assert len(found) == len(expected) == 2
    for sample in found + expected:
        assert sample['pred_class'] == inferencer.classes[sample['pred_label']]
        assert sample['pred_scores'].sum() == pytest.approx(1)
