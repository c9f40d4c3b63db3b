import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmdat.datasets.shapes import files as shapes_files
from mmdat.datasets.shapes.coco import ShapesDataset, write_shapes_coco
from mmdat.datasets.shapes.drawing import METAINFO
from mmdat.datasets.shapes.files import ShapesParameters
from mmdat.errors import UserError

SMALL = ShapesParameters(train=6, val=4, size=96)


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes_coco(root, SMALL)
    return root


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob('*')
        if path.is_file()
    }


def test_same_parameters_same_bytes(root, tmp_path):
    write_shapes_coco(tmp_path / 'again', SMALL)
    assert digests(tmp_path / 'again') == digests(root)


def test_an_image_does_not_depend_on_how_many_there_are(root, tmp_path):
    write_shapes_coco(tmp_path / 'fewer', ShapesParameters(train=2, val=1, size=96))
    fewer, more = digests(tmp_path / 'fewer'), digests(root)
    images = [name for name in fewer if name.endswith('.jpg')]
    assert len(images) == 3
    assert all(fewer[name] == more[name] for name in images)


def test_train_val_and_seeds_share_no_image(root, tmp_path):
    write_shapes_coco(tmp_path / 'other', ShapesParameters(train=6, val=4, size=96, seed=1))
    images = [
        digest
        for folder in (root, tmp_path / 'other')
        for name, digest in digests(folder).items()
        if name.endswith('.jpg')
    ]
    assert len(set(images)) == len(images) == 20


@pytest.mark.parametrize(('split', 'count'), [('train', 6), ('val', 4)])
def test_annotations_are_coco_with_masks_boxes_and_areas_that_agree(root, split, count):
    coco = COCO(root / 'annotations' / f'instances_{split}.json')
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(
        METAINFO['classes']
    )
    assert len(coco.imgs) == count
    for image in coco.imgs.values():
        pixels = cv2.imread(str(root / split / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3) == (96, 96, 3)
        assert coco.imgToAnns[image['id']]
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        y, x = np.nonzero(mask)
        assert mask.shape == (96, 96)
        assert annotation['area'] == mask.sum() > 0
        assert annotation['bbox'] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert annotation['iscrowd'] == 0


def test_mmdet_reads_it(root):
    dataset = ShapesDataset(
        ann_file='annotations/instances_val.json',
        data_root=str(root),
        data_prefix=dict(img='val/'),
        test_mode=True,
    )
    truth = json.loads((root / 'annotations/instances_val.json').read_text())
    assert dataset.metainfo['classes'] == METAINFO['classes']
    assert len(dataset) == 4
    assert sum(len(dataset[index]['instances']) for index in range(4)) == len(truth['annotations'])


def test_a_complete_data_set_is_left_alone(root, monkeypatch):
    monkeypatch.setattr(shapes_files, 'draw_scene', lambda *_: pytest.fail('drawn again'))
    write_shapes_coco(root, SMALL)


@pytest.mark.parametrize(
    'spoil',
    [
        lambda root: (root / 'train' / '000003.jpg').unlink(),
        lambda root: (root / 'train' / '000003.jpg').write_bytes(b''),
        lambda root: (root / 'annotations' / 'instances_val.json').unlink(),
        lambda root: (root / 'annotations' / 'instances_val.json').write_text('{}'),
        lambda root: (root / 'shapes.json').write_text('3'),
    ],
)
def test_an_incomplete_data_set_is_drawn_again(root, tmp_path, spoil):
    shutil.copytree(root, tmp_path / 'shapes')
    spoil(tmp_path / 'shapes')
    write_shapes_coco(tmp_path / 'shapes', SMALL)
    assert digests(tmp_path / 'shapes') == digests(root)


def test_an_interrupted_drawing_leaves_no_data_set_and_the_next_one_completes_it(
    root, tmp_path, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shapes_files.cv2, 'imencode', interrupted)
        write_shapes_coco(tmp_path / 'shapes', SMALL)
    assert not (tmp_path / 'shapes').exists()
    write_shapes_coco(tmp_path / 'shapes', SMALL)
    assert digests(tmp_path / 'shapes') == digests(root)
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']


def test_other_parameters_replace_it(tmp_path):
    write_shapes_coco(tmp_path / 'shapes', ShapesParameters(train=3, val=1, size=64))
    write_shapes_coco(tmp_path / 'shapes', ShapesParameters(train=1, val=1, size=64))
    assert len(list((tmp_path / 'shapes' / 'train').iterdir())) == 1


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(UserError, match='is not a data set of shapes'):
        write_shapes_coco(tmp_path, SMALL)
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'


@pytest.mark.parametrize(
    'root, sentence',
    [
        ('.', 'is the working folder, or around it: name another'),
        ('..', 'is the working folder, or around it: name another'),
        ('file', 'exists and is not a data set of shapes'),
        ('file/shapes', 'cannot be drawn into .Not a directory.: name another'),
        ('/proc/shapes', 'cannot be drawn into .*: name another'),
    ],
)
def test_a_place_that_cannot_be_drawn_into_is_refused_before_drawing(
    tmp_path, monkeypatch, root, sentence
):
    monkeypatch.setattr(shapes_files, 'draw_scene', lambda *_: pytest.fail('drawn'))
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'file').touch()
    monkeypatch.chdir(tmp_path / 'empty')
    with pytest.raises(UserError, match=sentence):
        write_shapes_coco(root, SMALL)


def test_what_cannot_be_replaced_is_known_before_drawing(tmp_path, monkeypatch):
    (tmp_path / 'shapes').mkdir()

    def refuse(path):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    monkeypatch.setattr(shapes_files, 'draw_scene', lambda *_: pytest.fail('drawn'))
    monkeypatch.setattr(shapes_files.shutil, 'rmtree', refuse)
    with pytest.raises(UserError, match='shapes cannot be drawn into .Device or resource busy'):
        write_shapes_coco(tmp_path / 'shapes', SMALL)


def test_a_link_leads_to_the_drawings(root, tmp_path):
    (tmp_path / 'disk' / 'shapes').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'disk' / 'shapes')
    write_shapes_coco(tmp_path / 'link', SMALL)
    assert (tmp_path / 'link').is_symlink()
    assert digests(tmp_path / 'disk' / 'shapes') == digests(root)


@pytest.mark.parametrize('wrong', [dict(train=0), dict(val=0), dict(size=8), dict(seed=-1)])
def test_parameters_that_make_no_sense_are_refused(wrong):
    [name] = wrong
    with pytest.raises(UserError, match=f'{name}=.* is too small'):
        ShapesParameters(**wrong)
