"""Pictures of the models' input."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mmdat.analysis.browse import browse_dataset
from mmdat.apis.model import load_config
from mmdat.errors import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'
GRAY = 90


@pytest.fixture
def ade20k_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gray images with a sky on the left half, in ADE20K's layout."""
    classes = np.zeros((64, 96), np.uint8)
    classes[:, :48] = 3  # 0 is no class, so sky is the third
    for split in ('training', 'validation'):
        for kind, ending, content in (
            ('images', 'jpg', np.full((64, 96, 3), GRAY, np.uint8)),
            ('annotations', 'png', classes),
        ):
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / f'ADE_1.{ending}'), content)
    monkeypatch.setenv('ADE20K_ROOT', str(tmp_path))
    return tmp_path


@pytest.fixture
def imagenet_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image of each of two classes, in ImageNet's layout."""
    for split in ('train', 'val'):
        for name in ('n01440764', 'n01443537'):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / f'{name}_1.JPEG'), np.full((64, 96, 3), GRAY, np.uint8))
    monkeypatch.setenv('IMAGENET_ROOT', str(tmp_path))
    return tmp_path


@pytest.mark.parametrize('split', ['train', 'val'])
def test_objects_are_drawn_where_they_are(split: str, config: Path, tmp_path: Path) -> None:
    cfg = load_config(config)
    # A pipeline as for evaluation: what it loads after it resizes would not fit the picture.
    pipeline = [
        dict(type='mmdat.LoadImageFromFile'),
        dict(type='Resize', scale=(128, 128), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs'),
    ]
    cfg[f'{split}_dataloader'].dataset.pipeline = pipeline
    if split == 'val':
        cfg.pop('visualizer')  # that of the toolbox draws
    files = browse_dataset(cfg, tmp_path / 'out' / 'new', number=2, split=split)
    last = dict(train=5, val=1)[split]
    assert [file.name for file in files] == ['0_0.jpg', f'{last}_{last}.jpg']
    plain = cv2.imread(str(tmp_path / 'coco' / f'{split}2017' / '0.png'))
    drawn = cv2.imread(str(files[0])).astype(int)
    assert drawn.shape == (128, 128, 3)
    # The objects are bright in two channels; what is drawn on them changes that, and little else.
    bright = cv2.resize(plain, (128, 128))[..., 1] > 150
    changed = np.abs(drawn - cv2.resize(plain, (128, 128))).max(-1) > 60
    assert changed[bright].mean() > 0.5 > 0.2 > changed[~bright].mean()


def test_each_branch_of_a_semi_supervised_pipeline_is_drawn(config: Path, tmp_path: Path) -> None:
    cfg = load_config(config)
    branches = ('sup', 'unsup_student')
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(
            type='MultiBranch',
            branch_field=list(branches),
            sup=dict(type='PackDetInputs'),
            unsup_student=[dict(type='Resize', scale=(32, 32)), dict(type='PackDetInputs')],
        ),
    ]
    files = browse_dataset(cfg, tmp_path / 'out', number=1)
    assert [file.name for file in files] == [f'0_0_{branch}.jpg' for branch in branches]
    assert cv2.imread(str(files[1])).shape == (32, 32, 3)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_map_of_classes_is_drawn_over_the_image(
    split: str, ade20k_root: Path, tmp_path: Path
) -> None:
    cfg = load_config(CONFIGS / 'upernet_dat_t_ade20k.py')
    (file,) = browse_dataset(cfg, tmp_path / 'out', split=split)
    assert file.name == '0_ADE_1.jpg'
    picture = cv2.imread(str(file))
    height, width = picture.shape[:2]
    if split == 'val':
        assert (height, width) == (512, 768)
        sky, nothing = np.split(picture.astype(int), 2, axis=1)
        assert np.abs(sky.mean((0, 1)) - nothing.mean((0, 1))).max() > 10
    else:
        assert 256 <= height <= width <= 512, 'what is smaller is padded in the model'


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_class_is_written_on_the_image(split: str, imagenet_root: Path, tmp_path: Path) -> None:
    cfg = load_config(CONFIGS / 'dat_t_in1k.py')
    cfg[f'{split}_dataloader'].dataset.metainfo = dict(classes=('tench', 'goldfish'))
    files = browse_dataset(cfg, tmp_path / 'out', split=split, number=5)
    assert [file.name for file in files] == ['0_n01440764_1.jpg', '1_n01443537_1.jpg']
    for file in files:
        picture = cv2.imread(str(file))
        assert picture.shape == (224, 224, 3)
        assert np.ptp(picture) > 100, 'the name is written on gray'


@pytest.mark.parametrize(
    'options, sentence',
    [
        (dict(number=0), '--number must be at least 1, got 0'),
        (
            dict(show=True),
            'there is no display to show pictures on: give --not-show and --output-dir',
        ),
        (dict(output_dir=None), '--not-show leaves nothing to do without --output-dir'),
        (dict(output_dir=__file__), r'--output-dir .*test_browse.py cannot be written to'),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    options: dict[str, Any],
    sentence: str,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=sentence):
        browse_dataset(load_config(config), **{'output_dir': tmp_path / 'out', **options})


def test_missing_data_end_in_one_sentence(config: Path, coco_root: Path, tmp_path: Path) -> None:
    coco_root.rename(tmp_path / 'elsewhere')
    with pytest.raises(UserError, match=r'instances_train2017.json does not exist') as caught:
        browse_dataset(load_config(config), tmp_path / 'out')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['upernet_dat_t_ade20k', 'dat_t_in1k'])
def test_missing_data_of_other_toolboxes_end_in_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        browse_dataset(load_config(CONFIGS / f'{name}.py'), tmp_path / 'out')
    assert '\n' not in str(caught.value)
