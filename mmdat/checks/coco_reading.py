"""Look through annotations in COCO format: mend what can be computed, find what cannot be used."""

import functools
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from mmdat.errors import UserError, enumerate_names

from .coco_repairs import (
    add_file_name,
    are_finite,
    area_of,
    as_number,
    box_of,
    has_no_pixel,
    one_type_of_id,
    overlap,
    plain_name,
    polygons_of,
    run_lengths,
)
from .images import evenly_spaced

Check = Callable[[dict], str | None]
SizeOf = Callable[[Any], tuple[int, int] | None]
Rule = tuple[Callable[[Any], bool], str]
ID: Rule = (lambda value: isinstance(value, (int, str)), 'a number or a string')
STRING: Rule = (lambda value: isinstance(value, str), 'a string')
LENGTH: Rule = (lambda value: isinstance(value, int) and value > 0, 'a positive integer')
# What mmdet and pycocotools read of images and categories, and what it must be.
FIELDS: dict[str, dict[str, Rule]] = {
    'images': dict(id=ID, file_name=STRING, height=LENGTH, width=LENGTH),
    'categories': dict(id=ID, name=STRING),
}
# How many boxes are compared with their segmentations, at most and at least.
SAMPLE, FEW = 1000, 4
# How many boxes without outlines must lie as corners would for a warning.
SUSPICIOUS = 10
# How a box is written by mistake -> what makes x, y, width, height of it.
READINGS: dict[str, Callable[..., list[float]]] = {
    'x1, y1, x2, y2': lambda x, y, right, bottom: [x, y, right - x, bottom - y],
    'center x, center y, width, height': lambda x, y, width, height: [
        x - width / 2,
        y - height / 2,
        width,
        height,
    ],
}
LISTS = (*FIELDS, 'annotations')
# Key of an annotation -> the list in which the id is that it holds.
REFERENCES = (('image_id', 'images'), ('category_id', 'categories'))
KINDS = {dict: 'an object', list: 'a list', str: 'a string', bool: 'a boolean', type(None): 'null'}


