"""Checks of the masks of semantic segmentation."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from torch import nn

from mmdat.errors import UserError, Warn, enumerate_names

from .config_tree import unwrap
from .images import (
    DECODES_NOT,
    JPEG_START,
    Annotated,
    DataFiles,
    are_loaded,
    check_sizes,
    has_right_checksums,
    is_turning,
    loader_of,
    map_in_threads,
    open_image,
    read_headers,
)

# Names of the transforms that load masks, or whatever else an image is annotated with.
ANNOTATION_LOADERS = {'LoadAnnotations', 'LoadSegmentationMap'}
# Training masks that are decoded before the first step; mmdat.LoadSegmentationMap checks the others
# when they are loaded.
MOST_MASKS = 2_000
# Masks from which on a progress bar is shown, as they take seconds.
MANY_MASKS = 1_000
VALUES = 256
IGNORED = 255
LOSSY_WEBP = b'WEBPVP8 '  # from the ninth byte of such a file on
# What programs call the class that is nothing else, in lower case without underscores.
BACKGROUNDS = {
    *('background', 'bg', 'other', 'none', 'void', 'unlabeled', 'unlabelled'),
    *('hintergrund', 'fondo', 'fond', 'sfondo', 'fundo', '背景', 'фон'),
}


@dataclass(frozen=True)
class Mask:
    """A mask file.

    Attributes:
        path: The file.
        values: Those that occur in it; none if it has not one whole number a pixel of at most 255.
        problem: Why it has no values.
        palette: Red, green and blue of each value; empty without a palette.
    """

    path: str
    values: tuple[int, ...]
    problem: str = ''
    palette: bytes = b''


def check_same_zero(datasets: Mapping[str, Any]) -> None:
    """Refuse splits of which one ignores the value 0 of masks and the other counts it as a class.

    Args:
        datasets: Split -> the data set, built; data sets with ``mask_values`` pass.
    """
    flags = {
        split: {
            bool(single.reduce_zero_label)
            for _, single in unwrap(dataset)
            if hasattr(single, 'reduce_zero_label') and not getattr(single, 'mask_values', None)
        }
        for split, dataset in datasets.items()
    }
    known = [(split, values) for split, values in flags.items() if values]
    for split, values in known[1:]:
        first, expected = known[0]
        if values.isdisjoint(expected):
            raise UserError(
                f'reduce_zero_label of the {first} data is {min(expected)}, that of the {split} '
                f'data {min(values)}, so that their classes differ: set it alike, to True if 0 '
                'stands for no class and the classes count from 1'
            )


def check_annotated(files: DataFiles) -> None:
    """Refuse a data set without the boxes, masks or maps that its pipeline loads."""
    items, count, dataset = files.items, len(files.items), files.dataset
    if not items:
        return
    loader = loader_of(dataset, ANNOTATION_LOADERS)
    # mmdet does without maps, as its own configs of HTC in validation.
    has_maps = any(item.mask for item in items) or not (
        files.in_training or 'reduce_zero_label' in dataset.get_data_info(0)
    )
    bare = sum(not item.has_outlines for item in items)
    lacks = dict(
        with_bbox=('boxes', 0 if any(item.has_objects for item in items) else count),
        with_mask=('masks of objects (boxes alone)', bare),
        with_seg=('maps of classes (seg_map_path)', 0 if has_maps else count),
    )
    for key, (what, number) in lacks.items():
        if number and getattr(loader, key, False):
            raise UserError(
                f'{number} of {count} images of {dataset.ann_file or type(dataset).__name__} have '
                f'no {what}, which {key}=True of {type(loader).__name__} loads: take data that '
                'have them, or a model and a pipeline that do without'
            )


def check_mask_files(files: DataFiles) -> None:
    """Refuse a data set of semantic segmentation in which a mask is missing."""
    if not _has_masks(files.dataset):
        return
    count = len(files.items)
    missing = [item for item in files.items if not os.path.exists(item.mask)]
    if missing:
        others = f' ({len(missing)} of {count} images are so)' if len(missing) > 1 else ''
        raise UserError(
            f'image {missing[0].path} has no mask {missing[0].mask}{others}: check '
            'data_prefix.seg_map_path and seg_map_suffix, or take the image out of the data set'
        )


def check_mask_sizes(files: DataFiles, warn: Warn) -> None:
    """Refuse masks of another size than their images have as they are loaded.

    Args:
        warn: Is told how many images loading turns so that their sizes stay.
    """
    dataset = files.dataset
    if not _has_masks(dataset) or not are_loaded(dataset, 'img_path', {'LoadImageFromFile'}):
        return
    masks = read_headers([item.mask for item in files.sample])
    pairs = [
        Annotated(item.path, image, mask.stored, f'its mask {item.mask}')
        for item, image, mask in zip(files.sample, files.headers, masks, strict=True)
        if image and mask
    ]
    check_sizes(pairs, is_turning(dataset), warn)
    if several := [
        item.mask for item, mask in zip(files.sample, masks, strict=True) if mask and mask.pages > 1
    ]:
        warn(
            f'{len(several)} of {len(masks)} masks, such as {several[0]}, hold several images '
            '(pages), of which the first is used'
        )


def check_mask_values(files: DataFiles, warn: Warn, ignore_index: int | None = IGNORED) -> None:
    """Refuse masks with values that are no class; warn of classes that no mask has.

    Decodes the masks, 1 ms for 500 x 375 pixels, on all cores; of those for training an evenly
    spaced sample of :data:`MOST_MASKS`.

    Args:
        warn: Is told which classes are missing, and when 0 probably is a class that is ignored.
        ignore_index: The heads'.
    """
    dataset = files.dataset
    if not _has_masks(dataset):
        return
    loader = loader_of(dataset, ANNOTATION_LOADERS)
    read = partial(read_mask, backend=getattr(loader, 'imdecode_backend', 'pillow'))
    paths = [item.mask for item in files.spaced(MOST_MASKS)]
    masks = map_in_threads(read, paths, 'Looking at masks', MANY_MASKS)
    if wrong := [mask for mask in masks if mask.problem]:
        others = f' ({len(wrong)} of {len(masks)} masks are so)' if len(wrong) > 1 else ''
        raise UserError(f'mask {wrong[0].path} {wrong[0].problem}{others}')
    _compare_palettes(masks, warn)
    classes = dataset.metainfo.get('classes') or ()
    if not classes:
        return
    item = dataset.get_data_info(0)
    table = class_table(item)
    if ignore_index is not None and ignore_index != IGNORED:
        _check_ignored(masks, table, ignore_index)
        table[table == ignore_index] = IGNORED
    seen = Seen(masks, classes, item, table, is_complete=len(paths) == len(files.items))
    shift = _describe_shift(seen)
    _check_known(seen)
    _check_any_left(seen, shift, files.in_training)
    if shift and set(range(len(classes))) <= set(seen.values):
        warn(f'{shift} if 0 is a class')
    elif seen.is_complete:
        _warn_of_missing(seen, ignore_index, warn)


def read_mask(path: str, backend: str = 'pillow') -> Mask:
    """Read which values a mask has, as mmsegmentation loads it.

    Args:
        backend: What decodes it, as mmcv names it.
    """
    try:
        content = Path(path).read_bytes()
        mask, problem = decode_mask(content, backend)
        if mask is None:
            return Mask(path, (), problem)
        return Mask(path, tuple(values_in(mask)), palette=_palette(content))
    except OSError as error:
        return Mask(path, (), cannot_be_read(error.strerror))


def _palette(content: bytes) -> bytes:
    """Return the palette of a mask that Pillow has decoded; empty if it has none."""
    with open_image(BytesIO(content)) as image:
        return bytes(image.getpalette() or ()) if image.mode == 'P' else b''


def _compare_palettes(masks: Sequence[Mask], warn: Warn) -> None:
    """Warn of a value that has one color in a mask and another in the next."""
    first: dict[int, tuple[bytes, str]] = {}
    for mask in masks:
        for value in mask.values:
            color = mask.palette[3 * value : 3 * value + 3]
            other, path = first.setdefault(value, (color, mask.path)) if color else (color, '')
            if color != other:
                warn(
                    f'masks {path} and {mask.path} show the value {value} in the colors '
                    f'{tuple(other)} and {tuple(color)}, but values count alone: if the colors are '
                    'the classes, let mmdat new-config write the config, which goes by them'
                )
                return


def decode_mask(content: bytes, backend: str = 'pillow') -> tuple[np.ndarray | None, str]:
    """Decode a mask to (height, width), uint8; or return None, and why not."""
    if content.startswith(JPEG_START) or content[8:16] == LOSSY_WEBP:
        return None, (
            'is compressed with loss (JPEG or WebP), which changes values: save it as PNG, from '
            'the original'
        )
    import mmcv  # here, since the backbones can do without

    try:
        values = mmcv.imfrombytes(content, flag='unchanged', backend=backend)
    except Image.DecompressionBombError:
        return None, 'has more pixels than Pillow decodes: cut it and its image into tiles'
    except (OSError, ValueError, SyntaxError, cv2.error):
        values = None
    if values is None or not has_right_checksums(BytesIO(content)):
        return None, cannot_be_read(DECODES_NOT)
    if values.ndim == 3:
        values = values.squeeze(2) if values.shape[2] == 1 else values
    if values.ndim != 2:
        kind = 'a color image' if values.shape[2] > 2 else 'an image with transparency'
        return None, (
            f'is {kind}, not one with the number of a class in each pixel: save it with one '
            'channel or a palette'
        )
    if values.dtype in (bool, np.uint8):
        return values.astype(np.uint8), ''
    if not (values.min() >= 0 and values.max() < VALUES and (values == np.floor(values)).all()):
        return None, (
            f'has values from {values.min()} to {values.max()}, which loading would cut to '
            'whole ones of 0 to 255: save the numbers of the classes in 8 bits'
        )
    return values.astype(np.uint8), ''


def cannot_be_read(why: str | None) -> str:
    """End the sentence that refuses a mask: why it cannot be read, and what to do."""
    return f'cannot be read ({why}): mend it, or take its image out of the data set'


def values_in(mask: np.ndarray) -> list[int]:
    """List the values of a mask, (height, width), uint8, from the least up."""
    counts = cv2.calcHist([mask], [0], None, [VALUES], [0, VALUES]).ravel()
    return np.flatnonzero(counts).tolist()


def class_table(item: dict) -> np.ndarray:
    """Return the class that each value of a mask stands for, as mmsegmentation reads it.

    Args:
        item: What a data set knows of an image: ``reduce_zero_label`` and ``label_map``.

    Returns:
        (256,), int16: 255 for what is ignored, -1 for a value that ``label_map`` does not have.
    """
    table = np.arange(VALUES, dtype=np.int16)
    if item['reduce_zero_label']:
        table = np.where(table % IGNORED == 0, IGNORED, table - 1)
    label_map = item.get('label_map')
    if label_map is None:
        return table
    return np.array(
        [label_map.get(int(value), IGNORED if value == IGNORED else -1) for value in table],
        np.int16,
    )


def _has_masks(dataset: Any) -> bool:
    # Data sets of mmdet name masks too, which need not be there; they have no reduce_zero_label.
    return are_loaded(
        dataset, 'seg_map_path', ANNOTATION_LOADERS
    ) and 'reduce_zero_label' in dataset.get_data_info(0)


def _check_ignored(masks: Sequence[Mask], table: np.ndarray, ignore_index: int) -> None:
    """Refuse masks with what a data set ignores as 255, where the heads ignore another number."""
    for mask in masks:
        for value in mask.values:
            if table[value] == IGNORED:
                raise UserError(
                    f'mask {mask.path} has the value {value}, which the data set ignores as '
                    f'{IGNORED}, but the heads have ignore_index={ignore_index}: leave '
                    f'ignore_index out of heads and metrics, whose default is {IGNORED}'
                )


@dataclass
class Seen:
    """The masks of a data set that were read, and what their values stand for.

    Attributes:
        masks: The masks.
        classes: Names of the data set's classes.
        item: What the data set knows of an image.
        table: As from :func:`class_table`.
        is_complete: Whether these are all masks of the data set.
        values: Those that occur, from the least up.
        listed: The first of them, for a sentence.
        left: Classes that occur.
        where: The masks, for a sentence.
        is_reduced: Whether 0 is ignored, and 1 the first class.
    """

    masks: Sequence[Mask]
    classes: Sequence[str]
    item: dict
    table: np.ndarray
    is_complete: bool

    def __post_init__(self) -> None:
        self.values = sorted({value for mask in self.masks for value in mask.values})
        self.listed = ', '.join(map(str, self.values[:8])) + ', ...' * (len(self.values) > 8)
        self.left = {int(self.table[value]) for value in self.values} - {IGNORED}
        self.where = f'the {len(self.masks)} masks in {os.path.dirname(self.masks[0].path)}'
        self.is_reduced = self.item['reduce_zero_label'] and self.item.get('label_map') is None


def _describe_shift(seen: Seen) -> str:
    """Say what is wrong if 0, which ``reduce_zero_label`` ignores, is a class.

    Returns:
        The sentence; empty where the last class occurs, so that 0 is none.

    Raises:
        UserError: If 0 is one for certain, since the first class is the background.
    """
    first, last = seen.classes[0], len(seen.classes)
    if not seen.is_reduced or last < 2 or 0 not in seen.values or last in seen.values:
        return ''
    shift = (
        f'{seen.where} have the values {seen.listed}, of which reduce_zero_label=True ignores 0 '
        f"and makes 1 the class '{first}', so that none is '{seen.classes[-1]}': set "
        'reduce_zero_label=False'
    )
    if is_background(first):
        raise UserError(f'{shift}, as 0 is a class')
    return shift


def _check_known(seen: Seen) -> None:
    """Refuse values that stand for no class and are not ignored."""
    last, table = len(seen.classes), seen.table
    wrong = [x for x in seen.values if not (0 <= table[x] < last or table[x] == IGNORED)]
    if wrong:
        path = next(mask.path for mask in seen.masks if wrong[0] in mask.values)
        number = sum(not set(wrong).isdisjoint(mask.values) for mask in seen.masks)
        raise UserError(
            f'mask {path} has the value {wrong[0]}, which is none of the {last} classes'
            f'{" after reduce_zero_label" if seen.is_reduced else ""} ({number} of '
            f'{len(seen.masks)} masks have such values; all have {seen.listed}): '
            + _remedy(seen.values, wrong, seen.classes, seen.item)
        )


def _check_any_left(seen: Seen, shift: str, in_training: bool) -> None:
    """Refuse masks without any class, and masks of a training with one class of several.

    Args:
        shift: What to say instead where it is known.
    """
    teaches_nothing = in_training and seen.is_complete
    is_mask_of_two = set(seen.values) == {0, IGNORED}
    has_one = len(seen.left) < 2 <= len(seen.classes) and (teaches_nothing or is_mask_of_two)
    if not has_one and (seen.left or not seen.is_complete):
        return
    ignored = [str(value) for value in seen.values if seen.table[value] == IGNORED]
    counted = f', of which {" and ".join(ignored)} count as ignored' if ignored else ''
    names = [f"'{seen.classes[index]}' alone" for index in seen.left]
    remedy = 'check data_prefix.seg_map_path, and annotate all classes'
    if len(seen.values) > 1:
        remedy = _mask_values(seen.values, seen.classes)
    raise UserError(
        shift
        or f'{seen.where} have the values {seen.listed}{counted}, so that '
        f'{names[0] if names else "no class"} is left: {remedy}'
    )


def _warn_of_missing(seen: Seen, ignore_index: int | None, warn: Warn) -> None:
    """Warn of classes that are in no mask, but for that which the heads ignore."""
    present = seen.left | {ignore_index}
    missing = [name for index, name in enumerate(seen.classes) if index not in present]
    if missing:
        warn(
            f'{len(missing)} of the {len(seen.classes)} classes are in none of {seen.where}: '
            f'{enumerate_names(missing)}'
        )


def _remedy(found: Sequence[int], wrong: Sequence[int], classes: Sequence[str], item: dict) -> str:
    """Say what to do about values that are no class."""
    if item.get('label_map') is not None:
        return 'name the class of each value in mask_values, or None for what is ignored'
    if not item['reduce_zero_label'] and list(wrong) == [len(classes)]:
        return (
            'set reduce_zero_label=True if 0 stands for no class and the classes count from 1, '
            'or name all classes'
        )
    return _mask_values(found, classes)


def _mask_values(found: Sequence[int], classes: Sequence[str]) -> str:
    """Say how to give values of masks classes."""
    example = "mask_values={0: '...', 255: '...'}"
    if len(found) == len(classes) <= 5:
        pairs = ', '.join(f'{value}: {name!r}' for value, name in zip(found, classes, strict=True))
        example = f'mask_values={{{pairs}}}'
    return (
        "set type='mmdat.SegmentationDataset' of the data set and say which class a value is, as "
        f'in {example}'
    )


def is_background(name: str) -> bool:
    """Whether a class is what programs call that which is nothing else."""
    return name.lower().strip('_ ') in BACKGROUNDS


def check_written_names(dataset: Any) -> None:
    """Refuse images of one name, as mmsegmentation writes their predicted masks into one file."""
    first: dict[str, str] = {}
    for path, *_ in DataFiles(dataset).items:
        other = first.setdefault(Path(path).stem, path)
        if other != path:
            raise UserError(
                f'the masks of {other} and {path} would both be written to {Path(path).stem}.png '
                'of test_evaluator.output_dir: rename one, or use mmdat predict, which keeps '
                'folders'
            )


def check_mask_classes(model: nn.Module, batch: Any) -> None:
    """Refuse a mask with a class that the head does not have.

    Args:
        batch: What a data loader yields. Masks whose ``labels`` ``mmdat.PackSegInputs`` noted are
            not scanned unless one is wrong.
    """
    head = getattr(model, 'decode_head', None)
    num_classes = getattr(head, 'num_classes', None)
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if num_classes is None or samples is None:
        return
    ignored = getattr(head, 'ignore_index', 255)
    for sample in samples:
        labels = sample.gt_sem_seg.metainfo.get('labels')
        if labels is not None and all(label < num_classes or label == ignored for label in labels):
            continue
        values = sample.gt_sem_seg.data
        wrong = values[(values >= num_classes) & (values != ignored)]
        if wrong.numel():
            raise UserError(
                f'mask {sample.metainfo.get("seg_map_path", "of an image")} has class '
                f'{int(wrong[0])} (counted from 0, after reduce_zero_label), but there are '
                f'{num_classes} classes: mend the mask, or name all classes'
            )
