"""Checks of image files."""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from threading import Lock
from typing import Any, BinaryIO, NamedTuple, TypeVar

import cv2
import numpy as np
from mmengine.dist import is_main_process
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rich.progress import track

from mmdat.errors import UserError, Warn

from .config_tree import transforms, unwrap

Item = TypeVar('Item')
Result = TypeVar('Result')

IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.avif'),
    *('.jp2', '.ppm', '.pgm', '.pbm', '.pnm', '.tga', '.ico'),
)
JPEG_START, JPEG_END, PNG_START = b'\xff\xd8\xff', b'\xff\xd9', b'\x89PN'
TAIL_BYTES = 4096
# Training images whose headers are read before the first step; loading checks the others' sizes.
MOST_HEADERS = 10_000
# Images that are decoded to see whether what is special about them shows.
MOST_DECODED = 16
DECODES_NOT = 'it does not decode'
UNREADABLE = 'image {} cannot be read ({}): mend it, or take it out of the data set'
# Files from which on a progress bar is shown, as they take seconds.
MANY_FILES = 5_000
MOST_THREADS = 8
ORIENTATION = 0x0112  # EXIF's tag
# TIFF's tags, and how many channels other images than in three colors have there, by their
# photometric interpretation.
WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLES, EXTRA_SAMPLES = 256, 257, 258, 262, 277, 338
COLORS_OF_TIFF = {0: 1, 1: 1, 3: 1, 4: 1, 5: 4}
TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
# What Pillow's parsers raise where a file is broken.
BROKEN = (OSError, ValueError, TypeError, KeyError, SyntaxError, struct.error)
# Formats that OpenCV turns; it turns TIFF too, whose size Pillow gives as turned already.
TURNED_FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP')
# Formats of several images; in a phone's JPEG (MPO) the others are no more than a preview.
ANIMATED_FORMATS = ('GIF', 'TIFF', 'WEBP', 'PNG', 'AVIF')
MORE_CHANNELS = (
    'more channels than red, green and blue, or, of gray ones, than one: those behind are left out'
)
# Images in which all values lie so close together show next to nothing: 14 of 16 bits leave 63.
FAINT = 63
# Images that cannot be loaded, but that cameras and programs write.
UNREADABLE_SUFFIXES = (
    *('.heic', '.heif', '.jxl', '.dng', '.cr2', '.cr3', '.nef', '.arw', '.psd', '.exr'),
    *('.dcm', '.dicom', '.nii', '.nii.gz', '.mha', '.nrrd', '.svs', '.ndpi', '.czi'),
)


