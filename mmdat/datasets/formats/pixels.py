"""Masks of semantic segmentation: which belongs to which image, and what their values mean."""

import csv
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from mmdat.checks.images import IMAGE_SUFFIXES
from mmdat.checks.masks import IGNORED, is_background
from mmdat.errors import UserError, enumerate_names

from .files import (
    Found,
    Images,
    NotRecognizedError,
    add_val,
    divide_images,
    image_sets,
    read_text,
    split_of,
)

IMAGE_WORDS = ('images', 'image', 'imgs', 'img', 'jpegimages', 'photos', 'inputs')
# The first that is there counts: programs write pictures of the masks beside them.
MASK_WORDS = (
    'segmentationclasspng', 'segmentationclass', 'masks', 'mask', 'labels', 'label', 'annotations',
    'annotation', 'annot', 'ann', 'gt', 'groundtruth', 'targets', 'segmentation',
)  # fmt: skip
MASK_END = re.compile(r'[_-](masks?|seg|labels?|gt)$', re.IGNORECASE)
# What the name of a mask may have more than its image's: Cityscapes' first, CamVid's last.
MORE_IN_MASKS = (
    re.compile('_gtFine_labelTrainIds$'),
    re.compile('_gtFine_labelIds$'),
    MASK_END,
    re.compile(r'^(masks?|seg|labels?|gt)[_-]', re.IGNORECASE),
    re.compile(rf'({"|".join(map(re.escape, IMAGE_SUFFIXES))})$', re.IGNORECASE),
    re.compile('_L$'),
)
CITYSCAPES_END = '_leftImg8bit'
CITYSCAPES_NO_MASK = re.compile('_gtCoarse_|_gtFine_(color|instance)')
# Names of the classes of Cityscapes are those of its values for training; its labelIds of them.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
FOLDERS = dict(
    leftimg8bit='images', gtfine='gt', trainannot='train annot', valannot='val annot',
    testannot='test annot',
)  # fmt: skip
NAMES_FILES = (
    'labelmap.txt', 'class_names.txt', 'classes.txt', 'labels.txt', '_classes.csv', 'classes.json',
    'labels.json', 'class_names.json', 'label_map.json', 'meta.json', 'class_dict.csv',
)  # fmt: skip
# Pattern of their images' names, data set of mmsegmentation, and value of its first class.
PAPERS = (
    (r'ADE_(train|val)_\d{8}', 'ADE20KDataset', 1),
    (r'(19|20)\d\d_\d{6}', 'PascalVOCDataset', 0),
    (rf'[a-z-]+_\d{{6}}_\d{{6}}{CITYSCAPES_END}', 'CityscapesDataset', 0),
)
# More values without names are no classes if they go beyond this number.
MOST_GRAYS, MOST_NUMBERED = 32, 200
MOST_READ = 2000  # masks that are looked at
Candidate = tuple[list[tuple], int, str]  # keys that a mask may have, its rank and its path
Color = tuple[int, int, int]
# By value, None for what is ignored; or in the order of the values.
Names = Mapping[int, str | None] | list[str]
# Value -> class, whether 0 is nothing, whether that is clear, and the classes.
Meaning = tuple[dict[int, str | None] | None, bool, bool, tuple[str, ...]]
BLACK = (0, 0, 0)


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
    images = Images(data)
    notes: list[str] = []
    splits, kind = _find_splits(images, share, seed, notes)
    common: dict[str, Any] = dict(kind=kind, root=data, splits=splits, notes=notes)
    masks = [
        data / split.masks / mask for split in splits.values() for mask in split.pairs.values()
    ]
    look = _Look(masks, notes)
    names, colors_of = _read_names(images)
    if not names:
        names = _names_of_papers(splits['train']) or []
    if look.colors:
        colors = _name_colors(look.colors, names, colors_of, notes)
        classes = tuple(dict.fromkeys(colors.values()))
        color_of = {name: color for color, name in colors.items()}
        return Segmented(
            classes=classes,
            palette=[color_of[name] for name in classes],
            rewritten=colors,
            **common,
        )
    values, nothing, clear, classes = _meaning(look.values, names, zero, kind)
    is_copied = look.needs_rewriting or not all(split.are_parallel for split in splits.values())
    if not names:
        keys = '`classes` and `mask_values`' if values and not is_copied else '`classes`'
        notes.append(f'Names of the classes were not found: change {keys} in the config.')
    kept = {value: name for value, name in (values or {}).items() if name is not None}
    kept = kept or dict(enumerate(classes, int(nothing)))
    if is_copied:
        if len(kept) > IGNORED:
            raise UserError(
                f'the masks hold {len(kept)} values: a value for each class, and at most {IGNORED} '
                'of them, can be learned'
            )
        notes.append(
            'The masks have 16 bits, alpha or several channels: copies with 8 bits are written.'
            if look.needs_rewriting
            else 'Masks do not lie as their images do: copies that do are written.'
        )
        return Segmented(
            classes=classes, rewritten=kept, zero_is_nothing=nothing, zero_is_clear=clear, **common
        )
    return Segmented(
        classes=classes,
        palette=[look.palette[value] for value in kept] if look.palette else None,
        values=values,
        zero_is_nothing=nothing,
        zero_is_clear=clear,
        **common,
    )


