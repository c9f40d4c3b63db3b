"""What `tools/test.py` offers works with each head: slides, augmentation, pictures, results."""

import functools
from pathlib import Path

import pytest
from helpers import zoo
from helpers.nano import DETECTORS, SEGMENTORS, write_nano

from mmdat.apis import test as evaluate

# Augmented copies of a test image, all small.
SMALL_COPIES = {f'tta_pipeline.1.transforms.0.{index}.scale': (128, 128) for index in range(6)}
SLIDES = {'model.test_cfg': dict(mode='slide', crop_size=(96, 96), stride=(64, 64))}
AUGMENTED = [name for name in DETECTORS if name.startswith(('retinanet', 'mask_rcnn', 'cascade'))]

write_once = functools.cache(write_nano)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('heads')
    zoo.draw_data(folder)
    return folder


@pytest.fixture(autouse=True)
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the configs find the drawings."""
    for variable, value in zoo.environment(folder).items():
        monkeypatch.setenv(variable, value)


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith('mask2former') else name
        for name in SEGMENTORS
    ],
)
def test_a_segmentor_is_tested_on_slides_and_augmented(
    name: str, folder: Path, tmp_path: Path
) -> None:
    config, checkpoint = write_once(name, folder)
    slides = evaluate(config, checkpoint, str(tmp_path), show_dir='slides', cfg_options=SLIDES)
    augmented = evaluate(
        config,
        checkpoint,
        str(tmp_path),
        out=str(tmp_path / 'results.pkl'),
        show_dir='augmented',
        tta=True,
        cfg_options=SMALL_COPIES,
    )
    assert 'mIoU' in slides and slides.keys() == augmented.keys()
    for folder_of_pictures in ('slides', 'augmented'):
        assert len(list((tmp_path / folder_of_pictures).glob('*.jpg'))) == zoo.NUM_IMAGES


@pytest.mark.parametrize('name', AUGMENTED)
def test_a_detector_is_tested_augmented(name: str, folder: Path, tmp_path: Path) -> None:
    config, checkpoint = write_once(name, folder)
    metrics = evaluate(
        config,
        checkpoint,
        str(tmp_path),
        out=str(tmp_path / 'results.pkl'),
        show_dir='pictures',
        tta=True,
        cfg_options={'tta_pipeline.1.transforms.0.0.scale': (128, 128)},
    )
    assert metrics['coco/bbox_mAP'] >= 0
    assert len(list((tmp_path / 'pictures').glob('*.jpg'))) == zoo.NUM_IMAGES
