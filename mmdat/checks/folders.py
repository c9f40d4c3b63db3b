"""Checks of data folders, and of the lists that give their images classes."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config
from mmengine.utils import is_abs

from mmdat.errors import UserError, Warn, enumerate_names

from . import config_tree
from .coco_repairs import plain_name
from .images import (
    IMAGE_SUFFIXES,
    UNREADABLE_SUFFIXES,
    DataFiles,
    is_local,
    map_in_threads,
    names_in,
)
from .mmengine_private import is_subset, which_images

# Default scope of a toolbox -> the data set of the papers, and the variable with its folder.
DATA_OF_SCOPE = {
    'mmdet': ('COCO', 'COCO_ROOT'),
    'mmseg': ('ADE20K', 'ADE20K_ROOT'),
    'mmpretrain': ('ImageNet', 'IMAGENET_ROOT'),
}
# Type of a synthetic data set -> the task that tools/make_shapes.py draws it for.
TASK_OF_SHAPES = {
    'mmdat.ShapesDataset': 'detect',
    'mmdat.ShapesSegmentDataset': 'segment',
    'mmdat.ShapesClassifyDataset': 'classify',
}
# Data sets of mmpretrain that read lists of images with the numbers of their classes.
LISTED_BY_CLASS = ('CustomDataset', 'ImageNet')
# Folders that systems and programs make, beside those whose names begin with a dot.
SYSTEM_FOLDERS = {'__MACOSX', '@eaDir', '$RECYCLE.BIN', 'System Volume Information', 'lost+found'}
# Images of a data set up to which equal files in folders of different classes are looked for.
MOST_COMPARED = 50_000
SAMPLE_BYTES = 64


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that people do not see or did not make."""
    return name.startswith('.') or name in SYSTEM_FOLDERS


def find_files(
    folder: str,
    suffixes: Sequence[str],
    leave_out: Iterable[str | Path | None] = (),
    unwanted: Callable[[list[str]], Collection[str]] = lambda files: (),
    on_unreadable: Callable[[OSError], object] | None = None,
) -> Iterator[str]:
    """Yield the files in a folder and below it, also in linked folders, but for hidden ones.

    Args:
        suffixes: What names end in, in upper or lower case.
        leave_out: Folders (None for none) that are not searched, unless ``folder`` lies in them.
        unwanted: Names the folders beside some files that are not searched.
        on_unreadable: Is told of each folder that may not be read.

    Raises:
        UserError: If a folder may not be read, whose files would be missing, and nothing is to be
            told of it.
    """
    wanted = tuple(suffix.lower() for suffix in suffixes)
    root = Path(folder).resolve()
    left_out = [Path(path).resolve() for path in leave_out if path]
    left_out = [path for path in left_out if not root.is_relative_to(path)]
    searched: set[Path] = set()

    def tell(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            (on_unreadable or _refuse)(error)

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=tell):
        real = Path(parent).resolve()
        # A link may lead back to where it lies.
        if real in searched or any(map(real.is_relative_to, left_out)):
            folders.clear()
            continue
        searched.add(real)
        skipped = unwanted(files)
        folders[:] = sorted(x for x in folders if not is_hidden(x) and x not in skipped)
        for name in sorted(files):
            if name.lower().endswith(wanted) and not is_hidden(name):
                yield os.path.join(parent, name)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(
        f'folder {error.filename} cannot be read: {error.strerror}; make it readable, or leave it '
        'out'
    ) from error


def read_text(path: str | Path, remedy: str = '') -> str:
    """Read a text file in UTF-8, with or without a byte order mark, which programs may write.

    Args:
        remedy: What to do where it cannot be read.

    Raises:
        UserError: If it cannot be read, or is not encoded in UTF-8.
    """
    try:
        return Path(path).read_text(encoding='utf-8-sig')
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}){remedy}') from None
    except UnicodeDecodeError:
        raise UserError(f'{path} is not encoded in UTF-8: save it so') from None


def read_lines(path: str | Path, remedy: str = '') -> list[str]:
    """Read the lines of a text file that are not blank, without blanks around them.

    Args:
        remedy: As for :func:`read_text`.
    """
    return list(filter(None, map(str.strip, read_text(path, remedy).split('\n'))))


