"""Folders and lists that do not exist or do not fit the classes are refused by name."""

import errno
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.calls import at_most
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset

from mmdat.checks.coco import check_categories
from mmdat.checks.folders import (
    check_class_folders,
    check_data_roots,
    check_labels,
    check_left_out,
    check_lists,
    check_overlap,
    check_unlisted,
    find_files,
    read_lines,
)
from mmdat.checks.images import DataFiles, list_files
from mmdat.errors import UserError


def config(dataset: dict[str, Any], scope: str = 'mmdet') -> Config:
    return Config(dict(default_scope=scope, train_dataloader=dict(dataset=dataset)))


def wrapped(kind: str, dataset: dict[str, Any]) -> dict[str, Any]:
    return dict(type=kind, dataset=dataset)


def concatenated(*roots: str) -> dict[str, Any]:
    return dict(
        type='ConcatDataset', datasets=[dict(type='CocoDataset', data_root=root) for root in roots]
    )


@pytest.mark.parametrize(
    'dataset, scope, sentence',
    [
        (
            dict(data_root='nowhere/'),
            'mmdet',
            r'data root nowhere/ of train_dataloader does not exist: set the environment variable '
            r'that the config reads \(COCO_ROOT for COCO\) or train_dataloader.dataset.data_root',
        ),
        (dict(data_root='nowhere'), 'mmseg', r'nowhere of .* set the .* \(ADE20K_ROOT for ADE20K'),
        (dict(data_root='nowhere'), 'mmpretrain', r'\(IMAGENET_ROOT for ImageNet\)'),
        (
            dict(type='mmdat.ShapesDataset', data_root='nowhere/'),
            'mmdet',
            r'data root nowhere/ of .* does not exist: '
            r'make it with tools/make_shapes.py nowhere/ --task detect, or',
        ),
        (
            concatenated('.', 'nowhere'),
            'mmdet',
            r'data root nowhere of .* or train_dataloader.dataset.datasets.1.data_root',
        ),
        (
            wrapped('RepeatDataset', concatenated('.', 'nowhere')),
            'mmdet',
            r'data root nowhere of .* or train_dataloader.dataset.dataset.datasets.1.data_root',
        ),
        (
            wrapped('ClassBalancedDataset', wrapped('RepeatDataset', dict(data_root='nowhere'))),
            'mmdet',
            r'data root nowhere of .* or train_dataloader.dataset.dataset.dataset.data_root',
        ),
    ],
)
def test_a_missing_data_root_is_refused(dataset: dict[str, Any], scope: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_data_roots(config(dataset, scope), ('val', 'train'))


def test_the_data_of_a_config_of_one_s_own_have_moved(tmp_path: Path) -> None:
    path = tmp_path / 'own.py'
    path.write_text("default_scope = 'mmdet'\ntrain_dataloader = dict(dataset=dict(data_root='x'))")
    with pytest.raises(UserError, match=f'set data_root in {path} to where the data are now'):
        check_data_roots(Config.fromfile(path), ('train',))


def test_data_roots_that_are_there_or_elsewhere_pass() -> None:
    check_data_roots(config(concatenated('.', 's3://bucket/data', '')), ('train', 'val'))


@pytest.mark.parametrize(
    'paths',
    [
        dict(data_prefix=dict(img='/a'), ann_file='/a.json'),
        dict(data_prefix=dict(img_path='/a', seg_map_path='s3://b')),
        dict(data_prefix='/a', ann_file=''),
        dict(ann_file='a.json', backend_args=dict(backend='petrel', path_mapping={'x': 's3:'})),
    ],
)
def test_a_data_root_in_which_nothing_lies_need_not_be_there(paths: dict[str, Any]) -> None:
    check_data_roots(config(dict(data_root='x', **paths)), ('train',))


@pytest.mark.parametrize(
    'paths',
    [
        dict(data_prefix=dict(img='/a'), ann_file='a.json'),
        dict(data_prefix=dict(img_path='/a', seg_map_path='b')),
        dict(ann_file='/a.json', backend_args=None),
        dict(ann_file='a.json', backend_args=dict(backend='local')),
    ],
)
def test_a_data_root_in_which_something_lies_must_be_there(paths: dict[str, Any]) -> None:
    with pytest.raises(UserError, match='data root x of train_dataloader does not exist'):
        check_data_roots(config(dict(data_root='x', **paths)), ('train',))


def listed(root: Path, text: str) -> CustomDataset:
    """The data set of a list of images of cats and dogs."""
    (root / 'train.txt').write_text(text)
    return CustomDataset(
        data_root=str(root),
        ann_file='train.txt',
        metainfo=dict(classes=('cat', 'dog')),
        serialize_data=False,
    )


def write_images(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imencode('.png', np.full((2, 2), number, np.uint8))[1].tofile(root / name)


def in_folders(root: Path, *names: str, **options: Any) -> CustomDataset:
    """The data set of images in folders by class."""
    write_images(root, *names)
    return CustomDataset(data_root=str(root), serialize_data=False, **options)


@pytest.mark.parametrize('label', [-1, 2])
def test_a_label_of_no_class_is_refused(label: int, tmp_path: Path) -> None:
    check_labels(DataFiles(listed(tmp_path, 'a.jpg 0\nb.jpg 1\n'), True), pytest.fail)
    dataset = listed(tmp_path, f'a.jpg 0\nb.jpg {label}\n')
    with pytest.raises(UserError, match=rf'train.txt gives image .*b.jpg the class {label}, but '):
        check_labels(DataFiles(dataset, True), pytest.fail)


def test_an_image_of_two_classes_in_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train.txt gives image .*a.jpg the classes 'cat' and 'dog"
    ):
        check_labels(DataFiles(listed(tmp_path, 'a.jpg 0\na.jpg 1\n'), True), pytest.fail)


def test_double_lines_and_empty_classes_are_told(tmp_path: Path) -> None:
    dataset = listed(tmp_path, 'a.jpg 0\na.jpg 0\nb.jpg 0\n')
    warnings: list[str] = []
    check_labels(DataFiles(dataset, True), warnings.append)
    assert 'train.txt has 1 images more than once, such as ' in warnings[0]
    assert warnings[1].startswith('1 of the 2 classes have no image in ') and "'dog'" in warnings[1]
    check_labels(DataFiles(dataset, False), warnings.append)
    assert warnings[2:] == warnings[:2], 'a class without an image is not evaluated'
    dataset._indices = 1  # as if the list had more
    check_labels(DataFiles(dataset, False), warnings.append)
    assert 'have no image in' in warnings[-1] and "(the images of indices): 'dog'" in warnings[-1]


def test_an_image_in_the_folders_of_two_classes_is_told(tmp_path: Path) -> None:
    dataset = in_folders(tmp_path, 'cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/2.png')
    check_labels(DataFiles(dataset, True), pytest.fail)
    (tmp_path / 'dog/3.png').write_bytes((tmp_path / 'cat/2.png').read_bytes())
    dataset = in_folders(tmp_path, 'cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/2.png')
    warnings: list[str] = []
    check_labels(DataFiles(dataset, True), warnings.append)
    [warning] = warnings
    assert warning.startswith('1 images of ') and "cat/2.png ('cat') and " in warning


@pytest.mark.parametrize('folder', ['.ipynb_checkpoints', '__MACOSX', '@eaDir'])
def test_a_folder_that_nobody_made_is_no_class(tmp_path: Path, folder: str) -> None:
    dataset = in_folders(tmp_path, 'cat/1.png', 'dog/1.png', f'{folder}/1.png')
    with pytest.raises(UserError, match=f'the folder {folder} in .* not made for images, but cou'):
        check_class_folders(dict(train=dataset))


def test_classes_in_another_order_than_the_folders_are_refused(tmp_path: Path) -> None:
    names = ('cat/1.png', 'dog/1.png')
    for classes in (('cat', 'dog'), ('Felis', 'Canis'), ('Cat', 'dog')):
        check_class_folders(dict(val=in_folders(tmp_path, *names, classes=classes)))
    dataset = in_folders(tmp_path, *names, classes=('Dog', 'Cat'))
    with pytest.raises(
        UserError, match=r"in the folder cat of .* count as 'Dog', since .* sort me"
    ):
        check_class_folders(dict(train=dataset))


def test_many_classes_take_no_time() -> None:
    names = [f'class {number}' for number in range(300)]
    folders = {f'n{number:08}': number for number in range(300)}  # as ImageNet's
    dataset = SimpleNamespace(folder_to_idx=folders, metainfo=dict(classes=names), img_prefix='')
    content = dict(categories=[dict(id=i, name=name) for name, i in folders.items()])
    with at_most(100 * 300):  # not each name beside each other
        check_class_folders(dict(train=dataset))
    refused = pytest.raises(UserError, match=r"no category 'class 0', .* and 292 more, which the")
    with at_most(100 * 300), refused:
        check_categories(content, 'a.json', names)


def test_other_folders_in_another_split_are_refused(tmp_path: Path) -> None:
    train = in_folders(tmp_path / 'train', 'ant/1.png', 'cat/1.png', 'dog/1.png')
    val = in_folders(tmp_path / 'val', 'cat/1.png', 'dog/1.png')
    check_class_folders(dict(train=train, test=train))
    with pytest.raises(UserError, match=r"class 0 is the folder 'ant' in .*train/, but 'cat' in "):
        check_class_folders(dict(train=train, val=val))


def masks(root: Path, **options: Any) -> BaseSegDataset:
    return BaseSegDataset(
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        serialize_data=False,
        **options,
    )


def test_images_of_other_suffixes_are_told(tmp_path: Path) -> None:
    write_images(tmp_path / 'images', *(f'{name}.jpg' for name in 'abcde'))
    write_images(tmp_path / 'masks', *(f'{name}.png' for name in 'abcdefgh'))
    check_left_out(DataFiles(masks(tmp_path)), pytest.fail)
    write_images(tmp_path / 'images', 'f.JPG', 'sub/g.JPG', 'h.jpeg', '.hidden.jpeg')
    (tmp_path / 'images' / 'Thumbs.db').touch()
    warnings: list[str] = []
    check_left_out(DataFiles(masks(tmp_path)), warnings.append)
    [warning] = warnings
    assert warning.startswith('3 of 8 images in ') and 'f.JPG, are left out: ' in warning
    assert "img_suffix='.jpg'" in warning and "type='mmdat.SegmentationDataset'" in warning
    write_images(tmp_path / 'images', 'f.HEIC')
    check_left_out(DataFiles(masks(tmp_path)), warnings.append)
    assert warnings[1].startswith('1 of 9 images in ') and 'f.HEIC, are in a form' in warnings[1]
    assert warnings[2].startswith('3 of 9 images in ')
    (tmp_path / 'list.txt').write_text('a')
    check_left_out(DataFiles(masks(tmp_path, ann_file='list.txt')), pytest.fail)
    check_left_out(DataFiles(masks(tmp_path, indices=2)), pytest.fail)


def test_masks_beside_images_are_no_images(tmp_path: Path) -> None:
    write_images(tmp_path, 'a.jpg', 'a.png', 'b.jpg', 'b.png')
    dataset = BaseSegDataset(data_prefix=dict(img_path=str(tmp_path), seg_map_path=str(tmp_path)))
    check_left_out(DataFiles(dataset), pytest.fail)


def test_images_outside_the_folders_of_classes_are_told(tmp_path: Path) -> None:
    dataset = in_folders(tmp_path, 'cat/1.png', 'dog/1.png')
    check_left_out(DataFiles(dataset), pytest.fail)
    write_images(tmp_path, 'cat/2.webp', '3.png')
    warnings: list[str] = []
    check_left_out(DataFiles(dataset), warnings.append)
    [warning] = warnings
    assert warning.startswith('2 of 4 images in ') and '3.png, are left out: ' in warning
    assert '.bmp' in warning and "type='mmdat.ClassificationDataset'" in warning


def test_images_of_several_splits_are_told(tmp_path: Path) -> None:
    train = in_folders(tmp_path / 'train', 'cat/1.png', 'cat/2.png')
    val = in_folders(tmp_path / 'val', 'cat/1.png')
    both = ConcatDataset([train, val])
    check_overlap(list_files(dict(train=train, val=val, test=val)), pytest.fail)
    warnings: list[str] = []
    check_overlap(list_files(dict(train=both, val=val)), warnings.append)
    [warning] = warnings
    assert warning.startswith('1 images, such as ') and 'are for train and val alike' in warning


def test_images_that_no_coco_file_names_are_told(coco_root: Path) -> None:
    def build(split: str, **options: Any) -> CocoDataset:
        return CocoDataset(
            data_root=str(coco_root),
            ann_file=f'annotations/instances_{split}.json',
            data_prefix=dict(img=split),
            metainfo=dict(classes=('box', 'disk')),
            serialize_data=False,
            **options,
        )

    val = build('val2017', test_mode=True)
    check_unlisted(list_files(dict(val=val)), pytest.fail)
    part = build('val2017', test_mode=True, indices=1)  # it does not tell what the file names
    check_unlisted(list_files(dict(train=part, val=part)), pytest.fail)
    for name in ('x.PNG', 'y.jpg', 'notes.txt'):
        (coco_root / 'val2017' / name).touch()
    warnings: list[str] = []
    # Images that a test leaves out may be trained on.
    check_unlisted(list_files(dict(val=val, test=val)), pytest.fail)
    check_unlisted(list_files(dict(train=val, val=val)), warnings.append)
    [warning] = warnings
    assert warning == (
        f'2 of 4 images in {coco_root}/val2017 are in no annotation file of train, val, and are '
        'not used'
    )
    filtered = build('train2017', filter_cfg=dict(filter_empty_gt=True))
    check_unlisted(list_files(dict(train=filtered, val=val)), pytest.fail)
    filtered.tally = SimpleNamespace(images_left_out=Counter(small=1))
    (coco_root / 'train2017' / 'z.png').touch()
    (coco_root / 'val2017' / 'x.PNG').unlink()
    (coco_root / 'val2017' / 'y.jpg').unlink()
    check_unlisted(list_files(dict(train=filtered, val=val)), pytest.fail)
    (coco_root / 'train2017' / 'more.png').touch()
    check_unlisted(list_files(dict(train=filtered)), warnings.append)
    assert warnings[-1].startswith('1 of 8 images in ')


def test_files_are_found_through_links_but_once(tmp_path: Path) -> None:
    write_images(tmp_path / 'data', 'b.PNG', 'a/ä b.jpg', 'a/.c.jpg', '__MACOSX/b.png', 'x.txt')
    (tmp_path / 'linked').symlink_to(tmp_path / 'data')
    (tmp_path / 'data' / 'a' / 'back').symlink_to(tmp_path / 'data')
    found = [Path(path).name for path in find_files(str(tmp_path / 'linked'), ('.jpg', '.png'))]
    assert found == ['b.PNG', 'ä b.jpg']


def test_a_folder_that_may_not_be_read_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'theirs').mkdir()
    (tmp_path / 'mine/a.jpg').touch()
    scan = os.scandir

    def scan_mine(path: str) -> Any:
        if path.endswith('theirs'):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, 'scandir', scan_mine)
    assert list(find_files(str(tmp_path / 'mine'), ('.jpg',))) == [str(tmp_path / 'mine/a.jpg')]
    with pytest.raises(UserError, match=r'^folder .*/theirs cannot be read: Permission denied; '):
        list(find_files(str(tmp_path), ('.jpg',)))
    assert not list(find_files(str(tmp_path / 'nowhere'), ('.jpg',)))


