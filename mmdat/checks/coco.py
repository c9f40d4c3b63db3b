"""Read annotations in COCO format; refuse values that would fail in the midst of training."""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from mmdat.errors import UserError, enumerate_names


def _are_finite(numbers: object) -> bool:
    """Tell whether a value is a list of finite numbers, by its sum, which is fastest."""
    try:
        return isinstance(numbers, list) and math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False


Check = tuple[Callable[[Any], bool], str]
ID: Check = (lambda value: isinstance(value, (int, str)), 'a number or a string')
STRING: Check = (lambda value: isinstance(value, str), 'a string')
LENGTH: Check = (lambda value: isinstance(value, int) and value > 0, 'a positive integer')
NUMBER: Check = (lambda value: _are_finite([value]), 'a finite number')
BOX: Check = (lambda value: _are_finite(value) and len(value) == 4, 'four finite numbers')
# What mmdet and pycocotools read of each item, by list, and what it must be. Boxes without an area
# are in COCO too; mmdet leaves them out.
FIELDS: dict[str, dict[str, Check]] = {
    'images': dict(id=ID, file_name=STRING, height=LENGTH, width=LENGTH),
    'categories': dict(id=ID, name=STRING),
    'annotations': dict(id=ID, image_id=ID, category_id=ID, bbox=BOX, area=NUMBER),
}
KINDS = {dict: 'an object', list: 'a list', str: 'a string', bool: 'a boolean', type(None): 'null'}