def check_data_roots(cfg: Config, splits: Sequence[str]) -> None:
    """Refuse data roots that are needed and do not exist, before anything is built or written."""
    for split in splits:
        for path, dataset in config_tree.datasets(cfg, split):
            root = dataset.get('data_root')
            if not root or '://' in root or os.path.isdir(root) or not _is_joined(dataset):
                continue
            data, variable = DATA_OF_SCOPE[cfg.default_scope]
            how = f'set the environment variable that the config reads ({variable} for {data})'
            if cfg.filename and 'data_root' in Path(cfg.filename).read_text(encoding='utf-8'):
                how = f'set data_root in {cfg.filename} to where the data are now,'
            if task := TASK_OF_SHAPES.get(dataset.get('type')):
                how = (
                    f'make it with tools/make_shapes.py {root} --task {task}, or set the '
                    'environment variable that the config reads (SHAPES_...)'
                )
            raise UserError(
                f'data root {root} of {split}_dataloader does not exist: {how} or {path}.data_root'
            )


def _is_joined(dataset: Mapping[str, Any]) -> bool:
    """Whether a path of a data set begins in its data root, on this machine's disk."""
    prefixes = dataset.get('data_prefix')
    paths = [*prefixes.values()] if isinstance(prefixes, Mapping) else [prefixes]
    paths += [dataset['ann_file']] if dataset.get('ann_file') else []
    return is_local(dataset.get('backend_args')) and not all(is_abs(str(path)) for path in paths)


def check_lists(cfg: Config, splits: Sequence[str]) -> None:
    """Refuse lists of images that mmpretrain's or mmsegmentation's data sets cannot read."""
    for split in splits:
        for place, dataset in config_tree.datasets(cfg, split):
            name = dataset.get('ann_file') or ''
            if not isinstance(name, str):
                raise UserError(
                    f'{place}.ann_file is {name!r}, but a data set reads one file: write '
                    "dataset=dict(type='ConcatDataset', datasets=[...]) with a data set for each"
                )
            path = os.path.join(dataset.get('data_root') or '', name)
            if not path.endswith(('.txt', '.csv', '.tsv')) or not os.path.isfile(path):
                continue
            kind = str(dataset.get('type'))
            if kind.split('.')[-1] in LISTED_BY_CLASS and dataset.get('with_label', True):
                _check_list(
                    path,
                    r'\s*\S.* -?\d+\s*',
                    'the path of an image, a blank and the number of its class, counted from 0',
                    "'mmdat.ClassificationDataset', which takes class names, tabs, commas",
                )
            elif cfg.default_scope == 'mmseg' and not kind.startswith('mmdat.'):
                _check_list(
                    path,
                    r'.*\S.*',
                    'the name of an image without its suffix',
                    "'mmdat.SegmentationDataset', which takes names with or without suffix",
                )


def _check_list(path: str, pattern: str, wanted: str, other: str) -> None:
    """Refuse a list with a line of another form, or without any."""
    remedy = f'write {wanted}, or set type={other} and blank lines'
    if not read_lines(path):
        raise UserError(f'list {path} is empty: {remedy}')
    with open(path, encoding='utf-8') as file:
        for number, line in enumerate(file, 1):
            if line.startswith('\ufeff'):
                raise UserError(
                    f'list {path} begins with a byte order mark, which would be part of a name: '
                    f'save it as UTF-8 without, or set type={other.partition(",")[0]}'
                )
            if not re.fullmatch(pattern, line.rstrip('\n')):
                text = line.strip()[:80]
                raise UserError(f'line {number} of list {path} is {text!r}: {remedy}')