def _find_splits(
    images: Images, share: float, seed: int, notes: list[str]
) -> tuple[dict[str, MaskSplit], str]:
    """Find pairs of an image and a mask, by split."""
    pairs = _pairs(images, notes)
    lists = image_sets(images, 'Segmentation')
    by_split: dict[str, dict[str, str]] = {}
    for image, mask in pairs.items():
        stem = PurePosixPath(image).stem
        split = lists.get(stem) if lists else split_of(str(PurePosixPath(image).parent))
        if split or not lists:
            by_split.setdefault(split or 'train', {})[image] = mask
    kind = "VOC's layout" if lists else 'folders of images and masks'
    if {'training', 'annotations'} <= {part for path in pairs.values() for part in path.split('/')}:
        kind = "ADE20K's layout"
    if 'train' not in by_split:
        raise UserError(
            f'{images.root} has no masks to train on: put them into folders such as images/train '
            'and masks/train'
        )
    add_val(
        by_split, lambda whole: divide_images(whole, dict.fromkeys(whole, ()), share, seed), notes
    )
    return {name: _split(images, pairs) for name, pairs in by_split.items()}, kind


def _split(images: Images, pairs: dict[str, str]) -> MaskSplit:
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
    inside = sum(path.startswith(f'{first}/') for path in images.paths)
    return MaskSplit(
        first,
        second,
        relative,
        '' if suffix in relative.values() else suffix,
        f'{image_end}.png' if image_end and suffix else '',
        listed=inside != len(pairs),
        are_parallel=are_images or suffix not in ('', *relative.values()),
    )


def _pairs(images: Images, notes: list[str]) -> dict[str, str]:
    """Pair images with masks of the same stem: in folders that are named so, or beside them.

    Stems of masks may end in a word for a mask.
    """
    photos, masks, blurred, is_clear = _by_key(images, '[a-z]+')
    if not is_clear:  # as images1/a.jpg and images2/a.jpg
        photos, masks, blurred, _ = _by_key(images, r'[^\W\d_]+|\d+')
    pairs = {path: masks[key][-1] for key, path in photos.items() if key in masks}
    if not pairs and blurred:
        raise UserError(
            f'{images.root / min(blurred)} holds JPEG files, which blur the values of masks: save '
            'the masks as PNG'
        )
    if not pairs:
        raise NotRecognizedError(
            f'{images.root} has no pairs of an image and a mask: give a folder with images/ and '
            'masks/ (or labels/, annotations/), whose files have the same names up to the suffix'
        )
    if lonely := [path for key, path in photos.items() if key not in masks]:
        notes.append(f'{len(lonely)} images have no mask, such as {lonely[0]}: they are left out.')
    if unused := [path for key, (*_, path) in masks.items() if key not in photos]:
        notes.append(f'{len(unused)} masks have no image, such as {unused[0]}: they are left out.')
    return pairs