@dataclass(frozen=True)
class Header:
    """What an image file says of its image before it is decoded.

    Attributes:
        stored: Width and height as stored.
        orientation: As EXIF counts it: 1 is upright, from 5 on width and height change places.
        is_deep: Whether a value has more than 8 bits.
        has_alpha: Whether pixels can be transparent.
        pages: Number of images in the file.
        left_out: Number of channels that loading leaves out, as of a satellite's image.
    """

    stored: tuple[int, int]
    orientation: int
    is_deep: bool
    has_alpha: bool
    pages: int
    left_out: int = 0

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the image, turned as EXIF says."""
        return self.stored if self.orientation < 5 else self.stored[::-1]


class Listed(NamedTuple):
    """What a data set knows of one of its images.

    Attributes:
        path: The image file; empty for what is not one file.
        mask: The file of its mask; empty without one.
        size: Width and height that its annotation gives; 0 for what is not known.
        label: Number of its class; anything else where it has not one class.
        has_objects: Whether it has a list of objects, which may be empty.
        has_outlines: Whether each of them has a mask.
    """

    path: str
    mask: str
    size: tuple[int, int]
    label: Any
    has_objects: bool
    has_outlines: bool


class DataFiles:
    """The files of a built data set, which are listed and looked at once for all checks.

    Attributes:
        dataset: The data set, without wrappers.
        in_training: Whether it is for training; then headers are read of a sample.
    """

    def __init__(self, dataset: Any, in_training: bool = False) -> None:
        self.dataset, self.in_training = dataset, in_training

    @cached_property
    def items(self) -> list[Listed]:
        """All images, of which a data set unpacks 40 in a millisecond; none if it cannot tell."""
        count = len(self.dataset) if hasattr(self.dataset, 'get_data_info') else 0
        return [_listed(self.dataset.get_data_info(index)) for index in range(count)]

    @cached_property
    def sample(self) -> list[Listed]:
        """Those of the images whose headers are read, evenly spaced."""
        return self.spaced(MOST_HEADERS)

    @cached_property
    def headers(self) -> list[Header | None]:
        """Header of each image of :attr:`sample`; None of a file that is missing or no image."""
        return read_headers([item.path for item in self.sample])

    def spaced(self, most: int) -> list[Listed]:
        """At most so many of the images of a training, evenly spaced; all of another split."""
        number = most if self.in_training else len(self.items)
        return [self.items[index] for index in evenly_spaced(number, len(self.items))]


def list_files(datasets: Mapping[str, Any]) -> dict[str, list[DataFiles]]:
    """Split -> its data sets, out of their wrappers."""
    return {
        split: [DataFiles(single, split == 'train') for _, single in unwrap(dataset)]
        for split, dataset in datasets.items()
    }


def _listed(item: dict) -> Listed:
    path, mask = item.get('img_path'), item.get('seg_map_path')
    width, height = item.get('width') or 0, item.get('height') or 0
    return Listed(
        path=path if isinstance(path, str) else '',
        mask=mask or '',
        size=(width, height) if width or height else (0, 0),  # one tuple for all
        label=item.get('gt_label'),
        has_objects='instances' in item,
        has_outlines=all('mask' in instance for instance in item.get('instances') or ()),
    )


class Annotated(NamedTuple):
    """An image and the size that it should have.

    Attributes:
        path: The image file.
        header: Its header.
        size: Width and height that its annotation gives.
        source: File of the annotation.
    """

    path: str
    header: Header
    size: tuple[int, int]
    source: str


def check_image_files(files: DataFiles, warn: Warn) -> None:
    """Refuse a data set with images that are missing or, in the sample, cannot be read.

    Args:
        warn: Is told how many images are missing and skipped.
    """
    dataset = files.dataset
    if not are_loaded(dataset, 'img_path', {'LoadImageFromFile'}):
        return
    loader = loader_of(dataset, {'LoadImageFromFile'})
    can_skip = files.in_training and getattr(loader, 'skip_broken', False)
    if can_skip and not dataset.ann_file:  # the images are those that were found in a folder
        return
    paths = [item.path for item in files.items]
    most = MOST_HEADERS if files.in_training else None
    check_images(paths, dataset.ann_file or 'the data set', can_skip, warn, most)


def check_image_headers(files: DataFiles, warn: Warn) -> None:
    """Refuse images of other sizes than annotated; warn of those that loading cuts or turns.

    Reads the headers of the sample, 0.1 ms each. The other training images are checked when
    ``mmdat.LoadImageFromFile`` loads them.

    Raises:
        UserError: If an image has another size, as it is loaded, than its annotation says; if
            images cannot be loaded, or show next to nothing, as their values have too many bits.
    """
    dataset = files.dataset
    if not are_loaded(dataset, 'img_path', {'LoadImageFromFile'}):
        return
    source = str(dataset.ann_file or os.path.dirname(files.items[0].path))
    images = [
        Annotated(item.path, header, item.size, source)
        for item, header in zip(files.sample, files.headers, strict=True)
        if header
    ]
    _check_kinds(images, dataset, warn)
    check_sizes([image for image in images if all(image.size)], is_turning(dataset), warn)


def are_loaded(dataset: Any, key: str, loaders: set[str]) -> bool:
    """Tell whether a data set loads files from this machine's disk.

    Args:
        dataset: A built data set, or anything else.
        key: Key of its items with the path of a file, such as ``'img_path'``.
        loaders: Names of the transforms that load such a file.
    """
    if not hasattr(dataset, 'get_data_info') or not len(dataset):
        return False
    return (
        loader_of(dataset, loaders) is not None
        and is_local(getattr(dataset, 'backend_args', None))
        and '://' not in str(dataset.get_data_info(0).get(key, '://'))
    )


def is_local(backend_args: Mapping[str, Any] | None) -> bool:
    """Whether the files of a data set are read from this machine's disk, as mmengine reads them."""
    return (backend_args or {}).get('backend', 'local') == 'local'


def loader_of(dataset: Any, loaders: set[str]) -> Any:
    """Return the first transform of a data set with one of these names; None without one."""
    steps = (step for step in transforms(dataset.pipeline) if type(step).__name__ in loaders)
    return next(steps, None)


def decoding(dataset: Any) -> tuple[str, str]:
    """Return how a data set's loader decodes images: mmcv's ``color_type`` and backend."""
    loader = loader_of(dataset, {'LoadImageFromFile'})
    return (
        getattr(loader, 'color_type', 'color'),
        getattr(loader, 'imdecode_backend', None) or 'cv2',
    )