def check_labels(files: DataFiles, warn: Warn, num_classes: int | None = None) -> None:
    """Refuse labels of images that are no class or contradict each other.

    Takes 10 us for each image.

    Args:
        warn: Is told of classes without an image, and of images that are there twice.
        num_classes: The head's, for a data set that does not name its classes.
    """
    if not files.items:
        return
    dataset, first = files.dataset, files.items[0]
    classes = dataset.metainfo.get('classes') or [str(i) for i in range(num_classes or 0)]
    if not classes or not first.path or not isinstance(first.label, int):
        return
    source = dataset.ann_file or getattr(dataset, 'img_prefix', 'the data set')
    counts = [0] * len(classes)
    labels: dict[str, int] = {}
    doubles: list[str] = []
    for path, _, _, label, *_ in files.items:
        if not 0 <= label < len(classes):
            raise UserError(
                f'{source} gives image {path} the class {label}, but there are {len(classes)} '
                'classes, counted from 0: mend it'
            )
        counts[label] += 1
        if path in labels:
            doubles.append(path)
        if labels.setdefault(path, label) != label:
            raise UserError(
                f"{source} gives image {path} the classes '{classes[labels[path]]}' and "
                f"'{classes[label]}': leave one of them in it"
            )
    if doubles:
        warn(f'{source} has {len(doubles)} images more than once, such as {doubles[0]}')
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        warn(
            f'{len(empty)} of the {len(classes)} classes have no image in {source}'
            f'{which_images(dataset)}: {enumerate_names(empty)}'
        )
    if files.in_training and len(files.items) <= MOST_COMPARED:
        _warn_of_copies(labels, classes, source, warn)


def check_class_folders(datasets: Mapping[str, Any]) -> None:
    """Refuse folders that number the classes otherwise than their names, or than another split.

    mmpretrain numbers the folders in the order of their names, whatever the classes are called.
    """
    remedy = "set type='mmdat.ClassificationDataset', in which names decide, and metainfo.classes"
    known: dict[int, tuple[str, str]] = {}
    for dataset in datasets.values():
        for _, single in config_tree.unwrap(dataset):
            folders = getattr(single, 'folder_to_idx', {})
            classes = list(single.metainfo.get('classes') or ()) if folders else []
            plain = list(map(plain_name, classes))
            names = {*plain}
            for folder, number in folders.items() if classes else ():
                where = single.img_prefix
                if is_hidden(folder):
                    raise UserError(
                        f'the folder {folder} in {where} was not made for images, but counts as a '
                        f'class: remove it, or {remedy}'
                    )
                own = plain_name(folder)
                if plain[number] != own and own in names:
                    raise UserError(
                        f"the images in the folder {folder} of {where} count as '{classes[number]}'"
                        ', since folders are numbered by name, not as in metainfo.classes: sort '
                        f'metainfo.classes, or {remedy}'
                    )
                name, first = known.setdefault(number, (folder, where))
                if name != folder:
                    raise UserError(
                        f"class {number} is the folder '{name}' in {first}, but '{folder}' in "
                        f'{where}: give both the same folders, or {remedy}'
                    )


def check_left_out(files: DataFiles, warn: Warn) -> None:
    """Warn of images in a data set's folder that it leaves out."""
    dataset = files.dataset
    has_list = getattr(dataset, 'ann_file', True) or is_subset(dataset)
    if has_list or not hasattr(dataset, 'get_data_info'):
        return
    folder = dataset.data_prefix.get('img_path')
    if not folder or not os.path.isdir(folder):
        return
    used = {os.path.normpath(path) for item in files.items for path in (item.path, item.mask)}
    masks = dataset.data_prefix.get('seg_map_path')
    found = list(find_files(folder, IMAGE_SUFFIXES + UNREADABLE_SUFFIXES, [masks]))
    left_out = [path for path in found if os.path.normpath(path) not in used]
    unreadable = [path for path in left_out if path.lower().endswith(UNREADABLE_SUFFIXES)]
    if unreadable:
        warn(
            f'{len(unreadable)} of {len(found)} images in {folder}, such as {unreadable[0]}, are '
            'in a format that cannot be loaded, and left out: convert them to JPEG or PNG'
        )
    # mmdat's own data set of masks tells itself which images it leaves out.
    if len(left_out) == len(unreadable) or hasattr(dataset, 'mask_values'):
        return
    left_out = [path for path in left_out if not path.lower().endswith(UNREADABLE_SUFFIXES)]
    how = 'check data_prefix'
    if hasattr(dataset, 'img_suffix'):
        how = (
            f"only names that end in img_suffix='{dataset.img_suffix}', in this spelling, are "
            "taken: set type='mmdat.SegmentationDataset', which takes images of any suffix"
        )
    elif hasattr(dataset, 'folder_to_idx'):
        how = (
            f'images end in {", ".join(sorted(dataset.extensions))} and lie in the folders of '
            "their classes: set type='mmdat.ClassificationDataset' for those of any suffix"
        )
    warn(
        f'{len(left_out)} of {len(found)} images in {folder}, such as {left_out[0]}, are left '
        f'out: {how}'
    )