def _by_key(
    images: Images, pattern: str
) -> tuple[dict[tuple, str], dict[tuple, tuple[int, int, str]], set[str], bool]:
    """Give images and masks that belong together one key.

    Args:
        images: The images of the folder.
        pattern: What the words in a folder's name are; the other signs are not looked at.

    Returns:
        Key -> image, key -> ranks and path of a mask, folders of masks that are JPEG, and whether
        no two folders have an image of the same key.
    """
    photos: dict[tuple, str] = {}
    found: list[Candidate] = []
    beside: list[Candidate] = []
    doubtful: list[Candidate] = []
    blurred: set[str] = set()
    is_clear = True
    plain = {PurePosixPath(path).with_suffix('').parts for path in images.paths}
    for path in images.paths:
        parts = PurePosixPath(path).with_suffix('').parts
        if CITYSCAPES_NO_MASK.search(parts[-1]):
            continue
        ends = [(*parts[:-1], name) for name in _names_of_images(parts[-1])]
        for index in reversed(range(len(parts) - 1)):
            name = parts[index].lower()
            words = re.findall(pattern, FOLDERS.get(name, name))
            mask_word = next((word for word in MASK_WORDS if word in words), None)
            image_word = next((word for word in IMAGE_WORDS if word in words), None)
            word = mask_word or image_word
            if word is None:
                continue
            rest = tuple(item for item in words if item != word)
            if mask_word is None:
                last = parts[-1].removesuffix(CITYSCAPES_END)
                key = (parts[:index], rest, (*parts[index + 1 : -1], last))
                other = photos.setdefault(key, path)
                is_clear &= PurePosixPath(other).parent == PurePosixPath(path).parent
            elif not path.lower().endswith(('.jpg', '.jpeg')):
                keys: list[tuple] = [(parts[:index], rest, end[index + 1 :]) for end in ends]
                split = ('_'.join(rest),) if rest else ()
                # Images may lie beside the folder of masks, or in a folder without a word.
                keys += [(*parts[:index], *split, *end[index + 1 :]) for end in ends]
                found.append((keys, MASK_WORDS.index(mask_word), path))
            else:
                blurred.add('/'.join(parts[: index + 1]))
            break
        else:
            shorter: list[tuple] = [end for end in ends if end != parts]
            if match := MASK_END.search(parts[-1]):
                word = match[1].lower()
                rank = MASK_WORDS.index(word) if word in MASK_WORDS else len(MASK_WORDS)
                beside.append((shorter, rank, path))
            elif not plain.isdisjoint(shorter):
                doubtful.append((shorter, len(MASK_WORDS), path))
            else:
                photos[parts] = path
    # In a folder of images that have masks, a_L.png beside a.png is another image.
    sure = {key[:-1] for keys, *_ in (*found, *beside) for key in keys if key in photos}
    for item in doubtful:
        parts = PurePosixPath(item[-1]).with_suffix('').parts
        if parts[:-1] in sure:
            photos[parts] = item[-1]
        else:
            beside.append(item)
    for item in beside:
        path = item[-1]
        if path.lower().endswith(('.jpg', '.jpeg')):
            blurred.add(str(PurePosixPath(path).parent))
        else:
            found.append(item)
    masks: dict[tuple, tuple[int, int, str]] = {}
    for keys, rank, path in found:
        at = next((number for number, key in enumerate(keys) if key in photos), 0)
        masks[keys[at]] = min(masks.get(keys[at], (rank, at, path)), (rank, at, path))
    return photos, masks, blurred, is_clear


def _names_of_images(mask: str) -> list[str]:
    """List the names that the image of a mask may have, without suffix, the likeliest first."""
    return [mask, *(pattern.sub('', mask) or mask for pattern in MORE_IN_MASKS)]


