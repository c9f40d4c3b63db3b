"""Check data in COCO format: the file, its classes and objects, and the metric's file."""

import functools
import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmdat.errors import UserError, Warn, enumerate_names

from .coco_reading import Reading, SizeOf
from .coco_repairs import overlap, plain_name
from .config_tree import transforms, unwrap
from .mmengine_private import is_subset, which_images

# Detections of a class in an image that COCO's average precision counts.
MOST_EVALUATED = 100
# Crowds are reported if there is one to so many objects; COCO's own data have one to a hundred.
MANY_CROWDS = 10
CROWD = 'crowds (iscrowd is 1), which are ignored'
MARKED = 'marked by "ignore"'
OTHER_CATEGORY = 'of categories that metainfo.classes lacks'
# What programs name pixels without an object, as plain_name writes it.
NO_OBJECTS = ('background', 'ignore')


@functools.cache
def log_once(text: str) -> None:
    """Log a warning, but once in a process: the data set and the metric read the same file."""
    print_log(text, 'current', logging.WARNING)


def read_coco(
    path: str, needs_masks: bool = False, warn: Warn = log_once, size_of: SizeOf = lambda name: None
) -> dict[str, Any]:
    """Read a file of annotations in COCO format, and compute what it lacks.

    Computed are missing or wrong areas, missing boxes and ``iscrowd``, sizes of images, ids of
    annotations that pycocotools cannot work with, numbers that are written as text, and polygons
    without their list.

    Args:
        needs_masks: Whether each annotation must have a segmentation.
        warn: Is told what was computed and what is suspicious, each with the number of items.
        size_of: Returns width and height of an image by its ``file_name``, or None.

    Raises:
        UserError: If the file cannot be read or is not in COCO format.
    """
    try:
        with open(path, 'rb') as file:  # as bytes, so that json detects the encoding
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
    except UnicodeDecodeError as error:
        raise UserError(
            f'annotation file {path} is not JSON in UTF-8 (byte {error.start} is no text): save it '
            'as UTF-8'
        ) from None
    except ValueError as error:
        raise UserError(
            f'annotation file {path} is not JSON ({error}): give annotations in COCO format'
        ) from None
    reading = Reading(path, needs_masks, size_of)
    reading.mend(content)
    for finding, count in reading.findings.items():
        warn(f'annotation file {path}: {count} of the {finding}')
    return content


def class_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the classes of a file, in the order of the ids of its categories.

    Those of :func:`needs_objects` are classes if they have objects.

    Args:
        content: What :func:`read_coco` returned.
    """
    categories = content['categories']
    used = {annotation['category_id'] for annotation in content.get('annotations', [])}
    ordered = sorted(categories, key=lambda category: category['id'])
    return tuple(
        category['name']
        for category in ordered
        if category['id'] in used or not needs_objects(category, categories)
    )


def needs_objects(category: Mapping[str, Any], categories: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a category is a class only if it has objects: the background, or a group of others.

    The first category of Roboflow's files groups the others; it has the name of the project.
    """
    if plain_name(category['name']) in NO_OBJECTS:
        return True
    groups = (other.get('supercategory') for other in categories)
    return category.get('supercategory') == 'none' and category['name'] in groups


def check_class_names(classes: Any) -> None:
    """Refuse ``metainfo.classes`` that are no list of names, or that name a class twice."""
    if isinstance(classes, str):
        raise UserError(
            f'metainfo.classes is {classes!r}, neither a list nor a file: for a single class write '
            f'classes=({classes!r},), with a comma'
        )
    for name in classes:
        if not isinstance(name, str):
            raise UserError(f'metainfo.classes has {name!r}, which is no string: give names')
        if not name.strip():
            raise UserError(
                f'metainfo.classes has an empty name, {name!r}: take it out, as blank lines of a '
                'file of classes'
            )
    for name, count in Counter(classes).items():
        if count > 1:
            raise UserError(f'metainfo.classes names {name!r} {count} times: name each class once')


