"""What a model's classes are called, without its data."""

import numpy as np
import pytest
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from torch import nn

from mmdat.apis.metainfo import class_names, metainfo_of, warn_of_other_names
from mmdat.visualization.predictions import distinct_colors


class Model(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Module()
        self.head.num_classes = num_classes


@pytest.mark.parametrize(
    'trained_on, names',
    [
        (dict(classes=('a', 'b')), ('a', 'b')),
        ([dict(classes=('a', 'b'), palette=[i]) for i in range(2)], ('a', 'b')),
        (None, ('x', 'y')),
        (dict(classes=None), ('x', 'y')),
    ],
)
def test_the_classes_of_the_training_come_before_those_of_the_config(
    trained_on: dict | list | None, names: tuple[str, ...]
) -> None:
    metainfo = metainfo_of(dict(metainfo=dict(classes=('x', 'y'))), trained_on)
    assert class_names(metainfo, Model(2)) == names


def test_colors_of_coco_are_those_of_its_classes_alone() -> None:
    known = MMDetCocoDataset.METAINFO
    dataset = dict(type='mmdat.CocoDataset')
    for trained_on in (dict(known, classes=('a', 'b')), dict(classes=('a', 'b'))):
        assert metainfo_of(dataset, trained_on)['palette'] == distinct_colors(2)
    for trained_on in (None, known):
        assert metainfo_of(dataset, trained_on)['palette'] == known['palette']
    own = dict(classes=('a', 'b'), palette=[[1, 2, 3], [4, 5, 6]])
    assert metainfo_of(dataset, own)['palette'] == own['palette']
    chosen = dict(dataset, metainfo=dict(palette=[[7, 8, 9], [1, 1, 1]]))
    assert metainfo_of(chosen, own)['palette'] == chosen['metainfo']['palette']
    for palette in ('random', (7, 8, 9), ['red', 'blue'], [(7, 8, 9)], np.ones((2, 3))):
        other = dict(dataset, metainfo=dict(palette=palette))
        assert metainfo_of(other, own)['palette'] == distinct_colors(2), palette


def test_names_in_a_config_that_give_way_to_the_checkpoint_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr('mmdat.checks.log_warning', told.append)
    trained_on = dict(classes=('cat', 'caf\u00e9', 'cow'))
    for classes in (None, 'names.txt', ['cat', 'cafe\u0301', 'cow'], ('cat', 'dog')):
        warn_of_other_names(dict(metainfo=dict(classes=classes)), trained_on, 'a.pth')
    warn_of_other_names(dict(metainfo=trained_on), None, 'a.pth')
    assert not told
    renamed = dict(metainfo=dict(classes=('cat', 'caf\u00e9', 'calf')))
    warn_of_other_names(renamed, trained_on, 'a.pth')
    assert told == [
        '1 of the 3 classes have another name in the config than in a.pth, whose names are taken: '
        "'calf -> cow'"
    ]


def test_what_finds_objects_alone_names_no_class() -> None:
    class RPN(Model):
        """Called as mmdet's, whose only class would have the first name of the data."""

    assert class_names(dict(classes=('person', 'car')), RPN(1)) == ('object',)


def test_classes_without_a_name_are_called_by_their_number() -> None:
    assert class_names(metainfo_of({}, None), Model(2)) == ('class 0', 'class 1')
    assert class_names(dict(classes=('a',)), Model(3)) == ('a', 'class 1', 'class 2')
