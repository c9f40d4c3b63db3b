"""Files below a folder, their names, and their parts for training and validation."""

import json
import operator
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

from mmdat.checks.folders import find_files, read_lines, read_text
from mmdat.checks.images import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES, read_header
from mmdat.errors import UserError

SPLITS = ('train', 'val', 'test')
# Word in the name of a file or folder -> the split that it means.
SPLIT_WORDS = dict(
    train='train', training='train', val='val', valid='val', validation='val', dev='val',
    test='test', testing='test',
)  # fmt: skip
# Files with the name of a class in each line.
NAMES_FILES = ('classes.txt', 'obj.names', 'labels.txt', 'predefined_classes.txt')
# What the name of a mask may end in behind that of its image.
MASK_END = re.compile(r'[_-](masks?|seg|segmentation|labels?|gt)$', re.IGNORECASE)
# Label Studio's name for an uploaded image, in which blanks are underscores too.
UPLOADED = re.compile('[0-9a-f]{8}-(.+)')
Item = TypeVar('Item')
Split = TypeVar('Split')


class NotRecognizedError(UserError):
    """A folder holds nothing that the task could learn from."""


@dataclass(kw_only=True)
class Found(Generic[Split]):
    """Data that were found in a folder.

    Attributes:
        kind: Name of the format or layout.
        root: Folder that all paths are relative to.
        classes: Names of the classes, in the order of their labels.
        splits: Split -> what it holds; train and val at least.
        notes: What was decided that one might not expect, as sentences.
    """

    kind: str
    root: Path
    classes: tuple[str, ...]
    splits: dict[str, Split]
    notes: list[str] = field(default_factory=list)


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def split_of(path: str) -> str | None:
    """Name the split that a path speaks of, by its last part that speaks of just one.

    Example:
        >>> split_of('annotations/instances_train2017.json'), split_of('valid/a.jpg')
        ('train', 'val')
    """
    for part in reversed(PurePosixPath(path).parts):
        words = re.findall('[a-z]+', part.lower())
        splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
        if len(splits) == 1:
            return splits.pop()
    return None


def split_of_folder(path: str) -> str | None:
    """Name the split that the folders of a file speak of, whatever the file is called."""
    return split_of(str(PurePosixPath(path).parent))


def read_json(path: Path) -> Any:
    """Read a JSON file, in UTF-8 or UTF-16.

    Raises:
        UserError: If it is none.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror})') from None
    except UnicodeDecodeError:
        raise UserError(f'{path} is not UTF-8: save it as such') from None
    except ValueError as error:
        raise UserError(f'{path} is not JSON ({error}): mend it, or take it out') from None


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of an image once it is turned as its EXIF data says, as mmcv reads it.

    Raises:
        UserError: If it is no image.
    """
    header = read_header(str(path))
    if header is None:
        raise UserError(f'image {path} cannot be read: mend it, or take it out')
    return header.upright


