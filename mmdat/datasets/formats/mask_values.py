"""What the values of masks mean: which classes, by names in files or by the values themselves."""

import csv
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mmdat.checks.folders import read_lines, read_text
from mmdat.checks.images import open_image
from mmdat.checks.masks import IGNORED, is_background
from mmdat.errors import UserError, enumerate_names

from .files import Folder, choose_first, files_named
from .mask_pairs import CITYSCAPES_END

# Values in the labelIds files of Cityscapes, of the classes that are trained on, in their order.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
LISTS_OF_CLASSES = (
    'labelmap.txt', 'class_names.txt', 'classes.txt', 'labels.txt', '_classes.csv', 'classes.json',
    'labels.json', 'class_names.json', 'label_map.json', 'meta.json', 'class_dict.csv',
    'id2label.json', 'label_colors.txt', 'codes.txt',
)  # fmt: skip
# Data sets of papers: pattern of the images' names, class of mmsegmentation, value of the first
# class.
PAPERS = (
    (r'ADE_(train|val)_\d{8}', 'ADE20KDataset', 1),
    (r'(19|20)\d\d_\d{6}', 'PascalVOCDataset', 0),
    (rf'[a-z-]+_\d{{6}}_\d{{6}}{CITYSCAPES_END}', 'CityscapesDataset', 0),
)
# Values without names are no classes if there are more than MOST_GRAYS and one is above
# MOST_NUMBERED.
MOST_GRAYS, MOST_NUMBERED = 32, 200
NO_CLASS = re.compile('ignore|void|unlabel', re.IGNORECASE)  # in a name for 255
MOST_READ = 2000  # masks that are looked at
Color = tuple[int, int, int]
# Names of classes by value, where None is ignored, or in the order of the values.
Names = Mapping[int, str | None] | list[str]
BLACK = (0, 0, 0)


@dataclass(frozen=True)
class Meaning:
    """What the values of masks mean.

    Attributes:
        classes: Names of the classes.
        values: Value -> class, None for what is ignored; None if the values number the classes.
        zero_is_nothing: Whether 0 is no class then, and 1 the first.
        zero_is_clear: Whether the names leave no doubt of that.
    """

    classes: tuple[str, ...]
    values: dict[int, str | None] | None = None
    zero_is_nothing: bool = False
    zero_is_clear: bool = True


class MaskContents:
    """What the masks hold: values, a palette, colors.

    Args:
        folder: Takes the notes.
        paths: The masks; of many, as many as suffice are read, evenly spaced.

    Attributes:
        values: Values in the masks that hold no colors.
        colors: Colors, red, green and blue; empty if values count.
        palette: Value -> color, of the first mask that has one.
        needs_rewriting: Whether a training would read other values, as of 16 bits or several
            channels.
        are_two_kinds: Whether masks hold, beside 0, either 1 or 255, and both occur.

    Raises:
        UserError: If a mask cannot be read.
    """

    def __init__(self, folder: Folder, paths: list[Path]) -> None:
        self.values: set[int] = set()
        self.colors: set[Color] = set()
        self.palette: list[Color] | None = None
        self.needs_rewriting = False
        step = -(-len(paths) // MOST_READ)
        if step > 1:
            folder.note(f'Of {len(paths)} masks every {step}th was read to find the classes.')
        color_of: dict[int, Color] = {}
        by_color = differ = together = False
        with ThreadPoolExecutor() as threads:
            for values, colors, palette, has_alpha in threads.map(self._read, paths[::step]):
                self.values |= values
                self.colors |= colors or {palette[v] if palette else (v, v, v) for v in values}
                self.palette = self.palette or palette
                self.needs_rewriting |= has_alpha or max(values, default=0) > IGNORED
                by_color |= bool(colors)
                together |= {1, IGNORED} <= values
                own = {value: palette[value] for value in values} if palette else {}
                differ |= any(color_of.get(value, color) != color for value, color in own.items())
                color_of.update(own)
        by_color |= differ
        if differ:
            folder.note('Masks have palettes that differ: colors count, not their numbers.')
        if by_color and all(len(set(color)) == 1 for color in self.colors):
            self.values = {color[0] for color in self.colors}
            by_color, self.needs_rewriting = False, True
        if not by_color:
            self.colors = set()
        self.are_two_kinds = not together and {1, IGNORED} == self.values - {0}

    @staticmethod
    def _read(path: Path) -> tuple[set[int], set[Color], list[Color] | None, bool]:
        try:
            with open_image(path) as image:
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


def names_of_known_data(pairs: Mapping[str, str]) -> dict[int, str | None]:
    """Value -> class of the data sets of papers, if the images are named as theirs; else empty."""
    first = PurePosixPath(next(iter(pairs))).stem
    for pattern, name, lowest in PAPERS:
        if re.fullmatch(pattern, first):
            classes = import_module('mmseg.datasets').__dict__[name].METAINFO['classes']
            if next(iter(pairs.values())).endswith('_labelIds.png'):
                return dict.fromkeys(range(34)) | dict(zip(CITYSCAPES_IDS, classes, strict=True))
            return dict(enumerate(map(str.strip, classes), lowest))
    return {}


def read_class_names(folder: Folder) -> tuple[Names, dict[Color, str]]:
    """Read the names of classes: a list, or by value; and by color where a file has colors.

    Raises:
        UserError: If files of the same name differ, or if one cannot be read.
    """
    paths = files_named(folder, LISTS_OF_CLASSES)
    if not paths:
        return [], {}
    path = choose_first(folder, paths)
    if path.suffix == '.json':
        try:
            return _names_in_json(json.loads(read_text(path)))
        except (ValueError, TypeError, KeyError):
            raise UserError(f'{path} holds no list of names of classes') from None
    lines = [line for line in read_lines(path) if line[0] != '#']
    if path.suffix == '.csv':
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines)]
        if tinted := [row for row in cells if ''.join(row[1:4]).isdigit() and len(row) > 3]:
            return [row[0] for row in tinted], {_color(row[1:4]): row[0] for row in tinted}
        return {int(row[0]): row[1] for row in cells if row[0].isdigit()}, {}
    colors: dict[Color, str] = {}
    if path.name == 'labelmap.txt' and all(':' in line for line in lines):  # CVAT's
        fields = [line.split(':') for line in lines]
        for name, color, *_ in fields:
            if color:
                try:
                    colors[_color(color)] = name
                except ValueError:
                    raise UserError(
                        f'{path} gives {name!r} the color {color!r}: write red, '
                        'green and blue, such as 128,0,0'
                    ) from None
        return [name for name, *_ in fields], colors
    colored = [re.fullmatch(r'(\d+)\s+(\d+)\s+(\d+)\s+(.+)', line) for line in lines]
    if all(colored):  # CamVid's
        colors = {_color(match.groups()[:3]): match[4] for match in colored if match}
        return list(colors.values()), colors
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


