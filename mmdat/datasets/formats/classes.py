"""Images by class: in a folder for each class, or in a list."""

import contextlib
import csv
import json
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmdat.checks.folders import is_hidden, read_lines
from mmdat.errors import UserError, enumerate_names, list_first

from .files import (
    NAMES_FILES,
    SPLIT_WORDS,
    Folder,
    Found,
    NotRecognizedError,
    add_val,
    check_distinct,
    files_named,
    is_image,
    read_names,
    split_of,
    take_paths,
)

# Folders of data for other tasks.
NO_CLASSES = {
    'images', 'labels', 'masks', 'annotations', 'JPEGImages', 'SegmentationClass',
    'SegmentationObject', 'leftImg8bit', 'gtFine', 'gtCoarse', 'image_2', 'instance', 'semantic',
    'semantic_rgb',
}  # fmt: skip
LISTS = ('.txt', '.csv', '.jsonl')
CLASS_COLUMNS = ('label', 'class', 'category', 'class_name', 'label_name')
TABLE_CLASS_COLUMNS = (*CLASS_COLUMNS, 'labels', 'classes', 'target', 'species', 'breed')
MOST_LINES = 20  # of a table that are looked at to see whether it names images
ONE_HOT = {'0': False, '1': True, '0.0': False, '1.0': True}
SPLIT_COLUMNS = ('split', 'set', 'subset')


@dataclass
class ClassSplit:
    """Images of a split.

    Attributes:
        labels: Path relative to the root -> number of its class.
        folder: The folder that holds the classes' folders and no other image; None if a list of the
            images must be written.
    """

    labels: dict[str, int]
    folder: str | None = None


@dataclass(kw_only=True)
class Classified(Found[ClassSplit]):
    """Images by class that were found in a folder."""

    def images(self, split: str) -> Collection[str]:
        """The images of a split."""
        return self.splits[split].labels

    def objects(self, split: str) -> Counter[str]:
        """Count the images of a split by class."""
        return Counter(self.classes[label] for label in self.splits[split].labels.values())


def read_classified(data: Path, share: float, seed: int) -> Classified:
    """Find the images of each class below a folder.

    Args:
        data: The folder, or a list of images and classes.

    Raises:
        UserError: If there are less than two classes.
    """
    folder = Folder(data if data.is_dir() else data.parent, share, seed)
    chosen = [data.relative_to(folder.root).as_posix()]
    named = _read_lists(chosen if data.is_file() else _find_lists(folder), folder)
    tables = [path for path in folder.files if path.lower().endswith('.csv')]
    if len(tables) != 1:
        tables = [path for path in folder.files if path.lower().endswith('.jsonl')]
    is_clear = len(tables) == 1 or (tables and all(map(split_of, tables)))
    if not named and data.is_dir() and is_clear:
        notes = [*folder.notes]
        in_folders = {name for split in _read_folders(folder).values() for name in split.values()}
        folder.notes[:] = notes  # made anew if the folders are the classes
        if len(in_folders) < 2:
            named = _read_lists(tables, folder)
    kind = 'lists of images and classes' if named else 'a folder for each class'
    if not named:
        named = _divide_by_lists(_read_folders(folder), folder)
    else:
        folder.note_unused({path for split in named.values() for path in split})
        if all(name.isdecimal() for split in named.values() for name in split.values()):
            folder.note('The classes have numbers alone: name them in classes.txt, a line each.')
    classes = sorted({name for split in named.values() for name in split.values()}, key=_in_order)
    known = {*classes} if kind != 'a folder for each class' else set()
    if joined := [name for name in classes if _is_joined(name, known)]:
        folder.note(
            f'{len(joined)} classes, such as {joined[0]!r}, consist of the names of others: an '
            'image has one class here, and these are classes of their own.'
        )
    others = []
    if kind == 'a folder for each class' and data.is_dir():
        of_classes = {path for split in named.values() for path in split}
        others = _tables_of(of_classes if len(classes) > 1 else {*folder.paths}, folder)
    if len(classes) < 2:
        raise NotRecognizedError(
            f'{data} has images of {len(classes) or "no"} classes: at least 2 are needed to tell '
            'apart, each in a folder of its own or in a list with lines "path class"'
            + (f'; give the one of {list_first(others)} that has them as DATA' if others else '')
        )
    if all(map(_holds_no_class, classes)):
        raise NotRecognizedError(
            f'{data} has the folders {enumerate_names(classes)}, which hold no classes of images: '
            'give a BASE of detection or semantic segmentation'
        )
    if 'train' not in named:
        raise UserError(
            f'{data} has images of {enumerate_names(named)} alone: name a folder, list or split '
            'train'
        )
    if others:
        folder.note(
            f'The folders are the classes, but {list_first(others)} may have others of the same '
            'images: give the file as DATA if it has the classes.'
        )
    add_val(folder, named, lambda whole: {path: [name] for path, name in whole.items()}, take_paths)
    numbers = {name: number for number, name in enumerate(classes)}
    splits = {
        split: ClassSplit({path: numbers[name] for path, name in paths.items()})
        for split, paths in named.items()
    }
    if kind == 'a folder for each class':
        _use_folders(folder, splits, classes)
    for split in ('train', 'val'):
        occurring = set(named[split].values())
        if absent := [name for name in classes if name not in occurring]:
            folder.note(f'{split} has no image of {enumerate_names(absent)}.')
    return Classified(
        kind=kind, root=folder.root, classes=tuple(classes), splits=splits, notes=folder.notes
    )