class _Look:
    """What the masks hold: values, a palette, colors.

    Args:
        paths: The masks; of many, as many as suffice, evenly spaced.
    """

    def __init__(self, paths: list[Path], notes: list[str]) -> None:
        self.values: set[int] = set()
        self.colors: set[Color] = set()
        self.palette: list[Color] | None = None
        self.needs_rewriting = False
        step = -(-len(paths) // MOST_READ)
        if step > 1:
            notes.append(f'Of {len(paths)} masks every {step}th was read to find the classes.')
        color_of: dict[int, Color] = {}
        by_color = differ = False
        with ThreadPoolExecutor() as threads:
            for values, colors, palette, has_alpha in threads.map(self._read, paths[::step]):
                self.values |= values
                self.colors |= colors or {palette[v] if palette else (v, v, v) for v in values}
                self.palette = self.palette or palette
                self.needs_rewriting |= has_alpha or max(values, default=0) > IGNORED
                by_color |= bool(colors)
                own = {value: palette[value] for value in values} if palette else {}
                differ |= any(color_of.get(value, color) != color for value, color in own.items())
                color_of.update(own)
        by_color |= differ
        if differ:
            notes.append('Masks have palettes that differ: colors count, not their numbers.')
        if by_color and all(len(set(color)) == 1 for color in self.colors):
            self.values = {color[0] for color in self.colors}
            by_color, self.needs_rewriting = False, True
        if not by_color:
            self.colors = set()

    @staticmethod
    def _read(path: Path) -> tuple[set[int], set[Color], list[Color] | None, bool]:
        try:
            with Image.open(path) as image:
                mode, palette = image.mode, image.getpalette()
                pixels = np.asarray(image)
        except (OSError, ValueError, SyntaxError):
            raise UserError(f'mask {path} cannot be read: mend it, or take it out') from None
        if has_alpha := pixels.ndim == 3 and pixels.shape[2] == 2:
            pixels = pixels[..., 0]
        if pixels.ndim == 3:
            flat = pixels[..., :3].reshape(-1, 3)
            packed = np.unique(flat.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32))
            return set(), {(v >> 16, v >> 8 & 255, v & 255) for v in packed.tolist()}, None, False
        colors = None
        if mode == 'P' and palette:
            colors = list(zip(palette[::3], palette[1::3], palette[2::3], strict=True))
            colors += [(0, 0, 0)] * (256 - len(colors))
            if all(len(set(color)) == 1 for color in colors):
                colors = None
        return set(np.unique(pixels).astype(int).tolist()), set(), colors, has_alpha


def _names_of_papers(split: MaskSplit) -> dict[int, str | None]:
    """Value -> class of the data sets of papers, if the images are named as theirs; else empty."""
    first = PurePosixPath(next(iter(split.pairs))).stem
    for pattern, name, lowest in PAPERS:
        if re.fullmatch(pattern, first):
            classes = import_module('mmseg.datasets').__dict__[name].METAINFO['classes']
            if next(iter(split.pairs.values())).endswith('_labelIds.png'):
                return dict.fromkeys(range(34)) | dict(zip(CITYSCAPES_IDS, classes, strict=True))
            return dict(enumerate(map(str.strip, classes), lowest))
    return {}


