"""Names of folders and in lists decide which class an image has."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mmdat.checks.folders import check_class_folders, check_left_out
from mmdat.checks.images import DataFiles
from mmdat.datasets.classification import ClassificationDataset
from mmdat.errors import UserError


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def build(root: Path, **options: Any) -> ClassificationDataset:
    return ClassificationDataset(data_root=str(root), serialize_data=False, **options)


def labels(dataset: ClassificationDataset) -> dict[str, int]:
    """Path of each image below the data set's folder -> its class."""
    items = [dataset.get_data_info(index) for index in range(len(dataset))]
    return {
        str(Path(item['img_path']).relative_to(dataset.img_prefix)): item['gt_label']
        for item in items
    }


def test_folders_are_the_classes_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, 'cat/1.jpg', 'cat/sub/2.WEBP', 'dog/1.JPG', 'dog/notes.txt')
    write(tmp_path, '.ipynb_checkpoints/1.jpg', '__MACOSX/1.jpg', '@eaDir/1.jpg')
    dataset = build(tmp_path)
    assert dataset.metainfo['classes'] == ('cat', 'dog')
    assert labels(dataset) == {'cat/1.jpg': 0, 'cat/sub/2.WEBP': 0, 'dog/1.JPG': 1}
    check_class_folders(dict(train=dataset))
    check_left_out(DataFiles(dataset), pytest.fail)
    # The folder of ants is in another split.
    dataset = build(tmp_path, classes=('dog', 'cat', 'ant'))
    assert labels(dataset) == {'cat/1.jpg': 1, 'cat/sub/2.WEBP': 1, 'dog/1.JPG': 0}
    check_class_folders(dict(train=dataset))


def test_folders_without_images_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, 'cat/1.jpg', 'dog/1.jpg', 'eel/notes.txt')
    assert labels(build(tmp_path, classes=('cat', 'dog'))) == {'cat/1.jpg': 0, 'dog/1.jpg': 1}


def test_folders_of_no_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'image folder .*none/ does not exist: check data_root'):
        build(tmp_path / 'none')
    write(tmp_path, 'cat/notes.txt')
    with pytest.raises(UserError, match=r'there is no image in the folders in '):
        build(tmp_path)
    write(tmp_path, 'Dog/1.jpg')
    with pytest.raises(
        UserError, match=r"has the folders 'Dog', but metainfo.classes are 'cat' an"
    ):
        build(tmp_path, classes=('cat', 'dog'))


def test_names_are_equal_in_whatever_form_of_unicode(tmp_path: Path) -> None:
    """Macs write a letter and its dots apart."""
    apart, whole = (unicodedata.normalize(form, 'Bär') for form in ('NFD', 'NFC'))
    write(tmp_path, f'{apart}/1.jpg', 'cat/1.jpg')
    (tmp_path / 'list.txt').write_text(f'{apart}/1.jpg {apart}\n', encoding='utf-8')
    assert labels(build(tmp_path, classes=('cat', whole)))[f'{apart}/1.jpg'] == 1
    for classes in (('cat', whole), ('cat', apart)):
        listed = build(tmp_path, classes=classes, ann_file='list.txt')
        assert labels(listed) == {f'{apart}/1.jpg': 1}


@pytest.mark.parametrize(
    'line, path, label',
    [
        ('a.jpg 1', 'a.jpg', 1),
        ('a.jpg\t1', 'a.jpg', 1),
        ('a.jpg, 1', 'a.jpg', 1),
        ('a.jpg;1', 'a.jpg', 1),
        ('"a, b.jpg",1', 'a, b.jpg', 1),
        ('my cat 2.jpg 0', 'my cat 2.jpg', 0),
        ('Bilder/Größe 1.jpg big dog', 'Bilder/Größe 1.jpg', 2),
        ('a.jpg,cat', 'a.jpg', 0),
        ('a.jpg 7', 'a.jpg', 7),  # refused by a check
    ],
)
def test_lines_of_lists_are_read(line: str, path: str, label: int, tmp_path: Path) -> None:
    (tmp_path / 'list.txt').write_text(f'\ufeff{line}\r\n\r\n', encoding='utf-8')
    dataset = build(tmp_path, ann_file='list.txt', classes=('cat', 'dog', 'big dog'))
    assert labels(dataset) == {path: label}


@pytest.mark.parametrize('line', ['image,label', 'a.jpg', 'a.jpg fox', 'a.jpg 1.0'])
def test_a_line_without_a_class_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / 'list.txt').write_text(f'a.jpg cat\n{line}\n')
    with pytest.raises(UserError, match=rf"list.txt has the line '{line}', which does not end in"):
        build(tmp_path, ann_file='list.txt', classes=('cat', 'dog'))
