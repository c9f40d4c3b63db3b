"""YOLO's text files: a line for each object, with its class and shares of the image's sides."""

import contextlib
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Any

import yaml

from mmdat.checks.folders import read_lines, read_text
from mmdat.errors import UserError, enumerate_names

from .content import coco_content
from .files import (
    NAMES_FILES,
    SPLIT_WORDS,
    SPLITS,
    Folder,
    check_names,
    files_named,
    is_image,
    read_names,
    split_of,
    split_of_folder,
    upright_size,
)

VISIBILITY = re.compile(r'[012](\.0*)?')  # of a point of a pose
SLACK = 0.01  # by how much shares may leave the image, of rounding


def read_yolo(data: Path, folder: Folder) -> dict[str, dict[str, Any]]:
    """Read YOLO's boxes and polygons, and return the content of a COCO file for each split.

    Args:
        data: The folder, or its YAML file.

    Raises:
        UserError: If a line is not YOLO's, or an image of a list is not there.
    """
    found = _read_description(data, folder)
    if found is None:
        return {}
    near, names, splits, is_pose = found
    labels = _labels(folder.files)
    paths = dict.fromkeys(path for listed in splits.values() for path in listed)
    label_of = {path: _label_of(path, labels) for path in paths}
    _note_shared(folder, label_of)
    of_images = {_label_of(path, labels) for path in folder.paths}
    if lonely := [x for x in labels.values() if x not in of_images and _is_label(folder.root / x)]:
        folder.note(
            f'{len(lonely)} label files, such as {lonely[0]}, have no image: they are left out.'
        )
    if empty := list(label_of.values()).count(''):
        folder.note(
            f'{empty} of {len(label_of)} images have no label file (.txt): they are taken as '
            'images without objects.'
        )
    texts = {
        label: read_text(folder.root / label).splitlines() if label else []
        for label in dict.fromkeys(label_of.values())
    }
    is_pose = is_pose or _are_poses(itertools.chain.from_iterable(texts.values()))
    read = {label: _rows(folder.root / label, texts[label], names, is_pose) for label in texts}
    rows = {
        split: {path: read[label_of[path]] for path in listed}
        for split, listed in splits.items()
        if listed
    }
    counts = [len(row) for split in rows.values() for parts in split.values() for row in parts]
    if not counts:
        raise UserError(
            f'none of the images that {folder.root / near} names has a label file (.txt) with an '
            'object: labels lie in the folder labels beside images, or beside the images'
        )
    if is_pose:
        folder.note('The labels have keypoints: of these the boxes alone are read.')
    if count := counts.count(6):
        folder.note(
            f'{count} objects have a sixth number, such as a confidence or an angle: left out.'
        )
    polygons = max(counts) > 6
    if polygons and len(set(counts)) == 1:
        folder.note(
            f'All objects are outlines of {counts[0] // 2} points, as oriented boxes of 4 are: if '
            'the points are keypoints behind a box, name kpt_shape in data.yaml.'
        )
    if polygons and (count := sum(count < 7 for count in counts)):
        folder.note(f'{count} of {len(counts)} objects have a box alone: it is taken as the mask.')
    return {split: _convert(folder.root, parts, names, polygons) for split, parts in rows.items()}


def _read_description(
    data: Path, folder: Folder
) -> tuple[str, dict[int, str], dict[str, list[str]], bool] | None:
    """Find what names the classes, the images of each split, and whether there are keypoints."""
    yamls = [path for path in folder.files if path.lower().endswith(('.yaml', '.yml'))]
    broken = ''
    unsplit = None  # a YAML file that names classes, but no images
    for path in [str(data.relative_to(folder.root))] if data.is_file() else yamls:
        where = folder.root / path
        try:
            content = yaml.safe_load(text := read_text(where))
        except yaml.YAMLError as error:
            broken = broken or f' ({where} is not YAML: {" ".join(str(error).split())})'
            continue
        if isinstance(content, dict) and content.get('names'):
            if SPLITS[0] in content:
                names = _names(text, content, where)
                return path, names, _splits(path, content, folder), 'kpt_shape' in content
            unsplit = unsplit or (path, text, content)
    texts = files_named(folder, NAMES_FILES)
    labels = _labels(path for path in folder.files if path not in texts)
    found = list(filter(None, (_label_of(path, labels) for path in folder.paths)))
    if not texts and not unsplit:
        _refuse_without_names(folder, found, broken)
    if not found or not (texts or unsplit):
        return None
    splits = _read_lists(folder)
    for path in () if splits else folder.paths:
        splits.setdefault(split_of_folder(path) or SPLITS[0], []).append(path)
    if texts or unsplit is None:
        return texts[0], dict(enumerate(read_names(folder, texts))), splits, False
    path, text, content = unsplit
    return path, _names(text, content, folder.root / path), splits, 'kpt_shape' in content