def _holds_no_class(name: str) -> bool:
    """Whether the name of a folder is one of a split, or of data for another task."""
    return name in NO_CLASSES or split_of(name) is not None


def _is_joined(name: str, classes: set[str]) -> bool:
    """Whether the name of a class lists others, as tables with several classes of an image do."""
    parts = [{*map(str.strip, name.split(sign))} for sign in '|;, ' if sign in name]
    return any(part <= classes for part in parts)


def _in_order(name: str) -> tuple[int, str]:
    """Sort numbers as such, before other names."""
    return (int(name) if name.isdecimal() else sys.maxsize, name)


def _read_lists(paths: list[str], folder: Folder) -> dict[str, dict[str, str]]:
    """Read lists with a line for each image: its path and its class, or the class's number."""
    named: dict[str, dict[str, str]] = {}
    list_of: dict[str, str] = {}
    for path in paths:
        items, where = _items(folder, path, _rows(folder, path)), folder.root / path
        if not any(label for _, label, _ in items):
            continue
        found: dict[str, str] = {}
        for name, label, word in items:
            split = named.setdefault(_split_named(word, where) or split_of(path) or 'train', {})
            at = folder.find(name, path)
            if at is None:
                raise UserError(
                    f'image {name} of {where} is not below {folder.root}, or more than once'
                )
            other = list_of.setdefault(at, path)
            if not label or split.setdefault(at, label) != label:
                of = f' of {other}' if other != path else ''
                raise UserError(
                    f'image {name} of {where} has '
                    + (f'the classes {split[at]!r}{of} and {label!r}' if label else 'no class')
                    + ': give it one, or take it out'
                )
            found[name] = at
        check_distinct(found.items(), where)
    return _replace_numbers(named, folder)


def _find_lists(folder: Folder) -> list[str]:
    """List the files that may name the images of a split."""
    return [
        path
        for path in folder.files
        if path.lower().endswith(LISTS)
        and split_of(path)
        and '/ImageSets/' not in f'/{path}'
        and (not path.lower().endswith('.jsonl') or _has_classes(folder.root / path))
    ]


def _has_classes(path: Path) -> bool:
    """Whether the first line of JSON has a class; others have captions, or curves of trainings."""
    try:
        keys = {key.lower() for key in dict(json.loads(read_lines(path)[0]))}
    except (AttributeError, IndexError, TypeError, ValueError, UserError):
        return False
    return not keys.isdisjoint(CLASS_COLUMNS)


def _tables_of(images: Collection[str], folder: Folder) -> list[str]:
    """List the tables of no split in which most of the first lines name one of some images."""
    found = []
    for path in folder.files:
        if path.lower().endswith(LISTS[1:]) and not split_of(path):
            with contextlib.suppress(UserError):  # which need not be of the data
                lines = read_lines(folder.root / path)[:MOST_LINES]
                cells = [map(str.strip, re.split('[\t;,"]', line)) for line in lines]
                # A number alone may be anything, and 0.5 is not the image 0.jpg.
                texts = [[x for x in row if not x.replace('.', '').isdecimal()] for row in cells]
                named = [any(folder.find(x, path) in images for x in row) for row in texts]
                if 2 * sum(named) >= len(named) > 0:
                    found.append(path)
    return found