def check_categories(content: Mapping[str, Any], path: str, classes: Collection[str]) -> None:
    """Refuse annotations without a needed class, or with objects of other classes alone.

    A class may be missing if the file has no other category that could be it.

    Args:
        content: What :func:`read_coco` returned.
        classes: Names of the categories that are needed; all of the file's if there are none.
    """
    numbers = {category['name']: category['id'] for category in content['categories']}
    missing = [name for name in classes if name not in numbers]
    others = [name for name in numbers if name not in classes]
    alike = {plain_name(other): other for other in reversed(others)}
    for name in missing:
        if other := alike.get(plain_name(name)):
            raise UserError(
                f'annotation file {path} has no category {name!r}, which the config expects, '
                f'but {other!r}: write the name alike in metainfo.classes and in the file'
            )
    if missing and (others or not numbers):
        raise UserError(
            f'annotation file {path} has no category {enumerate_names(missing)}, '
            'which the config expects: set metainfo=dict(classes=(...)) of the data set and '
            f'num_classes of the heads to its own ({enumerate_names(numbers)})'
        )
    wanted = {number for name, number in numbers.items() if not classes or name in classes}
    # Images to be tested only, such as COCO's test-dev, have no annotations.
    annotations = content.get('annotations')
    if annotations and not any(item['category_id'] in wanted for item in annotations):
        raise _nothing_to_use(path, 'image to use', classes or numbers)


@dataclass
class Tally:
    """What a data set in COCO format has, and what it leaves out of its annotation file.

    Attributes:
        objects: Number of objects by label, without those that are ignored.
        ignored: Reason -> number of objects that are neither learned nor looked for.
        left_out: Reason -> number of objects that the data set does not have.
        images_left_out: Reason -> number of images.
        unusable: Number of those ignored or left out, by label.
        images_by_objects: Number of objects in an image -> number of such images.
        crowded: Number of images with more objects of a class than are evaluated.
    """

    objects: Counter[int] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    images_left_out: Counter[str] = field(default_factory=Counter)
    unusable: Counter[int] = field(default_factory=Counter)
    images_by_objects: Counter[int] = field(default_factory=Counter)
    crowded: int = 0

    def add(self, instances: Sequence[Mapping[str, Any]], needs_masks: bool) -> None:
        """Count the objects of an image that a data set has."""
        labels = []
        for instance in instances:
            mask = instance.get('mask')
            if instance['ignore_flag']:
                reason = CROWD
            # mmdet leaves out polygons of two points.
            elif needs_masks and isinstance(mask, list) and all(len(part) < 6 for part in mask):
                reason = 'without a polygon of three points'
            else:
                labels.append(instance['bbox_label'])
                continue
            self.ignored[reason] += 1
            self.unusable[instance['bbox_label']] += 1
        self.objects.update(labels)
        self.images_by_objects[len(labels)] += 1
        if len(labels) > MOST_EVALUATED:
            self.crowded += max(Counter(labels).values()) > MOST_EVALUATED

    def leave_out(
        self, annotations: Sequence[Mapping[str, Any]], image: Mapping[str, Any], ids: Sequence[Any]
    ) -> None:
        """Count the objects of an image that mmdet leaves out.

        Args:
            image: Their image, with ``width`` and ``height``.
        """
        for annotation in annotations:
            x, y, width, height = annotation['bbox']
            if annotation['category_id'] not in ids:
                self.left_out[OTHER_CATEGORY] += 1
                continue
            if annotation.get('ignore'):
                reason = MARKED
            elif width < 0 or height < 0:
                reason = 'of negative width or height (bbox is x, y, width, height)'
            elif width < 1 or height < 1:
                reason = 'less than a pixel wide or high (bbox is in pixels)'
            elif not (-width < x < image['width'] and -height < y < image['height']):
                reason = 'outside of their image (bbox is x, y, width, height in pixels)'
            else:
                continue
            self.left_out[reason] += 1
            self.unusable[ids.index(annotation['category_id'])] += 1


def check_any_left(tally: Tally, path: str, classes: Collection[str], test_mode: bool) -> None:
    """Refuse a data set that has no image left after filtering, or nothing to learn or to find.

    Args:
        test_mode: Whether it is tested on; then images without any annotation are fine.
    """
    reasons = tally.ignored + tally.left_out
    if not tally.images_by_objects:
        raise _nothing_to_use(path, 'image to use', classes, reasons, tally.images_left_out)
    if not tally.objects and (reasons or not test_mode):
        raise _nothing_to_use(path, 'object to use', classes, reasons, tally.images_left_out)


