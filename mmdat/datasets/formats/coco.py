"""Boxes and masks of a folder in any known format, as COCO's."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmdat.checks.coco import needs_objects
from mmdat.checks.coco_reading import Reading
from mmdat.checks.coco_repairs import add_file_name
from mmdat.errors import UserError, enumerate_names

from .files import (
    Folder,
    Found,
    NotRecognizedError,
    add_val,
    check_distinct,
    read_json,
    split_of,
    upright_size,
)
from .labelme import read_labelme
from .voc import read_voc
from .yolo import SLACK, read_yolo

# Names of files in COCO's own folder that hold other annotations of the same images.
COCO_ALSO = re.compile('captions|keypoints|stuff|panoptic|image_info')
KNOWN = 'COCO JSON, YOLO (data.yaml or classes.txt), Pascal VOC (XML) and labelme (JSON)'

# What only the JSON files of a program hold -> its name, and the format to export there.
PROGRAMS = {
    b'"_via_img_metadata"|"region_attributes"': ('VGG Image Annotator', 'COCO'),
    b'"(rectangle|polygon|brush)labels"': ('Label Studio', 'COCO'),
    b'"classTitle"': ('Supervisely', 'COCO'),
    b'"dm_format_version"': ('Datumaro', 'coco_instances'),
}
MOST_LOOKED_AT = 20


@dataclass
class CocoSplit:
    """Annotations of a split in COCO format.

    Attributes:
        content: What the file holds.
        prefix: Folder of its images, relative to the root: empty, or with a slash at its end.
        file: The file relative to the root; None if it is not there and must be written.
    """

    content: dict[str, Any]
    prefix: str = ''
    file: str | None = None


@dataclass(kw_only=True)
class Detection(Found[CocoSplit]):
    """Boxes and masks that were found in a folder."""

    def images(self, split: str) -> Collection[dict[str, Any]]:
        """The images of a split, as the file has them."""
        return self.splits[split].content['images']

    def objects(self, split: str) -> Counter[str]:
        """Count the objects of a split by class, but for crowds, which are not learned."""
        content = self.splits[split].content
        names = {item['id']: item['name'] for item in content['categories']}
        return Counter(
            names[item['category_id']] for item in content['annotations'] if not item['iscrowd']
        )

    def empty(self, split: str) -> int:
        """Count the images of a split without annotations."""
        content = self.splits[split].content
        annotated = {item['image_id'] for item in content['annotations']}
        return sum(item['id'] not in annotated for item in content['images'])

    def without_mask(self) -> int:
        """Count the objects that have a box alone."""
        return sum(
            not item.get('segmentation')
            for split in self.splits.values()
            for item in split.content['annotations']
        )


def read_detection(data: Path, share: float, seed: int) -> Detection:
    """Read the boxes and masks of a folder, of whatever known format they are.

    Args:
        data: The folder, or its JSON or YAML file.

    Raises:
        UserError: If there are none, or if they cannot be read.
    """
    folder = Folder(data if data.is_dir() else data.parent, share, seed)
    if data.is_file() and not folder.paths:  # in a folder of annotations, beside that of images
        folder = Folder(data.parent.parent, share, seed)
    kind, splits = _recognize(data, folder)
    if not folder.paths:
        raise UserError(f'{data} holds no image: give the folder that has them too')
    classes = _unite_classes(folder, splits)
    if not classes:
        raise UserError(
            f'the {kind} files of {folder.root} have no object: there is nothing to learn'
        )
    folder.note_unused(
        {
            split.prefix + item['file_name']
            for split in splits.values()
            for item in split.content['images']
        }
    )
    _choose_splits(folder, splits)
    found = Detection(
        kind=kind, root=folder.root, classes=classes, splits=splits, notes=folder.notes
    )
    _check_in_pixels(found)
    parts = [split.content['annotations'] for split in splits.values()]
    if crowds := sum(bool(item['iscrowd']) for part in parts for item in part):
        if not found.objects('train'):
            raise UserError(
                f'all objects to train on in {folder.root} are crowds (iscrowd is 1), which are '
                'not learned: set iscrowd to 0'
            )
        folder.note(
            f'{crowds} objects are crowds (iscrowd is 1), which are neither learned nor counted: '
            'set iscrowd to 0 if they are objects.'
        )
    for split, purpose in (('train', 'train'), ('val', 'validate')):
        count = found.objects(split)
        if not count:
            raise UserError(
                f'no image to {purpose} on in {folder.root} has an object: annotate more'
            )
        if absent := [name for name in classes if not count[name]]:
            folder.note(f'{split} has no object of {enumerate_names(absent)}.')
    return found


def _check_in_pixels(found: Detection) -> None:
    """Refuse boxes that are all shares of the sides of their images.

    Raises:
        UserError: Names an image and its box.
    """
    contents = [split.content for split in found.splits.values()]
    boxes = [
        (item['bbox'], item, content) for content in contents for item in content['annotations']
    ]
    most = 1 + SLACK
    if boxes and all(max(x + width, y + height) <= most for (x, y, width, height), *_ in boxes):
        box, item, content = boxes[0]
        name = next(x['file_name'] for x in content['images'] if x['id'] == item['image_id'])
        x, y, width, height = box
        raise UserError(
            f'all {len(boxes)} boxes of the {found.kind} files of {found.root} lie in the first '
            f'pixel, as that of x {x:g}, y {y:g}, width {width:g} and height {height:g} in the '
            f"image {name}: write pixels, not shares of the image's sides"
        )


def _recognize(data: Path, folder: Folder) -> tuple[str, dict[str, CocoSplit]]:
    """Read the annotations in the first format of which there is a file."""
    jsons = [path for path in folder.files if path.lower().endswith('.json')]
    if data.is_file():
        name = str(data.relative_to(folder.root))
        jsons = [name] if data.suffix.lower() == '.json' else []
    if files := list(_coco_files(folder, jsons)):
        return 'COCO JSON', _read_coco_files(folder, files)
    readers: tuple[tuple[str, Callable], ...] = (
        ('YOLO', lambda: read_yolo(data, folder)),
        ('Pascal VOC', lambda: read_voc(folder)),
        ('labelme', lambda: read_labelme(folder, jsons)),
    )
    for kind, read in readers:
        contents = read()
        if contents:
            return kind, {name: CocoSplit(content) for name, content in contents.items()}
    remedy = (
        'export your annotations in one of them; for folders of masks give a BASE of semantic '
        'segmentation'
    )
    for path in jsons[:MOST_LOOKED_AT]:
        content = (folder.root / path).read_bytes()
        for pattern, (program, export) in PROGRAMS.items():
            if re.search(pattern, content):
                remedy = f'{path} is of {program}: export the data as {export} there'
    raise NotRecognizedError(
        f'{data} holds no boxes or masks of objects in a known format ({KNOWN}): {remedy}'
    )


def _coco_files(folder: Folder, paths: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files in COCO format with their content."""
    # COCO's own folder has captions and keypoints of the same images too.
    named = [path for path in paths if 'instances' in PurePosixPath(path).name]
    others = [path for path in paths if path not in named]
    also = {path: COCO_ALSO.findall(PurePosixPath(path).name.lower()) for path in others}
    plain = [path for path in others if not also[path]]
    # Files of keypoints have boxes and masks of persons, too.
    others = plain if named or plain else [path for path in others if 'keypoints' in also[path]]
    for path in [*named, *others]:
        try:
            content = read_json(folder.root / path)
        except UserError:
            if path in named or not named:
                raise
            continue  # which need not be of the data
        if not isinstance(content, dict) or not isinstance(content.get('images'), list):
            continue
        if not any(isinstance(content.get(name), list) for name in ('annotations', 'categories')):
            continue
        if named and path in others:
            folder.note(f'{path} is left out, as other files have instances in their names.')
        else:
            yield path, content