def _divide_by_lists(named: dict[str, dict[str, str]], folder: Folder) -> dict[str, dict[str, str]]:
    """Divide the images of folders without splits by lists of them, as Food-101 has them.

    Raises:
        UserError: If an image of a list is in no folder of a class.
    """
    if set(named) != {'train'}:
        return named
    splits: dict[str, dict[str, str]] = {}
    for path in _find_lists(folder):
        lines = read_lines(folder.root / path)
        is_table = not path.lower().endswith('.txt') and re.search('[\t;,]', ''.join(lines[:1]))
        rows = _rows(folder, path) if is_table else [[line] for line in lines]
        columns = [
            {name: folder.find(name, path) for name in names} for names in zip(*rows, strict=False)
        ]
        found = max(columns, key=lambda found: sum(map(bool, found.values())), default={})
        count = sum(at in named['train'] if is_table else at is not None for at in found.values())
        if not count or (is_table and 2 * count < len(found)):
            continue
        first = next(iter(found))
        can_have_names = not path.lower().endswith('.txt') and len(found) > 1
        if can_have_names and not found[first] and not is_image(first):  # the name of the column
            del found[first]
        split = splits.setdefault(split_of(path) or '', {})
        for name, at in found.items():
            if at not in named['train']:
                raise UserError(
                    f'image {name} of {folder.root / path} is in no folder of a class, or more '
                    'than once: put it there, or take it out'
                )
            split[at] = named['train'][at]
    if not splits.get('train'):
        if unread := [path for path in folder.files if _speaks_of_splits(PurePosixPath(path))]:
            folder.note(
                f'{list_first(unread)} may say which images are for training, but no list has '
                'their paths: not read.'
            )
        return named
    listed = {path for split in splits.values() for path in split}
    if left := len(named['train'].keys() - listed):
        folder.note(f'{left} images of classes are in no list such as train.txt: left out.')
    return splits


def _speaks_of_splits(path: PurePosixPath) -> bool:
    """Whether the name of a file says that it divides images, as train_test_split.txt."""
    return path.suffix.lower() in (*LISTS, '.tsv', '.json', '.mat') and _divides(path.stem)


def _divides(name: str) -> bool:
    """Whether a name has a word for a split, or for splitting."""
    words = re.findall('[a-z]+', name.lower())
    return any(word in (*SPLIT_WORDS, 'split', 'splits', 'trainval', 'fold') for word in words)


def _rows(folder: Folder, path: str) -> list[list[str]]:
    """Split the lines of a list at tabs, semicolons or commas; or else at their last blank.

    Of lines of JSON the keys come first; those that hold more than text or a number are left out.
    """
    lines = read_lines(folder.root / path)
    if path.lower().endswith('.jsonl'):
        try:
            items = [dict(json.loads(line)) for line in lines]
        except (TypeError, ValueError):
            raise UserError(
                f'{folder.root / path} is not a JSON object in each line: mend it, or take it out'
            ) from None
        nested = {key for item in items for key in item if isinstance(item[key], (dict, list))}
        keys = [key for key in {key: 0 for item in items for key in item} if key not in nested]
        return [keys, *([str(item.get(key, '')) for key in keys] for item in items)]
    sign = next((sign for sign in '\t;,' if lines and sign in lines[0]), None)
    split = csv.reader(lines, delimiter=sign) if sign else _at_blanks(folder, path, lines)
    return [[cell.strip().strip('"') for cell in row] for row in split]


def _at_blanks(folder: Folder, path: str, lines: list[str]) -> Iterator[list[str]]:
    """Split lines at the last blank, or at the first one if an image is before that alone."""
    for line in lines:
        first, last = line.split(' ', 1), line.rsplit(' ', 1)
        is_clear = first == last or (not is_image(first[0]) and folder.find(last[0], path))
        yield last if is_clear or not folder.find(first[0], path) else first


def _split_named(word: str, where: Path) -> str | None:
    """Name the split that a cell of a list means; None if it is empty."""
    split = SPLIT_WORDS.get(word.lower())
    if word and split is None:
        raise UserError(f'{where} has the split {word!r}: write train, val or test')
    return split