def meaning_of(values: set[int], names: Names, zero: str | None, kind: str) -> Meaning:
    """Say what the values of masks mean.

    Args:
        zero: As in :func:`mmdat.datasets.formats.read_segmented`.
        kind: Name of the layout; zero is nothing in ADE20K's.

    Raises:
        UserError: If there are more values than names.
    """
    ordered = sorted(values)
    spaced = len(ordered) > 1 and np.ptp(np.diff(ordered)) <= 1 and ordered[-1] == IGNORED
    numbers = ordered if spaced else [value for value in ordered if value != IGNORED]
    if not numbers:
        raise UserError(f'the masks hold nothing but {IGNORED}, which is no class')
    if isinstance(names, Mapping):
        return _meaning_by_value(numbers, names, zero)
    top, count = numbers[-1], len(names)
    is_sparse = top + 1 > 2 * len(numbers)
    # Names of all values up to the highest, of which the masks hold a few.
    is_numbered = count > len(numbers) and top <= count
    is_ade20k = kind.startswith('ADE20K')
    if spaced or (is_sparse and not is_numbered and (count or not is_ade20k)):
        return _meaning_of_each(numbers, names, zero)
    if count:
        return _meaning_by_order(top, names, zero)
    _check_unblurred(numbers, top > MOST_NUMBERED)
    nothing = zero == 'ignored' or (zero is None and is_ade20k and top > 1)
    classes = tuple('background' if v == 0 else f'class_{v}' for v in range(nothing, top + 1))
    return Meaning(classes, None, nothing, zero_is_clear=False)


def _meaning_by_value(
    numbers: list[int], names: Mapping[int, str | None], zero: str | None
) -> Meaning:
    """Take the names that a file gives the values."""
    if unknown := set(numbers) - set(names) - {0}:
        raise UserError(
            f'the masks hold the values {enumerate_names(map(str, sorted(unknown)))}, which '
            'the file with the names of the classes does not have: add them'
        )
    named = {value: names.get(value) for value in sorted({0, *names})}
    if NO_CLASS.search(named.get(IGNORED) or ''):
        del named[IGNORED]  # as without a name
    if zero:
        named[0] = None if zero == 'ignored' else named[0] or 'background'
    classes, nothing = _classes(named), named[0] is None
    if list(named) == list(range(nothing + len(classes))):
        return Meaning(classes, None, nothing)
    return Meaning(classes, named)


def _classes(named: Mapping[int, str | None]) -> tuple[str, ...]:
    return tuple(name for name in named.values() if name is not None)


def _meaning_of_each(numbers: list[int], names: list[str], zero: str | None) -> Meaning:
    """Give each value that there is one of the names, or else a name of its own."""
    _check_unblurred(numbers, not names and numbers[-1] > MOST_NUMBERED)
    named = list(names)
    if len(names) == len(numbers) - 1 and numbers[0] == 0:
        named = ['background', *names]
    if names and len(named) != len(numbers):
        raise UserError(
            f'the masks hold the values {enumerate_names(map(str, numbers), 20)}, but there '
            f'are {len(names)} names of classes: name one class for each'
        )
    named = named or ['background' if v == 0 else f'value_{v}' for v in numbers]
    classes: dict[int, str | None] = dict(zip(numbers, named, strict=True))
    if zero == 'ignored':
        classes[0] = None
    return Meaning(_classes(classes), classes)


def _meaning_by_order(top: int, names: list[str], zero: str | None) -> Meaning:
    """Number the names from 0 or, where there is a value more, from 1."""
    count, first_is_background = len(names), is_background(names[0])
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
    return Meaning(classes, None, nothing, first_is_background)


def _check_unblurred(values: list[int], are_grays: bool) -> None:
    """Refuse masks whose values no file names, and that are too many to be classes."""
    if are_grays and len(values) > MOST_GRAYS:
        raise UserError(
            f'the masks hold {len(values)} gray values from {values[0]} to {values[-1]}, whose '
            'classes no file names, as masks do that were resized or saved as JPEG: save them '
            'as PNG, resized without interpolation (nearest neighbor); if each value is a class, '
            'write the names into classes.txt, a line each'
        )


def name_colors(
    folder: Folder, found: set[Color], names: Names, colors_of: dict[Color, str]
) -> dict[Color, str]:
    """Name the colors of masks: by the file that has them, by gray values, or by themselves.

    Raises:
        UserError: If the file lacks some, or if there are more than values.
    """
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
    folder.note(f'No file says which class{of} a color is: change `classes` in the config.')
    return {
        color: 'background' if color == BLACK else 'color_{:02x}{:02x}{:02x}'.format(*color)
        for color in ordered
    }