def _nothing_to_use(
    path: str, what: str, classes: Collection[str], *reasons: Counter[str]
) -> UserError:
    listed = '; '.join(filter(None, map(_list_reasons, reasons)))
    return UserError(
        f'annotation file {path} leaves no {what}: it has none with an object of the classes '
        f'{enumerate_names(classes)}'
        + (f' that can be used ({listed})' if listed else '')
        + ': '
        + ('lower filter_cfg.min_size, ' if 'filter_cfg.min_size' in listed else '')
        + 'mend the file, or set metainfo=dict(classes=(...)) to classes that it has objects of'
    )


def _list_reasons(reasons: Counter[str]) -> str:
    return ', '.join(f'{count} {reason}' for reason, count in reasons.most_common() if count)


def check_left_out(dataset: Any, warn: Warn) -> None:
    """Warn of objects and images that mmdet would leave out in silence."""
    for tally in _tallies(dataset):
        used, left_out = tally.objects.total(), tally.left_out + tally.ignored
        is_whole = not is_subset(dataset)  # else what is left out is of more than what is used
        what = 'are not learned'
        if dataset.test_mode:
            what = 'can hardly be found, but are evaluated'
            for reason in (CROWD, MARKED, OTHER_CATEGORY):
                del left_out[reason]
        elif MANY_CROWDS * left_out[CROWD] < used:
            del left_out[CROWD]
        if left_out:
            total = f' of the {used + left_out.total()}' if is_whole else ''
            warn(
                f'{left_out.total()}{total} objects in {dataset.ann_file} {what}: '
                f'{_list_reasons(left_out)}'
            )
        images = tally.images_left_out
        if images:
            used = tally.images_by_objects.total()
            total = f' of the {used + images.total()}' if is_whole else ''
            warn(
                f'{images.total()}{total} images in {dataset.ann_file} are left out: '
                f'{_list_reasons(images)}'
            )


def check_classes_occur(dataset: Any, warn: Warn) -> None:
    """Warn of classes without an object; refuse training where none that a class has is usable.

    Args:
        dataset: A built data set, which may wrap others; of these, those of mmdat in COCO format
            are looked at, together.
    """
    parts = [part for _, part in unwrap(dataset) if _tallies(part)]
    objects = sum((part.tally.objects for part in parts), Counter[int]())
    if not objects:
        return
    files = ' and '.join(dict.fromkeys(part.ann_file + which_images(part) for part in parts))
    classes = parts[0].metainfo['classes']
    lacking = {label: name for label, name in enumerate(classes) if not objects[label]}
    in_training = [part for part in parts if not part.test_mode and not is_subset(part)]
    unusable = sum((part.tally.unusable for part in in_training), Counter[int]())
    if spoiled := [name for label, name in lacking.items() if unusable[label]]:
        left_out = (part.tally.ignored + part.tally.left_out for part in in_training)
        reasons = sum(left_out, Counter[str]())
        raise UserError(
            f'none of the objects that {files} has of {enumerate_names(spoiled)} can be learned '
            f'(of all classes are left out: {_list_reasons(reasons)}): mend them, or take these '
            'classes out of metainfo.classes'
        )
    if lacking:
        what = 'are not evaluated' if parts[0].test_mode else 'cannot be learned'
        warn(
            f'{len(lacking)} of the {len(classes)} classes have no object in {files} and {what}: '
            f'{enumerate_names(lacking.values())}'
        )


def check_object_counts(model: nn.Module, dataset: Any, warn: Warn) -> None:
    """Warn of images with more objects than a detector returns, or than are evaluated."""
    for tally in _tallies(dataset):
        limit, name = min(_limits(model), default=(None, ''))
        counts = tally.images_by_objects
        above = sum(images for count, images in counts.items() if limit and count > limit)
        if above:
            warn(
                f'{above} of the {counts.total()} images in {dataset.ann_file}'
                f'{which_images(dataset)} have more objects (up to {max(counts)}) than the {limit} '
                f'that the model returns for an image: raise {name}'
            )
        if tally.crowded and dataset.test_mode:
            warn(
                f'{tally.crowded} images in {dataset.ann_file} have more than {MOST_EVALUATED} '
                "objects of a class, of which COCO's average precision counts no more: it stays "
                'below 1'
            )