def check_overlap(files: Mapping[str, Sequence[DataFiles]], warn: Warn) -> None:
    """Warn of images that are for training and for validation or testing.

    Args:
        files: Split -> those of its data sets.
    """
    paths = {
        split: {item.path for single in group for item in single.items} - {''}
        for split, group in files.items()
    }
    trained = paths.pop('train', set())
    for split, tested in paths.items():
        if shared := tested & trained:
            warn(
                f'{len(shared)} images, such as {min(shared)}, are for train and {split} alike: '
                f'what {split} measures says nothing of other images'
            )


def check_unlisted(files: Mapping[str, Sequence[DataFiles]], warn: Warn) -> None:
    """Warn of images beside those of a COCO file that the file does not name.

    Args:
        files: Split -> those of its data sets. Without train there is nothing to tell: a test
            uses but its part of a folder.
        warn: Is told how many images of a folder are in no file of these splits.
    """
    if 'train' not in files:
        return
    named: dict[str, set[str]] = defaultdict(set)
    filtered: dict[str, dict[str, int]] = defaultdict(dict)  # folder -> file -> images left out
    for group in files.values():
        for listed in group:
            single = listed.dataset
            file = str(getattr(single, 'ann_file', ''))
            if not file.endswith('.json') or 'img' not in single.data_prefix:
                continue
            tally = getattr(single, 'tally', None)  # mmdat.CocoDataset has one
            is_filtered = tally is None and single.filter_cfg and not single.test_mode
            if is_filtered or is_subset(single):
                return  # there is no telling what it left out
            for item in listed.items:
                folder, name = os.path.split(item.path)
                named[folder].add(name)
                filtered[folder][file] = tally.images_left_out.total() if tally else 0
    for folder, names in named.items():
        found = {name for name in names_in(folder) if name.lower().endswith(IMAGE_SUFFIXES)}
        unlisted = len(found - names) - sum(filtered[folder].values())
        if unlisted > 0:
            warn(
                f'{unlisted} of {len(found)} images in {folder or os.curdir} are in no annotation '
                f'file of {", ".join(files)}, and are not used'
            )


def _warn_of_copies(
    labels: Mapping[str, int], classes: Sequence[str], source: str, warn: Warn
) -> None:
    """Warn of the same image in two classes, whatever its name."""
    copies = [
        (first, path)
        for first, *others in equal_files(labels)
        for path in others
        if labels[path] != labels[first]
    ]
    if copies:
        first, path = copies[0]
        warn(
            f'{len(copies)} images of {source} are in two classes, such as {first} ('
            f"'{classes[labels[first]]}') and {path} ('{classes[labels[path]]}')"
        )


def equal_files(groups: Mapping[str, Hashable]) -> Iterator[list[str]]:
    """Yield files of equal content that are in different groups.

    Few are read: those that have as many bytes, and the same in the middle, as one of another
    group. What is no file is passed over.

    Args:
        groups: Path -> its group, such as a split or a class.
    """
    paths = [path for path in groups if os.path.isfile(path)]
    found = _find_alike(zip(paths, map(os.path.getsize, paths), strict=True), groups)
    for key in (_middle, _digest):
        paths = [path for alike in found for path in alike]
        values: list[Any] = map_in_threads(key, paths, 'Looking for copies')
        found = _find_alike(zip(paths, values, strict=True), groups)
    yield from found


def _find_alike(
    values: Iterable[tuple[str, Hashable]], groups: Mapping[str, Hashable]
) -> list[list[str]]:
    """Collect the files of each value that are not all in one group."""
    alike = defaultdict(list)
    for path, value in values:
        alike[value].append(path)
    return [paths for paths in alike.values() if len({groups[path] for path in paths}) > 1]


def _middle(path: str) -> tuple[int, bytes]:
    """The number of bytes of a file, and some from its middle, which differ in most files."""
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        file.seek(size // 2)
        return size, file.read(SAMPLE_BYTES)


def _digest(path: str) -> str:
    return md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest()