def is_turning(dataset: Any) -> bool:
    """Whether a data set's loader turns images upright, as their EXIF data says."""
    color_type, backend = decoding(dataset)
    return color_type in ('color', 'grayscale') and backend in ('cv2', 'pillow')


def load_image(dataset: Any, path: str) -> np.ndarray:
    """Read an image as a data set's loader does, for a picture; (height, width, 3), RGB uint8."""
    from mmcv.transforms import LoadImageFromFile  # so that checks need no mmcv

    loader = loader_of(dataset, {'LoadImageFromFile'}) or LoadImageFromFile()
    return to_rgb(loader(dict(img_path=path))['img'])


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Turn a loaded image, (height, width[, channels]) in BGR, into RGB, uint8, for a picture."""
    channels = image.reshape(*image.shape[:2], -1)
    channels = channels[..., 2::-1] if channels.shape[2] > 2 else channels[..., :1]
    if channels.dtype == np.uint16:
        channels = channels >> 8  # as OpenCV does
    channels = np.clip(channels, 0, 255)
    return np.ascontiguousarray(np.broadcast_to(channels, (*image.shape[:2], 3)), np.uint8)


def evenly_spaced(number: int, length: int) -> list[int]:
    """Indices of ``number`` items that are spaced evenly over ``length``, or of all if fewer.

    Example:
        >>> evenly_spaced(3, 10), evenly_spaced(3, 2)
        ([0, 4, 9], [0, 1])
    """
    return np.linspace(0, length - 1, min(number, length)).round().astype(int).tolist()


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], title: str, many: int = MANY_FILES
) -> list[Result]:
    """Apply a function that reads a file to many at once, with a progress bar for very many."""
    # Half of the work is in Python, so that many threads would wait for each other.
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        results: Iterable[Result] = pool.map(function, items)
        is_shown = len(items) >= many and is_main_process()
        return list(track(results, title, total=len(items), disable=not is_shown))


def read_headers(paths: Sequence[str]) -> list[Header | None]:
    """Read the headers of image files; None for what Pillow cannot read."""
    return map_in_threads(read_header, paths, 'Reading the headers of images')


_lock = Lock()
_limits: list[int | None] = []


@contextmanager
def any_number_of_pixels() -> Iterator[None]:
    """Lift Pillow's limit of pixels, which images of satellites and microscopes are above.

    Several threads may be inside: the last puts the limit back.
    """
    with _lock:
        _limits.append(Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _lock:
            limit = _limits[0]
            _limits.pop()
            if not _limits:
                Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def open_image(file: Any) -> Iterator[Image.Image]:
    """Open a file with Pillow, whatever the number of its pixels."""
    with any_number_of_pixels(), Image.open(file) as image:
        yield image


def check_sizes(images: Sequence[Annotated], is_turned: bool, warn: Warn) -> None:
    """Refuse images of other sizes than annotated; warn of those turned so that sizes do not tell.

    Args:
        is_turned: Whether loading turns images as EXIF says.
        warn: Is told how many images loading turns so that their sizes stay.
    """

    def loaded(image: Annotated) -> tuple[int, int]:
        return image.header.upright if is_turned else image.header.stored

    count = len(images)
    wrong = [image for image in images if image.size != loaded(image)]
    lying = [image for image in wrong if image.size == image.header.stored]
    if lying:
        fits_upright = any(
            image.header.orientation >= 5 and image.size == image.header.upright for image in images
        )
        remedy = (
            ''
            if fits_upright
            else ", or, if all are so, set color_type='color_ignore_orientation' in "
            'LoadImageFromFile of all pipelines'
        )
        raise UserError(
            f'{len(lying)} of {count} images, such as {lying[0].path}, have an EXIF orientation, '
            f'by which loading turns them, but {lying[0].source} is for the image as it is stored: '
            f'remove the orientation from these files{remedy}'
        )
    if wrong:
        first = wrong[0]
        others = f' ({len(wrong)} of {count} images are so)' if len(wrong) > 1 else ''
        raise UserError(misfit(first.path, loaded(first), first.size, first.source) + others)
    # A turn by a quarter keeps the size of a square.
    flipped = [
        image.path
        for image in images
        if image.header.orientation != 1 and image.header.stored == image.header.upright
    ]
    if flipped and is_turned:
        warn(
            f'{len(flipped)} of {count} images, such as {flipped[0]}, are turned or mirrored when '
            'they are loaded, as their EXIF orientation says: see to it that they were annotated '
            'so, which their sizes do not tell'
        )


def misfit(path: str, loaded: tuple[int, int], size: tuple[int, int], source: str) -> str:
    """Say that an image has another width and height, as it is loaded, than its annotation."""
    hint = ", width and height in each other's place" if loaded == size[::-1] else ''
    return (
        f'image {path} has {loaded[0]} x {loaded[1]} pixels, but {source} is for '
        f'{size[0]} x {size[1]}{hint}: give the image that was annotated, or annotate this one'
    )


def check_images(
    paths: Sequence[str], source: str, can_skip: bool, warn: Warn, most: int | None = None
) -> None:
    """Refuse images that are missing or cannot be read.

    Args:
        can_skip: Whether loading skips single ones: then refuse missing ones only if most are.
        warn: Is told how many are missing and skipped.
        most: How many are read, evenly spaced; all by default.
    """
    names = cache(names_in)
    missing = [path for path in paths if os.path.basename(path) not in names(os.path.dirname(path))]
    if missing:
        folder, name = os.path.split(missing[0])
        like = [other for other in names(folder) if other.lower() == name.lower()]
        sentence = (
            f'{len(missing)} of the {len(paths)} images of {source} do not '
            f'exist, such as {missing[0]}{f" ({like[0]} does)" if like else ""}: check data_root '
            'and data_prefix'
        )
        if not can_skip or 2 * len(missing) > len(paths):
            raise UserError(sentence)
        warn(sentence)
    if can_skip:
        return
    paths = [paths[index] for index in evenly_spaced(most or len(paths), len(paths))]
    if broken := broken_among(paths):
        others = f' ({len(broken)} are so)' if len(broken) > 1 else ''
        raise UserError(
            f'{broken[0]} is not an image that can be read{others}: mend it, or take it out of '
            f'{source}'
        )


def broken_among(paths: Sequence[str]) -> list[str]:
    """Those of some files that are not whole images."""
    whole = map_in_threads(is_whole, paths, 'Looking for broken images')
    return [path for path, fine in zip(paths, whole, strict=True) if not fine]


def names_in(folder: str) -> frozenset[str]:
    """Names of the files in a folder, the current one if empty; none if there is no such folder."""
    folder = folder or os.curdir
    return frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()


def is_utf8(path: str | os.PathLike) -> bool:
    """Whether a path is in UTF-8; OpenCV would end the process at another."""
    return os.fspath(path).encode(errors='ignore').decode() == os.fspath(path)


def is_whole(path: str) -> bool:
    """Whether an image file is complete: a JPEG to its end marker, a PNG by its checksums."""
    if is_utf8(path) and not cv2.haveImageReader(path):
        return False
    with open(path, 'rb') as file:
        start = file.read(len(JPEG_START))
        file.seek(max(0, os.path.getsize(path) - TAIL_BYTES))
        if start == JPEG_START and JPEG_END in file.read():
            return read_header(path) is not None
    if start == PNG_START and has_right_checksums(path):
        return True
    # Other formats, and a JPEG with much behind its image, such as a phone's with a video.
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) is not None


def has_right_checksums(file: str | BinaryIO) -> bool:
    """Whether a PNG file is complete and unchanged, which decoders do not tell; others pass."""
    try:
        with open_image(file) as image:
            image.verify()
    except (OSError, ValueError, SyntaxError, struct.error):  # as Pillow's parsers do
        return False
    return True


def read_header(path: str) -> Header | None:
    """Read the header of an image file; None for what Pillow cannot read."""
    try:
        with open_image(path) as image:
            exif = Image.Exif()
            # Pillow's getexif would take an orientation in XMP too, and decode a PNG.
            if image.format in TURNED_FORMATS and 'exif' in image.info:
                exif.load(image.info['exif'])
            return Header(
                stored=image.size,
                orientation=int(exif.get(ORIENTATION, 1)),
                is_deep=_is_deep(image),
                has_alpha=image.has_transparency_data,
                pages=getattr(image, 'n_frames', 1) if image.format in ANIMATED_FORMATS else 1,
                left_out=_left_out(getattr(image, 'tag_v2', {})),
            )
    except UnidentifiedImageError:
        return _read_tiff(path)
    except BROKEN:
        return None


def has_more_channels(path: str) -> bool:
    """Whether loading leaves channels of an image file out, as no format but TIFF has them."""
    with open(path, 'rb') as file:
        if file.read(4) not in TIFF_STARTS:
            return False
    header = read_header(path)
    return header is not None and header.left_out > 0


def _read_tiff(path: str) -> Header | None:
    """Read the header of a TIFF whose channels Pillow does not know; None if it is none."""
    try:
        with open(path, 'rb') as file:
            tags = ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        bits, size = tags.get(BITS, (1,)), (int(tags[WIDTH]), int(tags[HEIGHT]))
        return Header(size, 1, max(bits) > 8, False, 1, _left_out(tags))
    except BROKEN:
        return None


def _left_out(tags: Mapping[int, Any]) -> int:
    """Count the channels of a TIFF but for colors, or the first one of gray, and for alpha."""
    count, colors = tags.get(SAMPLES, 1), COLORS_OF_TIFF.get(tags.get(PHOTOMETRIC, 1), 3)
    if count > 2 and max(tags.get(BITS, (1,))) > 8:  # of which OpenCV takes three of gray ones, too
        colors = max(colors, 3)
    alpha = sum(kind in (1, 2) for kind in tags.get(EXTRA_SAMPLES, ()))
    return max(0, count - colors - alpha)


def _is_deep(image: Image.Image) -> bool:
    """Whether values have more than 8 bits in a file that was opened with Pillow."""
    if bits := getattr(image, 'tag_v2', {}).get(BITS):
        return max(bits) > 8
    # Pillow's mode names the 8 bits that it keeps of color images with 16; the tile names all.
    tiles = getattr(image, 'tile', [])
    return image.mode in ('I', 'F') or ';16' in f'{image.mode} {tiles[:1]}'


def _check_kinds(images: Sequence[Annotated], dataset: Any, warn: Warn) -> None:
    """Refuse images that show nothing when loaded; warn of what loading leaves out of others."""
    color_type, backend = decoding(dataset)
    if color_type == 'unchanged' or backend == 'tifffile' or not images:  # all that is there
        return
    count, source = len(images), images[0].source
    if deep := [image.path for image in images if image.header.is_deep]:
        such = f'{len(deep)} of {count} images of {source}, such as {deep[0]}, have'
        decoded = [_load(path, color_type, backend) for path in _choose_few(deep)]
        loaded = [image for image in decoded if image is not None]
        if not loaded:
            raise UserError(
                f'{such} values of 32 bits or decimals, which cannot be loaded: save them as '
                'images of 8 bits'
            )
        darkest, brightest = (
            int(extreme([extreme(image) for image in loaded])) for extreme in (np.min, np.max)
        )
        if brightest - darkest <= FAINT:
            raise UserError(
                f'{such} values of more than 8 bits, of which loading keeps those of {darkest} to '
                f'{brightest} of 0 to 255, so that next to nothing shows: save them as images of '
                '8 bits, all scaled alike'
            )
        warn(
            f'{such} values of more than 8 bits, which loading cuts to 8 (mmdat predict scales '
            'each image from its smallest to its largest value): save them as images of 8 bits '
            'for the same everywhere'
        )
    clear = [image.path for image in images if image.header.has_alpha]
    if shown := [path for path in _choose_few(clear) if _is_transparent(path)]:
        warn(
            f'{len(clear)} of {count} images of {source}, such as {shown[0]}, have transparent '
            'pixels, which are loaded in the color that is stored below: save them on a ground '
            'of your choice'
        )
    if rich := [image for image in images if image.header.left_out]:
        warn(
            f'{len(rich)} of {count} images of {source}, such as {rich[0].path}, have '
            f'{MORE_CHANNELS}'
        )
    if several := [image for image in images if image.header.pages > 1]:
        warn(
            f'{len(several)} of {count} files of {source}, such as {several[0].path} with '
            f'{several[0].header.pages}, hold several images (pages or an animation), of which the '
            'first is used'
        )


def _load(path: str, color_type: str, backend: str) -> np.ndarray | None:
    """Load an image as mmcv's transform does; None if that fails."""
    import mmcv  # here, since the backbones can do without

    content = np.fromfile(path, np.uint8).tobytes()
    try:
        return mmcv.imfrombytes(content, color_type, backend=backend)
    except (OSError, ValueError, cv2.error):
        return None


def _choose_few(paths: Sequence[str]) -> list[str]:
    """Choose evenly spaced paths, few enough to be decoded."""
    return [paths[index] for index in evenly_spaced(MOST_DECODED, len(paths))]


def _is_transparent(path: str) -> bool:
    with open_image(path) as image:
        return np.asarray(image.convert('RGBA'))[..., 3].min() < 255
