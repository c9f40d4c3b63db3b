"""Mistakes in data in COCO's format are found when the data set is built."""

import json
import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmengine.dataset import ConcatDataset, RepeatDataset
from torch import nn

from mmdat.checks.classes import check_same
from mmdat.checks.coco import check_classes_occur, check_left_out, check_object_counts
from mmdat.datasets import CocoDataset
from mmdat.errors import UserError
from mmdat.visualization.predictions import distinct_colors

CLASSES = dict(classes=('box', 'disk'))
COCO_CLASSES = MMDetCocoDataset.METAINFO['classes']
WITH_MASKS = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)


def build(root: Path, split: str = 'val2017', pipeline: Any = (), **options: Any) -> CocoDataset:
    return CocoDataset(
        ann_file=f'annotations/instances_{split}.json',
        data_root=str(root),
        pipeline=[*pipeline],
        data_prefix=dict(img=f'{split}/'),
        test_mode=split == 'val2017',
        serialize_data=False,  # which collects garbage
        **dict(metainfo=CLASSES, filter_cfg=dict(filter_empty_gt=True)) | options,
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
    with pytest.raises(UserError, match=r"id 1 has no 'segmentation', which with_mask=True"):
        build(coco_root, pipeline=pipeline)


def test_names_decide_whatever_the_order_in_file_and_config(coco_root: Path) -> None:
    def labels(**options: Any) -> list[list[int]]:
        dataset = build(coco_root, **options)
        return [
            [instance['bbox_label'] for instance in dataset.get_data_info(index)['instances']]
            for index in range(len(dataset))
        ]

    assert labels() == [[0, 1], [0, 1]]
    assert labels(metainfo=dict(classes=('disk', 'box'))) == [[1, 0], [1, 0]]
    change(coco_root, 'val2017', lambda content: content['categories'].reverse())
    assert labels() == [[0, 1], [0, 1]]


def test_classes_are_those_of_the_file_if_the_config_names_none(coco_root: Path) -> None:
    def group(content: dict) -> None:
        content['categories'][0]['id'], content['annotations'][0]['category_id'] = 12, 12
        content['annotations'][2]['category_id'] = 12
        content['categories'] += [
            dict(id=0, name='shapes', supercategory='none'),
            dict(id=1, name='_background_'),
            dict(id=2, name='cross', supercategory='shapes'),
        ]

    assert build(coco_root, metainfo=None).metainfo['classes'] == ('box', 'disk')
    change(coco_root, 'val2017', group)
    dataset = build(coco_root, metainfo=dict(palette=[(1, 2, 3)]))
    assert dataset.metainfo['classes'] == ('cross', 'disk', 'box')
    assert dataset.metainfo['palette'] == distinct_colors(3), 'one color is none for three classes'
    assert dataset.cat_ids == [2, 9, 12]
    with pytest.raises(UserError, match=r"train data are 'box' and 'disk', those of the val data"):
        check_same(dict(train=build(coco_root, 'train2017', metainfo=None), val=dataset))
    of_coco = [dict(id=100 - number, name=name) for number, name in enumerate(COCO_CLASSES)]
    change(coco_root, 'val2017', lambda content: content['categories'].extend(of_coco))
    change(coco_root, 'val2017', lambda content: content['annotations'][0].update(category_id=100))
    metainfo = build(coco_root, metainfo=None).metainfo
    assert metainfo['classes'] == COCO_CLASSES
    assert metainfo['palette'] == MMDetCocoDataset.METAINFO['palette']


def test_colors_of_coco_are_not_those_of_other_classes(coco_root: Path) -> None:
    assert build(coco_root).metainfo['palette'] == distinct_colors(2)
    given = dict(CLASSES, palette=[(1, 2, 3), (4, 5, 6)])
    assert build(coco_root, metainfo=given).metainfo['palette'] == given['palette']


@pytest.mark.parametrize('forms', [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_accents_may_be_written_in_two_ways(coco_root: Path, forms: tuple[str, str]) -> None:
    in_file, in_config = (unicodedata.normalize(form, 'Tür') for form in forms)
    change(coco_root, 'val2017', lambda content: content['categories'][0].update(name=in_file))
    dataset = build(coco_root, metainfo=dict(classes=(in_config, 'disk')))
    assert dataset.metainfo['classes'] == (unicodedata.normalize('NFC', 'Tür'), 'disk')
    assert dataset.cat_ids == [5, 9]


@pytest.mark.parametrize(
    'classes, sentence',
    [
        ('box', r"classes is 'box', neither .* write classes=\('box',\), with a comma"),
        (('box', 'disk', 'box'), "names 'box' 2 times"),
        ((0, 1), 'has 0, which is no string: give names'),
        (('box', 'disk', ''), "empty name, '': take it out, as blank lines of a file of classes"),
        (
            ('Box', 'disk'),
            r"no category 'Box', which the config expects, but 'box': write the name",
        ),
        (('box', ' disk'), r"no category ' disk', which the config expects, but 'disk'"),
        (('box', 'ring'), r"no category 'ring', .* heads to its own \('box' and 'disk'\)"),
    ],
)
def test_classes_that_mean_others_are_refused(coco_root: Path, classes: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(coco_root, metainfo=dict(classes=classes))


def test_classes_without_objects_are_told(coco_root: Path) -> None:
    warnings: list[str] = []
    dataset = build(coco_root, metainfo=dict(classes=('ring', 'disk', 'cross', 'box')))
    assert dataset.cat_ids == [10, 9, 11, 5]
    check_classes_occur(dataset, warnings.append)
    assert len(warnings) == 1
    assert '2 of the 4 classes have no object in' in warnings[0]
    assert "are not evaluated: 'ring' and 'cross'" in warnings[0]
    check_classes_occur(build(coco_root), warnings.append)
    assert len(warnings) == 1


def test_objects_of_a_class_that_cannot_be_learned_are_refused(coco_root: Path) -> None:
    def spoil(content: dict) -> None:
        content['annotations'][1].update(bbox=[5, 5, 0, 9])
        for annotation in content['annotations'][3::2]:
            annotation['iscrowd'] = 1

    warnings: list[str] = []
    good = build(coco_root, 'train2017')
    for split in ('train2017', 'val2017'):
        change(coco_root, split, spoil)
    spoiled = build(coco_root, 'train2017')
    sentence = r"instances_train2017.json has of 'disk' can be learned .*: 5 crowds .*, 1 less than"
    for dataset in (spoiled, RepeatDataset(spoiled, 2)):
        with pytest.raises(UserError, match=sentence):
            check_classes_occur(dataset, warnings.append)
    # The class has objects in another file, or is not learned.
    check_classes_occur(ConcatDataset([good, spoiled]), warnings.append)
    assert not warnings
    check_classes_occur(build(coco_root), warnings.append)
    assert "are not evaluated: 'disk'" in warnings[0]


def set_all(**values: object) -> Callable[[dict], None]:
    def apply(content: dict) -> None:
        for annotation in content['annotations']:
            annotation.update(values)

    return apply


@pytest.mark.parametrize(
    'apply, sentence',
    [
        (set_all(ignore=1), r'no object to use: .* \(12 marked by "ignore"\)'),
        (set_all(bbox=[0.1, 0.1, 0.5, 0.5]), r'\(12 less than a pixel wide or high'),
        (set_all(bbox=[5, 5, -3, 4]), r'\(12 of negative width or height'),
        (
            set_all(bbox=[70, 5, 10, 10]),
            r'\(12 outside of their image \(bbox is x, .*\)\): mend the file, or set metainfo',
        ),
        (set_all(segmentation=[[1, 1, 9, 9]]), r'\(12 without a polygon of three points\)'),
        (
            set_all(segmentation=dict(size=[64, 64], counts=[64 * 64])),
            r'all 12 boxes that were compared are not around their polygons or masks',
        ),
    ],
)
def test_objects_that_leave_nothing_to_learn_are_refused(
    coco_root: Path, apply: Callable[[dict], object], sentence: str
) -> None:
    change(coco_root, 'train2017', apply)
    with pytest.raises(UserError, match=sentence):
        build(coco_root, 'train2017', pipeline=(WITH_MASKS,))


@pytest.mark.parametrize(
    'apply, finding',
    [
        (set_all(area=0), '12 of the annotations had no usable area'),
        (set_all(iscrowd=1), '12 of the annotations, which are all, are marked as crowds'),
    ],
)
def test_objects_that_mmdet_would_not_learn_are_mended(
    coco_root: Path, apply: Callable[[dict], object], finding: str
) -> None:
    change(coco_root, 'train2017', apply)
    dataset = build(coco_root, 'train2017')
    instances = [info for index in range(6) for info in dataset.get_data_info(index)['instances']]
    assert [instance['ignore_flag'] for instance in instances] == 12 * [0]
    assert any(finding in text for text in dataset.findings)


def test_images_that_are_too_small_are_counted_or_refused(coco_root: Path) -> None:
    filters = dict(filter_cfg=dict(filter_empty_gt=True, min_size=32))
    change(coco_root, 'train2017', lambda content: content['images'][0].update(height=31))
    change(coco_root, 'train2017', lambda content: content['annotations'].pop())
    change(coco_root, 'train2017', lambda content: content['annotations'].pop())
    warnings: list[str] = []
    check_left_out(build(coco_root, 'train2017', **filters), warnings.append)
    assert len(warnings) == 1
    assert '2 of the 6 images in' in warnings[0]
    assert '1 smaller than filter_cfg.min_size=32, 1 without an object' in warnings[0]
    sentence = r'no image to use: .*6 smaller than filter_cfg.min_size=99\): lower filter_cfg.min'
    with pytest.raises(UserError, match=sentence):
        build(coco_root, 'train2017', filter_cfg=dict(min_size=99))


def test_objects_that_are_left_out_are_counted(coco_root: Path) -> None:
    def spoil(content: dict) -> None:
        first, second = content['annotations'][:2]
        first['bbox'], second['bbox'] = [0, 0, 0, 9], [99, 0, 9, 9]

    def add_crowds(content: dict) -> None:
        for annotation in content['annotations'][2:]:
            annotation['iscrowd'] = 1

    warnings: list[str] = []
    change(coco_root, 'train2017', lambda content: content['annotations'][3].update(iscrowd=1))
    check_left_out(build(coco_root, 'train2017'), warnings.append)
    assert not warnings  # a few crowds are in COCO too
    for split in ('train2017', 'val2017'):
        change(coco_root, split, spoil)
    check_left_out(build(coco_root, 'val2017'), warnings.append)
    change(coco_root, 'train2017', add_crowds)
    change(coco_root, 'train2017', lambda content: content['annotations'][5].update(iscrowd=0))
    check_left_out(build(coco_root, 'train2017'), warnings.append)
    assert '2 of the 4 objects in' in warnings[0]
    assert 'can hardly be found, but are evaluated: 1 less than a pixel wide' in warnings[0]
    assert '11 of the 12 objects in' in warnings[1]
    assert 'are not learned: 9 crowds (iscrowd is 1), which are ignored, 1 less' in warnings[1]


def test_more_objects_than_a_model_returns_are_told(coco_root: Path) -> None:
    model = nn.Module()
    model.roi_head = nn.Module()
    model.roi_head.test_cfg = dict(max_per_img=2)
    warnings: list[str] = []
    check_object_counts(model, build(coco_root), warnings.append)
    assert not warnings
    model.roi_head.test_cfg['max_per_img'] = 1
    check_object_counts(model, build(coco_root), warnings.append)
    assert len(warnings) == 1
    assert '2 of the 2 images in' in warnings[0]
    assert '(up to 2) than the 1 that the model returns for an image: raise model' in warnings[0]
    assert warnings.pop().endswith('raise model.test_cfg.rcnn.max_per_img')
    model.roi_head.test_cfg['max_per_img'], model.num_queries = 2, 1
    check_object_counts(model, build(coco_root), warnings.append)
    assert warnings[0].endswith('raise model.num_queries')
    change(
        coco_root,
        'val2017',
        lambda content: content['annotations'].extend(
            [dict(content['annotations'][0]) for _ in range(100)]
        ),
    )
    check_object_counts(nn.Module(), build(coco_root), warnings.append)
    assert len(warnings) == 2
    assert '1 images in' in warnings[1]


@pytest.mark.parametrize(
    'name', ['val2017/{}', 'images\\{}', '/home/ann/export/{}', '..\\..\\media\\1\\{}', './{}']
)
def test_images_are_found_in_other_folders_than_those_of_the_file(
    coco_root: Path, name: str
) -> None:
    def rename(content: dict) -> None:
        for image in content['images']:
            image['file_name'] = name.format(image['file_name'])

    change(coco_root, 'val2017', rename)
    dataset = build(coco_root)
    for index in range(2):
        assert Path(dataset.get_data_info(index)['img_path']).samefile(
            coco_root / 'val2017' / f'{index}.png'
        )
    assert ('./' in name) == (not any('without folders' in text for text in dataset.findings))


def test_images_that_could_be_one_file_are_refused(coco_root: Path) -> None:
    def rename(content: dict) -> None:
        for image, folder in zip(content['images'], 'ab', strict=True):
            image['file_name'] = f'{folder}/0.png'

    change(coco_root, 'val2017', rename)
    with pytest.raises(
        UserError, match=r"images 'a/0.png' and 'b/0.png' of .* would both be .*0.png"
    ):
        build(coco_root)


def test_classes_and_objects_of_a_part_of_the_images_are_counted(coco_root: Path) -> None:
    change(coco_root, 'train2017', lambda content: content['annotations'][1].update(category_id=5))
    warnings: list[str] = []
    first = build(coco_root, 'train2017', indices=1)
    check_classes_occur(first, warnings.append)
    file = f'{coco_root}/annotations/instances_train2017.json'
    assert warnings == [
        f'1 of the 2 classes have no object in {file} (the images of indices) and cannot be '
        "learned: 'disk'"
    ]
    check_left_out(first, pytest.fail)
    first.tally.left_out['beside it'] = first.tally.images_left_out['empty'] = 2
    check_left_out(first, warnings.append)  # how many the file has is not counted
    assert warnings[1:] == [
        f'2 objects in {file} are not learned: 2 beside it',
        f'2 images in {file} are left out: 2 empty',
    ]


def test_data_set_can_be_sent_to_another_process(coco_root: Path) -> None:
    dataset = pickle.loads(pickle.dumps(build(coco_root)))
    assert dataset.get_data_info(1)['instances'][1]['bbox_label'] == 1