def _read_coco_files(
    folder: Folder, files: list[tuple[str, dict[str, Any]]]
) -> dict[str, CocoSplit]:
    by_split: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for path, content in files:
        by_split[split_of(path) or ''].append((path, content))
    if '' in by_split and len(files) == 1:
        by_split = defaultdict(list, train=files)
    splits = {}
    for name, parts in by_split.items():
        if len(parts) > 1 or not name:
            listed = enumerate_names(path for path, _ in parts)
            raise UserError(
                f'{folder.root} has the COCO files {listed}, and their names do not say which is '
                'for training and which for validation: give the one to use as DATA, or put train '
                'and val into their names'
            )
        path, content = parts[0]
        if content.get('annotations'):  # those of a test may be secret
            splits[name] = _read_coco_file(folder, path, content)
        else:
            folder.note(f'{path} has no annotations: it is left out.')
    if not splits:
        raise UserError(
            f'the COCO files of {folder.root}, such as {files[0][0]}, have no annotations: there '
            'is nothing to learn'
        )
    return splits


def _read_coco_file(folder: Folder, path: str, content: dict[str, Any]) -> CocoSplit:
    """Find the images of a file, and mend in its content what programs write differently."""
    where = folder.root / path
    images = [item for item in content['images'] if isinstance(item, dict)]
    are_lacking = [add_file_name(item) for item in images]
    names = [item.get('file_name') for item in images]
    if any('neg_category_ids' in item for item in images):
        folder.note(
            f'{path} says of each image which classes were looked for, as LVIS does: here what is '
            'found of others counts as wrong.'
        )
    found: dict[str, str] = {}
    lost = []
    for name in dict.fromkeys(name for name in names if isinstance(name, str)):
        if at := folder.find(name, path):
            found[name] = at
        else:
            lost.append(name)
    if lost:
        raise UserError(
            f'{len(lost)} of {len(names)} images of {where} are not below {folder.root}, or more '
            f'than once, the first is {lost[0]}: put them there, or take them out of the file'
        )
    check_distinct(found.items(), where)
    reading = Reading(
        str(where),
        needs_masks=False,
        size_of=lambda name: upright_size(folder.root / found[name]) if name in found else None,
    )
    reading.mend_items(content)
    reading.clear_crowds(content['annotations'])
    mended = any(are_lacking) or bool(reading.findings)
    reading.check_boxes(content['annotations'])
    for number, item in enumerate(content['annotations'], 1):
        item.setdefault('id', number)
    prefixes = {
        at[: -len(name)] if name and at.endswith(name) else None for name, at in found.items()
    }
    prefix = prefixes.pop() if len(prefixes) == 1 else None
    is_elsewhere = prefix is None or bool(prefix and not prefix.endswith('/'))
    if prefix is not None and not (is_elsewhere or mended):
        return CocoSplit(content, prefix, path)
    for item in content['images']:
        item['file_name'] = found[item['file_name']]
    folder.note(
        f'{path} names images otherwise than they lie: they were found by name.'
        if is_elsewhere
        else f'{path} is written in a dialect of COCO: a mended copy is used.'
    )
    return CocoSplit(content)