def _names(text: str, content: dict[str, Any], where: Path) -> dict[int, str]:
    """Take the names of the classes of a YAML file, a list or by number."""
    # Names are read as text, since YAML takes a class "no" for False.
    named = yaml.load(text, yaml.BaseLoader)['names']
    if isinstance(named, str):
        raise UserError(f'{where} has the names {named!r}, which are no list: write [a, b, ...]')
    if not isinstance(named, dict):
        named = dict(enumerate(named))
    if not all(str(number).isdecimal() for number in named):
        raise UserError(
            f'{where} numbers its names {enumerate_names(named)}: they must be whole numbers, the '
            'classes in the labels'
        )
    names = {int(number): str(name).strip() for number, name in named.items()}
    names = dict(sorted(names.items()))
    check_names(names, where)
    count = content.get('nc', len(names))
    if str(count).isdecimal() and int(count) not in (len(names), max(names) + 1):
        raise UserError(
            f'{where} has {count} classes (nc), but {len(names)} names: make them agree'
        )
    return names


def _read_lists(folder: Folder) -> dict[str, list[str]]:
    """Take the images of each split from the lists that Darknet reads; none without train.txt."""
    splits: dict[str, list[str]] = {}
    for path in folder.files:
        stem, suffix = PurePosixPath(path).stem, PurePosixPath(path).suffix
        if suffix.lower() != '.txt' or stem not in SPLIT_WORDS:
            continue
        lines = read_text(folder.root / path).split('\n')
        if is_image(lines[0].strip()):  # else it is the label of an image
            listed = _images_at(path, [PurePosixPath()], folder, path)
            splits.setdefault(SPLIT_WORDS[stem], []).extend(listed)
    return splits if 'train' in splits else {}


def _refuse_without_names(folder: Folder, labels: list[str], why: str) -> None:
    """Refuse labels that look like YOLO's."""
    for label in labels:
        if _is_label(folder.root / label):
            raise UserError(
                f'{folder.root / label} looks like a label of YOLO, but no file names the classes'
                f'{why}: add classes.txt with a name on each line, or data.yaml'
            )


def _is_label(path: Path) -> bool:
    """Whether a file has a class and a box or a polygon on its first line."""
    numbers: list[str] = []
    with contextlib.suppress(UserError):  # as of a text in another encoding, which is no label
        numbers = read_text(path).strip().split('\n')[0].split()
    return len(numbers) >= 5 and all(re.fullmatch(r'\d*\.?\d+(e-\d+)?', n) for n in numbers)


def _splits(path: str, content: dict[str, Any], folder: Folder) -> dict[str, list[str]]:
    """List the images of the folders and lists that a YAML file names, by split."""
    start = PurePosixPath(path).parent
    bases = [
        start / _relative_path(str(content.get('path') or ''), folder.root),
        start,
        PurePosixPath(),
    ]
    splits: dict[str, list[str]] = {}
    for key, split in SPLIT_WORDS.items():
        places = content.get(key) or []
        places = [places] if isinstance(places, str) else places
        if key not in SPLITS and not _are_texts(places):  # as training: {epochs: 3}
            continue
        for place in places:
            listed = list(_images_at(_relative_path(place, folder.root), bases, folder, path))
            if not listed and split == 'test':  # Roboflow names one that is not there
                folder.note(f'{path} names {place!r} for test, where no image is: left out.')
                continue
            if not listed:
                raise UserError(
                    f'{folder.root / path} names {place!r} for {key}, where no image is: give '
                    'the folder that has the images as DATA, or mend the path'
                )
            splits.setdefault(split, []).extend(listed)
    return splits


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _relative_path(place: str, root: Path) -> str:
    """Write a path relative to the root if it is below it, without dots at its beginning."""
    if Path(place).is_absolute() and Path(place).is_relative_to(root):
        return str(Path(place).relative_to(root))
    return re.sub(r'^(\.{0,2}[/\\])+', '', place).replace('\\', '/')


def _images_at(place: str, bases: list[PurePosixPath], folder: Folder, near: str) -> Iterator[str]:
    """Yield the images of a folder, or of a text file that lists them."""
    parts = PurePosixPath(place).parts
    # Folders of another computer come before what is below the root.
    ends = [PurePosixPath(*parts[index:]) for index in range(1, len(parts))]
    for path in (*(base / place for base in bases), *(end for end in ends if split_of(str(end)))):
        target = os.path.normpath(path)
        if target in folder.files and not is_image(target):
            for line in read_lines(folder.root / target):
                image = folder.find(line, target)
                if image is None:
                    raise UserError(
                        f'image {line} of {folder.root / target} is not below {folder.root}'
                    )
                yield image
            return
        inside = '' if target == '.' else f'{target}/'
        if found := [path for path in folder.paths if path.startswith(inside)]:
            yield from found
            return


