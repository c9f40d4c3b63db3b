"""What a model's classes are called, without its data."""

import pytest
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from torch import nn

from mmdat.apis.metainfo import class_names, metainfo_of
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


def test_what_finds_objects_alone_names_no_class() -> None:
    class RPN(Model):
        """Called as mmdet's, whose only class would have the first name of the data."""

    assert class_names(dict(classes=('person', 'car')), RPN(1)) == ('object',)


def test_classes_without_a_name_are_called_by_their_number() -> None:
    assert class_names(metainfo_of({}, None), Model(2)) == ('class 0', 'class 1')
    assert class_names(dict(classes=('a',)), Model(3)) == ('a', 'class 1', 'class 2')
