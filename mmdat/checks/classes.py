"""Checks of the names of the classes that data sets have."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmdat.errors import UserError, Warn, enumerate_names

from .coco import check_class_names
from .config_tree import unwrap


def data_with_classes(datasets: Mapping[str, Any]) -> Iterator[tuple[str, Any, Sequence[str]]]:
    """Yield the data sets that have classes, out of their wrappers.

    Yields:
        The split, the data set and the names of its classes.
    """
    for split, dataset in datasets.items():
        for _, single in unwrap(dataset):
            if classes := getattr(single, 'metainfo', {}).get('classes'):
                yield split, single, classes


def check_names(datasets: Mapping[str, Any], warn: Warn) -> None:
    """Refuse names of classes that are no list of different, not empty ones.

    Those that a data set's type has by itself pass: ImageNet has two classes named "crane".

    Args:
        warn: Is told of names that differ in case or blanks alone.
    """
    checked = []
    for _, single, classes in data_with_classes(datasets):
        own = getattr(single, 'METAINFO', {}).get('classes')
        if classes in checked or list(own or ()) == list(classes):
            continue
        checked.append(classes)
        check_class_names(classes)
        if hasattr(single, 'tally'):  # mmdat.CocoDataset: the reading of its file has told them
            continue
        if pairs := nearly_equal(classes):
            warn(f'metainfo.classes has {pairs}: leave one of each out if they are one class')


def nearly_equal(names: Sequence[str]) -> str:
    """Name the first two names that differ in case or blanks alone; empty if there are none.

    Example:
        >>> nearly_equal(['Cat', 'dog', 'cat ', 'DOG'])
        "'Cat' and 'cat ', which differ in case or blanks alone, and 1 more such pairs"
    """
    alike: dict[str, str] = {}
    pairs = [
        f'{other!r} and {name!r}, which differ in case or blanks alone'
        for name in names
        if (other := alike.setdefault(' '.join(name.casefold().split()), name)) != name
    ]
    more = f', and {len(pairs) - 1} more such pairs' if len(pairs) > 1 else ''
    return f'{pairs[0]}{more}' if pairs else ''


def check_same(datasets: Mapping[str, Any]) -> None:
    """Refuse data sets whose labels mean other classes than each other's."""
    first: tuple[str, list[str]] | None = None
    for split, _, names in data_with_classes(datasets):
        classes = list(names)
        first = first or (split, classes)
        if classes != first[1]:
            raise UserError(
                f'the classes of the {first[0]} data are {enumerate_names(first[1])}, those of '
                f'the {split} data {enumerate_names(classes)}: set the same metainfo='
                'dict(classes=(...)) for all data sets, in the same order'
            )