def _labels(files: Iterable[str]) -> dict[str, str]:
    """List the text files, each by its path as :func:`_folded` writes it."""
    return {_folded(PurePosixPath(path)): path for path in files if path.lower().endswith('.txt')}


def _folded(path: PurePosixPath) -> str:
    """Write a path with .txt as its suffix, and with folders labels in small letters."""
    parts = [part.lower() if part.lower() == 'labels' else part for part in path.parent.parts]
    return str(PurePosixPath(*parts, f'{path.stem}.txt'))


def _label_of(path: str, labels: dict[str, str]) -> str:
    """Find the label file of an image: in the folder labels, or beside it; empty if it has none."""
    image = PurePosixPath(path)
    parts, text = image.parts, f'{image.stem}.txt'
    places = [image, image.parent / 'labels' / text, 'labels' / image]
    for index in range(len(parts) - 1):
        if parts[index].lower() in ('images', 'jpegimages'):
            places.insert(0, PurePosixPath(*parts[:index], 'labels', *parts[index + 1 :]))
    return next((labels[at] for at in map(_folded, places) if at in labels), '')


def _note_shared(folder: Folder, label_of: Mapping[str, str]) -> None:
    """Note images that have a label file in common, as a.jpg and a.png beside each other."""
    sharing = defaultdict(list)
    for path, label in label_of.items():
        if label:
            sharing[label].append(path)
    if shared := [paths for paths in sharing.values() if len(paths) > 1]:
        folder.note(
            f'{len(shared)} label files are for several images each, such as {shared[0][0]} and '
            f'{shared[0][1]}: all of them get its objects.'
        )


def _are_poses(lines: Iterable[str]) -> bool:
    """Whether all lines have points of x, y and a visibility of 0, 1 or 2 behind a box."""
    return all(
        len(row) % 3 == 2
        and len(row) > 5
        and all(map(VISIBILITY.fullmatch, row[7::3]))
        and _is_box(row[1:5])
        for row in filter(None, map(str.split, lines))
    )


def _is_box(cells: list[str]) -> bool:
    """Whether the center and sides are of a box in the image, unlike most points of polygons."""
    try:
        x, y, width, height = map(float, cells)
    except ValueError:
        return False
    return all(0 < side <= 2 * min(at, 1 - at) + SLACK for at, side in ((x, width), (y, height)))


def _rows(
    where: Path, lines: list[str], names: Mapping[int, str], is_pose: bool
) -> list[list[float]]:
    """Read the lines of a label file: a class, and a box, maybe with keypoints, or a polygon."""
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = [float(value) for value in line.split()]
        except ValueError:
            row = []
        if is_pose:
            del row[5:]
        shares = row[1:5] if len(row) == 6 else row[1:]  # a sixth number may be anything
        within = all(-SLACK <= value <= 1 + SLACK for value in shares)
        fits = len(row) in (5, 6) or (len(row) > 6 and len(row) % 2)
        if not (fits and within and row[0] in names):
            begun = shorten(line, 60, placeholder=' ...')
            raise UserError(
                f'{where} has in line {number} {begun!r}, which is not a class from '
                f'{min(names)} to {max(names)} and a box (4 numbers) or a polygon, in shares of '
                "the image's sides: mend it, or take it out"
            )
        rows.append(row)
    return rows


def _convert(
    root: Path, rows: dict[str, list[list[float]]], names: Mapping[int, str], polygons: bool
) -> dict[str, Any]:
    with ThreadPoolExecutor() as threads:
        sizes = list(threads.map(lambda path: upright_size(root / path), rows))
    return coco_content(
        [
            (path, size, [_object(row, size, names, polygons) for row in lines])
            for (path, lines), size in zip(rows.items(), sizes, strict=True)
        ],
        list(names.values()),
    )


def _object(
    row: list[float], size: tuple[int, int], names: Mapping[int, str], as_polygon: bool
) -> dict[str, Any]:
    """Give an object its box in pixels, or its polygon; that of a box has four corners."""
    label, *shares = row if len(row) != 6 else row[:5]
    numbers = [share * side for share, side in zip(shares, itertools.cycle(size), strict=False)]
    name = names[int(label)]
    if len(numbers) > 4:
        return dict(name=name, segmentation=[numbers])
    x, y, width, height = numbers
    left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if as_polygon:
        return dict(name=name, segmentation=[[left, top, right, top, right, bottom, left, bottom]])
    return dict(name=name, bbox=[left, top, width, height])