def read_coco(path: str, needed: Collection[str] = ()) -> dict[str, Any]:
    """Read a file of annotations in COCO format.

    Args:
        path: Path of a JSON file.
        needed: Fields that each annotation must have, of those that are optional:
            ``'segmentation'`` and ``'iscrowd'``.

    Raises:
        UserError: If the file cannot be read or is not in COCO format.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except FileNotFoundError:
        raise UserError(
            f'annotation file {path} does not exist: check data_root (for COCO the '
            'environment variable COCO_ROOT) and ann_file'
        ) from None
    except OSError as error:
        raise UserError(
            f'annotation file {path} cannot be read ({error.strerror}): check '
            'data_root and ann_file'
        ) from None
    except ValueError as error:
        raise UserError(
            f'annotation file {path} is not JSON ({error}): give annotations in COCO format'
        ) from None
    for problem in _problems(content, set(needed)):
        raise UserError(f'annotation file {path} is not in COCO format: {problem}')
    return content


def check_categories(content: Mapping[str, Any], path: str, classes: Collection[str]) -> None:
    """Refuse annotations without a needed class, or with objects of other classes alone.

    Args:
        content: What :func:`read_coco` returned.
        path: The file, for the sentence.
        classes: Names of the categories that are needed; all of the file's if there are none.

    Raises:
        UserError: Names the classes, and those of the file.
    """
    numbers = {category['name']: category['id'] for category in content['categories']}
    if missing := set(classes) - numbers.keys():
        raise UserError(
            f'annotation file {path} has no category {enumerate_names(missing)}, '
            'which the config expects: set metainfo=dict(classes=(...)) of the data set and '
            f'num_classes of the heads to its own ({enumerate_names(numbers)})'
        )
    wanted = {number for name, number in numbers.items() if not classes or name in classes}
    # Images to be tested only, such as COCO's test-dev, have no annotations.
    annotations = content.get('annotations')
    if annotations and not any(item['category_id'] in wanted for item in annotations):
        raise _nothing_to_use(path, classes)


def check_any_left(images: Collection[Any], path: str, classes: Collection[str]) -> None:
    """Refuse a data set that has no image left after filtering.

    Args:
        images: Those that are left.
        path: The file, for the sentence.
        classes: Names of the categories that are used.

    Raises:
        UserError: Names the file and the classes.
    """
    if not images:
        raise _nothing_to_use(path, classes)


def _nothing_to_use(path: str, classes: Collection[str]) -> UserError:
    return UserError(
        f'annotation file {path} leaves no image to use: it has none with '
        f'an object of the classes {enumerate_names(classes)}'
    )


# Each check presupposes that those before it found nothing: only the first problem is to be read.


def _problems(content: Any, needed: set[str]) -> Iterator[str]:
    """Yield what is wrong with the content of a file."""
    if not isinstance(content, dict):
        yield f'it holds {_kind(content)}, not an object'
    known: dict[str, dict[Any, dict]] = {}
    for name in FIELDS:
        # Images to be tested only, such as COCO's test-dev, have no annotations.
        items = content.get(name, [] if name == 'annotations' else None)
        if not isinstance(items, list):
            yield f"it has no list '{name}'"
        known[name] = {}
        for item in items:
            if not isinstance(item, dict):
                yield f"in '{name}' there is {_kind(item)}, not an object"
            for problem in _item_problems(name, item, known, needed):
                yield (
                    f"in '{name}' the item with id {_show(item.get('id'))} {problem}: mend it, "
                    'or take it out'
                )
            known[name][item['id']] = item


def _item_problems(
    name: str, item: dict, known: dict[str, dict[Any, dict]], needed: set[str]
) -> Iterator[str]:
    """Yield what is wrong with an image, a category or an annotation.

    Args:
        name: The list that it is in.
        item: The image, category or annotation.
        known: The items before it, by list and id.
        needed: As for :func:`read_coco`.
    """
    fields = FIELDS[name]
    if missing := fields.keys() - item.keys():
        yield f'has no {enumerate_names(sorted(missing))}'
    for key, (fits, wanted) in fields.items():
        if not fits(item[key]):
            yield f'has the {key} {_show(item[key])}, which is not {wanted}'
    if item['id'] in known[name]:
        yield 'is there more than once'
    if name == 'annotations':
        yield from _annotation_problems(item, known, needed)


def _annotation_problems(
    item: dict, known: dict[str, dict[Any, dict]], needed: set[str]
) -> Iterator[str]:
    for key, others in (('image_id', 'images'), ('category_id', 'categories')):
        if item[key] not in known[others]:
            yield f"has the {key} {_show(item[key])}, which is not in '{others}'"
    for key in needed:
        if item.get(key) in (None, []):
            yield f"has no '{key}', which the config needs"
    if item.get('iscrowd', 0) not in (0, 1):
        yield f'has the iscrowd {_show(item["iscrowd"])}, which is neither 0 nor 1'
    if item.get('segmentation'):
        yield from _segmentation_problems(item['segmentation'], known['images'][item['image_id']])


def _segmentation_problems(segmentation: Any, image: dict) -> Iterator[str]:
    """Yield what is wrong with the polygons or run lengths of an object."""
    size = [image['height'], image['width']]
    if isinstance(segmentation, list):
        # Polygons of two points, which some programs write, mmdet leaves out.
        for polygon in segmentation:
            if not _are_finite(polygon) or len(polygon) < 4:
                yield (
                    f'has the polygon {_show(polygon)}, which is not a list of two or more '
                    'pairs of finite numbers'
                )
    elif not isinstance(segmentation, dict):
        yield f'has {_kind(segmentation)} as its segmentation, not polygons or run lengths'
    elif segmentation.get('size') != size:
        yield (
            f'has a segmentation of size {_show(segmentation.get("size"))}, but its image has '
            f'{size}'
        )
    elif not _add_up(segmentation.get('counts'), math.prod(size)):
        yield 'has a segmentation whose counts do not add up to the pixels of its image'


def _add_up(counts: Any, pixels: int) -> bool:
    """Whether run lengths cover an image; compressed ones pass."""
    # To add up compressed ones would be to decode them, which takes a minute for all of COCO.
    return isinstance(counts, str) or (
        _are_finite(counts) and min(counts, default=0) >= 0 and sum(counts) == pixels
    )


def _kind(value: object) -> str:
    """Name the type of a value as JSON calls it."""
    return KINDS.get(type(value), 'a number')


def _show(value: object, most: int = 40) -> str:
    """Write a value as JSON, its beginning if it is long."""
    text = json.dumps(value)
    return text if len(text) <= most else f'{text[:most]}...'