class Folder:
    """A folder of data, whose images are found by whatever name an annotation has for them.

    Args:
        root: Its path.
        share: Share of the images to validate on where the folder does not say which.
        seed: Seed of their choice.

    Attributes:
        files: Paths of all files, relative to the root.
        paths: Those of images.
        notes: What was decided that one might not expect, as sentences.
    """

    def __init__(self, root: Path, share: float, seed: int) -> None:
        self.root, self.share, self.seed = root, share, seed
        self.notes: list[str] = []
        paths = find_files(str(root), ('',))
        self.files = [Path(path).relative_to(root).as_posix() for path in paths]
        self.paths = [path for path in self.files if is_image(path)]
        if unread := [path for path in self.files if path.lower().endswith(UNREADABLE_SUFFIXES)]:
            self.note(
                f'{len(unread)} images, such as {unread[0]}, are in a format that is not read: '
                'convert them to JPEG or PNG, else they are left out.'
            )
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._without_blanks: dict[str, list[str]] = defaultdict(list)
        folded = {path: _folded(path) for path in self.paths}
        for path, (*_, name) in folded.items():
            self._by_name[name].append(path)
            self._by_name[PurePosixPath(name).stem].append(path)
            self._without_blanks[name.replace(' ', '_')].append(path)
        # Thousands of folders may have a file of one name, as the frames of videos.
        for path, parts in folded.items():
            if len(self._by_name[parts[-1]]) > 1:
                for start in range(len(parts) - 1):
                    self._by_name['/'.join(parts[start:])].append(path)

    def note(self, text: str) -> None:
        """Keep a sentence for the user about what was decided in reading the folder."""
        self.notes.append(text)

    def note_unused(self, used: Collection[str]) -> None:
        """Note the images that are left out, but for those that may be masks of others."""
        folders = {PurePosixPath(path).parent for path in used}
        stems = {PurePosixPath(path).stem for path in used}
        left = [
            path
            for path in map(PurePosixPath, sorted({*self.paths} - {*used}))
            if (path.parent in folders or path.stem not in stems)
            and not (MASK_END.search(path.stem) and MASK_END.sub('', path.stem) in stems)
        ]
        if left:
            tests = sum(split_of_folder(str(path)) == 'test' for path in left)
            self.note(
                f'{len(left)} images, such as {left[0]}, have no annotations, or are in no list'
                + (f' ({tests} in folders for tests)' if tests else '')
                + ': they are left out.'
            )

    def has(self, name: str) -> bool:
        """Whether there is an image of a name, with or without suffix, in any folder."""
        last = (_folded(name) or [''])[-1]
        return last in self._by_name or PurePosixPath(last).stem in self._by_name

    def find(self, name: str, near: str) -> str | None:
        r"""Find an image by the name that a file of annotations has for it.

        Folders in the name may be missing or be those of another computer, and its suffix and case
        may differ; Label Studio's prefix of an uploaded image may be there, and signs may be
        written as in a URL. Of several images of that name the one is taken whose folders agree
        best, then whose name is the same in all letters.

        Args:
            name: The name, such as ``'C:\data\a.JPG'``.
            near: Path of the file of annotations, relative to the root.

        Returns:
            The path relative to the root; None if there is no such image, or if there are several.
        """
        wanted = _folded(name)
        if not wanted:
            return None
        ends = ['/'.join(wanted[start:]) for start in range(len(wanted))]
        beside = '/'.join([*_folded(near)[:-1], *wanted])
        # As the list train.csv, beside folders train and test, an image may be of another split.
        is_alike = len(wanted) == 1 and split_of(near) == split_of_folder(near)
        names = [*[beside] * is_alike, *ends, PurePosixPath(wanted[-1]).stem]
        candidates = next(filter(None, map(self._by_name.get, names)), [])
        if not candidates and (match := UPLOADED.fullmatch(wanted[-1])):
            candidates = self._without_blanks.get(match[1].replace(' ', '_'), [])
        if not candidates and (plain := unquote(name)) != name:
            return self.find(plain, near)
        if len(candidates) < 2:
            return next(iter(candidates), None)

        last = PurePosixPath(name.replace('\\', '/')).name

        def agreement(path: str) -> tuple[int, bool, int, bool]:
            parts = _folded(path)[:-1]
            tail = _common(reversed(parts), reversed(wanted[:-1]))
            same_split = split_of_folder(path) == split_of(near)
            return tail, same_split, _common(parts, _folded(near)), path.endswith(last)

        best, second = sorted(candidates, key=agreement, reverse=True)[:2]
        return None if agreement(best) == agreement(second) else best


def check_distinct(found: Iterable[tuple[str, str]], where: Path) -> None:
    """Refuse annotations of several images that would all be those of one.

    Args:
        found: Name in the annotations, and the image that was found by it.
        where: File or folder of the annotations, for the sentence.

    Raises:
        UserError: Names two of them and the image.
    """
    first: dict[str, str] = {}
    for name, at in found:
        if (other := first.setdefault(at, name)) != name:
            raise UserError(
                f'{other} and {name} of {where} would both be for the image {at}: give each the '
                'name and folder of its own image, or take one out'
            )


def image_sets(folder: Folder, kind: str) -> dict[str, str]:
    """Read which split an image is in, by the stem of its name, from the lists that VOC has.

    Args:
        kind: ``'Main'`` or ``'Segmentation'``.
    """
    splits: dict[str, str] = {}
    lost: dict[str, str] = {}
    # trainval comes first, so that train and val replace what it says: the rest is trained on.
    for name, split in [('trainval', 'train'), *SPLIT_WORDS.items()]:
        for path in folder.files:
            if path.endswith(f'ImageSets/{kind}/{name}.txt'):
                for line in read_lines(folder.root / path):
                    keys = (line, line.split()[0])  # names may hold blanks, or have a suffix
                    for key in keys:
                        splits[PurePosixPath(key).stem if is_image(key) else key] = split
                    if not any(folder.has(key) for key in keys):
                        lost.setdefault(line, path)
    if lost:
        name, path = next(iter(lost.items()))
        folder.note(
            f'{len(lost)} images in lists of ImageSets/{kind}, such as {name} of {path}, are not '
            f'below {folder.root}: they are left out.'
        )
    return splits


def find_each(folder: Folder, named: Mapping[str, str]) -> dict[str, str]:
    """Find the image of each file of annotations, by the name in it or else by its own.

    Its own counts, too, if others hold the same name, as those of images that were renamed do.

    Args:
        folder: The folder of the images.
        named: File of annotations -> name of its image in it.

    Raises:
        UserError: If an image is not there, or if two files are for the same.
    """
    by_name = {path: folder.find(name, path) for path, name in named.items()}
    counts = Counter(by_name.values())
    found = {}
    for path, at in by_name.items():
        if at is None or counts[at] > 1:
            at = folder.find(PurePosixPath(path).stem, path) or at
        if at is None:
            raise UserError(
                f'image {named[path]} of {folder.root / path} is not below {folder.root}: put it '
                'there'
            )
        found[path] = at
    check_distinct(found.items(), folder.root)
    return found


