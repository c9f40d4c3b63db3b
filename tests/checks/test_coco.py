"""What COCO's format allows is read; all else is refused in a sentence that names the place."""

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from mmdat.checks.coco import read_coco
from mmdat.checks.coco_repairs import run_lengths
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
    warnings: list[str] = []
    assert read_coco(path, needs_masks=True, warn=warnings.append) == GOOD
    assert not warnings
    unannotated = {name: GOOD[name] for name in ('images', 'categories')}
    assert read_coco(write(tmp_path / 'test-dev.json', unannotated)) == unannotated


def test_areas_of_thin_objects_and_of_whole_pixels_are_kept(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content['images'][0].update(height=300, width=300)
    thin = dict(bbox=[0, 0, 300, 300], area=300, segmentation=[[0, 0, 300, 299, 300, 300]])
    content['annotations'] = [
        content['annotations'][0] | thin,
        content['annotations'][0] | dict(id=2, bbox=[0, 0, 2, 2], area=9, segmentation=[]),
    ]
    warnings: list[str] = []
    path = write(tmp_path / 'areas.json', content)
    assert read_coco(path, warn=warnings.append) == content
    assert not warnings


def test_masks_are_needed_only_where_they_are_used(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    del content['annotations'][0]['segmentation']
    content['annotations'][1]['segmentation'] = []
    path = write(tmp_path / 'boxes.json', content)
    read_coco(path)
    with pytest.raises(
        UserError, match=r"id 1 has no 'segmentation', which with_m.* \(2 items there have faults"
    ):
        read_coco(path, needs_masks=True)


@pytest.mark.skipif(not TINYCOCO.is_dir(), reason=f'{TINYCOCO} is not here')
@pytest.mark.parametrize('split', ['train2017', 'val2017'])
def test_real_annotations_are_read(split: str) -> None:
    path = str(TINYCOCO / 'annotations' / f'instances_{split}.json')
    warnings: list[str] = []
    read = read_coco(path, needs_masks=True, warn=warnings.append)
    assert read == json.loads(Path(path).read_text())
    assert not warnings


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
    ],
)
def test_lists_that_are_wrong_are_refused(tmp_path: Path, content: object, problem: str) -> None:
    check_refusal(write(tmp_path / 'wrong.json', content), f'is not in COCO format: {problem}')


@pytest.mark.parametrize(
    'name, field, value, problem',
    [
        ('images', 'width', '2 m', 'has the width "2 m", which is not a positive integer'),
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
        ('annotations', 'bbox', ['a', 2, 3, 4], 'has the bbox ["a", 2, 3, 4], which is not four'),
        (
            'annotations',
            'bbox',
            [0, 0, 1, math.nan],
            'has the bbox [0, 0, 1, NaN], which is not four',
        ),
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
        # Compressed ones: a run too few, one that breaks off, one that is negative, other text.
        ('annotations', 'segmentation', dict(size=[2, 3], counts='12'), 'counts do not add up to'),
        ('annotations', 'segmentation', dict(size=[2, 3], counts='6P'), 'counts do not add up to'),
        ('annotations', 'segmentation', dict(size=[2, 3], counts='7O'), 'counts do not add up to'),
        ('annotations', 'segmentation', dict(size=[2, 3], counts=''), 'counts do not add up to'),
        ('annotations', 'segmentation', dict(size=[2, 3], counts="b'6'"), 'counts do not add up'),
    ],
)
def test_value_that_is_wrong_is_refused(
    tmp_path: Path, name: str, field: str, value: object, problem: str
) -> None:
    content = copy.deepcopy(GOOD)
    content[name][0][field] = value
    place = f"in '{name}' the item with id {content[name][0]['id']} "
    check_refusal(write(tmp_path / 'wrong.json', content), place, problem)


@given(st.integers(1, 40), st.integers(1, 40), st.randoms(use_true_random=False))
def test_run_lengths_are_those_that_pycocotools_compressed(
    height: int, width: int, random: Random
) -> None:
    mask = np.array([random.random() < 0.3 for _ in range(height * width)], np.uint8)
    encoded = mask_api.encode(mask.reshape(height, width, order='F'))
    ends = np.flatnonzero(np.diff(mask, prepend=0, append=1 - mask[-1]))
    expected = np.diff(ends, prepend=0).tolist()
    assert run_lengths(encoded['counts'].decode()) == expected


