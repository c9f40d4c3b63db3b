"""What a split of the data holds: images, objects, sizes, and what is rare, small or double."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import Resize
from PIL import Image
from torch import nn

from mmdat.checks import config_tree
from mmdat.checks.folders import equal_files
from mmdat.checks.images import broken_among, evenly_spaced, read_headers
from mmdat.errors import UserError, enumerate_names

# Files that are read to estimate the sizes of images and the part of the pixels of each class.
READ = 200
# What transforms raise where a file cannot be loaded.
FAILURES = (
    *(UserError, AssertionError, OSError, ValueError, IndexError, cv2.error),
    Image.DecompressionBombError,
)
# A class with fewer objects or images to train on is hardly learned.
FEW = 10
# Least IoU with an anchor for a box to be learned. A small box may reach it nowhere.
LEAST_IOU = 0.3


@dataclass(frozen=True)
class Summary:
    """What a split holds.

    Attributes:
        images: Number of images.
        counts: By class, of a detector objects, of a classifier images, of a segmentor the part of
            the pixels; empty without annotations.
        left_out: Number of images that the data set knows and does not use.
        empty: Number of the images without objects; None if they have other annotations.
        sides: Shorter and longer sides in pixels (least, median, most).
        estimated: Whether sides and parts of the pixels are of :data:`READ` images alone.
    """

    images: int
    counts: Mapping[str, float]
    left_out: int
    empty: int | None
    sides: tuple[tuple[int, int, int], ...]
    estimated: bool = False


def items_of(dataset: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield what a data set, and those that it wraps, know of each image, with the data set."""
    for _, single in config_tree.unwrap(dataset):
        for index in range(len(single)):
            yield single, single.get_data_info(index)


def load(dataset: Any, info: dict[str, Any]) -> dict[str, Any] | None:
    """Load an image and its annotations as the data set's transforms do; None if that fails."""
    loaded = dict(info)
    try:
        for step in config_tree.transforms(dataset.pipeline.transforms):
            if type(step).__name__.startswith('Load'):
                loaded = step(loaded)
                if loaded is None:  # of a broken image, which a loader for training skips
                    return None
    except FAILURES:
        return None
    return loaded