def _items(folder: Folder, path: str, rows: list[list[str]]) -> list[tuple[str, str, str]]:
    """Take image, class and split from the rows of a list; nothing if no row names an image.

    Of several columns the names in the first row tell the class and the split, which is empty
    without a column, or each is a class with a 1 where the image has it.

    Raises:
        UserError: If the columns do not tell one class of each image.
    """
    where = folder.root / path
    at = next(
        (
            index
            for is_name in (is_image, str)
            for row in rows
            for index, cell in enumerate(row)
            if is_name(cell) and folder.find(cell, path)
        ),
        None,
    )
    if at is None:
        return []
    if max(map(len, rows)) < 2 or {len(row) for row in rows} == {1, 2}:
        return []  # a list of images without classes, some with a blank in their names
    if odd := [row for row in rows if len(row) != len(rows[0])]:
        raise UserError(
            f'{where} has {len(rows[0])} columns in its first line, but {len(odd[0])} in another: '
            f'{" | ".join(odd[0])[:60]}'
        )
    has_header = folder.find(rows[0][at], path) is None
    header = rows[0]
    body = [[*row, ''] for row in rows[has_header:]]  # the last cell is the split without a column
    rest = [index for index in range(len(header)) if index != at]
    parts = [index for index in rest if has_header and header[index].lower() in SPLIT_COLUMNS]
    # Whatever it is called, a column of nothing but words of splits is one, if another may have
    # the class, which may be a train.
    if body and len(rest) > 1:
        parts += [x for x in rest if all(row[x].lower() in SPLIT_WORDS for row in body)]
    split = parts[0] if parts else -1
    rest = [index for index in rest if index != split]
    if not rest:
        return []
    named = [index for index in rest if has_header and header[index].lower() in TABLE_CLASS_COLUMNS]
    if len(rest) == 1 or named:
        column = [*named, *rest][0]
        unread = [header[x] for x in rest if has_header and x != column and _divides(header[x])]
        if unread and split < 0:
            folder.note(
                f'The column {unread[0]!r} of {path} may say which images are for training: it is '
                'not read, unless each row has train, val or test.'
            )
        if has_header and not named and not _are_classes(folder, path, column, at, rows):
            return []
        return [(row[at], row[column], row[split]) for row in body]
    if not has_header or any(row[index] not in ONE_HOT for row in body for index in rest):
        raise UserError(
            f'{where} has {len(header)} columns, and their names do not say which has the class: '
            'name it label in the first line'
        )
    items = []
    for row in body:
        classes = [header[index] for index in rest if ONE_HOT[row[index]]]
        if len(classes) != 1:
            raise UserError(
                f'image {row[at]} of {where} has {len(classes)} classes, but a classifier learns '
                'one of each image: mend it, or take it out'
            )
        items.append((row[at], classes[0], row[split]))
    return items


def _are_classes(folder: Folder, path: str, column: int, at: int, rows: list[list[str]]) -> bool:
    """Whether a column whose name says nothing has classes: there are less than images.

    Args:
        at: The column of the images.
        rows: The lines, of which the first has the names.

    Raises:
        UserError: If the images lie in folders that may be other classes.
    """
    body = rows[1:]
    if len(body) > 2 and len({row[column] for row in body}) == len(body):
        return False
    pairs = {
        (PurePosixPath(folder.find(row[at], path) or '').parent.name, row[column]) for row in body
    }
    places = {place for place, _ in pairs}
    if 1 < len(places) < len(pairs) and not all(map(_holds_no_class, places)):
        raise UserError(
            f'{folder.root / path} has the column {rows[0][column]!r}, but the images lie in the '
            f'folders {enumerate_names(sorted(places))}: if the column has the class, name it '
            'label, or else take the file out'
        )
    return True


def _replace_numbers(named: dict[str, dict[str, str]], folder: Folder) -> dict[str, dict[str, str]]:
    """Replace numbers of classes by their names: in a file line by line, or of the folders."""
    labels = {label for split in named.values() for label in split.values()}
    texts = files_named(folder, NAMES_FILES)
    if not all(label.isdigit() for label in labels):
        return named
    if not texts:
        return _name_by_folders(named)
    names = read_names(folder, texts)
    if max(map(int, labels), default=0) >= len(names):
        raise UserError(
            f'{folder.root / texts[0]} has {len(names)} names, but a list has the class '
            f'{max(map(int, labels))} (counted from 0): add its name'
        )
    return {
        split: {path: names[int(label)] for path, label in paths.items()}
        for split, paths in named.items()
    }