def check_evaluator(metric: Any, dataset: Any) -> None:
    """Refuse a metric whose annotations are for other images or classes than those tested."""
    truth, path = getattr(metric, '_coco_api', None), getattr(metric, 'ann_file', None)
    steps = transforms(getattr(dataset, 'pipeline', ()))
    packed = [keys for step in steps if (keys := getattr(step, 'meta_keys', None))]
    given = any('instances' in keys for keys in packed) or not packed
    # Metrics that build on it, as LVISMetric does, may read another truth.
    if type(metric).__name__ == 'CocoMetric' and truth is None and not given:
        raise UserError(
            "the evaluator's CocoMetric has no ann_file: give it that of the data set; of several "
            'data sets, each needs a metric (MultiDatasetsEvaluator)'
        )
    if truth is None or path is None or not _tallies(dataset):
        return
    check_categories(truth.dataset, path, dataset.metainfo['classes'])
    if not truth.dataset.get('annotations') and not getattr(metric, 'format_only', False):
        raise UserError(
            f"the evaluator's ann_file {path} has no annotations: give one that has, or set "
            'format_only=True to write the predictions alone'
        )
    if os.path.realpath(path) == os.path.realpath(dataset.ann_file):
        return
    remedy = 'give the evaluator the ann_file of the data set'
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    for what, wrong in (
        ('not in', [info for info in infos if info['img_id'] not in truth.imgs]),
        ('other images in', [info for info in infos if not _is_same_image(info, truth.imgs)]),
    ):
        if wrong:
            raise UserError(
                f'{len(wrong)} of the {len(infos)} images of {dataset.ann_file} are {what} the '
                f"evaluator's ann_file {path}, such as {wrong[0]['img_path']} (id "
                f'{wrong[0]["img_id"]!r}): {remedy}'
            )
    # Images of two splits may have equal ids, names and sizes.
    known = [
        _is_known(instance, info, truth, dataset)
        for info in infos
        for instance in info['instances']
    ]
    if 2 * sum(known) < len(known):
        raise UserError(
            f'{known.count(False)} of the {len(known)} objects in {dataset.ann_file} are not in '
            f"the evaluator's ann_file {path}, though it has images of the same ids and names: "
            f'{remedy}'
        )


def _is_same_image(info: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]]) -> bool:
    """Whether an image of a data set has the name and size that its id has in a metric's file."""
    image = images.get(info['img_id'])
    return (
        image is not None
        and image['file_name'].replace('\\', '/').split('/')[-1]
        == os.path.basename(info['img_path'])
        and (image['width'], image['height']) == (info['width'], info['height'])
    )


def _is_known(
    instance: Mapping[str, Any], info: Mapping[str, Any], truth: Any, dataset: Any
) -> bool:
    """Whether a metric's file has an object of a data set, or one that was drawn a bit better."""
    left, top, right, bottom = instance['bbox']
    box = [left, top, right - left, bottom - top]
    name = dataset.metainfo['classes'][instance['bbox_label']]
    return any(
        truth.cats[other['category_id']]['name'] == name and overlap(box, other['bbox']) > 0.75
        for other in truth.imgToAnns.get(info['img_id'], ())
    )


def _tallies(dataset: Any) -> list[Tally]:
    """The tally of a data set, if it has one."""
    tally = getattr(dataset, 'tally', None)
    return [tally] if isinstance(tally, Tally) else []


def _limits(model: nn.Module) -> Iterator[tuple[int, str]]:
    """Yield how many objects the parts of a detector return for an image, each with its key."""
    for name, module in model.named_modules():
        stage = '.rpn' * ('rpn_head' in name) or '.rcnn' * ('roi_head' in name)
        test_cfg = getattr(module, 'test_cfg', None)
        for key in ('max_per_img', 'max_per_image'):
            limit = test_cfg.get(key) if isinstance(test_cfg, Mapping) else None
            if isinstance(limit, int) and limit > 0:
                yield limit, f'model.test_cfg{stage}.{key}'
        limit = getattr(module, 'num_queries', None)
        if isinstance(limit, int):
            yield limit, '.'.join(filter(None, ('model', name, 'num_queries')))