def test_lists_of_windows_programs_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'list.txt'
    path.write_bytes('\ufeffä b.jpg\r\n\r\nc.jpg \r\n'.encode())
    assert read_lines(str(path)) == ['ä b.jpg', 'c.jpg']
    path.write_bytes('ä.jpg'.encode('latin-1'))
    with pytest.raises(UserError, match=r'list.txt is not encoded in UTF-8'):
        read_lines(str(path))
    with pytest.raises(UserError, match=r'none.txt cannot be read \(No such file'):
        read_lines(str(tmp_path / 'none.txt'))


@pytest.mark.parametrize(
    'text, sentence',
    [
        ('a.jpg 0\n\nb.jpg 1\n', r"line 2 of list .*l.txt is '': write the path of an image, a b"),
        ('file,label\na.jpg,0\n', r"line 1 of .* is 'file,label': .*mmdat.ClassificationDataset'"),
        ('a.jpg\t0\n', r'line 1 of '),
        ('a.jpg 0\nb.jpg cat\n', r"line 2 of .* is 'b.jpg cat'"),
        ('\ufeffa.jpg 0\n', r'l.txt begins with a byte order mark, .*ClassificationDataset.$'),
        ('', r'l.txt is empty: write the path'),
    ],
)
def test_lines_that_mmpretrain_cannot_read_are_named(
    text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / 'l.txt').write_text(text, encoding='utf-8')
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), ann_file='l.txt')
    with pytest.raises(UserError, match=sentence):
        check_lists(config(dataset, 'mmpretrain'), ('train',))
    check_lists(config(dataset | dict(type='mmdat.ClassificationDataset')), ('train', 'val'))


