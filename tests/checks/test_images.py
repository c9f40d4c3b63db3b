"""Missing and broken image files are found; whole ones of any format pass."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.tiff import write_bands
from mmdet.datasets import CocoDataset
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmdat.checks import images
from mmdat.checks.images import (
    DataFiles,
    check_image_files,
    check_image_headers,
    check_images,
    is_whole,
)
from mmdat.datasets import LoadImageFromFile
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
    warnings: list[str] = []
    check_images(paths, 'val.json', can_skip=True, warn=warnings.append)
    assert warnings[0].startswith('1 of the 3 images of val.json do not exist, such as ')
    with pytest.raises(UserError, match=r'1 of the 3 images of val.json do not exist, such as .*1'):
        check_images(paths, 'val.json', can_skip=False, warn=pytest.fail)
    Path(paths[2]).rename(Path(paths[2]).with_suffix('.PNG'))
    with pytest.raises(UserError, match=r'2 of the 3 images of train.json do not exist'):
        check_images(paths, 'train.json', can_skip=True, warn=pytest.fail)


def test_images_may_lie_in_the_current_folder(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [Path(path).name for path in paths]
    check_images(names, 'val.json', can_skip=False, warn=pytest.fail)
    with pytest.raises(UserError, match=r'1 of the 4 images of val.json do not exist, such as 3'):
        check_images([*names, '3.png'], 'val.json', can_skip=False, warn=pytest.fail)


def test_names_of_images_need_not_be_in_utf_8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9.png')
    Image.new('L', (4, 3)).save(path)
    assert is_whole(path), 'OpenCV ended the process'
    assert LoadImageFromFile()(dict(img_path=path))['img'].shape == (3, 4, 3)
    Path(path).write_bytes(b'no image')
    assert not is_whole(path)


def test_a_broken_image_is_refused_in_testing(paths: list[str]) -> None:
    Path(paths[1]).write_bytes(b'no image')
    check_images(paths, 'train.json', can_skip=True, warn=pytest.fail)
    with pytest.raises(UserError, match=r'1.png is not an image .*, or take it out of val.json'):
        check_images(paths, 'val.json', can_skip=False, warn=pytest.fail)
    check_images(paths, 'val.json', can_skip=False, warn=pytest.fail, most=1)


def test_an_image_whose_name_differs_in_case_is_named(paths: list[str]) -> None:
    Path(paths[0]).rename(Path(paths[0]).with_suffix('.PNG'))
    with pytest.raises(UserError, match=r'such as .*0.png \(0.PNG does\): check data_root'):
        check_images(paths, 'val.json', can_skip=False, warn=pytest.fail)


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
    check_image_files(DataFiles(dataset, False), warn=pytest.fail)
    path = coco_root / 'val2017' / '1.png'
    path.write_bytes(path.read_bytes()[:-20])
    for in_training in (True, False):
        with pytest.raises(UserError, match=r'1.png is not an image that can be read: mend it, or'):
            check_image_files(DataFiles(dataset, in_training), warn=pytest.fail)
    skipping = build(kind, coco_root, 'mmdat.LoadImageFromFile', **options)
    skipping.pipeline.transforms[0].skip_broken = True
    check_image_files(DataFiles(skipping, True), warn=pytest.fail)
    path.unlink()
    with pytest.raises(UserError, match=r'1 of the 2 images of .* do not exist, such as .*1.png'):
        check_image_files(DataFiles(dataset, False), warn=pytest.fail)


@pytest.mark.parametrize('kind', [CocoDataset, BaseSegDataset])
def test_images_of_the_local_backend_are_checked(kind: type, coco_root: Path) -> None:
    (coco_root / 'val2017' / '1.png').write_bytes(b'no image')
    dataset = build(kind, coco_root, backend_args=dict(backend='local'))
    with pytest.raises(UserError, match=r'1.png is not an image that can be read: mend it, or'):
        check_image_files(DataFiles(dataset, False), warn=pytest.fail)
    dataset.backend_args = dict(backend='http')
    check_image_files(DataFiles(dataset, False), warn=pytest.fail)


def test_files_that_are_not_loaded_as_images_pass(coco_root: Path) -> None:
    dataset = build(BaseSegDataset, coco_root, loader='mmseg.LoadBiomedicalImageFromFile')
    (coco_root / 'val2017' / '1.png').write_bytes(b'no image')
    check_image_files(DataFiles(dataset, False), warn=pytest.fail)


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


def test_a_png_that_changed_in_the_middle_is_not_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    content = bytearray(cv2.imencode('.png', noise)[1].tobytes())
    content[len(content) // 2] ^= 255
    (tmp_path / 'image').write_bytes(content)
    assert not is_whole(str(tmp_path / 'image'))


def test_a_broken_image_in_the_folder_of_a_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'cat').mkdir()
    Image.new('RGB', (64, 64)).save(tmp_path / 'cat' / '1.webp')
    options = dict(pipeline=[dict(type='LoadImageFromFile')], extensions=['.webp'])
    dataset = CustomDataset(data_root=str(tmp_path), serialize_data=False, **options)
    check_image_files(DataFiles(dataset, False), warn=pytest.fail)
    path = tmp_path / 'cat' / '1.webp'
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r'1.webp is not an image that can be read: mend it, or ta'):
        check_image_files(DataFiles(dataset, False), warn=pytest.fail)


def save(path: Path, image: Image.Image, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def warnings_of(dataset: Any, in_training: bool = False) -> list[str]:
    warnings: list[str] = []
    check_image_headers(DataFiles(dataset, in_training), warnings.append)
    return warnings


@pytest.fixture
def square(coco_root: Path) -> Any:
    """A data set in COCO format of two images that should have 64 x 64 pixels."""
    return build(CocoDataset, coco_root, serialize_data=False)


@pytest.fixture
def wide(coco_root: Path) -> Any:
    """A data set in COCO format of two images that should have 96 x 64 pixels."""
    path = coco_root / 'annotations' / 'instances_val2017.json'
    path.write_text(path.read_text().replace('"width": 64', '"width": 96'))
    for name in ('0.png', '1.png'):
        save(coco_root / 'val2017' / name, Image.new('RGB', (96, 64)))
    return build(CocoDataset, coco_root, serialize_data=False)


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.tiff', '.avif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_sizes_are_those_that_opencv_loads(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f'image{suffix}'
    save(path, Image.new('RGB', (6, 4)), orientation)
    [header] = images.read_headers([str(path)])
    assert header and header.upright == cv2.imdecode(np.fromfile(path, np.uint8), 1).shape[1::-1]


@pytest.mark.parametrize('in_training', [True, False])
def test_images_that_loading_turns_are_refused(
    wide: Any, coco_root: Path, in_training: bool
) -> None:
    assert warnings_of(wide, in_training) == []
    save(coco_root / 'val2017' / '1.png', Image.new('RGB', (96, 64)), orientation=6)
    with pytest.raises(UserError) as refused:
        warnings_of(wide, in_training)
    assert '1 of 2 images, such as ' in str(refused.value)
    assert 'val2017/1.png, have an EXIF orientation' in str(refused.value)
    assert 'remove the orientation from these files' in str(refused.value)
    assert "color_type='color_ignore_orientation' in LoadImageFromFile of all" in str(refused.value)
    # One that was annotated upright must stay so.
    save(coco_root / 'val2017' / '0.png', Image.new('RGB', (64, 96)), orientation=8)
    with pytest.raises(UserError, match=r'1 of 2 .*: remove the orientation from these files$'):
        warnings_of(wide, in_training)
    wide.pipeline.transforms[0].color_type = 'color_ignore_orientation'
    with pytest.raises(UserError, match=r'0.png has 64 x 96 pixels, but .* is for 96 x 64, width'):
        warnings_of(wide, in_training)


def test_pictures_have_images_as_they_are_loaded(wide: Any, coco_root: Path) -> None:
    path = coco_root / 'val2017' / '0.png'
    image = np.zeros((64, 96, 3), np.uint8)
    image[:20] = 250, 60, 60
    save(path, Image.fromarray(image), orientation=6)
    assert np.array_equal(images.load_image(wide, str(path)), np.rot90(image, -1))
    loader = wide.pipeline.transforms[0]
    loader.color_type = 'color_ignore_orientation'
    assert np.array_equal(images.load_image(wide, str(path)), image)
    loader.color_type = 'grayscale'
    gray = images.load_image(wide, str(path))
    assert gray.shape == (96, 64, 3) and len({*gray[0, -1].tolist()}) == 1
    assert np.array_equal(images.to_rgb(gray[..., :1]), gray)
    loader.color_type = 'unchanged'
    save(path, Image.fromarray(np.full((4, 6), 200 << 8, np.uint16)))
    assert np.unique(images.load_image(wide, str(path))).tolist() == [200]
    augmented = np.tile(np.float32([-9, 260.5, 7]), (4, 6, 1))
    assert images.to_rgb(augmented)[0, 0].tolist() == [7, 255, 0]
    assert images.to_rgb(augmented[..., 1:]).min() == 255, 'the second of two is alpha'


@pytest.mark.parametrize('orientation', [2, 3, 4])
def test_images_upside_down_or_mirrored_are_told(
    wide: Any, coco_root: Path, orientation: int
) -> None:
    save(coco_root / 'val2017' / '1.png', Image.new('RGB', (96, 64)), orientation)
    [warning] = warnings_of(wide)
    assert warning.startswith('1 of 2 images, such as ') and 'are turned or mirrored' in warning


def test_squares_that_are_turned_are_told(square: Any, coco_root: Path) -> None:
    for name in ('0.png', '1.png'):
        save(coco_root / 'val2017' / name, Image.new('RGB', (64, 64)), orientation=6)
    [warning] = warnings_of(square)
    assert (
        warning.startswith('2 of 2 images, such as ') and 'which their sizes do not te' in warning
    )


def test_other_sizes_than_annotated_are_refused(square: Any, coco_root: Path) -> None:
    for name in ('0.png', '1.png'):
        save(coco_root / 'val2017' / name, Image.new('RGB', (32, 32)))
    with pytest.raises(UserError) as refused:
        warnings_of(square)
    assert '0.png has 32 x 32 pixels, but ' in str(refused.value)
    assert '.json is for 64 x 64: ' in str(refused.value)
    assert '(2 of 2 images are so)' in str(refused.value)


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'RGBA', 'CMYK'])
def test_kinds_of_images_that_load_well_pass(square: Any, coco_root: Path, mode: str) -> None:
    suffix = 'TIFF' if mode == 'CMYK' else 'PNG'
    Image.new(mode, (64, 64), 'white').save(coco_root / 'val2017' / '1.png', suffix)
    assert warnings_of(square) == []


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
def test_images_of_16_bits_are_told_and_faint_ones_refused(
    square: Any, coco_root: Path, suffix: str, channels: int
) -> None:
    path = coco_root / 'val2017' / '1.png'
    image = np.linspace(0, 65535, 64 * 64 * channels).reshape(64, 64, channels)

    def write(image: np.ndarray) -> None:
        path.write_bytes(cv2.imencode(suffix, image.astype(np.uint16))[1].tobytes())

    write(image)
    [warning] = warnings_of(square)
    assert '1 of 2 images of ' in warning and '1.png, have values of more than 8 bits' in warning
    # 12 bits, or temperatures.
    for faint, values in ((image / 16, '0 to 1[56]'), (28_000 + image / 32, '109 to 11[67]')):
        write(faint)
        with pytest.raises(UserError, match=rf'1.png, have .* keeps those of {values} of 0 to 255'):
            warnings_of(square)
    square.pipeline.transforms[0].color_type = 'unchanged'
    assert warnings_of(square) == []


def test_images_of_decimals_are_refused(square: Any, coco_root: Path) -> None:
    content = cv2.imencode('.tiff', np.zeros((64, 64), np.float32))[1]
    (coco_root / 'val2017' / '1.png').write_bytes(content.tobytes())
    with pytest.raises(UserError, match='1.png, have values of 32 bits or decimals, which cannot'):
        warnings_of(square)


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_transparent_pixels_are_told(square: Any, coco_root: Path, mode: str) -> None:
    Image.new(mode, (64, 64)).save(coco_root / 'val2017' / '1.png')
    [warning] = warnings_of(square)
    assert '1 of 2 images of ' in warning and '1.png, have transparent pixels' in warning


@pytest.mark.parametrize('kind', ['GIF', 'TIFF', 'WEBP', 'PNG'])
def test_files_of_several_images_are_told(square: Any, coco_root: Path, kind: str) -> None:
    first, second = (Image.new('RGB', (64, 64), color) for color in ('red', 'blue'))
    path = coco_root / 'val2017' / '1.png'
    first.save(path, kind, save_all=True, append_images=[second])
    [warning] = warnings_of(square)
    assert '1 of 2 files of ' in warning and '1.png with 2, hold several images' in warning


@pytest.mark.parametrize('color', [True, False])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_channels_that_loading_leaves_out_are_told(
    square: Any, coco_root: Path, color: bool, dtype: str
) -> None:
    write_bands(coco_root / 'val2017' / '1.png', np.full((64, 64, 4), 40, dtype), color)
    if dtype == 'uint16':
        with pytest.raises(UserError, match='1.png, have values of more than 8 bits'):
            warnings_of(square)
        write_bands(
            coco_root / 'val2017' / '1.png',
            np.eye(64, dtype=dtype)[..., None].repeat(4, 2) * 65535,
            color,
        )
    *_, warning = warnings_of(square)
    assert '1 of 2 images of ' in warning and '1.png, have more channels than red' in warning
    if dtype == 'uint16':  # as GDAL writes three bands, all of which are loaded
        bands = np.eye(64, dtype=dtype)[..., None].repeat(3, 2) * 65535
        write_bands(coco_root / 'val2017' / '1.png', bands, color)
        assert not any('more channels' in warning for warning in warnings_of(square))
    square.pipeline.transforms[0].imdecode_backend = 'tifffile'  # which gives all channels
    assert warnings_of(square) == []


def test_of_many_training_images_some_headers_are_read(
    square: Any, coco_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(coco_root / 'val2017' / '1.png', Image.new('RGB', (32, 32)))
    monkeypatch.setattr(images, 'MOST_HEADERS', 1)
    assert warnings_of(square, in_training=True) == []
    with pytest.raises(UserError, match='1.png has 32 x 32 pixels'):
        warnings_of(square)