def _unite_classes(folder: Folder, splits: dict[str, CocoSplit]) -> tuple[str, ...]:
    """Give all splits the same classes with the same ids; those of the first split come first.

    A file that has other ones, or ids of annotations that pycocotools cannot evaluate, is written
    anew.
    """
    categories = [item for split in splits.values() for item in split.content['categories']]
    used: set[str] = set()
    for split in splits.values():
        named = {item['id']: item['name'] for item in split.content['categories']}
        used |= {named.get(item['category_id'], '') for item in split.content['annotations']}
    names = list(dict.fromkeys(item['name'] for item in categories))
    parents = [item.get('supercategory') for item in categories]
    groups = {
        parent for parent, item in zip(parents, categories, strict=True) if parent != item['name']
    }
    empty = {
        item['name']
        for item in categories
        if item['name'] in groups or needs_objects(item, categories) or not item['name'].strip()
    } - used
    classes = [name for name in names if name not in empty]
    if blank := [
        item['id'] for item in categories if not item['name'].strip() and item['name'] in used
    ]:
        raise UserError(
            f'the category {blank[0]!r} of the COCO files of {folder.root} has objects, but no '
            'name: give it one'
        )
    if dropped := [name for name in names if name in empty]:
        folder.note(f'No class: {enumerate_names(dropped)}, which no object has.')
    first = next(iter(splits.values()))
    wanted = [(item['id'], item['name']) for item in first.content['categories']]
    for split in splits.values():
        content = split.content
        named = {item['id']: item['name'] for item in content['categories']}
        ids = [item['id'] for item in content['annotations']]
        alike = list(named.items()) == wanted and set(classes) <= set(named.values())
        in_order = [name for name in named.values() if name in classes] == classes
        if split.file and alike and in_order and len(set(ids)) == len(ids) and 0 not in ids:
            continue
        if split.file:
            folder.note(_why_renumbered(split, first, classes))
        _renumber(split, classes)
    return tuple(classes)


