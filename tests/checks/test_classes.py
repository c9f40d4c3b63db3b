"""Names of classes that are no list of different ones, or differ between splits, are refused."""

from types import SimpleNamespace
from typing import Any

import pytest

from mmdat.checks.classes import check_names, check_same
from mmdat.errors import UserError


def data(classes: Any, own: Any = None) -> SimpleNamespace:
    """A data set with these classes, and with those of its type."""
    return SimpleNamespace(metainfo=dict(classes=classes), METAINFO=dict(classes=own))


def warnings(*datasets: Any) -> list[str]:
    """What the names of the classes of data sets are warned of."""
    found: list[str] = []
    check_names({str(number): dataset for number, dataset in enumerate(datasets)}, found.append)
    return found


@pytest.mark.parametrize(
    'classes, sentence',
    [
        ('road', r"write classes=\('road',\), with a comma"),
        (('a', 'b', 'a'), r"names 'a' 2 times"),
        (('a', ' '), r"has an empty name, ' ': take it out"),
        ((1, 2), r'has 1, which is no string'),
    ],
)
def test_classes_that_are_no_names_are_refused(classes: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        warnings(data(('a', 'b')), data(classes))


def test_names_alike_are_told_once() -> None:
    assert warnings(data(('a', 'b', 'A ')), data(('a', 'b', 'A '))) == [
        "metainfo.classes has 'a' and 'A ', which differ in case or blanks alone: leave one of "
        'each out if they are one class'
    ]
    (told,) = warnings(data(('a', 'b', 'A', 'c', 'B', ' c')))
    assert "'a' and 'A', which differ in case or blanks alone, and 2 more such pairs: leave" in told
    read = data(('a', 'A '))
    read.tally = None  # a file in COCO format, in which read_coco found them
    assert warnings(read) == []


def test_the_names_of_a_public_data_set_stay_as_they_are() -> None:
    crane = ('crane', 'crane')
    assert warnings(data(crane, own=crane), data(None), SimpleNamespace()) == []


def test_classes_in_another_order_are_refused() -> None:
    check_same(dict(train=data(('a', 'b')), val=data(['a', 'b']), test=SimpleNamespace()))
    both = SimpleNamespace(datasets=[data(('a', 'b')), data(('b', 'a'))])
    for other in (data(('b', 'a')), both):
        with pytest.raises(UserError, match=r"train data are 'a' and 'b', .* val data 'b' and 'a'"):
            check_same(dict(train=data(('a', 'b')), val=other))