def objects_in(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of an image that count: no crowds."""
    return [item for item in info.get('instances', ()) if not item.get('ignore_flag')]


def summarize(dataset: Any) -> Summary:
    """Look at all images that a data set knows, and read some of them."""
    items = list(items_of(dataset))
    single, first = items[0]
    names = [str(name) for name in single.metainfo.get('classes') or ()]
    counts: Sequence[float] = ()
    empty = None
    if 'instances' in first:
        objects = [objects_in(info) for _, info in items]
        empty = sum(not image for image in objects)
        counts = _count([item['bbox_label'] for image in objects for item in image], len(names))
    elif first.get('gt_label') is not None:
        counts = _count([x for _, info in items for x in np.ravel(info['gt_label'])], len(names))
    elif first.get('seg_map_path'):
        counts = _pixel_shares(items, len(names))
    most = len(items) if 'height' in first else READ
    some = [items[index][1] for index in evenly_spaced(most, len(items))]
    sizes = [(info['height'], info['width']) for info in some if 'height' in info]
    headers = read_headers([info['img_path'] for info in some if 'height' not in info])
    sizes += [header.stored for header in headers if header]  # another check tells of others
    sides = np.sort(sizes or [(0, 0)], axis=1)
    quantiles = np.quantile(sides, (0, 0.5, 1), axis=0).astype(int)
    return Summary(
        images=len(items),
        counts=dict(zip(names, counts, strict=bool(counts))),
        left_out=sum(
            single.tally.images_left_out.total()
            for _, single in config_tree.unwrap(dataset)
            if hasattr(single, 'tally')
        ),
        empty=empty,
        sides=tuple(tuple(column) for column in quantiles.T.tolist()),
        estimated=len(some) < len(items),
    )


def _count(labels: Sequence[Any], num_classes: int) -> list[int]:
    found = Counter(map(int, labels))
    return [found[index] for index in range(num_classes)]


def _pixel_shares(items: Sequence[tuple[Any, dict[str, Any]]], num_classes: int) -> list[float]:
    pixels = np.zeros(256, np.int64)
    for index in evenly_spaced(READ, len(items)):
        loaded = load(*items[index])
        if loaded and 'gt_seg_map' in loaded:
            pixels += np.bincount(loaded['gt_seg_map'].ravel(), minlength=256)[:256]
    return (pixels[:num_classes] / max(1, pixels[:num_classes].sum())).tolist()


def rare_classes(summary: Summary) -> Iterator[str]:
    """Say which classes have few examples to train on."""
    rare = [name for name, x in summary.counts.items() if isinstance(x, int) and 0 < x < FEW]
    if rare:
        yield f'train has fewer than {FEW} examples of {enumerate_names(rare)}: collect more'


def broken_images(dataset: Any) -> Iterator[str]:
    """Say how many images a training will skip, since they are not whole."""
    paths = [info['img_path'] for _, info in items_of(dataset)]
    paths = [path for path in paths if Path(path).is_file()]  # others are missing
    if broken := broken_among(paths):
        yield (
            f'{len(broken)} of {len(paths)} images in train are broken, such as {broken[0]}: they '
            'are skipped; mend them, or take them out'
        )


def same_images(datasets: Mapping[str, Any]) -> Iterator[str]:
    """Say how many images two splits share in files of their own, by the files' content."""
    splits_of: dict[str, set[str]] = defaultdict(set)
    for split, dataset in datasets.items():
        for _, info in items_of(dataset):
            splits_of[info['img_path']].add(split)
    pairs: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for paths in equal_files({path: frozenset(splits) for path, splits in splits_of.items()}):
        places = {split: path for path in paths for split in splits_of[path]}
        if len(set(places.values())) > 1:
            pairs[tuple(split for split in datasets if split in places)].append(places)
    for names, shared in pairs.items():
        examples = ' and '.join(shared[0][name] for name in names)
        yield (
            f'images that are in {" and ".join(names)} alike: {len(shared)}, such as {examples}; '
            'take them out of one, or figures are too good'
        )


def same_objects(datasets: Mapping[str, Any]) -> Iterator[str]:
    """Say how many objects have the image, class and box of another, as of merged exports."""
    for split, dataset in datasets.items():
        doubles = {}
        for _, info in items_of(dataset):
            objects = [(item['bbox_label'], *item['bbox']) for item in objects_in(info)]
            if count := len(objects) - len(set(objects)):
                doubles[info['img_path']] = count
        if doubles:
            yield (
                f'objects in {split} that have the class and box of another: '
                f'{sum(doubles.values())}, such as in {next(iter(doubles))}; take them out, as an '
                'object is found once'
            )


def small_boxes(model: nn.Module, datasets: Mapping[str, Any]) -> Iterator[str]:
    """Say how many boxes are too small for a detector at the size that it sees."""
    anchors = _smallest_anchors(model)
    # One that wraps detectors, as SoftTeacher does, has no backbone itself.
    cell = min(getattr(getattr(model, 'backbone', None), 'out_strides', (1,)))
    least = (
        f'the smallest anchors, of about {anchors.prod(1).min() ** 0.5:.0f}'
        if len(anchors)
        else f'a cell of the finest map, of {cell}'
    )
    scale = _test_scale(datasets)
    for split, dataset in datasets.items():
        boxes = [
            _resized(info, scale) * (np.array(item['bbox'][2:]) - item['bbox'][:2])
            for _, info in items_of(dataset)
            for item in objects_in(info)
        ]
        if not boxes:
            continue
        sides = np.array(boxes)
        if len(anchors):
            common = np.minimum(sides[:, None], anchors).prod(-1)
            areas = sides.prod(-1)
            union = areas[:, None] + anchors.prod(-1) - common
            small = ((common / union).max(1) < LEAST_IOU) & (areas < anchors.prod(-1).min())
        else:
            small = sides.max(1) < cell
        if small.any():
            yield (
                f'{small.sum()} of {len(sides)} boxes in {split} are too small for {least} pixels, '
                'at the size that images are tested in: enlarge that, or cut images into tiles'
            )


def _smallest_anchors(model: nn.Module) -> np.ndarray:
    """Width and height of the anchors of the finest level, (n, 2); none without anchors."""
    for name in ('rpn_head', 'bbox_head'):
        generator = getattr(getattr(model, name, None), 'prior_generator', None)
        anchors = getattr(generator, 'base_anchors', None)
        if anchors:
            corners = anchors[0].numpy()
            return corners[:, 2:] - corners[:, :2]
    return np.empty((0, 2))


def _test_scale(datasets: Mapping[str, Any]) -> Sequence[int] | None:
    """Two sides into which images are resized for a test, or else always in training."""
    for split in sorted(datasets, key=lambda split: split == 'train'):
        for _, single in config_tree.unwrap(datasets[split]):
            for step in single.pipeline.transforms:
                if isinstance(step, Resize) and step.scale is not None and step.keep_ratio:
                    return step.scale
    return None


def _resized(info: dict[str, Any], scale: Sequence[int] | None) -> float:
    """How much larger an image is after it was resized to fit into two sides."""
    if scale is None:
        return 1.0
    sides = sorted((info['height'], info['width'])), sorted(scale)
    return min(to / side for side, to in zip(*sides, strict=True))