def _why_renumbered(split: CocoSplit, first: CocoSplit, classes: list[str]) -> str:
    """Say why a copy of a file is written in which ids are others."""
    names = Counter(item['name'] for item in split.content['categories'])
    ids = Counter(item['id'] for item in split.content['annotations'])
    if several := [name for name, count in names.items() if count > 1]:
        return (
            f'{split.file} has several categories of the name {enumerate_names(several)}: a copy '
            'with one is written.'
        )
    if missing := [name for name in classes if name not in names]:
        return f'{split.file} lacks {enumerate_names(missing)}: a copy with all classes is written.'
    if 0 in ids:
        why = 'of annotations count from 0'
    elif max(ids.values(), default=1) > 1:
        why = 'of annotations are there more than once'
    elif split is not first:
        why = f'of categories are not those of {first.file or "the training images"}'
    else:
        why = 'of categories are not in the order of the classes'
    return f'ids in {split.file} {why}: a copy with other ids is written.'


def _renumber(split: CocoSplit, classes: list[str]) -> None:
    """Number the categories and annotations of a split from 1, in a copy that is written later."""
    content = split.content
    numbers = {name: number for number, name in enumerate(classes, 1)}
    new = {item['id']: numbers.get(item['name']) for item in content['categories']}
    prefix, split.prefix, split.file = split.prefix, '', None
    for image in content['images']:
        image['file_name'] = prefix + image['file_name']
    for number, item in enumerate(content['annotations'], 1):
        item.update(id=number, category_id=new[item['category_id']])
    content['categories'] = [dict(id=number, name=name) for name, number in numbers.items()]


def _choose_splits(folder: Folder, splits: dict[str, CocoSplit]) -> None:
    """Take the test images to validate on if there are no others, or hold some back."""
    if 'train' not in splits and len(splits) == 1:
        splits['train'] = splits.pop(next(iter(splits)))
    if 'train' not in splits:
        raise UserError(
            f'there are annotations of {enumerate_names(splits)} alone: name a file or folder train'
        )
    add_val(folder, splits, _classes_of, _take)


def _classes_of(split: CocoSplit) -> dict[Any, set]:
    """Id of each image -> ids of the classes of its objects."""
    classes: dict[Any, set] = {item['id']: set() for item in split.content['images']}
    for item in split.content['annotations']:
        if not item['iscrowd']:
            classes[item['image_id']].add(item['category_id'])
    return classes


def _take(split: CocoSplit, ids: list[Any]) -> CocoSplit:
    """Take some of the images of a split, by id, into a split whose file is written later."""
    kept = set(ids)
    content = {
        'images': [item for item in split.content['images'] if item['id'] in kept],
        'annotations': [x for x in split.content['annotations'] if x['image_id'] in kept],
        'categories': split.content['categories'],
    }
    return CocoSplit(content, split.prefix)
