"""Missing and broken image files are found; whole ones of any format pass."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset

from mmdat.checks.images import check_image_files, check_images, is_whole
from mmdat.errors import UserError


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Three whole images."""
    files = [tmp_path / f'{index}.png' for index in range(3)]
    for file in files:
        cv2.imwrite(str(file), np.zeros((2, 2, 3), np.uint8))
    return list(map(str, files))


def test_a_missing_image_is_refused_in_testing_many_in_training(paths: list[str]) -> None:
    Path(paths[1]).unlink()
    check_images(paths, 'val.json', in_training=True)
    with pytest.raises(UserError, match=r'1 of the 3 images of val.json do not exist, such as .*1'):
        check_images(paths, 'val.json', in_training=False)
    Path(paths[2]).unlink()
    with pytest.raises(UserError, match=r'2 of the 3 images of train.json do not exist'):
        check_images(paths, 'train.json', in_training=True)


def test_a_broken_image_is_refused_in_testing(paths: list[str]) -> None:
    Path(paths[1]).write_bytes(b'no image')
    check_images(paths, 'train.json', in_training=True)
    with pytest.raises(UserError, match=r'1.png is not an image .*, or take it out of val.json'):
        check_images(paths, 'val.json', in_training=False)


def build(kind: type, root: Path, loader: str = 'LoadImageFromFile', **options: Any) -> Any:
    """A data set of any toolbox with the two images in ``root/val2017``."""
    images = {'img_suffix': '.png'} if kind is BaseSegDataset else {}
    if kind is CocoDataset:
        images = {'ann_file': 'annotations/instances_val2017.json', 'test_mode': True}
        options.setdefault('metainfo', dict(classes=('box', 'disk')))
    key = 'img' if kind is CocoDataset else 'img_path'
    return kind(
        data_root=str(root),
        data_prefix={key: 'val2017'},
        pipeline=[dict(type=loader)],
        **images,
        **options,
    )


@pytest.mark.parametrize('kind', [CocoDataset, BaseSegDataset, CustomDataset])
def test_images_of_each_toolbox_are_checked(kind: type, coco_root: Path) -> None:
    options = {}
    if kind is CustomDataset:
        (coco_root / 'val.txt').write_text('0.png 0\n1.png 0\n')
        options = dict(ann_file='val.txt', metainfo=dict(classes=('shape',)))
    dataset = build(kind, coco_root, **options)
    assert len(dataset) == 2
    check_image_files(dataset, in_training=False)
    path = coco_root / 'val2017' / '1.png'
    path.write_bytes(path.read_bytes()[:-20])
    check_image_files(dataset, in_training=True)
    with pytest.raises(UserError, match=r'1.png is not an image that can be read: mend it, or ta'):
        check_image_files(dataset, in_training=False)
    path.unlink()
    with pytest.raises(UserError, match=r'1 of the 2 images of .* do not exist, such as .*1.png'):
        check_image_files(dataset, in_training=False)


def test_files_that_are_not_loaded_as_images_pass(coco_root: Path) -> None:
    dataset = build(BaseSegDataset, coco_root, loader='mmseg.LoadBiomedicalImageFromFile')
    (coco_root / 'val2017' / '1.png').write_bytes(b'no image')
    check_image_files(dataset, in_training=False)


@pytest.mark.parametrize('suffix, cut', [('.jpg', 2), ('.png', 12), ('.bmp', 0)])
def test_image_is_whole_if_its_end_is_there(tmp_path: Path, suffix: str, cut: int) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    content = cv2.imencode(suffix, noise)[1].tobytes()

    def is_read(content: bytes) -> bool:
        (tmp_path / 'image').write_bytes(content)
        return is_whole(str(tmp_path / 'image'))

    assert is_read(content)
    assert is_read(content + bytes(20))
    assert is_read(content + bytes(20_000))
    assert not is_read(b'')
    assert not is_read(b'no image')
    if cut:
        assert not is_read(content[:-cut])
        assert not is_read(content[: len(content) // 2])