def test_lists_that_the_toolboxes_read_pass(tmp_path: Path) -> None:
    (tmp_path / 'l.txt').write_text('a b.jpg 0\r\nb.jpg 10', encoding='utf-8')
    dataset = dict(data_root=str(tmp_path), ann_file='l.txt')
    check_lists(config(dataset | dict(type='ImageNet'), 'mmpretrain'), ('train',))
    check_lists(config(dataset | dict(type='ADE20KDataset'), 'mmseg'), ('train',))
    check_lists(config(dict(type='ImageNet', ann_file='none.txt'), 'mmpretrain'), ('train',))
    with pytest.raises(
        UserError, match=r"train_dataloader.dataset.ann_file is \['a', 'b'\], but a"
    ):
        check_lists(config(dict(type='CocoDataset', ann_file=['a', 'b']), 'mmdet'), ('train',))


@pytest.mark.parametrize('text', ['a\n\nb\n', '\ufeffa\nb\n'])
def test_lines_that_mmsegmentation_misreads_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / 'l.txt').write_text(text, encoding='utf-8')
    dataset = dict(type='BaseSegDataset', data_root=str(tmp_path), ann_file='l.txt')
    with pytest.raises(UserError, match=r"list .*l.txt .*set type='mmdat.SegmentationDataset'"):
        check_lists(config(dataset, 'mmseg'), ('train',))


def test_without_names_the_head_tells_the_classes(tmp_path: Path) -> None:
    dataset = listed(tmp_path, 'a.jpg 1\nb.jpg 2\nc.jpg 0\n')
    dataset._metainfo = {}
    check_labels(DataFiles(dataset, False), pytest.fail, num_classes=3)
    with pytest.raises(UserError, match=r'the class 2, but there are 2 classes, counted from 0'):
        check_labels(DataFiles(dataset, True), pytest.fail, num_classes=2)
