"""Which share of broken images is passed over, and which ends training; sizes; broken masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmdat.datasets import LoadImageFromFile
from mmdat.datasets.segmentation_map import LoadSegmentationMap
from mmdat.errors import UserError


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Forty images, the first twenty of them broken."""
    paths = [tmp_path / f'{index}.png' for index in range(40)]
    for path in paths[:20]:
        path.write_bytes(b'no image')
    for path in paths[20:]:
        cv2.imwrite(str(path), np.zeros((2, 2, 3), dtype=np.uint8))
    return list(map(str, paths))


def tries_before_giving_up(paths: list[str]) -> int | None:
    transform = LoadImageFromFile(skip_broken=True)
    for number, path in enumerate(paths, start=1):
        try:
            transform.transform(dict(img_path=path))
        except UserError as error:
            assert f'images cannot be read, the last is {path}' in str(error)
            return number
    return None


@pytest.mark.parametrize(
    'choose',
    [
        lambda broken, fine: broken[:12] + fine,  # an unlucky start
        lambda broken, fine: broken[:1] * 10 + fine,  # the same image again and again
        lambda broken, fine: (broken[:5] + fine[:19]) * 20,  # many epochs
        lambda broken, fine: (broken[:2] + fine[:3]) * 20,
    ],
)
def test_training_goes_on_unless_most_images_are_broken(
    paths: list[str], choose: Callable[[list[str], list[str]], list[str]]
) -> None:
    assert tries_before_giving_up(choose(paths[:20], paths[20:])) is None


@pytest.mark.parametrize(
    'broken, fine, most',
    [
        (20, 0, 20),  # all of a large set
        (2, 0, 20),  # all of a small one
        (5, 1, 20),
        (16, 14, 90),
    ],
)
def test_training_ends_soon_if_most_images_are_broken(
    paths: list[str], broken: int, fine: int, most: int
) -> None:
    tries = tries_before_giving_up((paths[20 : 20 + fine] + paths[:broken]) * 20)
    assert tries is not None and tries <= most + broken + fine


def test_broken_images_are_counted_and_told_once(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr('mmdat.datasets.loading.log_warning', told.append)
    transform = LoadImageFromFile(skip_broken=True)
    for path in [paths[0], paths[20], paths[0], paths[1]]:
        transform.transform(dict(img_path=path))
    assert transform.num_broken == len(told) == 2


@pytest.mark.parametrize('options', [{}, dict(progressive=True)])
def test_a_truncated_jpeg_counts_as_broken(options: dict, tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **options)
    content = path.read_bytes()
    transform = LoadImageFromFile(skip_broken=True)
    assert transform.transform(dict(img_path=str(path))) is not None
    for end in (-2, -50, len(content) // 2):
        path.write_bytes(content[:end])
        assert transform.transform(dict(img_path=str(path))) is None


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, np.zeros((4, 6, 3), np.uint8))
    transform = LoadImageFromFile(skip_broken=True)
    assert transform.transform(dict(img_path=path, height=4, width=6)) is not None
    with pytest.raises(UserError, match=r'a.png has 6 x 4 pixels, but its .* 4 x 6, width and'):
        transform.transform(dict(img_path=path, height=6, width=4))


@pytest.mark.parametrize('content', [b'no image', b''])
def test_a_mask_that_cannot_be_read_is_refused(content: bytes, tmp_path: Path) -> None:
    mask = tmp_path / 'mask.png'
    cv2.imwrite(str(mask), np.full((2, 2), 3, np.uint8))

    def load() -> np.ndarray:
        results = dict(seg_map_path=str(mask), seg_fields=[], reduce_zero_label=True)
        return LoadSegmentationMap().transform(results)['gt_seg_map']

    assert (load() == 2).all(), 'the data set says that 0 is no class'
    mask.write_bytes(content)
    with pytest.raises(UserError, match='mask .*mask.png cannot be read .*: mend it, or take its'):
        load()
    mask.unlink()
    with pytest.raises(UserError, match=r'mask .* cannot be read \(No such file or directory\)'):
        load()


def load_mask(path: Path, **results: Any) -> np.ndarray:
    defaults = dict(seg_map_path=str(path), seg_fields=[], reduce_zero_label=False)
    return LoadSegmentationMap().transform(defaults | results)['gt_seg_map']


def test_a_mask_is_mapped_as_mmsegmentation_does(tmp_path: Path) -> None:
    path = tmp_path / 'mask.png'
    cv2.imwrite(str(path), np.arange(256, dtype=np.uint8).reshape(16, 16))
    label_map = {value: (value + 7) % 256 for value in range(256)}
    for options in (
        dict(reduce_zero_label=True),
        dict(label_map=label_map),
        dict(label_map=label_map, reduce_zero_label=True),
    ):
        results = dict(seg_map_path=str(path), seg_fields=[], reduce_zero_label=False) | options
        expected = LoadAnnotations().transform(dict(results, seg_fields=[]))['gt_seg_map']
        assert (load_mask(path, **options) == expected).all()


@pytest.mark.parametrize(
    'values, results, sentence',
    [
        (np.zeros((4, 6, 3), np.uint8), {}, 'mask .*mask.png is a color image'),
        (np.full((4, 6), 300, np.uint16), {}, 'mask.png has values from 300 to 300, which load'),
        (
            np.zeros((2, 3), np.uint8),
            dict(ori_shape=(4, 6), img_path='a.jpg'),
            'image a.jpg has 6 x 4 pixels, but its mask .*mask.png is for 3 x 2',
        ),
        (
            np.full((4, 6), 7, np.uint8),
            dict(label_map={0: 0, 1: 255}),
            'mask.png has the value 7, which the data set does not know: name its class in mask_v',
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    values: np.ndarray, results: dict, sentence: str, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / 'mask.png'), values)
    with pytest.raises(UserError, match=sentence):
        load_mask(tmp_path / 'mask.png', **results)