def files_named(folder: Folder, names: Sequence[str]) -> list[str]:
    """List the files of a folder that have one of some names, in the order of the names."""
    found = [path for path in folder.files if path.rpartition('/')[2] in names]
    return sorted(found, key=lambda path: names.index(path.rpartition('/')[2]))


def choose_first(folder: Folder, paths: list[str]) -> Path:
    """Choose the first of some files that name the classes.

    Raises:
        UserError: If another one of its name holds something else.
    """
    first, *others = (folder.root / path for path in paths)
    for other in others:
        if other.name == first.name and read_lines(other) != read_lines(first):
            raise UserError(
                f'{first} and {other} name other classes, or in another order: make them equal, or '
                'take one out'
            )
    return first


def read_names(folder: Folder, paths: list[str]) -> list[str]:
    """Read the names of classes, a line each, from the first of some files.

    Raises:
        UserError: If another one of its name holds others, or if names are empty or double.
    """
    first = choose_first(folder, paths)
    names = [line.strip() for line in read_text(first).rstrip().splitlines()]
    check_names(dict(enumerate(names)), first)
    return names


def check_names(names: Mapping[int, str], where: Path) -> None:
    """Refuse names of classes, which go by their numbers, if one is empty or there twice.

    Raises:
        UserError: Names the file and the class.
    """
    first: dict[str, int] = {}
    for number, name in names.items():
        if not name:
            raise UserError(
                f'{where} has no name for class {number} (counted from 0): give it one, or take '
                'the empty line out'
            )
        if (other := first.setdefault(name, number)) != number:
            raise UserError(
                f'{where} gives the classes {other} and {number} the same name, '
                f'{name!r}: give each its own'
            )


def _folded(path: str) -> list[str]:
    """Split a path into parts that are equal where they differ in case or in Unicode's form."""
    text = unicodedata.normalize('NFC', path).casefold().replace('\\', '/')
    return [part for part in text.split('/') if part not in ('', '.', '..')]


def _common(some: Iterable[str], others: Iterable[str]) -> int:
    """Count the parts at the beginning of two paths that are equal."""
    return len(list(takewhile(bool, map(operator.eq, some, others))))


def add_val(
    folder: Folder,
    splits: dict[str, Split],
    classes_of: Callable[[Split], Mapping[Any, Collection]],
    take: Callable[[Split, list[Any]], Split],
) -> None:
    """Validate on the images of the test if there are no others, or hold some back from training.

    Args:
        splits: Split -> what it holds; train, and maybe val and test.
        classes_of: Lists the images of a split with the classes of each.
        take: Takes some of the images out of a split, into a new one.
    """
    if 'val' in splits:
        return
    if 'test' in splits:
        splits['val'] = splits.pop('test')
        folder.note('There is no val: the images of test are validated on.')
        return
    whole = splits['train']
    train, val = hold_back(classes_of(whole), folder.share, folder.seed)
    splits['train'], splits['val'] = take(whole, train), take(whole, val)
    count = '1 image' if len(val) == 1 else f'{len(val)} images'
    verb = 'is' if len(val) == 1 else 'are'
    folder.note(f'There is no val: {count}, chosen with the seed {folder.seed}, {verb} held back.')


def take_paths(whole: dict[str, Item], paths: list[str]) -> dict[str, Item]:
    """Take some of the images of a split that are listed by path."""
    return {path: whole[path] for path in paths}


def hold_back(
    classes_of: Mapping[Item, Collection], share: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Split items into those to train on and those to validate on.

    Each class keeps an item to train on, if possible; then as many classes as possible have one to
    validate on, and the parts have like shares of each class's items, where an item has one class.

    Returns:
        Items to train on and items to validate on, each in the order given.

    Raises:
        UserError: If there are less than two.
    """
    items = list(classes_of)
    if len(items) < 2:
        raise UserError(f'there is {len(items)} image with annotations: at least 2 are needed')
    random.Random(seed).shuffle(items)
    left = Counter(name for classes in classes_of.values() for name in set(classes))
    # The classes take turns: an item is due when its class has had the same share of its items.
    seen: Counter = Counter()
    due = {}
    for item in items:
        first = next(iter(classes_of[item]), None)
        seen[first] += 1
        due[item] = seen[first] / (left[first] + 1)
    wanted = min(max(1, round(len(items) * share)), len(items) - 1)
    in_turn = sorted(items, key=lambda item: due[item])
    by_number = sorted(in_turn, key=lambda item: -len(set(classes_of[item])))
    covered: set = set()
    chosen: set[Item] = set()
    for only_new, order in ((True, by_number), (False, in_turn)):
        for item in order:
            classes = set(classes_of[item])
            is_wanted = item not in chosen and (not only_new or classes - covered)
            if len(chosen) < wanted and is_wanted and all(left[name] > 1 for name in classes):
                chosen.add(item)
                covered |= classes
                left.subtract(classes)
    chosen = chosen or set(items[:1])
    return (
        [item for item in classes_of if item not in chosen],
        [item for item in classes_of if item in chosen],
    )
