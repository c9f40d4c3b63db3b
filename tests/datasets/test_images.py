"""Each kind of image is read upright, in its own size and with the right colors."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.tiff import write_bands
from PIL import Image, ImageOps

from mmdat.datasets.images import SCALED, UnreadableError, read_image

HEIGHT, WIDTH = 40, 60
RGB = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8),
    (WIDTH, HEIGHT),
    interpolation=cv2.INTER_CUBIC,
)
PICTURE = Image.fromarray(RGB)
GRAY = np.asarray(PICTURE.convert('L'))
# EXIF orientation -> how the upright image is turned before it is stored.
STORED = {
    1: lambda image: image,
    2: ImageOps.mirror,
    3: lambda image: image.rotate(180),
    4: ImageOps.flip,
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    """Image in RGB, and what was told of it."""
    notes: list[str] = []
    image = read_image(str(path), notes.append)
    assert image.dtype == np.uint8 and image.ndim == 3
    return image[..., ::-1], notes


def test_a_name_that_is_not_in_utf_8_is_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9.png'))
    Image.fromarray(RGB).save(path)
    assert (read(path)[0] == RGB).all(), 'OpenCV ended the process'


def test_channels_that_are_left_out_are_told(tmp_path: Path) -> None:
    write_bands(tmp_path / 'x.tif', np.dstack([RGB, GRAY]), color=True)
    image, notes = read(tmp_path / 'x.tif')
    assert (image == RGB).all() and notes[0].startswith('some images have more channels than red')


def test_of_a_jpeg_pillow_does_not_warn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A phone's JPEG whose index of previews is broken is read by OpenCV alone."""
    Image.fromarray(RGB).save(tmp_path / 'x.jpg')
    start, rest = (content := (tmp_path / 'x.jpg').read_bytes())[:2], content[2:]
    (tmp_path / 'x.jpg').write_bytes(start + b'\xff\xe2\0\x0eMPF\0garbage!' + rest)
    assert read(tmp_path / 'x.jpg')[1] == [] and not len(recwarn)
    with pytest.warns(UserWarning, match='malformed MPO'):
        Image.open(tmp_path / 'x.jpg')


@pytest.mark.parametrize(
    'mode, name',
    [
        ('RGB', 'x.png'),
        ('RGB', 'x.webp'),
        ('RGB', 'x.tga'),  # of those that OpenCV does not read
        ('L', 'x.png'),
        ('LA', 'x.png'),
        ('RGBA', 'x.png'),
        ('RGBA', 'x.webp'),
        ('P', 'x.png'),
        ('P', 'x.gif'),
        ('1', 'x.png'),
        ('1', 'x.tif'),
        ('CMYK', 'x.tif'),
    ],
)
def test_a_lossless_image_has_its_colors(mode: str, name: str, tmp_path: Path) -> None:
    image = PICTURE.convert(mode)
    if mode in ('LA', 'RGBA'):
        image.putalpha(100)
    image.save(tmp_path / name, **(dict(lossless=True) if name.endswith('webp') else {}))
    found, notes = read(tmp_path / name)
    np.testing.assert_array_equal(found, np.asarray(image.convert('RGB')))
    assert notes == []


def test_a_jpeg_in_cmyk_has_its_colors(tmp_path: Path) -> None:
    PICTURE.convert('CMYK').save(tmp_path / 'x.jpg', quality=98)
    found, _ = read(tmp_path / 'x.jpg')
    assert np.abs(found.astype(int) - RGB).max() < 20


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
@pytest.mark.parametrize('orientation', STORED)
def test_an_image_is_turned_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = dict(jpg=dict(quality=98), webp=dict(lossless=True)).get(suffix, {})
    path = tmp_path / f'x.{suffix}'
    STORED[orientation](PICTURE).save(path, exif=exif, **options)
    found, _ = read(path)
    assert found.shape == RGB.shape
    assert np.abs(found.astype(int) - RGB).max() < 20


@pytest.mark.parametrize('name', ['gray.png', 'color.png', 'color.tif', 'float.tif', 'int.tif'])
def test_more_bits_are_scaled_from_their_real_range(name: str, tmp_path: Path) -> None:
    deep = RGB.astype(np.uint16) * 16 + 100  # as of a camera with 12 bits
    if name.startswith('color'):
        cv2.imwrite(str(tmp_path / name), deep[..., ::-1])
    else:
        dtype = dict(gray=np.uint16, float=np.float32, int=np.int32)[name.split('.')[0]]
        deep = np.repeat(deep[..., :1], 3, 2)
        Image.fromarray(deep[..., 0].astype(dtype)).save(tmp_path / name)
    found, notes = read(tmp_path / name)
    low, high = int(deep.min()), int(deep.max())
    np.testing.assert_allclose(found, (deep - low) / (high - low) * 255, atol=0.51)
    assert notes == [SCALED]


@pytest.mark.parametrize('suffix', ['gif', 'tif', 'webp'])
def test_of_several_images_the_first_is_taken_and_that_is_said(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'x.{suffix}'
    first = PICTURE.convert('P').convert('RGB')
    options = dict(lossless=True) if suffix == 'webp' else {}
    others = [ImageOps.invert(first), ImageOps.mirror(first)]
    first.save(path, save_all=True, append_images=others, **options)
    found, notes = read(path)
    np.testing.assert_array_equal(found, np.asarray(first))
    assert notes == [f'{path} holds 3 images: the first is taken']


def test_an_image_of_more_pixels_than_the_libraries_allow_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error('pixels <= CV_IO_MAX_IMAGE_PIXELS')

    PICTURE.save(tmp_path / 'x.png')
    monkeypatch.setattr(cv2, 'imdecode', refuse)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    np.testing.assert_array_equal(read(tmp_path / 'x.png')[0], RGB)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize('name', ['x.jpg', 'x.png', 'x.gif', 'x.tif', 'x.webp'])
@pytest.mark.parametrize('content', ['half', 'text', 'nothing'])
def test_a_broken_image_is_refused_in_silence(
    name: str, content: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    PICTURE.save(path)
    data = path.read_bytes()
    path.write_bytes(dict(half=data[: len(data) // 2], text=b'hello', nothing=b'')[content])
    with pytest.raises(UnreadableError, match='it does not decode'):
        read(path)
    assert '[ERROR' not in capfd.readouterr().err


def test_what_the_system_says_of_a_file_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match='No such file'):
        read(tmp_path / 'missing.jpg')
    with pytest.raises(UnreadableError, match='Is a directory'):
        read(tmp_path)


def test_an_image_that_does_not_fit_into_the_memory_is_refused(tmp_path: Path) -> None:
    side = 1 << 20  # 2 ** 40 pixels in a file of a few bytes
    header = b'P5 %d %d 255\n' % (side, side)
    (tmp_path / 'x.pgm').write_bytes(header)
    with pytest.raises(UnreadableError, match='it does not fit into the memory'):
        read_image(str(tmp_path / 'x.pgm'))


def test_infinite_values_leave_the_others_their_range(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, np.inf, np.nan, -np.inf]], np.float32)
    cv2.imwrite(str(tmp_path / 'x.tif'), values)
    image = read_image(str(tmp_path / 'x.tif'), lambda _: None)
    assert image[0, :, 0].tolist() == [0, 128, 255, 0, 0, 0]


@pytest.mark.parametrize('name', ['x.jpg', 'x.png'])
def test_an_image_is_not_turned_where_training_does_not(name: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(RGB).save(tmp_path / name, exif=exif)
    image = read_image(str(tmp_path / name), is_turning=False)
    assert image.shape == (HEIGHT, WIDTH, 3)