class Reading:
    """Look through the content of an annotation file: mend what can be mended, refuse the rest.

    Attributes:
        findings: What was mended or is suspicious, and the number of such items.
    """

    def __init__(self, path: str, needs_masks: bool, size_of: SizeOf) -> None:
        self.findings: Counter[str] = Counter()
        self._path = path
        self._needs_masks = needs_masks
        self._size_of = size_of
        self._known: dict[str, dict[Any, dict]] = {}  # list -> id -> image or category
        self._as_id: dict[str, Callable[[Any], Any]] = {}
        self._num_beyond = self._num_like_corners = self._num_top_left = 0

    # Each check presupposes that those before it found nothing.

    def mend(self, content: Any) -> None:
        """Mend the content of a file, and find what is suspicious in it."""
        self.mend_items(content)
        self._mend_categories(content)
        annotations = content.get('annotations', [])
        self.check_boxes(annotations)
        self._look_for_double_images(content['images'])
        self.clear_crowds(annotations)
        self.number(annotations)

    def _refuse(self, problem: str) -> NoReturn:
        raise UserError(f'annotation file {self._path} is not in COCO format: {problem}')

    def mend_items(self, content: Any) -> None:
        """Mend single items; all findings are then what was mended."""
        if not isinstance(content, dict):
            self._refuse(f'it holds {_kind(content)}, not an object')
        # Images to be tested only, such as COCO's test-dev, have no annotations.
        lists = {name: content.get(name, [] if name == 'annotations' else None) for name in LISTS}
        for name, items in lists.items():
            if not isinstance(items, list):
                self._refuse(f"it has no list '{name}'")
            for item in items:
                if not isinstance(item, dict):
                    self._refuse(f"in '{name}' there is {_kind(item)}, not an object")
            if name in FIELDS:
                self._known[name] = {}
                self._as_id[name] = one_type_of_id([item.get('id') for item in items])
                check: Check = functools.partial(self._definition_problem, name)
            else:
                check = self._annotation_problem
            wrong = [(item, problem) for item in items if (problem := check(item))]
            if wrong:
                item, problem = wrong[0]
                more = f' ({len(wrong)} items there have faults)' if len(wrong) > 1 else ''
                self._refuse(
                    f"in '{name}' the item with id {_show(item.get('id'))} {problem}: mend it, or "
                    f'take it out{more}'
                )

    def _definition_problem(self, name: str, item: dict) -> str | None:
        """Mend an image or a category, or say what is wrong with it."""
        fields = FIELDS[name]
        if name == 'images' and add_file_name(item):
            self.findings['images had no file_name: the end of coco_url is taken'] += 1
        has_size = item.get('width') and item.get('height')
        if name == 'images' and not has_size and (size := self._size_of(item.get('file_name'))):
            item['width'], item['height'] = size
            self.findings['images had no width and height: read from the image files'] += 1
        if missing := fields.keys() - item.keys():
            return f'has no {enumerate_names(sorted(missing))}'
        mended: dict[str, Any] = {
            key: as_number(item[key]) for key in ('height', 'width') if key in fields
        }
        mended['id'] = self._as_id[name](item['id'])
        if isinstance(item.get('name'), str):
            item['name'] = unicodedata.normalize('NFC', item['name'])
        if any(value is not item[key] for key, value in mended.items()):
            self.findings[f'{name} had an id or a size that is text or a float: converted'] += 1
            item.update(mended)
        for key, (fits, wanted) in fields.items():
            if not fits(item[key]):
                return f'has the {key} {_show(item[key])}, which is not {wanted}'
        if item['id'] in self._known[name]:
            return 'is there more than once'
        self._known[name][item['id']] = item
        return None

    def _annotation_problem(self, item: dict) -> str | None:
        """Mend an annotation, or say what is wrong with it."""
        for key, name in REFERENCES:
            value = item.get(key)
            # A fast way for nearly all of a file.
            is_plain = type(value) is int and value in self._known[name]
            if not is_plain and (problem := self._reference_problem(item, key, name)):
                return problem
        image = self._known['images'][item['image_id']]
        segmentation = item.get('segmentation')
        if segmentation and (problem := _segmentation_problem(segmentation, image)):
            segmentation = polygons_of(segmentation)
            if segmentation and _segmentation_problem(segmentation, image):
                return problem
            self._mend(item, 'segmentation', segmentation, 'written as lists of x, y, x, y, ...')
        if self._needs_masks and not segmentation:
            return (
                "has no 'segmentation', which with_mask=True needs (for boxes alone take a model "
                'without masks)'
            )
        if self._needs_masks and isinstance(segmentation, dict) and has_no_pixel(segmentation):
            self.findings[
                'annotations have masks without a pixel: mend them, or take them out'
            ] += 1
        box: Any = item.get('bbox')
        if not _is_box(box):
            box = box_of(item)
            if not _is_box(box):
                return (
                    f'has the bbox {_show(item["bbox"])}, which is not four finite numbers'
                    if 'bbox' in item
                    else "has no 'bbox', nor a segmentation to compute it from"
                )
            self._mend(item, 'bbox', box, 'read as numbers, or computed from the segmentation')
        x, y, width, height = box
        area: Any = item.get('area')
        # COCO has boxes without an area too; mmdet leaves them out. Some programs count both ends.
        if not are_finite([area]) or (
            width > 0
            and height > 0
            and not 0.01 * width * height <= area <= 1.2 * (width + 1) * (height + 1)
            # A thin object covers little of its box: its area is compared with the segmentation's.
            and not 0.01 * area_of(item) <= area <= width * height
        ):
            self._mend(item, 'area', area_of(item), 'computed from the segmentation or box')
        crowd = item.get('iscrowd')
        if crowd not in (0, 1) or (item.get('ignore') and not crowd):
            # pycocotools reads iscrowd alone.
            value = as_number(crowd or 0) or as_number(item.get('ignore') or 0)
            if value not in (0, 1):
                return f'has the iscrowd {_show(crowd)}, which is neither 0 nor 1'
            if value is not crowd:
                self._mend(item, 'iscrowd', value, 'taken as 0, or as 1 where "ignore" is 1')
        right, bottom = image['width'] + 1, image['height'] + 1
        if x < -1 or y < -1 or x + width > right or y + height > bottom:
            self._num_beyond += 1
        if x < width <= right and y < height <= bottom:
            self._num_like_corners += 1
            # Boxes count that are clearly there: one of a whole image may end a pixel too early.
            is_left, is_high = 2 * x + width < 0.9 * right, 2 * y + height < 0.9 * bottom
            self._num_top_left += is_left and is_high
        return None

    def _reference_problem(self, item: dict, key: str, name: str) -> str | None:
        """Mend the id of an image or a category in an annotation, or say what is wrong with it."""
        if key not in item:
            return f"has no '{key}'"
        value = self._as_id[name](item[key])
        fits, wanted = ID
        if not fits(value):
            return f'has the {key} {_show(value)}, which is not {wanted}'
        if value not in self._known[name]:
            return f"has the {key} {_show(value)}, which is not in '{name}'"
        if value is not item[key]:
            self._mend(item, key, value, f"given the type of the ids in '{name}'")
        return None

    def _mend(self, item: dict, key: str, value: Any, how: str) -> None:
        item[key] = value
        self.findings[f'annotations had no usable {key}: {how}'] += 1

    def _mend_categories(self, content: dict) -> None:
        """Take out categories without objects whose name is another's; refuse double names."""
        categories = content['categories']
        names = Counter(category['name'] for category in categories)
        alike = Counter(map(plain_name, names))
        if twins := [name for name in names if alike[plain_name(name)] > 1]:
            same = [name for name in twins if plain_name(name) == plain_name(twins[0])]
            self.findings[
                f'categories differ but in case, blanks or signs, such as {same[0]!r} and '
                f'{same[1]!r}: give one name to those that are one class'
            ] = len(twins)
        if len(names) == len(categories):
            return
        used = {annotation['category_id'] for annotation in content.get('annotations', [])}
        for name in (name for name, count in names.items() if count > 1):
            doubles = [category for category in categories if category['name'] == name]
            with_objects = [category for category in doubles if category['id'] in used]
            if len(with_objects) > 1:
                ids = ' and '.join(_show(category['id']) for category in with_objects)
                self._refuse(
                    f'the categories {ids} have one name, {name!r}: give each its own, or their '
                    'objects one category_id'
                )
            kept = (with_objects or doubles)[-1]
            categories[:] = [x for x in categories if x['name'] != name or x is kept]
            self.findings[f'categories have the name {name!r}: the one with objects is used'] += (
                len(doubles)
            )

    def check_boxes(self, annotations: list[dict]) -> None:
        """Refuse boxes that are corners; else count those that seem to be, or cannot be right."""
        beyond, num_boxes = self._num_beyond, len(annotations)
        if 2 * beyond > num_boxes == self._num_like_corners:
            self._refuse(
                f'{beyond} of the {num_boxes} boxes reach beyond their image, and all '
                'could be x1, y1, x2, y2: write bbox as x, y, width, height'
            )
        if beyond:
            self.findings['boxes reach beyond their image by more than a pixel'] = beyond
        pairs = list(self._boxes_and_outlines(annotations))
        if len(pairs) < FEW:
            all_like_corners = num_boxes >= SUSPICIOUS and num_boxes == self._num_like_corners
            # Boxes of large objects could be corners, too, but do not lie top left of the middle.
            if all_like_corners and 4 * self._num_top_left >= 3 * num_boxes:
                self.findings[
                    'boxes lie in the top left of their image, and all could be x1, y1, x2, y2: if '
                    'they are, write bbox as x, y, width, height'
                ] = self._num_top_left
            return
        elsewhere = [(box, outline) for box, outline in pairs if overlap(box, outline) < 0.5]
        if 2 * len(elsewhere) < len(pairs):
            return
        for meaning, read in READINGS.items():
            fitting = sum(overlap(read(*box), outline) >= 0.5 for box, outline in elsewhere)
            if 2 * fitting > len(elsewhere):
                self._refuse(
                    f'{fitting} of {len(pairs)} boxes surround their polygons if read as '
                    f'{meaning}: write bbox as x, y, width, height'
                )
        problem = (
            f'{len(pairs)} boxes that were compared are not around their polygons or masks: give '
            'both in pixels of the image, bbox as x, y, width, height, polygons as x, y, x, y, '
            '..., and run lengths column by column'
        )
        if self._needs_masks and len(elsewhere) == len(pairs):
            self._refuse(f'all {problem}')
        self.findings[problem] = len(elsewhere)

    def _boxes_and_outlines(
        self, annotations: list[dict]
    ) -> Iterator[tuple[list[float], list[float]]]:
        """Yield boxes that mmdet uses, and those around their segmentations, of a sample."""
        sample = [item for item in annotations if item.get('segmentation')]
        for index in evenly_spaced(SAMPLE, len(sample)):
            item = sample[index]
            image = self._known['images'][item['image_id']]
            box, whole = item['bbox'], [0, 0, image['width'], image['height']]
            if min(box[2:]) < 1 or not overlap(box, whole):
                continue
            segmentation = item['segmentation']
            if isinstance(segmentation, list):
                segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
            if outline := segmentation and box_of(dict(segmentation=segmentation)):
                yield box, outline

    def _look_for_double_images(self, images: list[dict]) -> None:
        doubles = len(images) - len({image['file_name'] for image in images})
        if doubles:
            self.findings[
                'images have the file_name of another: if each has but a part of the objects, the '
                'model learns to overlook the others; give a file one entry'
            ] = doubles

    def clear_crowds(self, annotations: list[dict]) -> None:
        """Take crowds for objects if there is nothing else; CVAT marks all masks as crowds."""
        if all(item['iscrowd'] and not item.get('ignore') for item in annotations):
            for item in annotations:
                item['iscrowd'] = 0
            if annotations:
                self.findings[
                    'annotations, which are all, are marked as crowds (iscrowd 1): taken as objects'
                ] = len(annotations)

    def number(self, annotations: list[dict]) -> None:
        """Number the annotations from 1 if ids are 0, missing or double.

        pycocotools takes an object that matches the id 0 for one that has no match.
        """
        ids = [annotation.get('id') for annotation in annotations]
        fine = all(type(value) is int and value > 0 for value in ids)
        if fine and len(set(ids)) == len(ids):
            return
        for number, annotation in enumerate(annotations, start=1):
            annotation['id'] = number
        self.findings[
            'annotations were numbered anew, as some ids were 0, double or no integers'
        ] = len(ids)


