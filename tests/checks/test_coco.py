"""What COCO's format allows is read; all else is refused in a sentence that names the place."""

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmdat.checks.coco import read_coco
from mmdat.errors import UserError

TINYCOCO = Path(
    os.environ.get('TINYCOCO_ROOT', Path(__file__).parents[3] / 'shared' / 'data' / 'tinycoco')
)
GOOD: dict[str, Any] = dict(
    images=[dict(id=7, file_name='7.jpg', height=2, width=3)],
    categories=[dict(id=5, name='box')],
    annotations=[
        dict(
            id=1,
            image_id=7,
            category_id=5,
            bbox=[0, 0.5, 1, 1],
            area=1,
            iscrowd=0,
            segmentation=[[0, 0, 1.5, 0, 1, 1]],
        ),
        # COCO has boxes of no width, and crowds as counts of pixels.
        dict(
            id=2,
            image_id=7,
            category_id=5,
            bbox=[0, 0, 0, 1],
            area=0.0,
            iscrowd=1,
            segmentation=dict(size=[2, 3], counts=[1, 3, 2]),
        ),
    ],
)


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_what_is_good_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / 'good.json', GOOD)
    assert read_coco(path, needed=['segmentation', 'iscrowd']) == GOOD
    unannotated = {name: GOOD[name] for name in ('images', 'categories')}
    assert read_coco(write(tmp_path / 'test-dev.json', unannotated)) == unannotated


def test_masks_are_needed_only_where_they_are_used(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    del content['annotations'][0]['segmentation'], content['annotations'][0]['iscrowd']
    content['annotations'][1]['segmentation'] = []
    path = write(tmp_path / 'boxes.json', content)
    read_coco(path)
    for field in ('segmentation', 'iscrowd'):
        with pytest.raises(UserError, match=f"the item with id 1 has no '{field}', which the conf"):
            read_coco(path, needed=[field])


@pytest.mark.skipif(not TINYCOCO.is_dir(), reason=f'{TINYCOCO} is not here')
@pytest.mark.parametrize('split', ['train2017', 'val2017'])
def test_real_annotations_are_read(split: str) -> None:
    read_coco(
        str(TINYCOCO / 'annotations' / f'instances_{split}.json'),
        needed=['segmentation', 'iscrowd'],
    )


@pytest.mark.parametrize(
    'content, problem',
    [
        ([], 'it holds a list, not an object'),
        (None, 'it holds null, not an object'),
        (3, 'it holds a number, not an object'),
        ({}, "it has no list 'images'"),
        (GOOD | dict(annotations=None), "it has no list 'annotations'"),
        (GOOD | dict(categories=['box']), "in 'categories' there is a string, not an object"),
        (
            GOOD | dict(images=2 * GOOD['images']),
            "in 'images' the item with id 7 is there more than ",
        ),
        (
            GOOD | dict(annotations=2 * GOOD['annotations']),
            "in 'annotations' the item with id 1 is there more than once",
        ),
    ],
)
def test_lists_that_are_wrong_are_refused(tmp_path: Path, content: object, problem: str) -> None:
    check_refusal(write(tmp_path / 'wrong.json', content), f'is not in COCO format: {problem}')


@pytest.mark.parametrize(
    'name, field, value, problem',
    [
        ('images', 'width', '256', 'has the width "256", which is not a positive integer'),
        ('images', 'height', 0, 'has the height 0, which is not a positive integer'),
        ('images', 'file_name', None, 'has the file_name null, which is not a string'),
        ('images', 'id', [7], 'has the id [7], which is not a number or a string'),
        ('categories', 'name', 3, 'has the name 3, which is not a string'),
        (
            'annotations',
            'bbox',
            [1, 2, 3],
            'has the bbox [1, 2, 3], which is not four finite numbers',
        ),
        ('annotations', 'bbox', ['1', 2, 3, 4], 'has the bbox ["1", 2, 3, 4], which is not four'),
        ('annotations', 'bbox', None, 'has the bbox null, which is not four finite numbers'),
        (
            'annotations',
            'bbox',
            [0, 0, 1, math.nan],
            'has the bbox [0, 0, 1, NaN], which is not four',
        ),
        ('annotations', 'area', None, 'has the area null, which is not a finite number'),
        ('annotations', 'image_id', 9999, "has the image_id 9999, which is not in 'images'"),
        ('annotations', 'category_id', 77, "has the category_id 77, which is not in 'categories'"),
        ('annotations', 'iscrowd', 'no', 'has the iscrowd "no", which is neither 0 nor 1'),
        ('annotations', 'segmentation', 'abc', 'has a string as its segmentation, not polygons or'),
        (
            'annotations',
            'segmentation',
            [['a'] * 6],
            'has the polygon ["a", "a", "a", "a", "a", "a"]',
        ),
        (
            'annotations',
            'segmentation',
            [[1, 2]],
            'has the polygon [1, 2], which is not a list of two',
        ),
        ('annotations', 'segmentation', dict(counts=[6]), 'of size null, but its image has [2, 3]'),
        (
            'annotations',
            'segmentation',
            dict(size=[3, 2], counts='6'),
            'size [3, 2], but its image',
        ),
        (
            'annotations',
            'segmentation',
            dict(size=[2, 3], counts=[1, 2]),
            'counts do not add up to',
        ),
        ('annotations', 'segmentation', dict(size=[2, 3]), 'counts do not add up to'),
    ],
)
def test_value_that_is_wrong_is_refused(
    tmp_path: Path, name: str, field: str, value: object, problem: str
) -> None:
    content = copy.deepcopy(GOOD)
    content[name][0][field] = value
    place = f"in '{name}' the item with id {content[name][0]['id']} "
    check_refusal(write(tmp_path / 'wrong.json', content), place, problem)


@pytest.mark.parametrize('name, field', [('images', 'width'), ('annotations', 'bbox')])
def test_value_that_is_missing_is_refused(tmp_path: Path, name: str, field: str) -> None:
    content = copy.deepcopy(GOOD)
    del content[name][0][field]
    place = f"in '{name}' the item with id {content[name][0]['id']} has no '{field}'"
    check_refusal(write(tmp_path / 'wrong.json', content), place)


@pytest.mark.parametrize(
    'make, problem',
    [
        (lambda path: None, 'does not exist: check data_root'),
        (Path.mkdir, 'cannot be read (Is a directory)'),
        (lambda path: path.write_text('a,b'), 'is not JSON'),
        (lambda path: path.write_bytes(b'\xff\xd8\xff'), 'is not JSON'),
    ],
)
def test_file_that_cannot_be_read_is_refused(
    tmp_path: Path, make: Callable[[Path], object], problem: str
) -> None:
    make(tmp_path / 'wrong.json')
    check_refusal(str(tmp_path / 'wrong.json'), problem)


def check_refusal(path: str, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        read_coco(path)
    message = str(caught.value)
    assert message.startswith(f'annotation file {path} ')
    assert '\n' not in message
    assert all(part in message for part in parts), message