def _name_by_folders(named: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Replace numbers of classes by the names of the folders, if in training each has its own."""
    pairs = {
        (PurePosixPath(path).parent.name, label) for path, label in named.get('train', {}).items()
    }
    names = {label: name for name, label in pairs}
    if len({name for name, _ in pairs} - {''}) < len(pairs) or len(names) < len(pairs):
        return named
    if {label for split in named.values() for label in split.values()} - names.keys():
        return named
    return {
        split: {path: names[label] for path, label in paths.items()}
        for split, paths in named.items()
    }


def _read_folders(folder: Folder) -> dict[str, dict[str, str]]:
    """Take the class of each image from its folder, in folders for splits or without."""
    paths = [PurePosixPath(path) for path in folder.paths]
    depth = 0
    while len({path.parts[: depth + 1] for path in paths}) == 1 and len(paths[0].parts) > depth + 1:
        depth += 1  # a single folder that holds everything
    deeper = [path for path in paths if len(path.parts) > depth + 1]
    splits = {path.parts[depth]: split_of(path.parts[depth]) for path in deeper}
    # Words of splits may be classes, such as a train beside a bus, unless there are several, in
    # names of one word or of folders that hold folders alone, as seg_train.
    flat = {path.parts[depth] for path in deeper if len(path.parts) == depth + 2}
    words = {
        split
        for name, split in splits.items()
        if split and (name.lower() in SPLIT_WORDS or name not in flat)
    }
    by_split = 'train' in splits.values() and (
        None not in splits.values() or ('train' in words and len(words) > 1)
    )
    if others := sorted(name for name in splits if by_split and splits[name] is None):
        folder.note(f'No split, and left out: the folders {enumerate_names(others)}.')
    named: dict[str, dict[str, str]] = {}
    inside: dict[str, set[str]] = defaultdict(set)  # class -> folders in its own, '' for images
    places: set[Path] = set()
    for top, split in splits.items() if by_split else [('', 'train')]:
        below = [path for path in deeper if top in ('', path.parts[depth])]
        at = depth + by_split
        if by_split and {path.parts[at] for path in below if len(path.parts) > at + 1} == {top}:
            at += 1  # a folder in another of the same name, as packers make it
        for path in below:
            if split and len(path.parts) > at + 1:
                # Macs write letters and their signs apart.
                name = unicodedata.normalize('NFC', path.parts[at])
                named.setdefault(split, {})[str(path)] = name
                inside[name].add(path.parts[at + 1] if len(path.parts) > at + 2 else '')
                places.add(folder.root.joinpath(*path.parts[:at]))
    there = {
        unicodedata.normalize('NFC', entry.name)
        for place in places
        for entry in os.scandir(place)
        if entry.is_dir() and not is_hidden(entry.name)
    }
    if empty := there - inside.keys():
        folder.note(f'No class, as they hold no image: {enumerate_names(sorted(empty))}.')
    for name, folders in inside.items():
        if len(folders) > 1 and '' not in folders:
            folder.note(
                f'{name!r} is one class, whatever its folders {enumerate_names(sorted(folders))} '
                'are: move them up if they are classes.'
            )
    if lost := len(paths) - sum(map(len, named.values())):
        folder.note(f'{lost} images are in no folder of a class: they are left out.')
    return named


def _use_folders(folder: Folder, splits: dict[str, ClassSplit], classes: list[str]) -> None:
    """Do without lists where the folders of a split are just the classes."""
    for split in splits.values():
        folders = {
            path[: path.index(f'/{classes[label]}/') + 1] if f'/{classes[label]}/' in path else ''
            for path, label in split.labels.items()
        }
        if len(folders) != 1:
            continue
        top = folders.pop()
        inside = [path for path in folder.paths if path.startswith(top)]
        there = {path.removeprefix(top).split('/')[0] for path in inside}
        if there <= set(classes) and len(inside) == len(split.labels):
            split.folder = top.rstrip('/')