@pytest.mark.parametrize('name, field', [('images', 'width'), ('annotations', 'image_id')])
def test_value_that_is_missing_is_refused(tmp_path: Path, name: str, field: str) -> None:
    content = copy.deepcopy(GOOD)
    del content[name][0][field]
    place = f"in '{name}' the item with id {content[name][0]['id']} has no '{field}'"
    check_refusal(write(tmp_path / 'wrong.json', content), place)


# A value in the first annotation or image -> what it becomes, and what is said.
MENDED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ('annotations', dict(area=0), dict(area=0.75), 'had no usable area'),
    ('annotations', dict(area=-3.5), dict(area=0.75), 'had no usable area'),
    ('annotations', dict(area=0.007), dict(area=0.75), 'had no usable area'),
    ('annotations', dict(area=99), dict(area=0.75), 'had no usable area'),
    ('annotations', dict(area=0.007, segmentation=[]), dict(area=1), 'had no usable area'),
    ('annotations', dict(area=None), dict(area=0.75), 'had no usable area'),
    ('annotations', dict(area=[]), dict(area=0.75), 'had no usable area'),
    ('annotations', dict(area=math.nan), dict(area=0.75), 'had no usable area'),
    ('annotations', dict(area=0, segmentation=[]), dict(area=1), 'had no usable area'),
    (
        'annotations',
        dict(area=0, segmentation=dict(size=[2, 3], counts=[1, 1, 4]), bbox=[0, 0, 2, 2]),
        dict(area=1),
        'had no usable area',
    ),
    ('annotations', dict(bbox=None), dict(bbox=[0, 0, 1.5, 1]), 'had no usable bbox'),
    ('annotations', dict(bbox=[]), dict(bbox=[0, 0, 1.5, 1]), 'had no usable bbox'),
    ('annotations', dict(bbox=['0', 0.5, '1.0', 1]), dict(bbox=[0, 0.5, 1, 1]), 'usable bbox'),
    (
        'annotations',
        dict(bbox=None, segmentation=dict(size=[2, 3], counts=[2, 3, 1])),
        dict(bbox=[1, 0, 2, 2]),
        'had no usable bbox',
    ),
    ('annotations', dict(iscrowd=None), dict(iscrowd=0), 'had no usable iscrowd'),
    ('annotations', dict(iscrowd='0'), dict(iscrowd=0), 'had no usable iscrowd'),
    ('annotations', dict(ignore=1), dict(iscrowd=1), 'as 1 where "ignore" is 1'),
    ('annotations', dict(image_id='7'), dict(image_id=7), 'had no usable image_id'),
    ('annotations', dict(category_id=5.0), dict(category_id=5), 'had no usable category_id'),
    (
        'annotations',
        dict(segmentation=[0, 0, 1.5, 0, 1, 1]),
        dict(segmentation=[[0, 0, 1.5, 0, 1, 1]]),
        'had no usable segmentation',
    ),
    (
        'annotations',
        dict(segmentation=[[[0, 0], [1.5, 0], ['1', 1]], []]),
        dict(segmentation=[[0, 0, 1.5, 0, 1, 1]]),
        'had no usable segmentation',
    ),
    ('annotations', dict(segmentation=[[]]), dict(segmentation=[]), 'had no usable segmentation'),
    ('annotations', dict(id=0), dict(id=1), '2 of the annotations were numbered anew'),
    ('annotations', dict(id=2), dict(id=1), '2 of the annotations were numbered anew'),
    ('annotations', dict(id=None), dict(id=1), '2 of the annotations were numbered anew'),
    ('annotations', dict(id='a'), dict(id=1), '2 of the annotations were numbered anew'),
    ('images', dict(height='2', width=3.0), dict(height=2, width=3), 'a size that is text'),
    ('images', dict(id='7'), dict(id=7), '1 of the images had an id'),
    ('categories', dict(id='5'), dict(id=5), '1 of the categories had an id'),
]