def _read_names(images: Images) -> tuple[Names, dict[Color, str]]:
    """Read the names of classes: a list, or by value; and by color where a file has colors."""
    by_name = {PurePosixPath(path).name: path for path in reversed(images.files)}
    path = next((by_name[name] for name in NAMES_FILES if name in by_name), None)
    if path is None:
        return [], {}
    text = read_text(images.root / path)
    for other in images.files:
        is_alike = PurePosixPath(other).name == PurePosixPath(path).name
        if is_alike and read_text(images.root / other).split() != text.split():
            raise UserError(
                f'{images.root / path} and {images.root / other} name other classes: make them '
                'equal, or take one out'
            )
    if path.endswith('.json'):
        try:
            return _names_in_json(json.loads(text))
        except (ValueError, TypeError, KeyError):
            raise UserError(f'{images.root / path} holds no list of names of classes') from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != '#']
    if path.endswith('.csv'):
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines)]
        if colored := [row for row in cells if ''.join(row[1:4]).isdigit() and len(row) > 3]:
            return [row[0] for row in colored], {_color(row[1:4]): row[0] for row in colored}
        return {int(row[0]): row[1] for row in cells if row[0].isdigit()}, {}
    if path.endswith('labelmap.txt') and all(':' in line for line in lines):  # CVAT's
        fields = [line.split(':') for line in lines]
        colors: dict[Color, str] = {}
        for name, color, *_ in fields:
            if color:
                try:
                    colors[_color(color)] = name
                except ValueError:
                    raise UserError(
                        f'{images.root / path} gives {name!r} the color {color!r}: write red, '
                        'green and blue, such as 128,0,0'
                    ) from None
        return [name for name, *_ in fields], colors
    numbered = [re.fullmatch(r'(\d+)[\s:,;]+(.+)', line) for line in lines]
    if all(numbered):
        return {int(match[1]): match[2].strip() for match in numbered if match}, {}
    return [line for line in lines if line != '__ignore__'], {}


def _names_in_json(content: Any) -> tuple[Names, dict[Color, str]]:
    if isinstance(content, dict):
        content = content.get('classes') or content.get('names') or content.get('labels') or content
    if isinstance(content, dict):
        if all(isinstance(value, int) for value in content.values()):
            return {value: name for name, value in content.items()}, {}
        return {int(value): str(name) for value, name in content.items()}, {}
    names = [
        item if isinstance(item, str) else item.get('name') or item['title'] for item in content
    ]
    colors = {}
    if all(isinstance(item, dict) and item.get('color') for item in content):
        colors = {_color(item['color']): name for item, name in zip(content, names, strict=True)}
    return names, colors