def _is_box(value: Any) -> bool:
    return are_finite(value) and len(value) == 4


def _segmentation_problem(segmentation: Any, image: dict) -> str | None:
    """Say what is wrong with the polygons or run lengths of an object."""
    if isinstance(segmentation, list):
        # mmdet leaves out polygons of two points, which some programs write.
        for polygon in segmentation:
            if not are_finite(polygon) or len(polygon) < 4:
                return (
                    f'has the polygon {_show(polygon)}, which is not a list of two or more '
                    'pairs of finite numbers'
                )
        return None
    if not isinstance(segmentation, dict):
        return f'has {_kind(segmentation)} as its segmentation, not polygons or run lengths'
    size = [image['height'], image['width']]
    if segmentation.get('size') != size:
        return (
            f'has a segmentation of size {_show(segmentation.get("size"))}, but its image has '
            f'{size}'
        )
    if not _add_up(segmentation.get('counts'), math.prod(size)):
        return 'has a segmentation whose counts do not add up to the pixels of its image'
    return None


def _add_up(counts: Any, pixels: int) -> bool:
    """Whether run lengths, which may be compressed, cover an image."""
    # Decoding takes several times as long for masks of up to a few hundred signs.
    runs = run_lengths(counts) if isinstance(counts, str) else counts
    return are_finite(runs) and min(runs, default=0) >= 0 and sum(runs) == pixels


def _kind(value: object) -> str:
    """Name the type of a value as JSON calls it."""
    return KINDS.get(type(value), 'a number')


def _show(value: object) -> str:
    """Write a value as JSON, its beginning if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f'{text[:40]}...'