@pytest.mark.parametrize('name, given, expected, said', MENDED)
def test_what_can_be_computed_is_and_is_said_once(
    tmp_path: Path, name: str, given: dict, expected: dict, said: str
) -> None:
    content = copy.deepcopy(GOOD)
    content[name][0] |= given
    warnings: list[str] = []
    read = read_coco(write(tmp_path / 'mended.json', content), warn=warnings.append)
    first = read[name][0]
    assert {key: first[key] for key in expected} == expected
    assert len(warnings) == 1
    assert said in warnings[0]


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_missing_values_are_computed_and_counted(tmp_path: Path, encoding: str) -> None:
    content = copy.deepcopy(GOOD)
    content['annotations'] = 3 * [content['annotations'][0]]
    for key in ('id', 'bbox', 'area', 'iscrowd'):
        del content['annotations'][0][key]
    path = tmp_path / f'{encoding}.json'
    path.write_text(json.dumps(content), encoding=encoding)
    warnings: list[str] = []
    read = read_coco(str(path), warn=warnings.append)
    assert [item['id'] for item in read['annotations']] == [1, 2, 3]
    assert len(warnings) == 4
    assert all(f'annotation file {path}: 3 of the annotations ' in text for text in warnings)


def test_ids_get_one_type(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content['images'].append(dict(content['images'][0], id='a', file_name='a.jpg'))
    read = read_coco(write(tmp_path / 'ids.json', content), warn=lambda text: None)
    assert [image['id'] for image in read['images']] == ['7', 'a']
    assert [item['image_id'] for item in read['annotations']] == ['7', '7']


@pytest.mark.parametrize('kind', ['compressed', 'plain', 'runs of nothing'])
def test_masks_without_a_pixel_are_told(tmp_path: Path, kind: str) -> None:
    content = copy.deepcopy(GOOD)
    height, width = content['images'][0]['height'], content['images'][0]['width']
    pixels = height * width
    counts = [pixels] if kind == 'plain' else [pixels - 3, 0, 3]
    empty: dict[str, Any] = dict(size=[height, width], counts=counts)
    if kind == 'compressed':
        encoded = mask_api.encode(np.zeros((height, width), np.uint8, order='F'))
        empty['counts'] = encoded['counts'].decode()
    content['annotations'][0]['segmentation'] = empty
    path = write(tmp_path / 'empty.json', content)
    warnings: list[str] = []
    read_coco(path, needs_masks=True, warn=warnings.append)
    assert '1 of the annotations have masks without a pixel: mend them' in warnings[0]
    read_coco(path, warn=warnings.append)
    assert len(warnings) == 1


def test_boxes_that_are_corners_are_refused(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content['images'][0].update(height=60, width=80)
    content['annotations'] = [
        dict(id=number, image_id=7, category_id=5, area=box[2] * box[3], iscrowd=0, bbox=box)
        for number, box in enumerate([[50, 30, 70, 55], [1, 1, 9, 9], [40, 30, 80, 60]], start=1)
    ]
    path = write(tmp_path / 'corners.json', content)
    check_refusal(path, '2 of the 3 boxes reach beyond their image', 'write bbox as x, y, width')
    content['annotations'][1].update(bbox=[9, 9, 2, 2], area=4)
    warnings: list[str] = []
    read_coco(write(tmp_path / 'beyond.json', content), warn=warnings.append)
    assert len(warnings) == 1
    assert '2 of the boxes reach beyond their image' in warnings[0]


def test_boxes_that_are_not_around_their_polygons_are_found(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content['images'][0].update(height=90, width=90)

    polygons = [[10, 20, 30, 20, 30, 30, 10, 30]]
    row_by_row = np.zeros((90, 90), np.uint8)
    row_by_row[10:30, 20:30] = 1
    masks = mask_api.encode(np.asfortranarray(row_by_row))
    masks['counts'] = masks['counts'].decode()

    def problems(box: list[int], segmentation: Any = polygons, masks: bool = True) -> list[str]:
        content['annotations'] = [
            dict(id=number, image_id=7, category_id=5, area=box[2] * box[3], iscrowd=0, bbox=box)
            | dict(segmentation=segmentation)
            for number in range(1, 5)
        ]
        warnings: list[str] = []
        read_coco(write(tmp_path / 'boxes.json', content), masks, warn=warnings.append)
        return warnings

    assert problems([10, 20, 20, 10]) == []
    (warning,) = problems([1, 2, 2, 1], masks=False)
    assert '4 of the 4 boxes that were compared are not around their polygons' in warning
    for box, segmentation in (
        ([1, 2, 2, 1], polygons),
        ([10, 20, 20, 10], [polygons[0][::-1]]),
        ([10, 20, 20, 10], [[value / 90 for value in polygons[0]]]),
        ([10, 20, 20, 10], masks),
    ):
        with pytest.raises(UserError, match=r'all 4 boxes that were compared .* column by column'):
            problems(box, segmentation)
    assert problems([20, 10, 10, 20], masks) == []
    with pytest.raises(UserError, match=r'4 of 4 boxes surround their polygons if read as x1'):
        problems([10, 20, 30, 30])
    with pytest.raises(UserError, match=r'4 of 4 boxes surround .* read as center x, center y'):
        problems([20, 25, 20, 10], masks=False)


def test_boxes_that_all_lie_as_corners_would_are_found(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content['images'][0].update(height=90, width=90)

    def problems(number: int, box: list[int]) -> list[str]:
        content['annotations'] = [
            dict(id=index, image_id=7, category_id=5, area=box[2] * box[3], iscrowd=0, bbox=box)
            for index in range(1, number + 1)
        ]
        warnings: list[str] = []
        read_coco(write(tmp_path / 'boxes.json', content), warn=warnings.append)
        return warnings

    for number, box in ((9, [10, 15, 25, 30]), (50, [15, 15, 60, 60]), (50, [0, 0, 89, 89])):
        assert problems(number, box) == []  # few, or large
    for number in (10, 1000):  # no error, as clocks and logos may all lie there
        (warning,) = problems(number, [10, 15, 25, 30])
        assert f'{number} of the boxes lie in the top left of their image, and all cou' in warning


def test_names_that_are_nearly_alike_are_told(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content['categories'] += [dict(id=6, name='Box '), dict(id=7, name='Disk')]
    warnings: list[str] = []
    read_coco(write(tmp_path / 'alike.json', content), warn=warnings.append)
    assert len(warnings) == 1
    assert (
        "2 of the categories differ but in case, blanks or signs, such as 'box' and" in warnings[0]
    )


def test_double_names_are_told_apart_by_their_objects(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content['categories'].insert(0, dict(id=0, name='box', supercategory='none'))
    warnings: list[str] = []
    read = read_coco(write(tmp_path / 'roboflow.json', content), warn=warnings.append)
    assert read['categories'] == GOOD['categories']
    assert "2 of the categories have the name 'box'" in warnings[0]
    content['annotations'][0]['category_id'] = 0
    path = write(tmp_path / 'double.json', content)
    check_refusal(path, "the categories 0 and 5 have one name, 'box': give each its own, or their")


def test_images_that_are_there_twice_are_told(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content['images'].append(dict(content['images'][0], id=8))
    warnings: list[str] = []
    read_coco(write(tmp_path / 'twice.json', content), warn=warnings.append)
    assert len(warnings) == 1
    assert '1 of the images have the file_name of another' in warnings[0]


@pytest.mark.parametrize(
    'make, problem',
    [
        (lambda path: None, 'does not exist: check data_root'),
        (Path.mkdir, 'cannot be read (Is a directory)'),
        (lambda path: path.write_text('a,b'), 'is not JSON'),
        (lambda path: path.write_bytes(b'\xff\xd8\xff'), 'is not JSON'),
        (
            lambda path: path.write_bytes(b'{"\xf6"}'),
            'in UTF-8 (byte 2 is no text): save it as UTF',
        ),
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