def _color(value: Any) -> Color:
    """Read a color: ``#ff8000``, ``255,128,0`` or three numbers.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, str) and value.startswith('#'):
        value = bytes.fromhex(value[1:])
    red, green, blue = map(int, value.split(',') if isinstance(value, str) else value)
    return red, green, blue


def _meaning(values: set[int], names: Names, zero: str | None, kind: str) -> Meaning:
    """Say what the values of masks mean.

    Returns:
        Value -> class if they are not just numbered, whether 0 is nothing, whether the names leave
        no doubt of that, and the classes.

    Raises:
        UserError: If there are more values than names, or less than two classes.
    """
    ordered = sorted(values)
    spaced = len(ordered) > 1 and np.ptp(np.diff(ordered)) <= 1 and ordered[-1] == IGNORED
    numbers = ordered if spaced else [value for value in ordered if value != IGNORED]
    if not numbers:
        raise UserError(f'the masks hold nothing but {IGNORED}, which is no class')
    top, sparse = numbers[-1], numbers[-1] + 1 > 2 * len(numbers)
    if isinstance(names, Mapping):
        clear = True
        if unknown := set(numbers) - set(names) - {0}:
            raise UserError(
                f'the masks hold the values {enumerate_names(map(str, sorted(unknown)))}, which '
                'the file with the names of the classes does not have: add them'
            )
        classes = tuple(name for _, name in sorted(names.items()) if name is not None)
        if None in names.values():
            return _at_least_two(dict(names), False, clear, classes)
        if sorted(names) == list(range(1, len(names) + 1)):
            return _at_least_two(None, zero != 'background', clear, classes)
        if sorted(names) == list(range(len(names))):
            return _at_least_two(None, zero == 'ignored', clear, classes)
        return _at_least_two(
            {value: names[value] for value in sorted(names)}, False, clear, classes
        )
    count = len(names)
    first_is_background = count > 0 and is_background(names[0])
    if (sparse and (count or not kind.startswith('ADE20K'))) or spaced:
        _check_unblurred(numbers, not count and top > MOST_NUMBERED)
        named = list(names)
        if count == len(numbers) - 1 and numbers[0] == 0:
            named = ['background', *names]
        if count and len(named) != len(numbers):
            raise UserError(
                f'the masks hold the values {enumerate_names(map(str, numbers), 20)}, but there '
                f'are {count} names of classes: name one class for each'
            )
        named = named or ['background' if v == 0 else f'value_{v}' for v in numbers]
        meaning = dict(zip(numbers, named, strict=True))
        if zero == 'ignored':
            meaning.pop(0, None)
        return _at_least_two({**meaning}, False, True, tuple(meaning.values()))
    if count:
        if top > count or (top == count and first_is_background):
            raise UserError(
                f'the masks hold the value {top}, but there are {count} names of classes, the '
                f'first {names[0]!r}: name all classes'
            )
        nothing = zero == 'ignored' or (zero is None and top == count and count > 1)
        classes = tuple(names)
        if not nothing and top == count:
            classes = ('background', *names)
        if nothing and first_is_background:
            classes = classes[1:]
        return _at_least_two(None, nothing, first_is_background, classes)
    _check_unblurred(numbers, top > MOST_NUMBERED)
    nothing = zero == 'ignored' or (zero is None and kind.startswith('ADE20K') and top > 1)
    classes = tuple('background' if v == 0 else f'class_{v}' for v in range(nothing, top + 1))
    return _at_least_two(None, nothing, False, classes)


def _check_unblurred(values: list[int], are_grays: bool) -> None:
    """Refuse masks whose values no file names, and that are too many to be classes."""
    if are_grays and len(values) > MOST_GRAYS:
        raise UserError(
            f'the masks hold {len(values)} gray values from {values[0]} to {values[-1]}, whose '
            'classes no file names, as masks do that were resized or saved as JPEG: save them '
            'as PNG, resized without interpolation (nearest neighbor); if each value is a class, '
            'write the names into classes.txt, a line each'
        )


def _at_least_two(
    values: dict[int, str | None] | None, nothing: bool, clear: bool, classes: tuple[str, ...]
) -> Meaning:
    if len(classes) < 2:
        raise UserError(
            f'the masks have the class {enumerate_names(classes)} alone: there is nothing to tell '
            'it from; is 0 a class (--zero background)?'
        )
    return values, nothing, clear, classes


def _name_colors(
    found: set[Color], names: Names, colors_of: dict[Color, str], notes: list[str]
) -> dict[Color, str]:
    """Name the colors of masks: by the file that has them, by gray values, or by themselves."""
    if colors_of:
        if BLACK in found - colors_of.keys():
            colors_of = {BLACK: 'background', **colors_of}
        if unknown := found - set(colors_of):
            raise UserError(
                f'the masks hold {len(unknown)} colors that the file with the names of the classes '
                f'does not have, such as {min(unknown)}: add them'
            )
        return colors_of
    if len(found) > 256:
        raise UserError(
            f'the masks hold {len(found)} colors: save them without loss, as PNG with a color or '
            'a value for each class'
        )
    ordered = sorted(found)
    by_value = names if isinstance(names, Mapping) else dict(enumerate(names))
    listed = [name for _, name in sorted(by_value.items()) if name is not None]
    if len(ordered) == len(listed) == 2 and ordered[0] == BLACK and is_background(listed[0]):
        return dict(zip(ordered, listed, strict=True))
    of = f', of {enumerate_names(listed)},' if listed else ''
    notes.append(f'No file says which class{of} a color is: change `classes` in the config.')
    return {
        color: 'background' if color == BLACK else 'color_{:02x}{:02x}{:02x}'.format(*color)
        for color in ordered
    }


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
    with Image.open(source) as image:
        pixels = np.asarray(image.convert('RGB') if in_color else image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    labels = np.full(pixels.shape[:2], IGNORED, np.uint8)
    for value, name in meaning.items():
        same = pixels == value if in_color else pixels[..., :1] == value
        labels[same.all(axis=-1)] = classes.index(name)
    Image.fromarray(labels).save(target)
