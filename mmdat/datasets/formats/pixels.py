"""Images and masks of semantic segmentation, by split."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from mmdat.checks.images import IMAGE_SUFFIXES, open_image
from mmdat.checks.masks import IGNORED
from mmdat.errors import UserError, enumerate_names, list_first

from .files import (
    Folder,
    Found,
    NotRecognizedError,
    add_val,
    image_sets,
    split_of_folder,
    take_paths,
)
from .mask_pairs import CITYSCAPES_END, pair_masks
from .mask_values import (
    BLACK,
    Color,
    MaskContents,
    meaning_of,
    name_colors,
    names_of_known_data,
    read_class_names,
)


@dataclass
class MaskSplit:
    """Images and masks of a split.

    Attributes:
        images: Folder of the images, relative to the root.
        masks: Folder of their masks.
        pairs: Image -> mask, both relative to their folders.
        suffix: What the names of all masks end in beyond those of the images; empty if in nothing.
        image_suffix: What the names of all images end in that those of masks lack; mostly empty.
        listed: Whether there is more in the folders, so that a list must be written.
        are_parallel: Whether masks lie below their folder as images do below theirs.
    """

    images: str
    masks: str
    pairs: dict[str, str]
    suffix: str = ''
    image_suffix: str = ''
    listed: bool = False
    are_parallel: bool = True


@dataclass(kw_only=True)
class Segmented(Found[MaskSplit]):
    """Images with masks that were found in a folder.

    Attributes:
        palette: Colors of the classes, if the masks have them.
        values: Value in the masks -> class, or None for what is ignored, if labels are not 0, 1, 2
            and so on.
        rewritten: Color, or gray value, in the masks -> class, if they must be written anew with
            values that a training reads.
        zero_is_nothing: Whether 0 is no class and 1 the first (``reduce_zero_label``).
        zero_is_clear: Whether the names leave no doubt of that.
    """

    palette: list[Color] | None = None
    values: dict[int, str | None] | None = None
    rewritten: Mapping[Color, str] | Mapping[int, str] | None = None
    zero_is_nothing: bool = False
    zero_is_clear: bool = True

    def images(self, split: str) -> Collection[str]:
        """The images of a split."""
        return self.splits[split].pairs


def read_segmented(data: Path, share: float, seed: int, zero: str | None) -> Segmented:
    """Find the images and masks below a folder, and what the masks' values mean.

    Args:
        zero: ``'background'`` if 0 is a class in the masks, ``'ignored'`` if it is nothing; found
            from names and values if None.

    Raises:
        UserError: If there are none, or if their values have no meaning.
    """
    if not data.is_dir():
        raise NotRecognizedError(f'{data} is no folder: give the one with images and masks')
    folder = Folder(data, share, seed)
    splits, kind = _find_splits(folder)
    common: dict[str, Any] = dict(kind=kind, root=data, splits=splits, notes=folder.notes)
    masks = [
        data / split.masks / mask for split in splits.values() for mask in split.pairs.values()
    ]
    look = MaskContents(folder, masks)
    names, colors_of = read_class_names(folder)
    if not names:
        names = names_of_known_data(splits['train'].pairs) or []
    if look.colors:
        colors = name_colors(folder, look.colors, names, colors_of)
        if zero == 'ignored':
            colors = {color: name for color, name in colors.items() if color != BLACK}
        classes = tuple(dict.fromkeys(colors.values()))
        _check_several(classes, zero == 'ignored')
        color_of = {name: color for color, name in colors.items()}
        return Segmented(
            classes=classes,
            palette=[color_of[name] for name in classes],
            rewritten=colors,
            zero_is_clear=bool(zero or colors_of) or classes[0] != 'background',
            **common,
        )
    meaning = meaning_of(look.values, names, zero, kind)
    _check_several(meaning.classes, zero == 'ignored' or meaning.zero_is_nothing)
    if look.are_two_kinds and IGNORED not in {*names, *(meaning.values or {})}:
        folder.note(
            'Some masks have 1, others 255, which is ignored: if both are one class, write 1 in '
            'place of 255.'
        )
    common |= dict(
        classes=meaning.classes,
        zero_is_nothing=meaning.zero_is_nothing,
        zero_is_clear=meaning.zero_is_clear,
    )
    is_copied = look.needs_rewriting or not all(split.are_parallel for split in splits.values())
    if not names:
        keys = '`classes` and `mask_values`' if meaning.values and not is_copied else '`classes`'
        folder.note(f'Names of the classes were not found: change {keys} in the config.')
    kept = {value: name for value, name in (meaning.values or {}).items() if name is not None}
    kept = kept or dict(enumerate(meaning.classes, int(meaning.zero_is_nothing)))
    absent = [f'{name!r} ({value})' for value, name in kept.items() if value not in look.values]
    if absent:
        folder.note(f'{len(absent)} of {len(kept)} classes are in no mask: {list_first(absent)}.')
    if is_copied:
        if len(kept) > IGNORED:
            raise UserError(
                f'the masks hold {len(kept)} values: a value for each class, and at most {IGNORED} '
                'of them, can be learned'
            )
        folder.note(
            'The masks have 16 bits, alpha or several channels: copies with 8 bits are written.'
            if look.needs_rewriting
            else 'Masks do not lie as their images do: copies that do are written.'
        )
        return Segmented(rewritten=kept, **common)
    palette = [look.palette[value] for value in kept] if look.palette else None
    return Segmented(palette=palette, values=meaning.values, **common)


def _check_several(classes: Sequence[str], zero_is_nothing: bool) -> None:
    """Refuse masks of less than two classes."""
    if len(classes) < 2:
        raise UserError(
            f'the masks have the class {enumerate_names(classes)} alone: there is nothing to tell '
            'it from' + ('; is 0 a class (--zero background)?' if zero_is_nothing else '')
        )


def _find_splits(folder: Folder) -> tuple[dict[str, MaskSplit], str]:
    """Find pairs of an image and a mask, by split."""
    pairs = pair_masks(folder)
    lists = image_sets(folder, 'Segmentation')
    by_split: dict[str, dict[str, str]] = {}
    for image, mask in pairs.items():
        stem = PurePosixPath(image).stem
        split = lists.get(stem) if lists else split_of_folder(image)
        if split or not lists:
            by_split.setdefault(split or 'train', {})[image] = mask
    if left := len(pairs) - sum(map(len, by_split.values())):
        folder.note(f'{left} images are in no list of ImageSets/Segmentation: they are left out.')
    kind = "VOC's layout" if lists else 'folders of images and masks'
    if {'training', 'annotations'} <= {part for path in pairs.values() for part in path.split('/')}:
        kind = "ADE20K's layout"
    if 'train' not in by_split:
        raise UserError(
            f'{folder.root} has no masks to train on: put them into folders such as images/train '
            'and masks/train'
        )
    add_val(folder, by_split, lambda whole: dict.fromkeys(whole, ()), take_paths)
    return {name: _split(folder, pairs) for name, pairs in by_split.items()}, kind


def _split(folder: Folder, pairs: dict[str, str]) -> MaskSplit:
    """Put the pairs of a split in relation to their folders."""
    first, second = (
        os.path.commonpath([str(PurePosixPath(path).parent) for path in paths])
        for paths in (pairs, pairs.values())
    )
    relative = {os.path.relpath(a, first): os.path.relpath(b, second) for a, b in pairs.items()}
    stems = {image: os.path.splitext(image)[0] for image in relative}
    image_end = CITYSCAPES_END if all(x.endswith(CITYSCAPES_END) for x in stems.values()) else ''
    ends = {
        mask.removeprefix(stems[image].removesuffix(image_end)) for image, mask in relative.items()
    }
    are_images = all(end.lower() in IMAGE_SUFFIXES for end in ends)
    suffix = '' if are_images or len(ends) > 1 else ends.pop()
    inside = sum(path.startswith(f'{first}/') for path in folder.paths)
    return MaskSplit(
        first,
        second,
        relative,
        '' if suffix in relative.values() else suffix,
        image_end + os.path.splitext(next(iter(relative)))[1] if image_end and suffix else '',
        listed=inside != len(pairs),
        are_parallel=are_images or suffix not in ('', *relative.values()),
    )


def write_values(
    source: Path,
    target: Path,
    meaning: Mapping[Color, str] | Mapping[int, str],
    classes: Sequence[str],
) -> None:
    """Write a mask anew, with the number of its class in each pixel.

    Args:
        meaning: Color, or gray value, -> class; the pixels of others are ignored.
        classes: Names of the classes, in the order of their numbers.
    """
    in_color = isinstance(next(iter(meaning)), tuple)
    with open_image(source) as image:
        pixels = np.asarray(image.convert('RGB') if in_color else image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    labels = np.full(pixels.shape[:2], IGNORED, np.uint8)
    for value, name in meaning.items():
        same = pixels == value if in_color else pixels[..., :1] == value
        labels[same.all(axis=-1)] = classes.index(name)
    Image.fromarray(labels).save(target)
