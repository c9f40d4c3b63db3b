"""Mistakes in data in COCO's format are found when the data set is built."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdat.datasets import CocoDataset
from mmdat.errors import UserError

WITH_MASKS = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)


def build(root: Path, split: str = 'val2017', pipeline: tuple[dict, ...] = ()) -> CocoDataset:
    return CocoDataset(
        ann_file=f'annotations/instances_{split}.json',
        data_root=str(root),
        pipeline=[*pipeline],
        data_prefix=dict(img=f'{split}/'),
        metainfo=dict(classes=('box', 'disk')),
        filter_cfg=dict(filter_empty_gt=True),
        test_mode=split == 'val2017',
    )


def change(root: Path, split: str, apply: Callable[[dict], object]) -> None:
    path = root / 'annotations' / f'instances_{split}.json'
    content = json.loads(path.read_text())
    apply(content)
    path.write_text(json.dumps(content))


def use_another_class(content: dict) -> None:
    content['categories'].append(dict(id=1, name='other'))
    for annotation in content['annotations']:
        annotation['category_id'] = 1


@pytest.mark.parametrize(
    'split, apply',
    [
        ('train2017', lambda content: content['annotations'].clear()),
        ('train2017', use_another_class),
        ('val2017', use_another_class),
    ],
)
def test_data_without_an_object_of_the_classes_is_refused(
    coco_root: Path, split: str, apply: Callable[[dict], object]
) -> None:
    change(coco_root, split, apply)
    with pytest.raises(UserError, match=r"leaves no image to use: .* classes 'box' and 'disk'"):
        build(coco_root, split)


def test_data_without_the_categories_is_refused(coco_root: Path) -> None:
    change(coco_root, 'train2017', lambda content: content['categories'][0].update(name='cat'))
    with pytest.raises(
        UserError, match=r"has no category 'box', .* heads to its own \('cat' and 'disk'\)"
    ):
        build(coco_root, 'train2017')
    change(coco_root, 'val2017', lambda content: content.update(categories=[], annotations=[]))
    with pytest.raises(UserError, match=r'has no category .*, .* heads to its own \(none\)'):
        build(coco_root)


def test_images_to_be_tested_need_no_annotations(coco_root: Path) -> None:
    change(coco_root, 'val2017', lambda content: content['annotations'].clear())
    assert len(build(coco_root)) == 2
    change(coco_root, 'val2017', lambda content: content.pop('annotations'))
    assert len(build(coco_root)) == 2
    change(coco_root, 'train2017', lambda content: content.pop('annotations'))
    with pytest.raises(UserError, match='leaves no image to use'):
        build(coco_root, 'train2017')


@pytest.mark.parametrize(
    'pipeline',
    [
        (WITH_MASKS,),
        (dict(type='RandomChoice', transforms=[[], [WITH_MASKS]]),),
        (dict(type='TestTimeAug', transforms=[[WITH_MASKS]]),),
    ],
)
def test_masks_are_needed_if_they_are_loaded(coco_root: Path, pipeline: tuple[dict, ...]) -> None:
    change(coco_root, 'val2017', lambda content: content['annotations'][1].pop('segmentation'))
    assert len(build(coco_root)) == 2
    with pytest.raises(UserError, match=r"id 1 has no 'segmentation', which the config needs"):
        build(coco_root, pipeline=pipeline)


def test_crowd_flags_are_needed_to_evaluate(coco_root: Path) -> None:
    for split in ('train2017', 'val2017'):
        change(coco_root, split, lambda content: content['annotations'][1].pop('iscrowd'))
    assert len(build(coco_root, 'train2017')) == 6
    with pytest.raises(UserError, match=r"id 1 has no 'iscrowd', which the config needs"):
        build(coco_root)
