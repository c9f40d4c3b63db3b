"""Data of other programs is recognized, and means what it meant there."""

import base64
import io
import itertools
import json
import os
import re
import shutil
import tracemalloc
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.calls import at_most
from helpers.foreign import (
    DIALECTS,
    OBJECTS,
    TRAIN,
    write_cvat,
    write_json,
    write_roboflow,
    write_yolo,
)
from PIL import Image

from mmdat.datasets.formats import (
    Detection,
    read_classified,
    read_detection,
    read_segmented,
    write_values,
)
from mmdat.datasets.formats.files import Folder
from mmdat.datasets.formats.mask_pairs import pair_masks
from mmdat.datasets.formats.mask_values import meaning_of
from mmdat.errors import UserError


def boxes_of(found: Detection, split: str) -> dict[str, list[tuple[str, list[float]]]]:
    """Objects by the name of their image, which must be where the file says."""
    part = found.splits[split]
    content = part.content
    names = {item['id']: item['name'] for item in content['categories']}
    images = {item['id']: item for item in content['images']}
    for item in images.values():
        assert (found.root / part.prefix / item['file_name']).is_file()
        assert (item['width'], item['height']) == (96, 80)
    boxes: dict[str, list] = {Path(item['file_name']).name: [] for item in images.values()}
    for item in content['annotations']:
        name = Path(images[item['image_id']]['file_name']).name
        boxes[name].append((names[item['category_id']], item['bbox']))
    return boxes


@pytest.mark.parametrize('parent', ['none', '', 'parts', None])
def test_a_group_of_classes_without_objects_is_none(parent: str | None, tmp_path: Path) -> None:
    write_roboflow(tmp_path)
    for path in tmp_path.rglob('*.json'):
        content = json.loads(path.read_text())
        content['categories'][0]['supercategory'] = parent
        path.write_text(json.dumps(content))
    assert read_detection(tmp_path, 0.5, 0).classes == ('bolt', 'nut')


@pytest.mark.parametrize('program', DIALECTS)
def test_boxes_of_a_program_are_read(program: str, tmp_path: Path) -> None:
    write, with_masks, split = DIALECTS[program]
    write(tmp_path)
    before = sorted(tmp_path.rglob('*'))
    found = read_detection(tmp_path, 0.5, 0)
    assert sorted(tmp_path.rglob('*')) == before
    assert found.classes == ('bolt', 'nut')
    train, val = boxes_of(found, 'train'), boxes_of(found, 'val')
    assert train.pop('nothing.jpg', []) == []  # a picture of background
    assert {**train, **val} == {
        name: [(label, pytest.approx(box)) for label, box in objects]
        for name, objects in OBJECTS.items()
    }
    assert len(train) == len(val) == 2
    assert set(train) == set(TRAIN) or not split
    assert bool(found.without_mask()) != with_masks


def write_masks(
    root: Path, layout: str, labels: np.ndarray, palette: bool = False, side: int = 8
) -> None:
    """Write four images and masks; ``layout`` has the folders of images and of masks."""
    for index in range(4):
        photos, masks = (
            root / folder.format(*(('train', 'training') if index < 3 else ('val', 'validation')))
            for folder in layout.split()
        )
        photos.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(photos / f'bild {index}.JPG', 'jpeg')
        mask = Image.fromarray(np.resize(labels, (side, side)).astype(np.uint8))
        if palette:
            mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        mask.save(masks / f'bild {index}.png')


PLAIN = 'images/{} masks/{}'
# Values in the masks, file of names -> classes, whether 0 is nothing, mask_values.
MEANINGS = {
    'background is first': (
        [0, 1, 2, 255],
        ('classes.txt', '_background_\nroad\nsky'),
        (('_background_', 'road', 'sky'), False, None),
    ),
    'labelme ignores first': (
        [0, 1, 2, 255],
        ('class_names.txt', '__ignore__\n_background_\nroad\nsky'),
        (('_background_', 'road', 'sky'), False, None),
    ),
    'as many values as names': (
        [0, 1],
        ('labels.txt', 'road\nsky'),
        (('road', 'sky'), False, None),
    ),
    'one value more': ([0, 1, 2], ('labels.txt', 'road\nsky'), (('road', 'sky'), True, None)),
    'one name': ([0, 1], ('classes.txt', 'crack'), (('background', 'crack'), False, None)),
    'black and white': (
        [0, 255],
        ('classes.txt', 'background\ncrack'),
        (('background', 'crack'), False, {0: 'background', 255: 'crack'}),
    ),
    'white has a name': (
        [0, 255],
        ('classes.txt', 'crack'),
        (('background', 'crack'), False, {0: 'background', 255: 'crack'}),
    ),
    'white has none': (
        [0, 255],
        None,
        (('background', 'value_255'), False, {0: 'background', 255: 'value_255'}),
    ),
    'gray steps': (
        [0, 85, 170, 255],
        ('classes.txt', 'a\nb\nc\nd'),
        (('a', 'b', 'c', 'd'), False, {0: 'a', 85: 'b', 170: 'c', 255: 'd'}),
    ),
    'few of many names': (
        [0, 6, 9, 255],
        ('classes.txt', '\n'.join('abcdefghij')),
        (tuple('abcdefghij'), False, None),
    ),
    'few of many names behind nothing': (
        [0, 6, 10],
        ('classes.txt', '\n'.join('abcdefghij')),
        (tuple('abcdefghij'), True, None),
    ),
    'numbered names': (
        [0, 7, 11],
        ('_classes.csv', 'Pixel Value, Class\n0, unlabeled\n7, road\n11, wall'),
        (('unlabeled', 'road', 'wall'), False, {0: 'unlabeled', 7: 'road', 11: 'wall'}),
    ),
    'numbered from 1': (
        [0, 1, 2],
        ('classes.json', '{"road": 1, "sky": 2}'),
        (('road', 'sky'), True, None),
    ),
    'numbered by Hugging Face': (
        [0, 1],
        ('id2label.json', '{"0": "sky", "1": "road"}'),
        (('sky', 'road'), False, None),
    ),
    'a name for 255': (
        [0, 1, 255],
        ('id2label.json', '{"0": "sky", "1": "road", "255": "Ignored"}'),
        (('sky', 'road'), False, None),
    ),
    'a class at 255': (
        [0, 1, 255],
        ('id2label.json', '{"0": "sky", "1": "road", "255": "car"}'),
        (('sky', 'road', 'car'), False, {0: 'sky', 1: 'road', 255: 'car'}),
    ),
    'no names': ([0, 1, 255], None, (('background', 'class_1'), False, None)),
}


@pytest.mark.parametrize('case', MEANINGS)
def test_values_of_masks_have_a_meaning(case: str, tmp_path: Path) -> None:
    values, names, (classes, nothing, meaning) = MEANINGS[case]
    write_masks(tmp_path, PLAIN, np.array(values))
    if names:
        (tmp_path / names[0]).write_text(names[1])
    found = read_segmented(tmp_path, 0.2, 0, None)
    assert (found.classes, found.zero_is_nothing, found.values) == (classes, nothing, meaning)
    note = "7 of 10 classes are in no mask: 'b' (1), 'c' (2), 'd' (3) and 4 more."
    assert (note in found.notes) == (case == 'few of many names')


@pytest.mark.parametrize(
    'layout, name, first, nothing',
    [
        ('images/{1} annotations/{1}', 'ADE_train_0000000{}', 'wall', True),
        ('JPEGImages SegmentationClass', '2007_00000{}', 'background', False),
    ],
)
def test_public_data_needs_no_names(
    layout: str, name: str, first: str, nothing: bool, tmp_path: Path
) -> None:
    write_masks(tmp_path, layout, np.array([0, 1, 20]))
    for path in [*tmp_path.rglob('*.png'), *tmp_path.rglob('*.JPG')]:
        path.rename(path.with_name(name.format(path.stem[-1]) + path.suffix))
    found = read_segmented(tmp_path, 0.25, 0, None)
    assert (found.classes[0], found.zero_is_nothing, found.values) == (first, nothing, None)


def test_what_zero_means_can_be_told(tmp_path: Path) -> None:
    write_masks(tmp_path, PLAIN, np.arange(3))
    (tmp_path / 'classes.txt').write_text('road\nsky\n')
    assert read_segmented(tmp_path, 0.2, 0, 'ignored').classes == ('road', 'sky')
    told = read_segmented(tmp_path, 0.2, 0, 'background')
    assert told.classes == ('background', 'road', 'sky') and not told.zero_is_nothing


@pytest.mark.parametrize(
    'values, names, is_told',
    [
        ([[0, 1], [0, 255]], '', True),
        ([[0, 1], [255, 255]], '_background_\nroad\n', True),
        ([[0, 1], [0, 1, 255], [0, 255]], '', False),  # unlabeled parts
        ([[0, 1], [0, 255]], '{"0": "nothing", "1": "road", "255": "sky"}', False),
        ([[0, 1], [0, 255]], '{"0": "nothing", "1": "road", "255": "void"}', False),
        ([[0, 1], [0, 255]], '{"0": "nothing", "1": "road"}', True),
        ([[0, 128], [0, 255]], '', False),
        ([[0, 1], [0, 2, 255]], '', False),  # unlabeled parts of a class that is rare
    ],
)
def test_masks_of_1_beside_masks_of_255_are_told(
    values: list[list[int]], names: str, is_told: bool, tmp_path: Path
) -> None:
    write_masks(tmp_path, PLAIN, np.arange(2))
    for path, own in zip(sorted(tmp_path.glob('masks/*/*')), itertools.cycle(values), strict=False):
        Image.fromarray(np.resize(own, (8, 8)).astype(np.uint8)).save(path)
    (tmp_path / ('id2label.json' if names.startswith('{') else 'classes.txt')).write_text(names)
    notes = ' '.join(read_segmented(tmp_path, 0.2, 0, None).notes)
    assert ('Some masks have 1, others 255, which is ignored: if' in notes) == is_told


CAR_DOG = {1: 'car', 2: 'dog'}


@pytest.mark.parametrize(
    'names, zero, values, nothing',
    [
        ({0: 'sky', **CAR_DOG}, 'ignored', CAR_DOG, True),
        ({0: 'sky', **CAR_DOG}, 'background', {0: 'sky', **CAR_DOG}, False),
        (CAR_DOG, 'background', {0: 'background', **CAR_DOG}, False),
        ({0: None, **CAR_DOG}, 'background', {0: 'background', **CAR_DOG}, False),
        ({0: None, **CAR_DOG, 3: None}, None, {**CAR_DOG, 3: None, 0: None}, False),
        ({0: 'sky', 3: 'car', 6: 'dog'}, 'ignored', {0: None, 3: 'car', 6: 'dog'}, False),
        ({3: 'car', 6: 'dog'}, None, {0: None, 3: 'car', 6: 'dog'}, False),
        ({3: 'car', 6: 'dog'}, 'background', {0: 'background', 3: 'car', 6: 'dog'}, False),
        (['sky', 'car', 'dog'], 'ignored', {0: None, 100: 'car', 200: 'dog'}, False),
    ],
)
def test_each_value_keeps_its_name_whatever_zero_is(
    names: Any, zero: str | None, values: dict[int, str | None], nothing: bool
) -> None:
    """Each value that may be in a mask has a name or is ignored, by numbers or one by one."""
    meaning = meaning_of({*values} - {3} if 1 in values else {*values, 0}, names, zero, '')
    assert meaning.classes == tuple(name for name in values.values() if name)
    assert meaning.zero_is_nothing == nothing
    numbered = dict(enumerate(meaning.classes, nothing))
    assert (meaning.values or numbered) == values


@pytest.mark.parametrize(
    'layout, nothing',
    [
        ('images/{1} annotations/{1}', True),
        ('images labels', False),
        ('JPEGImages SegmentationClassPNG', False),
        ('{}/images {}/masks', False),
        ('{}_images {}_masks', False),
        ('deep/er/images/{}/a deep/er/labels/{}/a', False),
    ],
)
def test_images_and_masks_are_paired(layout: str, nothing: bool, tmp_path: Path) -> None:
    write_masks(tmp_path, layout, np.arange(3), palette=True)
    found = read_segmented(tmp_path, 0.25, 0, None)
    assert found.zero_is_nothing == nothing
    assert found.palette == [(0, 0, 0), (128, 0, 0), (0, 128, 0)][int(nothing) :]
    assert {name: len(split.pairs) for name, split in found.splits.items()} == dict(train=3, val=1)
    for split in found.splits.values():
        assert split.listed == ('{' not in layout)
        for image, mask in split.pairs.items():
            assert (tmp_path / split.images / image).is_file()
            assert (tmp_path / split.masks / mask).is_file()


def test_masks_beside_their_images_end_in_a_word(tmp_path: Path) -> None:
    write_masks(tmp_path, '{} {}', np.array([0, 1]))
    for mask in tmp_path.rglob('*.png'):
        mask.rename(mask.with_name(f'{mask.stem}_mask.png'))
    found = read_segmented(tmp_path, 0.2, 0, None)
    assert found.splits['val'].pairs == {'bild 3.JPG': 'bild 3_mask.png'}
    assert found.splits['val'].suffix == '_mask.png'


@pytest.mark.parametrize('folder', ['semantic', 'labels', 'images', 'train/segmentation'])
def test_a_word_in_the_folder_makes_no_mask_of_a_photo_that_has_one(
    folder: str, tmp_path: Path
) -> None:
    write_masks(tmp_path, f'{folder}/{{0}} {folder}/{{0}}', np.array([0, 1]))
    for mask in tmp_path.rglob('*.png'):
        mask.rename(mask.with_name(f'{mask.stem}_mask.png'))
    found = read_segmented(tmp_path, 0.2, 0, None)
    pairs = [pair for split in found.splits.values() for pair in split.pairs.items()]
    assert len(pairs) > 2 and not any('left out' in note for note in found.notes)
    assert all(mask == image.replace('.JPG', '_mask.png') for image, mask in pairs)


@pytest.mark.parametrize(
    'layout, image, mask, suffix',
    [
        ('images/{} masks/{}', '{}.JPG', '{}.JPG.png', '.JPG.png'),
        ('images/{} masks/{}', '{}.JPG', 'mask_{}.png', ''),
        ('{0} {0}', '{}.JPG', 'mask_{}.png', ''),
        ('{0} {0}annot', '{}.png', '{}.png', ''),
        ('{0} {0}_labels', '{}.png', '{}_L.png', '_L.png'),
        ('images/{0} labels/{0}', '{}.png', '{}_P.png', '_P.png'),
        ('{0}/image_2 {0}/semantic', '{}.png', '{}.png', ''),
        ('{0}/701_StillsRaw_full {0}/LabeledApproved_full', '{}.png', '{}_L.png', '_L.png'),
        ('images/{0} masks/{0}', '{}_L.png', '{}_L.png', ''),
        ('{0} {0}/masks', 'mask_{}.png', 'mask_{}.png', ''),
        ('{0}/semantic_images {0}/semantic_masks', '{}.JPG', '{}.png', ''),
    ],
)
def test_names_of_masks_may_have_more_than_those_of_images(
    layout: str, image: str, mask: str, suffix: str, tmp_path: Path
) -> None:
    write_masks(tmp_path, layout, np.arange(3))
    for path in [*tmp_path.rglob('bild*.JPG'), *tmp_path.rglob('bild*.png')]:
        name = image if path.suffix == '.JPG' else mask
        path.rename(path.with_name(name.format(path.stem[-1])))
    found = read_segmented(tmp_path, 0.25, 0, None)
    assert found.splits['val'].pairs == {image.format(3): mask.format(3)}
    assert found.splits['train'].suffix == suffix
    assert len(found.splits['train'].pairs) == 3
    assert found.classes == ('background', 'class_1', 'class_2')
    is_alike = bool(suffix) or 'mask' not in mask or 'mask' in image
    assert bool(found.rewritten) != is_alike


@pytest.mark.parametrize(
    'layout, image, mask',
    [
        # As of Oxford's pets, BDD100K, Mapillary Vistas, ISIC and CVC-ClinicDB.
        ('images annotations/trimaps', '{}', '{}'),
        ('images/10k/{} labels/sem_seg/masks/{}', '{}', '{}'),
        ('{0}/images {0}/v1.2/labels', '{}', '{}'),
        ('ISIC_{0}_Input ISIC_{0}_GroundTruth', 'ISIC_{}', 'ISIC_{}_segmentation'),
        ('input/deep/{0} {0}/masks', '{}', '{}_labelTrainIds'),
        ('CVC/Original CVC/Ground@Truth', '{}', '{}'),
    ],
)
def test_masks_far_from_their_images_are_found_by_name(
    layout: str, image: str, mask: str, tmp_path: Path
) -> None:
    write_masks(tmp_path, layout, np.arange(3))
    for path in [*tmp_path.rglob('bild*.JPG'), *tmp_path.rglob('bild*.png')]:
        name = image if path.suffix == '.JPG' else mask
        path.rename(path.with_stem(name.format(path.stem[-1])))
    for path in tmp_path.rglob('Ground@Truth'):
        path.rename(path.with_name('Ground Truth'))
    for path in tmp_path.rglob('labels'):
        (path.parent / 'instances').mkdir(exist_ok=True)
        for file in path.glob('*.png'):
            (path.parent / 'instances' / file.name).write_bytes(file.read_bytes())
    found = read_segmented(tmp_path, 0.25, 0, None)
    pairs = [pair for split in found.splits.values() for pair in split.pairs.items()]
    assert len(pairs) == 4 and len(found.splits['val'].pairs) == 1
    for at, of in pairs:
        assert re.findall(r'\d', Path(at).stem) == re.findall(r'\d', Path(of).stem)


def test_names_that_do_not_tell_images_apart_pair_none(tmp_path: Path) -> None:
    write_masks(tmp_path, 'images/{} x/{}/masks', np.arange(3))
    (tmp_path / 'images' / 'more').mkdir()
    copied = tmp_path / 'images' / 'more' / 'bild 0.JPG'
    copied.write_bytes((tmp_path / 'images' / 'train' / 'bild 0.JPG').read_bytes())
    found = read_segmented(tmp_path, 0.25, 0, None)
    assert sorted(found.splits['train'].pairs) == ['bild 1.JPG', 'bild 2.JPG']
    assert found.notes[0] == (
        'Folders do not say which mask is whose: names alone do, as those of images/train/bild '
        '1.JPG and x/train/masks/bild 1.png. Check that they belong together.'
    )
    assert found.notes[1].startswith('2 images have no mask, such as images/')
    assert found.notes[2].startswith('1 masks have no image, such as x/train/masks/bild 0.png')


def test_many_images_of_one_name_take_no_time(tmp_path: Path) -> None:
    folder = Folder(tmp_path, 0.2, 0)
    folder.paths = [f'{n}/rgb/0.png' for n in range(300)]
    folder.paths += [f'out/{n}/{n}/masks/0.png' for n in range(300)]
    refused = pytest.raises(UserError, match='has no pairs of an image and a mask')
    with at_most(1000 * 300), refused:  # not each mask beside each image
        pair_masks(folder)


def test_frames_of_many_videos_are_found_in_no_time(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['images/9/rgb/0.jpg'])
    for n in (*range(9), *range(10, 300)):
        (tmp_path / f'images/{n}/rgb').mkdir(parents=True)
        os.link(tmp_path / 'images/9/rgb/0.jpg', tmp_path / f'images/{n}/rgb/0.jpg')
    folder = Folder(tmp_path, 0.2, 0)
    with at_most(1000 * 300):  # not each frame beside each other
        for n in range(300):
            assert folder.find(f'D:\\{n}\\RGB\\0.jpg', 'a.json') == f'images/{n}/rgb/0.jpg'
            assert folder.find('0.JPG', f'images/{n}/rgb/0.xml') == f'images/{n}/rgb/0.jpg'
    assert folder.find('1500/rgb/0.jpg', 'a.json') is None


def test_images_of_a_list_are_those_of_its_split(tmp_path: Path) -> None:
    """Also if copies lie beside the list."""
    write_pictures(tmp_path, [f'data/{folder}/0.jpg' for folder in ('', 'train', 'test')])
    folder = Folder(tmp_path, 0.2, 0)
    assert folder.find('0.jpg', 'data/test.csv') == 'data/test/0.jpg'
    assert folder.find('0.jpg', 'data/list.csv') == 'data/0.jpg'


# Images and masks of which one could be taken for another's -> images that have masks.
ALIKE = {
    'a.png a_L.png a_mask.png': dict(a='a_mask'),
    'a.png a_L.png a_mask.png a_L_mask.png': dict(a='a_mask', a_L='a_L_mask'),
    'a.jpg gt_a.jpg a_mask.png gt_a_mask.png': dict(a='a_mask', gt_a='gt_a_mask'),
    'a.png a_L.png masks/a.png masks/a_L.png': dict(a='a', a_L='a_L'),
    'a.jpg gt_a.jpg masks/gt_a.png': dict(gt_a='gt_a'),
    'a.jpg a_label.png a_mask.png': dict(a='a_mask'),
}


@pytest.mark.parametrize('names', ALIKE)
def test_images_whose_names_look_like_those_of_masks_are_images(names: str, tmp_path: Path) -> None:
    for copy in 'ab':  # one to train on, one to validate on
        for name in names.split():
            path = tmp_path / copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([[0, 1]], np.uint8)).save(path)
    found = read_segmented(tmp_path, 0.5, 0, None)
    pairs = [pair for split in found.splits.values() for pair in split.pairs.items()]
    named = {(Path(image).stem, Path(mask).stem) for image, mask in pairs}
    assert named == set(ALIKE[names].items()) and len(pairs) == 2 * len(named)


def write_cityscapes(root: Path, ends: tuple[str, ...]) -> None:
    """Write images and masks of two cities; values are those of road, car and nothing."""
    for split, city in (('train', 'aachen'), ('val', 'ulm')):
        for index in range(2):
            name = f'{split}/{city}/{city}_000000_00001{index}'
            write_pictures(root, [f'leftImg8bit/{name}_leftImg8bit.png'])
            for end in ends:
                path = root / f'gtFine/{name}_gtFine_{end}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                values = [0, 13, 255] if end == 'labelTrainIds' else [7, 26, 3]
                Image.fromarray(np.array([values], np.uint8)).save(path)


def test_images_in_no_list_of_voc_are_told(tmp_path: Path) -> None:
    write_masks(tmp_path, 'JPEGImages SegmentationClass', np.arange(3))
    stems = sorted(path.stem for path in (tmp_path / 'JPEGImages').iterdir())
    lists = tmp_path / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('\n'.join(stems[1:]))
    note = '1 images are in no list of ImageSets/Segmentation: they are left out.'
    assert note in read_segmented(tmp_path, 0.5, 0, None).notes


@pytest.mark.parametrize(
    'masks, others',
    [
        ('SegmentationClass', 'SegmentationObject'),
        ('semantic', 'instance'),
        ('masks_machine', 'masks_human'),
    ],
)
def test_masks_in_other_forms_are_no_images(masks: str, others: str, tmp_path: Path) -> None:
    """As in the folders of VOC, KITTI and Supervisely."""
    write_masks(tmp_path, f'images {masks}', np.arange(3))
    shutil.copytree(tmp_path / masks, tmp_path / others)
    assert not any('have no mask' in note for note in read_segmented(tmp_path, 0.5, 0, None).notes)


def test_masks_of_humans_are_masks(tmp_path: Path) -> None:
    """Supervisely's other form of a mask has the same name."""
    write_masks(tmp_path, 'images masks_human', np.arange(3))
    assert read_segmented(tmp_path, 0.5, 0, None).splits['train'].masks.startswith('masks_human')


@pytest.mark.parametrize('ids, kind', [('labelTrainIds', 'png'), ('labelIds', 'jpg')])
def test_the_folders_of_cityscapes_are_read(ids: str, kind: str, tmp_path: Path) -> None:
    ends = dict.fromkeys([ids, 'labelIds', 'instanceIds', 'color'])
    write_cityscapes(tmp_path, tuple(ends))
    for image in tmp_path.rglob('*_leftImg8bit.png'):
        image.rename(image.with_suffix(f'.{kind}'))
    found = read_segmented(tmp_path, 0.25, 0, None)
    split = found.splits['train']
    assert split.pairs == {
        f'aachen_000000_00001{i}_leftImg8bit.{kind}': f'aachen_000000_00001{i}_gtFine_{ids}.png'
        for i in range(2)
    }
    assert (split.suffix, split.image_suffix) == (f'_gtFine_{ids}.png', f'_leftImg8bit.{kind}')
    assert not (found.rewritten or split.listed or found.zero_is_nothing)
    (note,) = found.notes
    assert note.startswith('17 of 19 classes are in no mask: ')
    assert len(found.classes) == 19 and found.classes[13] == 'car'
    if ids == 'labelIds':
        assert found.values and (found.values[26], found.values[3]) == ('car', None)


@pytest.mark.parametrize(
    'values, names, sentence',
    [
        ([0, 1, 2, 3], 'road\nsky', 'hold the value 3, but there are 2 names'),
        (
            [0, 50, 100],
            'road\nsky\nsea\nsand',
            "hold the values '0', '50' and '100', but there are 4",
        ),
        ([255], 'road\nsky', 'hold nothing but 255'),
        ([0], '', 'there is nothing to tell it from'),
        ([0, 255], '0 sky\n255 void', "the class 'sky' alone: there is nothing to tell it from"),
        ([*range(0, 256, 4), 255], '', 'hold 65 gray values from 0 to 255, whose classes no file'),
        ([*range(64), *range(0, 254, 2)], '', 'hold 159 gray values .* resized or saved as JPEG'),
    ],
)
def test_masks_without_a_meaning_are_refused(
    values: list[int], names: str, sentence: str, tmp_path: Path
) -> None:
    write_masks(tmp_path, PLAIN, np.array(values), side=16)
    (tmp_path / 'classes.txt').write_text(names)
    with pytest.raises(UserError, match=sentence):
        read_segmented(tmp_path, 0.2, 0, None)


def test_many_classes_may_lack_names_and_some_of_their_values(tmp_path: Path) -> None:
    write_masks(tmp_path, PLAIN, np.array([0, *range(1, 150, 4), 255]))
    assert len(read_segmented(tmp_path, 0.2, 0, None).classes) == 39


# Pixel of a mask -> value, by the mode that it is saved in.
DEPTHS: dict[str, dict[Any, int]] = {
    'RGBA': {(0, 0, 0, 0): 0, (9, 8, 7, 255): 1, (200, 8, 7, 255): 2},
    'LA': {(0, 0): 0, (40, 255): 1, (90, 255): 2},
    'I;16': {0: 0, 1000: 1, 3000: 2},
}


@pytest.mark.parametrize('mode', DEPTHS)
def test_masks_with_alpha_or_16_bits_are_written_anew(mode: str, tmp_path: Path) -> None:
    write_masks(tmp_path, 'images masks', np.zeros(1))
    labels = np.resize(np.arange(3), (7, 5))
    pixels = np.array(list(DEPTHS[mode]), np.uint16 if mode == 'I;16' else np.uint8)[labels]
    for path in tmp_path.rglob('*.png'):
        Image.fromarray(pixels).save(path)
    found = read_segmented(tmp_path, 0.25, 0, None)
    assert len(found.classes) == 3 and found.rewritten
    write_values(path, tmp_path / 'new.png', found.rewritten, found.classes)
    assert (np.asarray(Image.open(tmp_path / 'new.png')) == labels).all()


# Of a mask: gray values, colors, or indices with a palette of their own.
COLORS = [[0, 0, 0], [0, 128, 0], [128, 0, 0]]


def write_colored(path: Path, labels: np.ndarray, kind: str) -> None:
    """Write a mask in color, or with a palette in the order of the classes or another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [2, 0, 1] if kind == 'other palette' else [0, 1, 2]
    mask = Image.fromarray(np.argsort(order)[labels].astype(np.uint8))
    mask.putpalette([value for index in order for value in COLORS[index]])
    (mask.convert('RGB') if kind == 'color' else mask).save(path)


@pytest.mark.parametrize('kinds', ['palette/other palette', 'palette/color', 'other palette/color'])
def test_colors_count_where_numbers_differ(kinds: str, tmp_path: Path) -> None:
    labels = [np.resize(np.arange(3 - index), (7, 5)) for index in range(2)]
    for index, kind in enumerate(kinds.split('/')):
        write_pictures(tmp_path, [f'images/{index}.jpg'])
        write_colored(tmp_path / f'masks/{index}.png', labels[index], kind)
    found = read_segmented(tmp_path, 0.5, 0, None)
    assert found.classes == ('background', 'color_008000', 'color_800000') and found.rewritten
    for index in range(2):
        mask = tmp_path / f'masks/{index}.png'
        write_values(mask, tmp_path / 'new.png', found.rewritten, found.classes)
        assert (np.asarray(Image.open(tmp_path / 'new.png')) == labels[index]).all()


@pytest.mark.parametrize(
    'name, text, classes',
    [
        ('classes.txt', 'sky\nroad\ncar\n', ('background', 'color_008000', 'color_800000')),
        ('class_dict.csv', 'name,r,g,b\ncar,128,0,0\nsky, 0, 0, 0\nroad,0,128,0',
         ('car', 'sky', 'road')),
        ('meta.json', '{"classes": [{"title": "car", "color": "#800000"}, {"title": "road", '
         '"color": "#008000"}]}', ('background', 'car', 'road')),
        ('classes.json', '[{"name": "car", "color": [128, 0, 0]}, {"name": "road", "color": '
         '[0, 128, 0]}]', ('background', 'car', 'road')),
        ('label_colors.txt', '128 0 0\t\tcar\n0 0 0\tsky\n0 128 0 road', ('car', 'sky', 'road')),
    ],
)  # fmt: skip
def test_colors_have_the_names_that_a_file_gives_them(
    name: str, text: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    for index in range(2):
        write_pictures(tmp_path, [f'images/{index}.jpg'])
        write_colored(tmp_path / f'masks/{index}.png', np.arange(3)[None], 'color')
    (tmp_path / name).write_text(text)
    found = read_segmented(tmp_path, 0.5, 0, None)
    assert found.classes == classes
    said = "which class, of 'sky', 'road' and 'car', a color is" in str(found.notes)
    assert said == (name == 'classes.txt')
    names = {'car': (128, 0, 0), 'road': (0, 128, 0), 'sky': (0, 0, 0)}
    assert all(names.get(label, color) == color for color, label in found.rewritten.items())


@pytest.mark.parametrize(
    'zero, classes, is_clear',
    [
        (None, ('background', 'color_008000', 'color_800000'), False),
        ('background', ('background', 'color_008000', 'color_800000'), True),
        ('ignored', ('color_008000', 'color_800000'), True),
    ],
)
def test_black_is_what_zero_is(
    zero: str | None, classes: tuple[str, ...], is_clear: bool, tmp_path: Path
) -> None:
    for index in range(2):
        write_pictures(tmp_path, [f'images/{index}.jpg'])
        write_colored(tmp_path / f'masks/{index}.png', np.arange(3)[None], 'color')
    found = read_segmented(tmp_path, 0.5, 0, zero)
    assert (found.classes, found.zero_is_clear) == (classes, is_clear)
    write_values(tmp_path / 'masks/0.png', tmp_path / 'new.png', found.rewritten, found.classes)
    first = 255 if zero == 'ignored' else 0
    assert np.asarray(Image.open(tmp_path / 'new.png'))[0, 0] == first
    if zero == 'ignored':
        (tmp_path / 'label_colors.txt').write_text('0 0 0 sky\n0 128 0 road\n128 0 0 car\n')
        assert read_segmented(tmp_path, 0.5, 0, zero).classes == ('road', 'car')


@pytest.mark.parametrize(
    'colors, zero, end',
    [
        ([[128, 0, 0]], None, "'color_800000' alone: there is nothing to tell it from"),
        ([[0, 0, 0], [128, 0, 0]], 'ignored', r'is 0 a class \(--zero background\)\?'),
    ],
)
def test_a_color_alone_is_refused(colors: list, zero: str | None, end: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, ['images/1.jpg', 'images/2.jpg'])
    (tmp_path / 'masks').mkdir()
    for name in '12':
        Image.fromarray(np.array([colors], np.uint8)).save(tmp_path / f'masks/{name}.png')
    with pytest.raises(UserError, match=f'{end}$'):
        read_segmented(tmp_path, 0.5, 0, zero)


def test_a_color_of_a_labelmap_that_is_none_is_refused(tmp_path: Path) -> None:
    write_masks(tmp_path, PLAIN, np.arange(2))
    (tmp_path / 'labelmap.txt').write_text('car:red::\n')
    with pytest.raises(UserError, match="labelmap.txt gives 'car' the color 'red': write red"):
        read_segmented(tmp_path, 0.2, 0, None)


def test_files_that_name_the_values_otherwise_are_refused(tmp_path: Path) -> None:
    write_masks(tmp_path, PLAIN, np.arange(2))
    for folder, text in (('train', '0, road\n1, sky'), ('val', '0, sky\n1, road')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / '_classes.csv').write_text(text)
    with pytest.raises(UserError, match='train/_classes.csv and .*val/_classes.csv name other'):
        read_segmented(tmp_path, 0.2, 0, None)


def test_gray_in_three_channels_is_a_value(tmp_path: Path) -> None:
    """A class that is in no mask keeps its name."""
    write_masks(tmp_path, PLAIN, np.array([0, 1, 3, 255]))
    (tmp_path / 'classes.txt').write_text('sky\nroad\ntree\ncar\n')
    for path in tmp_path.rglob('*.png'):
        Image.open(path).convert('RGB').save(path)
    found = read_segmented(tmp_path, 0.2, 0, None)
    assert found.classes == ('sky', 'road', 'tree', 'car')
    write_values(path, tmp_path / 'new.png', found.rewritten or {}, found.classes)
    assert np.unique(np.asarray(Image.open(tmp_path / 'new.png'))).tolist() == [0, 1, 3, 255]


@pytest.mark.parametrize('layout', ['scene{}/images scene{}/masks', 'images{} masks{}'])
def test_masks_in_several_folders_stay_with_their_images(layout: str, tmp_path: Path) -> None:
    for index in range(2):
        photos, masks = (tmp_path / name.format(index) for name in layout.split())
        write_pictures(photos, ['1.jpg', '2.jpg'])
        write_pictures(masks, ['1.png', '2.png', '3.png'])
        for path in masks.glob('*.png'):
            Image.fromarray(np.arange(2 + index, dtype=np.uint8)[None]).save(path)
    found = read_segmented(tmp_path, 0.5, 0, None)
    pairs = {**found.splits['train'].pairs, **found.splits['val'].pairs}
    assert len(pairs) == 4
    assert all(image.replace('images', 'masks')[:-3] == mask[:-3] for image, mask in pairs.items())
    assert found.rewritten == {0: 'background', 1: 'class_1', 2: 'class_2'}
    lonely = layout.split()[1].format(0)
    note = f'2 masks have no image, such as {lonely}/3.png: they are left out.'
    assert note in found.notes
    assert 'Masks do not lie as their images do: copies that do are written.' in found.notes


def test_jpeg_masks_are_refused_as_such(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['a/images/1.jpg', 'a/masks/1.jpg', 'b/1.jpg', 'b/1_mask.jpg'])
    for folder, name in (('a', 'a/masks'), ('b', 'b')):
        with pytest.raises(UserError, match=f'{name} holds JPEG files, which blur the values'):
            read_segmented(tmp_path / folder, 0.2, 0, None)


@pytest.mark.parametrize(
    'values, keys', [([0, 1], '`classes`'), ([0, 255], '`classes` and `mask_values`')]
)
def test_names_that_are_made_up_are_to_be_changed(
    values: list[int], keys: str, tmp_path: Path
) -> None:
    write_masks(tmp_path, PLAIN, np.array(values))
    assert read_segmented(tmp_path, 0.2, 0, None).notes == [
        f'Names of the classes were not found: change {keys} in the config.'
    ]


def write_pictures(root: Path, paths: list[str]) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(root / path, 'jpeg')


def test_folders_of_classes_go_by_name(tmp_path: Path) -> None:
    """A class that validation lacks shifts no label; no list is needed."""
    write_pictures(
        tmp_path,
        ['train/a b/1.jpg', 'train/ç/1.jpg', 'train/z/x/1.JPG', 'valid/z/1.jpg', 'train/.c/1.jpg'],
    )
    found = read_classified(tmp_path, 0.2, 0)
    assert found.classes == ('a b', 'z', 'ç')
    assert found.splits['val'].labels == {'valid/z/1.jpg': 1}
    assert [found.splits[split].folder for split in ('train', 'val')] == ['train', 'valid']
    assert found.notes == ["val has no image of 'a b' and 'ç'."]


def test_a_share_of_each_class_is_held_back(tmp_path: Path) -> None:
    names = dict(common=20, rare=5)
    write_pictures(
        tmp_path, [f'all/{name}/{i}.jpg' for name, count in names.items() for i in range(count)]
    )
    found = read_classified(tmp_path, 0.2, 0)
    assert found.objects('val') == dict(common=4, rare=1)
    assert found.splits == read_classified(tmp_path, 0.2, 0).splits
    assert found.splits['val'].labels != read_classified(tmp_path, 0.2, 1).splits['val'].labels


@pytest.mark.parametrize('root', ['', 'instance/'])
def test_masks_in_two_forms_are_those_of_the_photos(root: str, tmp_path: Path) -> None:
    write_masks(tmp_path, f'{root}images {root}masks', np.arange(3))
    for path in sorted((tmp_path / root / 'masks').iterdir()):
        shutil.copy(path, path.with_stem(f'{path.stem}_mask'))
    found = read_segmented(tmp_path, 0.5, 0, None)
    assert not any('left out' in note for note in found.notes)
    assert {split.images for split in found.splits.values()} == {f'{root}images'}


def test_tables_of_paths_alone_divide_folders_of_classes(tmp_path: Path) -> None:
    write_pictures(tmp_path, [f'{name}/{i}.jpg' for name in ('pie', 'tea') for i in range(3)])
    (tmp_path / 'train.csv').write_text('pie/0.jpg\ntea/2.jpg\n')
    (tmp_path / 'val.csv').write_text('pie/1.jpg\ntea/1.jpg\n')
    found = read_classified(tmp_path, 0.5, 0)
    assert found.splits['train'].labels == {'pie/0.jpg': 0, 'tea/2.jpg': 1}
    assert found.splits['val'].labels == {'pie/1.jpg': 0, 'tea/1.jpg': 1}


@pytest.mark.parametrize('lines', ['id,image\n1,{}\n2,{}\n3,{}\n', 'image\n{}\n{}\n{}\n'])
def test_tables_divide_by_the_column_of_the_images(lines: str, tmp_path: Path) -> None:
    names = [f'{name}/{name}{i}.jpg' for name in ('cat', 'dog') for i in range(3)]
    write_pictures(tmp_path, names)
    for split, listed in (('train', names[::2]), ('val', names[1::2])):
        (tmp_path / f'{split}.csv').write_text(lines.format(*(Path(x).stem for x in listed)))
    found = read_classified(tmp_path, 0.5, 0)
    assert [*found.splits['train'].labels] == names[::2] and not found.notes


@pytest.mark.parametrize(
    'files',
    [
        {'train.csv': 'image,label\n1,cat\n1,dog\n', 'val.csv': 'image,label\n2,cat\n2,dog\n'},
        {'train.csv': 'image,label\n17,cat\n18,dog\n'},
        {'images.txt': '1 cat/1.jpg\n2 dog/1.jpg\n', 'train_test_split.txt': '1 1\n2 0\n'},
        {'train_list.mat': '1'},
        {'val.txt': 'cat/1.jpg\ndog/1.jpg\n'},
    ],
)
def test_lists_that_divide_in_no_known_way_are_told(files: dict, tmp_path: Path) -> None:
    write_pictures(tmp_path, [f'{name}/{i}.jpg' for name in ('cat', 'dog') for i in range(1, 4)])
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    listed = ', '.join(name for name in sorted(files) if 'tra' in name or 'val' in name)
    note = f'{listed} may say which images are for training, but no list has their paths: not read.'
    assert note in read_classified(tmp_path, 0.5, 0).notes


def test_a_list_may_have_trains_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path, [f'{name}.jpg' for name in 'abc'])
    (tmp_path / 'train.txt').write_text('a.jpg train\nb.jpg bus\n')
    (tmp_path / 'val.txt').write_text('c.jpg train\n')
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('bus', 'train') and found.splits['val'].labels == {'c.jpg': 1}


def test_tables_of_images_are_not_passed_over(tmp_path: Path) -> None:
    """Folders may be mere parts, as HAM10000's are; of several tables one may have the classes."""
    write_pictures(tmp_path, [f'part_{i % 2}/my {i}.jpg' for i in range(4)])
    write_pictures(tmp_path, ['part_0/0.jpg', 'part_1/1.jpg'])
    table = tmp_path / 'meta.csv'
    table.write_text('patient,image_id,label\n7,my 0,a\n7,my 1,a\n8,my 2,b\n9,my 3,b\n')
    (tmp_path / 'pixels.csv').write_text('0,1,label\n3,17,2\n5,19,1\n')
    (tmp_path / 'results.csv').write_text('epoch,loss\n2,0.7\n3,0.5\n')
    (tmp_path / 'latin.csv').write_bytes('größe\n'.encode('latin-1'))
    write_pictures(tmp_path, ['of no class.jpg'])
    (tmp_path / 'submission.csv').write_text('id,label\nof no class,a\n')
    note = 'The folders are the classes, but meta.csv may have others of the same images: give the'
    assert any(note in said for said in read_classified(tmp_path, 0.5, 0).notes)
    assert read_classified(table, 0.5, 0).classes == ('a', 'b')
    for path in tmp_path.glob('part_1/*'):
        path.rename(tmp_path / 'part_0' / path.name)
    shutil.copy(table, tmp_path / 'sample.csv')
    with pytest.raises(UserError, match='; give the one of meta.csv, sample.csv, submission'):
        read_classified(tmp_path, 0.5, 0)


def test_a_column_of_labels_is_taken_whatever_the_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path, names := [f'part{i}/{i}{j}.jpg' for i in range(2) for j in range(2)])
    lines = [f'{path},{"ab"[int(path[-5])]}' for path in names]
    (tmp_path / 'train.csv').write_text('\n'.join(['file,labels', *lines]))
    assert read_classified(tmp_path, 0.5, 0).classes == ('a', 'b')


def test_lists_without_classes_divide_folders_of_classes(tmp_path: Path) -> None:
    names = [f'images/{name}/{i}.jpg' for name in ('pie', 'tea') for i in range(4)]
    write_pictures(tmp_path, names)
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'classes.txt').write_text('pie\ntea\n')
    train = tmp_path / 'meta' / 'train.txt'
    train.write_text('pie/0\npie/1\ntea/0\n\n')
    (tmp_path / 'meta' / 'valid.txt').write_text('images/tea/2.jpg\npie/3.jpg\n')
    found = read_classified(tmp_path, 0.5, 0)
    assert found.splits['train'].labels == {names[0]: 0, names[1]: 0, names[4]: 1}
    assert found.splits['val'].labels == {names[6]: 1, names[3]: 0}
    assert found.notes == ['3 images of classes are in no list such as train.txt: left out.']
    for lines in ('pie/0\npie/9\n', 'pie/9\npie/0\n'):
        train.write_text(lines)
        with pytest.raises(UserError, match='image pie/9 of .*train.txt is in no folder of a cl'):
            read_classified(tmp_path, 0.5, 0)
    train.write_text('pie\ntea\n')
    (tmp_path / 'meta' / 'valid.txt').unlink()
    assert len(read_classified(tmp_path, 0.5, 0).splits['train'].labels) == 4


@pytest.mark.parametrize(
    'lines, names, classes',
    [
        (['my cat.jpg 0', 'dog.jpg 1'], 'cat\ndog', ('cat', 'dog')),
        (['path,label', 'my cat.jpg,cat', 'dog.jpg,dog'], '', ('cat', 'dog')),
        (['filename, cat, dog', 'my cat.jpg, 1, 0', 'dog.jpg, 0, 1'], '', ('cat', 'dog')),
        (['id,label,file', '7,"c, at",my cat.jpg', '8,dog,dog.jpg'], '', ('c, at', 'dog')),
        (['C:\\pets\\my cat.jpg\tcat', 'dog.jpg\tdog'], '', ('cat', 'dog')),
        (['my cat.jpg 9', 'dog.jpg 10'], '', ('9', '10')),
        (['my cat.jpg cat', 'dog.jpg old dog'], '', ('cat', 'old dog')),
        (['my cat cat', 'dog old dog'], '', ('cat', 'old dog')),
    ],
)
def test_a_list_of_images_and_classes_is_read(
    lines: list[str], names: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    write_pictures(tmp_path, ['photos/my cat.jpg', 'photos/dog.jpg'])
    (tmp_path / 'train.txt').write_text('\r\n'.join(lines), encoding='utf-8-sig')
    if names:
        (tmp_path / 'classes.txt').write_text(names)
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == classes
    labels = {**found.splits['train'].labels, **found.splits['val'].labels}
    assert labels == {'photos/my cat.jpg': 0, 'photos/dog.jpg': 1}


@pytest.mark.parametrize(
    'text',
    [
        'Split,file,label\ntrain,a.jpg,cat\nTRAIN,b.jpg,dog\nvalid,c.jpg,cat\ntest,d.jpg,dog\n',
        'file,cat,dog,subset\na,1,0,training\nb,0,1,train\nc,1,0,validation\nd,0,1,test\n',
        'file,cat,dog,Data set\na,1.0,0.0,TRAIN\nb,0.0,1.0,TRAIN\nc,1.0,0.0,VAL\nd,0.0,1.0,TEST\n',
        'TRAIN,gs://x/a.jpg,cat\nTRAIN,b.jpg,dog\nVALIDATION,c.jpg,cat\nTEST,d.jpg,dog\n',
    ],
)
def test_a_column_of_a_list_names_the_splits(text: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, [f'images/{name}.jpg' for name in 'abcd'])
    (tmp_path / 'data.csv').write_text(text)
    found = read_classified(tmp_path, 0.5, 0)
    assert {name: split.labels for name, split in found.splits.items()} == dict(
        train={'images/a.jpg': 0, 'images/b.jpg': 1},
        val={'images/c.jpg': 0},
        test={'images/d.jpg': 1},
    )


@pytest.mark.parametrize(
    'text, note',
    [
        ('file,label,is_valid\na,x,1\nb,y,0\n', "The column 'is_valid' of data.csv may say which"),
        ('file,fold,label\na,1,x\nb,2,y\n', "The column 'fold' of data.csv may say which images"),
        ('file,labels\na,x\nb,y\nc,y z\nd,z\n', "1 classes, such as 'y z', consist of the names"),
        ('file,label\na,x y\nb,y\nc,x y|y\n', "1 classes, such as 'x y|y', consist of the names"),
    ],
)
def test_what_a_column_may_mean_is_told(text: str, note: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, [f'images/{name}.jpg' for name in 'abcd'])
    (tmp_path / 'data.csv').write_text(text)
    assert any(said.startswith(note) for said in read_classified(tmp_path, 0.5, 0).notes)


def test_folders_whose_names_consist_of_others_are_classes(tmp_path: Path) -> None:
    names = ('hot', 'dog', 'hot dog')
    write_pictures(tmp_path, [f'{name}/{i}.jpg' for name in names for i in '12'])
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('dog', 'hot', 'hot dog')
    assert not any('consist' in note for note in found.notes)


def test_lines_of_json_are_a_list(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['train/a.jpg', 'train/b.jpg', 'test/c.jpg'])
    lines = '{{"file_name": "{}.jpg", "label": "{}", "boxes": [1, 2]}}\n'
    (tmp_path / 'train' / 'metadata.jsonl').write_text(
        lines.format('a', 'cat') + lines.format('b', 'dog')
    )
    (tmp_path / 'test' / 'metadata.jsonl').write_text('{"label": "dog", "file_name": "c.jpg"}')
    found = read_classified(tmp_path, 0.5, 0)
    assert found.splits['train'].labels == {'train/a.jpg': 0, 'train/b.jpg': 1}
    assert found.splits['val'].labels == {'test/c.jpg': 1}
    for text, sentence in (
        ('{"file_name": "a.jpg", "objects": [3]}', 'has images of no classes'),
        ('{"file_name": "a.jpg"', 'metadata.jsonl is not a JSON object in each line'),
    ):
        (tmp_path / 'train' / 'metadata.jsonl').write_text(text)
        (tmp_path / 'test' / 'metadata.jsonl').write_text('')
        with pytest.raises(UserError, match=sentence):
            read_classified(tmp_path, 0.5, 0)


@pytest.mark.parametrize(
    'text',
    [
        '{"file_name": "cat/0.jpg", "text": "a cat"}',
        '{"file_name": "cat/0.jpg", "width": 4, "height": 4}',
        '{"loss": 0.3, "step": 1}',
        'version https://git-lfs.github.com/spec/v1',
        '[1, 2]',
        '3',
        '',
    ],
)
def test_lines_of_json_without_classes_are_left_out(text: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, [f'{name}/{i}.jpg' for name in ('cat', 'dog') for i in range(4)])
    (tmp_path / 'train.jsonl').write_text(text)
    assert read_classified(tmp_path, 0.5, 0).kind == 'a folder for each class'


def test_a_table_beside_lines_of_json_is_a_list(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['images/a.jpg', 'images/b.jpg'])
    (tmp_path / 'all.csv').write_text('filename,label\na.jpg,cat\nb.jpg,dog\n')
    (tmp_path / 'captions.jsonl').write_text('{"file_name": "a.jpg", "text": "a cat"}')
    assert read_classified(tmp_path, 0.5, 0).classes == ('cat', 'dog')


@pytest.mark.parametrize(
    'text, sentence',
    [
        ('file,cat,dog\na.jpg,1,1\nb.jpg,0,1\n', 'image a.jpg of .* has 2 classes, but'),
        ('file,x,y\na.jpg,3,4\nb.jpg,5,6\n', 'has 3 columns, .*: name it label'),
        ('file,label,Split\na.jpg,a,train\nb.jpg,b,old\n', "has the split 'old': write train"),
        ('a.jpg,cat\nb.jpg,dog,1\n', 'has 2 columns in its first line, but 3 in another: b.jpg'),
        ('a.jpg,cat\nc.jpg,dog\n', 'image c.jpg of .*train.csv is not below'),
        ('x,cat\ny,dog\n', 'has images of no classes'),
        ('file,split\na.jpg,train\nb.jpg,val\n', 'has images of no classes'),
        ('file,id\na.jpg,1\nb.jpg,2\nc/d.jpg,3\n', 'has images of 1 classes'),
        (
            'file,who\nc/a.jpg,x\nd/b.jpg,y\nd/c.jpg,x\n',
            "train.csv has the column 'who', but the images lie in the folders 'c' and 'd': if",
        ),
        ('file,label,split\na.jpg,a,val\nb.jpg,b,val\n', 'alone: name a folder, list or split tr'),
    ],
)
def test_a_list_that_tells_no_class_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, ['a.jpg', 'b.jpg', *re.findall('[cd]/.\\.jpg', text)])
    (tmp_path / 'train.csv').write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_classified(tmp_path, 0.5, 0)


def test_images_beside_those_of_a_list_are_told(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['cat/a.jpg', 'dog/b.jpg', 'dog/c.jpg'])
    (tmp_path / 'train.csv').write_text('file,label\na.jpg,cat\nb.jpg,dog\n')
    note = '1 images, such as dog/c.jpg, have no annotations, or are in no list: they are left out.'
    assert note in read_classified(tmp_path, 0.5, 0).notes


def test_lists_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['a.jpg', 'b.jpg'])
    (tmp_path / 'family_train.txt').write_text('a x\nb y\n')
    (tmp_path / 'variant_train.txt').write_text('a x1\nb y1\n')
    sentence = "a of .*variant_train.txt has the classes 'x' of family_train.txt and 'x1': give"
    with pytest.raises(UserError, match=sentence):
        read_classified(tmp_path, 0.5, 0)


def test_folders_of_training_name_the_numbers_of_lists(tmp_path: Path) -> None:
    """As ImageNet's lists, where the images of val lie in one folder."""
    write_pictures(tmp_path, ['train/n02/1.jpg', 'train/n01/2.jpg', 'val/3.jpg', 'val/4.jpg'])
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta/train.txt').write_text('n02/1.jpg 1\nn01/2.jpg 0\n')
    (tmp_path / 'meta/val.txt').write_text('3.jpg 1\n4.jpg 0\n')
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('n01', 'n02')
    assert found.splits['val'].labels == {'val/3.jpg': 1, 'val/4.jpg': 0}
    (tmp_path / 'meta/val.txt').write_text('3.jpg 10\n4.jpg 2\n')
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('0', '1', '2', '10')
    assert found.notes == [
        'The classes have numbers alone: name them in classes.txt, a line each.',
        "train has no image of '2' and '10'.",
        "val has no image of '0' and '1'.",
    ]


@pytest.mark.parametrize(
    'layout',
    [
        'JPEGImages SegmentationClass SegmentationObject',
        'leftImg8bit/train gtFine/train',
        'annotations/panoptic train2017 val2017',
        'image_2 semantic semantic_rgb',
    ],
)
def test_folders_for_other_tasks_are_no_classes(layout: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, [f'{name}/{i}.png' for name in layout.split() for i in range(2)])
    with pytest.raises(UserError, match='which hold no classes of images: give a BASE of'):
        read_classified(tmp_path, 0.5, 0)


def test_the_only_table_of_a_folder_is_a_list_whatever_its_name(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['images/a.jpg', 'images/b.jpg'])
    (tmp_path / 'all.csv').write_text('filename,label\na.jpg,cat\nb.jpg,dog\n')
    for text in ('labels/train/a.txt', 'ImageSets/Main/train.txt'):  # of YOLO and of VOC
        (tmp_path / text).parent.mkdir(parents=True)
        (tmp_path / text).write_text('0 0.5 0.5 0.1 0.1\n')
    assert read_classified(tmp_path, 0.5, 0).classes == ('cat', 'dog')


@pytest.mark.parametrize(
    'text, sentence',
    [
        ('file,label\na/1.jpg,x\n2.jpg,y\na/1.jpg,y\n', "a/1.jpg .* has the classes 'x' and 'y'"),
        ('file,label\na/1.jpg,x\n2.jpg,\n', 'image 2.jpg of .*train.csv has no class: give'),
        ('file,label\na/1.jpg,x\nb/1.jpg,x\n2.jpg,y\n', 'a/1.jpg and b/1.jpg of .* would both'),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(
    text: str, sentence: str, tmp_path: Path
) -> None:
    write_pictures(tmp_path, ['a/1.jpg', '2.jpg'])
    (tmp_path / 'train.csv').write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_classified(tmp_path, 0.5, 0)


def test_folders_beside_those_of_splits_are_no_classes(tmp_path: Path) -> None:
    names = ['cat/1.jpg', 'dog/1.jpg']
    write_pictures(tmp_path, [f'{split}/{name}' for split in ('train', 'val') for name in names])
    write_pictures(tmp_path, ['plots/cat/1.jpg', 'raw/1.jpg'])
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('cat', 'dog')
    assert [split.folder for split in found.splits.values()] == ['train', 'val']
    assert found.notes[0] == "No split, and left out: the folders 'plots' and 'raw'."
    write_pictures(tmp_path, ['val/2.jpg'])
    for split in ('val', 'plots', 'raw'):
        (tmp_path / split).rename(tmp_path / f'bus {split}')
    assert 'train' in read_classified(tmp_path, 0.5, 0).classes  # a vehicle


@pytest.mark.parametrize('inner', ['', '/seg_{}'])
def test_splits_in_longer_names_are_no_classes(inner: str, tmp_path: Path) -> None:
    """As Kaggle's packages of seg_train/seg_train, beside a folder of images without classes."""
    for split in ('train', 'test'):
        names = ['cat/1.jpg', 'dog/1.jpg'] if split == 'train' else ['dog/2.jpg']
        folder = f'seg_{split}{inner.format(split)}'
        write_pictures(tmp_path, [f'{folder}/{name}' for name in names])
        (tmp_path / folder / 'empty').mkdir()
    write_pictures(tmp_path, ['seg_pred/seg_pred/3.jpg'])
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('cat', 'dog')
    assert [split.folder for split in found.splits.values()] == [
        f'seg_{split}{inner.format(split)}' for split in ('train', 'test')
    ]
    assert found.notes[:3] == [
        "No split, and left out: the folders 'seg_pred'.",
        "No class, as they hold no image: 'empty'.",
        '1 images are in no folder of a class: they are left out.',
    ]


def test_images_of_a_test_without_classes_are_left_out(tmp_path: Path) -> None:
    """Also in a folder of the same name in that of the test, which is no class."""
    write_pictures(tmp_path, [f'train/train/{x}/{i}.jpg' for x in ('cat', 'dog') for i in '12'])
    write_pictures(tmp_path, ['test/test/1.jpg'])
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('cat', 'dog') and len(found.splits['val'].labels) == 2


@pytest.mark.parametrize('splits', ['', 'train/ val/'])
def test_folders_of_classes_without_images_are_told(splits: str, tmp_path: Path) -> None:
    for split in splits.split() or ['']:
        write_pictures(tmp_path, [f'{split}{name}/{i}.jpg' for name in 'ab' for i in '123'])
        (tmp_path / split / 'c').mkdir()
        (tmp_path / split / 'c/1.dcm').touch()
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('a', 'b')
    count = len(splits.split() or [''])
    assert found.notes[0].startswith(f'{count} images, such as ') and '.dcm, are' in found.notes[0]
    assert found.notes[1] == "No class, as they hold no image: 'c'."


def test_folders_in_those_of_classes_are_told(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['pet/cat/1.jpg', 'pet/dog/1.jpg', 'car/1.jpg', 'car/old/2.jpg'])
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('car', 'pet')
    assert "'pet' is one class, whatever its folders 'cat' and 'dog' are: move" in found.notes[0]


def test_names_of_folders_of_a_mac_are_equal_to_others(tmp_path: Path) -> None:
    for split, form in (('train', 'NFC'), ('val', 'NFD')):
        name = unicodedata.normalize(form, 'Bär')
        write_pictures(tmp_path, [f'{split}/{name}/1.jpg', f'{split}/cat/1.jpg'])
    found = read_classified(tmp_path, 0.5, 0)
    assert found.classes == ('Bär', 'cat') and found.objects('val') == {'Bär': 1, 'cat': 1}


def test_a_jpeg_that_is_turned_has_its_upright_size(tmp_path: Path) -> None:
    """A YOLO box is a share of the image as it is seen, not as it is stored."""
    (tmp_path / 'data.yaml').write_text('train: .\nnames: [a]\n')
    for index in range(2):
        image = Image.new('RGB', (40, 20))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / f'{index}.jpg', exif=exif)
        (tmp_path / f'{index}.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    content = read_detection(tmp_path, 0.5, 0).splits['train'].content
    assert (content['images'][0]['width'], content['images'][0]['height']) == (20, 40)
    assert content['annotations'][0]['bbox'] == [5, 10, 10, 20]


def test_equal_names_in_two_folders_are_told_apart_by_the_split(tmp_path: Path) -> None:
    for split in ('train', 'val'):
        write_pictures(tmp_path, [f'{split}2017/1.jpg'])
        content = dict(
            images=[dict(id=1, file_name='1.jpg', width=8, height=8)],
            annotations=[
                dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 4, 4], area=16, iscrowd=0)
            ],
            categories=[dict(id=1, name='a')],
        )
        write_json(tmp_path / 'annotations' / f'instances_{split}2017.json', content)
        write_json(
            tmp_path / 'annotations' / f'captions_{split}2017.json', dict(content, categories=[])
        )
    found = read_detection(tmp_path, 0.2, 0)
    assert [(found.splits[s].file, found.splits[s].prefix) for s in ('train', 'val')] == [
        ('annotations/instances_train2017.json', 'train2017/'),
        ('annotations/instances_val2017.json', 'val2017/'),
    ]


def test_a_file_beside_the_folder_of_images_can_be_named(tmp_path: Path) -> None:
    write_cvat(tmp_path)
    found = read_detection(tmp_path / 'annotations' / 'instances_default.json', 0.5, 0)
    assert found.root == tmp_path and boxes_of(found, 'val')


def test_classes_in_another_order_get_the_ids_of_training(tmp_path: Path) -> None:
    write_roboflow(tmp_path)
    path = tmp_path / 'valid' / '_annotations.coco.json'
    content = json.loads(path.read_text())
    for item in content['categories']:
        item['id'] = 2 - item['id']
    for item in content['annotations']:
        item['category_id'] = 2 - item['category_id']
    write_json(path, dict(content, categories=content['categories'][::-1]))
    found = read_detection(tmp_path, 0.2, 0)
    assert found.splits['val'].file is None
    assert found.objects('val') == dict(bolt=2, nut=1)
    assert found.splits['val'].content['categories'] == [
        dict(id=1, name='bolt'),
        dict(id=2, name='nut'),
    ]


def write_coco(root: Path, objects: dict[str, str], **changes: Any) -> None:
    """Images -> the classes of their objects, a letter each; changes are of all annotations."""
    write_pictures(root, list(objects))
    letters = sorted(set(''.join(objects.values())))
    annotations = [
        dict(image_id=image, category_id=letters.index(name), bbox=[1, 1, 4, 4], area=16, iscrowd=0)
        for image, names in enumerate(objects.values())
        for name in names
    ]
    for number, item in enumerate(annotations, 1):
        item.update({'id': number, **changes})
    images = [dict(id=i, file_name=n, width=8, height=8) for i, n in enumerate(objects)]
    categories = [dict(id=i, name=name.lower()) for i, name in enumerate(letters)]
    write_json(root / 'a.json', dict(images=images, annotations=annotations, categories=categories))


@pytest.mark.parametrize(
    'letters, changes, note',
    [
        ('ab', dict(id=0), 'ids in a.json of annotations count from 0: a copy with other ids'),
        ('ab', dict(id=1), 'ids in a.json of annotations are there more than once: a copy'),
        ('aA', {}, "a.json has several categories of the name 'a': a copy with one is written."),
    ],
)
def test_why_a_copy_is_written_is_told(
    letters: str, changes: dict[str, int], note: str, tmp_path: Path
) -> None:
    write_coco(tmp_path, {'1.jpg': letters, '2.jpg': letters}, **changes)
    found = read_detection(tmp_path, 0.5, 0)
    assert found.notes[0].startswith(note)
    assert len(found.classes) == len(set(letters.lower()))


@pytest.mark.parametrize('seed', range(5))
def test_each_class_of_two_images_is_validated(seed: int, tmp_path: Path) -> None:
    letters = ['ab', 'ab', 'c', 'c', 'd', *['a'] * 15]
    write_coco(tmp_path, {f'{i}.jpg': names for i, names in enumerate(letters)})
    found = read_detection(tmp_path, 0.1, seed)
    assert set(found.objects('val')) == {'a', 'b', 'c'}
    assert "val has no object of 'd'." in found.notes
    assert len(found.splits['val'].content['images']) == 2


def test_classes_that_nobody_looked_for_are_told(tmp_path: Path) -> None:
    write_coco(tmp_path, {'1.jpg': 'ab', '2.jpg': 'ab'})
    assert not any('LVIS' in note for note in read_detection(tmp_path, 0.5, 0).notes)
    content = json.loads((tmp_path / 'a.json').read_text())
    for image in content['images']:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
        image['coco_url'] = f'http://images.cocodataset.org/val2017/{image.pop("file_name")}'
    (tmp_path / 'val2017').mkdir()
    for path in tmp_path.glob('*.jpg'):
        path.rename(tmp_path / 'val2017' / path.name)
    write_json(tmp_path / 'a.json', content)
    found = read_detection(tmp_path, 0.5, 0)
    assert any('as LVIS does: here what is found of others counts as' in x for x in found.notes)
    assert found.objects('train') == dict(a=1, b=1)


def test_crowds_are_no_objects(tmp_path: Path) -> None:
    write_coco(tmp_path, {'1.jpg': 'ab', '2.jpg': 'ab'})
    content = json.loads((tmp_path / 'a.json').read_text())
    content['annotations'][0]['iscrowd'] = content['annotations'][2]['iscrowd'] = 1
    write_json(tmp_path / 'a.json', content)
    found = read_detection(tmp_path, 0.5, 0)
    assert found.objects('train') == dict(b=1)
    assert any(note.startswith('2 objects are crowds') for note in found.notes)
    write_coco(tmp_path, {'1.jpg': 'a', '2.jpg': 'a'}, ignore=1)
    with pytest.raises(UserError, match='all objects to train on in .* are crowds'):
        read_detection(tmp_path, 0.5, 0)


# Changes of annotations that a training mends; what is None is left out.
BARE = {
    'box of text, no area': dict(bbox=['1', '1', '4', '4'], area=None),
    'no box, points': dict(bbox=None, segmentation=[[[1, 1], [5, 1], [5, 5], [1, 5]]]),
    'no box, runs': dict(bbox=None, segmentation=dict(size=[8, 8], counts=[9, *[4, 4] * 3, 4, 27])),
    'all crowds, as of CVAT': dict(iscrowd=1),
}


@pytest.mark.parametrize('case', BARE)
def test_annotations_are_read_as_a_training_reads_them(case: str, tmp_path: Path) -> None:
    write_coco(tmp_path, {'1.jpg': 'a', '2.jpg': 'a'}, **BARE[case])
    content = json.loads((tmp_path / 'a.json').read_text())
    for item in content['annotations']:
        for key in [key for key, value in item.items() if value is None]:
            del item[key]
    (tmp_path / 'a.json').write_text(json.dumps(content), encoding='utf-16')
    found = read_detection(tmp_path, 0.5, 0)
    [item] = found.splits['train'].content['annotations']
    assert (item['bbox'], item['area'], item['iscrowd']) == ([1, 1, 4, 4], 16, 0)
    assert found.objects('train') == dict(a=1)


@pytest.mark.parametrize(
    'key, change, sentence',
    [
        ('images', dict(file_name=7), "'images' the item with id 0 has the file_name 7, which is"),
        ('categories', dict(name=3), "in 'categories' the item with id 0 has the name 3, which is"),
        ('annotations', dict(bbox=[1, 2]), r'item with id 1 has the bbox \[1, 2\], which is not'),
        ('categories', None, "a.json is not in COCO format: it has no list 'categories'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    key: str, change: dict | None, sentence: str, tmp_path: Path
) -> None:
    write_coco(tmp_path, {'1.jpg': 'a', '2.jpg': 'a'})
    content = json.loads((tmp_path / 'a.json').read_text())
    if change:
        content[key][0].update(change)
    else:
        del content[key]
    write_json(tmp_path / 'a.json', content)
    with pytest.raises(UserError, match=sentence):
        read_detection(tmp_path, 0.5, 0)


@pytest.mark.parametrize('objects', ['a', 'ab'])
def test_categories_without_a_name_are_no_classes(objects: str, tmp_path: Path) -> None:
    write_coco(tmp_path, {'1.jpg': 'a', '2.jpg': 'ab'})
    path = tmp_path / 'a.json'
    content = json.loads(path.read_text())
    content['categories'][1]['name'] = ' '
    content['annotations'] = [x for x in content['annotations'] if x['category_id'] < len(objects)]
    write_json(path, content)
    if objects == 'a':
        assert read_detection(tmp_path, 0.5, 0).classes == ('a',)
    else:
        with pytest.raises(
            UserError, match='the category 1 of the COCO files .* but no name: give'
        ):
            read_detection(tmp_path, 0.5, 0)


@pytest.mark.parametrize('names', ['12', '1'])
def test_images_to_validate_on_without_an_object_are_refused(names: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, [f'{i}.jpg' for i in '12'])
    write_coco(tmp_path, {'1.jpg': 'a', '2.jpg': 'a'})
    path = next(tmp_path.glob('*.json'))
    content = json.loads(path.read_text())
    content['annotations'] = content['annotations'][: len(names)]
    write_json(path, content)
    if names == '1':
        with pytest.raises(UserError, match='no image to validate on in .* has an object: ann'):
            read_detection(tmp_path, 0.5, 0)
    else:
        assert read_detection(tmp_path, 0.5, 0).objects('val')


def test_images_and_masks_may_have_any_number_of_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_boxes_of_yolo(tmp_path / 'boxes')
    write_masks(tmp_path / 'masks', PLAIN, np.arange(3))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 5)
    assert len(boxes(read_detection(tmp_path / 'boxes', 0.5, 0))) == 4
    assert len(read_segmented(tmp_path / 'masks', 0.5, 0, None).classes) == 3
    assert Image.MAX_IMAGE_PIXELS == 5


def test_masks_are_found_in_any_form_of_unicode(tmp_path: Path) -> None:
    for i in '1234':
        write_pictures(tmp_path, [unicodedata.normalize('NFD', f'images/é{i}.jpg')])
        path = tmp_path / unicodedata.normalize('NFC', f'masks/é{i}.png')
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)
    found = read_segmented(tmp_path, 0.5, 0, None)
    assert len(found.images('train')) == len(found.images('val')) == 2
    assert found.rewritten  # copies have the names of the images


def test_files_that_are_left_out_are_told(tmp_path: Path) -> None:
    write_coco(tmp_path, {'1.jpg': 'a', '2.jpg': 'a'})
    whole = (tmp_path / 'a.json').read_text()
    (tmp_path / 'instances_train.json').write_text(whole)
    (tmp_path / 'notes.json').write_text('{"a": 1,}')  # of something else
    note = 'a.json is left out, as other files have instances in their names.'
    assert note in read_detection(tmp_path, 0.5, 0).notes
    (tmp_path / 'a.json').unlink()
    write_json(tmp_path / 'instances_val.json', dict(json.loads(whole), annotations=[]))
    note = 'instances_val.json has no annotations: it is left out.'
    assert note in read_detection(tmp_path, 0.5, 0).notes


def write_triangles(root: Path, names: str = '123') -> None:
    """Write files of labelme with a triangle in each image."""
    for name in names:
        triangle = dict(label='a', points=[[0, 0], [4, 0], [0, 4]], shape_type='polygon')
        write_pictures(root, [f'{name}.jpg'])
        write_json(root / f'{name}.json', dict(shapes=[triangle], imagePath=f'{name}.jpg'))


def write_coco_of_three(root: Path) -> None:
    write_coco(root, {'1.jpg': 'a', '2.jpg': 'a', '3.jpg': 'a'})


@pytest.mark.parametrize(
    'write', [write_coco_of_three, lambda root: write_boxes_of_voc(root), write_triangles]
)
def test_images_without_annotations_are_told(write: Any, tmp_path: Path) -> None:
    write(tmp_path)
    write_pictures(tmp_path, ['8.jpg', '9.jpg', 'SegmentationClass/1.png', 'test/1.png'])
    (tmp_path / 'test/1.png').rename(tmp_path / 'test/5.png')
    found = read_detection(tmp_path, 0.5, 0)
    note = '3 images, such as 8.jpg, have no annotations, or are in no list (1 in folders for tests'
    assert any(text.startswith(note) for text in found.notes)


def test_masks_are_no_images_that_are_left_out(tmp_path: Path) -> None:
    write_coco_of_three(tmp_path)
    write_pictures(tmp_path, ['1_mask.png', 'masks/2-seg.png', 'masks/3.png'])
    assert not any('left out' in note for note in read_detection(tmp_path, 0.5, 0).notes)


def test_images_of_yolo_without_labels_are_told(tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path)
    assert not any('label file' in note for note in read_detection(tmp_path, 0.5, 0).notes)
    (tmp_path / '0.txt').unlink()
    (tmp_path / '1.txt').write_text('')
    found = read_detection(tmp_path, 0.5, 0)
    note = '1 of 4 images have no label file (.txt): they are taken as images without objects.'
    assert note in found.notes and sum(len(found.images(split)) for split in found.splits) == 4


def test_rectangles_that_become_masks_are_told(tmp_path: Path) -> None:
    write_triangles(tmp_path)
    content = json.loads((tmp_path / '1.json').read_text())
    content['shapes'][0] |= dict(points=[[0, 0], [4, 4]], shape_type='rectangle')
    write_json(tmp_path / '1.json', content)
    content['shapes'][0] |= dict(points=[[0, 0], [4, 0], [0, 4]], shape_type='rotation')
    write_json(tmp_path / '2.json', content | dict(imagePath='2.jpg'))
    note = '2 of 3 shapes are rectangles: a BASE of masks learns them as such.'
    assert note in read_detection(tmp_path, 0.5, 0).notes


def divide(root: Path, pattern: str, by: float) -> None:
    """Divide the numbers in files that a pattern finds."""
    for path in root.rglob('*'):
        if path.suffix in ('.json', '.xml'):
            text = re.sub(pattern, lambda m: f'{m[1]}{float(m[2]) / by}', path.read_text())
            path.write_text(text)


@pytest.mark.parametrize(
    'write, pattern, most, kind',
    [
        (lambda root: write_boxes_of_voc(root), r'(<[xy]m\w+>)(\d+)', 6, 'Pascal VOC'),
        (write_triangles, r'([\[ ])(\d+)(?=[,\]])', 4, 'labelme'),
        (write_coco_of_three, r'([\[ ])(\d+)(?=, \d+[,\]]|\])', 5, 'COCO JSON'),
    ],
)
def test_boxes_in_shares_of_the_sides_are_refused(
    write: Any, pattern: str, most: int, kind: str, tmp_path: Path
) -> None:
    """Also those that leave their image a little, by rounding."""
    write(tmp_path)
    read_detection(tmp_path, 0.5, 0)
    divide(tmp_path, pattern, most / 1.005)
    with pytest.raises(UserError, match=f'boxes of the {kind} files of .* in the image .*jpg: wri'):
        read_detection(tmp_path, 0.5, 0)


@pytest.mark.parametrize(
    'content, sentence',
    [
        ({'_via_img_metadata': {}}, 'a.json is of VGG Image Annotator: export the data as COCO'),
        ({'1.jpg5': {'regions': [{'region_attributes': {}}]}}, 'of VGG Image Annotator: export'),
        ([{'annotations': [{'value': {'polygonlabels': ['a']}}]}], 'is of Label Studio: export'),
        ({'objects': [{'classTitle': 'a'}]}, 'is of Supervisely: export the data as COCO there'),
        ({'dm_format_version': '1.0', 'items': []}, 'Datumaro: export the data as coco_instances'),
        ({'data_list': []}, 'export your annotations in one of them; for folders of masks give'),
    ],
)
def test_what_to_export_from_a_program_is_named(
    content: Any, sentence: str, tmp_path: Path
) -> None:
    write_pictures(tmp_path, ['1.jpg'])
    write_json(tmp_path / 'a.json', content)
    with pytest.raises(UserError, match=sentence):
        read_detection(tmp_path, 0.5, 0)


def test_a_file_of_keypoints_has_boxes_too(tmp_path: Path) -> None:
    write_coco_of_three(tmp_path)
    (tmp_path / 'a.json').rename(tmp_path / 'Person_Keypoints.json')
    assert len(boxes(read_detection(tmp_path, 0.5, 0))) == 3
    (tmp_path / 'keypoints').mkdir()
    (tmp_path / 'Person_Keypoints.json').rename(tmp_path / 'keypoints' / 'captions.json')
    with pytest.raises(UserError, match='holds no boxes or masks of objects'):
        read_detection(tmp_path, 0.5, 0)


def test_images_of_one_name_in_other_letters_are_told_apart(tmp_path: Path) -> None:
    write_coco(tmp_path, {'a.jpg': 'a', 'A.jpg': 'b', 'B.JPG': 'a'})
    found = read_detection(tmp_path, 0.4, 0)
    assert {item['file_name'] for s in found.splits for item in found.images(s)} == {
        'a.jpg', 'A.jpg', 'B.JPG'
    }  # fmt: skip
    assert Folder(tmp_path, 0.2, 0).find('b.jpg', '') == 'B.JPG'
    assert Folder(tmp_path, 0.2, 0).find('/data/0a1b2c3d-%42.jpg', '') == 'B.JPG'


def test_images_that_label_studio_renamed_are_found(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['a/my cat.jpg', 'b/dog.jpg', 'c/dog.jpg', 'x y.jpg', 'x_y.jpg'])
    folder = Folder(tmp_path, 0.2, 0)
    found = [folder.find(f'images/cf6a659e-{n}.jpg', '') for n in ('my_cat', 'dog', 'x_y', 'cow')]
    assert found == ['a/my cat.jpg', None, None, None]


def test_labels_of_yolo_without_names_are_told(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    next(tmp_path.rglob('*.yaml')).unlink()
    with pytest.raises(UserError, match='looks like a label of YOLO, but no file names the'):
        read_detection(tmp_path, 0.2, 0)


def test_a_label_of_points_alone_is_no_class(tmp_path: Path) -> None:
    triangle = dict(label='a', points=[[0, 0], [4, 0], [0, 4]], shape_type='polygon')
    point = dict(label='note', points=[[1, 1]], shape_type='point')
    for name in '12':
        write_pictures(tmp_path, [f'{name}.jpg'])
        write_json(tmp_path / f'{name}.json', dict(shapes=[triangle, point], imagePath=''))
    assert read_detection(tmp_path, 0.5, 0).classes == ('a',)


def test_images_in_files_of_labelme_are_not_kept(tmp_path: Path) -> None:
    shape = dict(label='a', points=[[0, 0], [4, 0], [0, 4]], shape_type='polygon')
    for name in map(str, range(20)):
        write_pictures(tmp_path, [f'{name}.jpg'])
        content = dict(shapes=[shape], imagePath=f'{name}.jpg', imageData='A' * 1_000_000)
        write_json(tmp_path / f'{name}.json', content)
    tracemalloc.start()
    assert len(read_detection(tmp_path, 0.5, 0).images('train')) == 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000


def test_groups_and_masks_of_labelme_are_objects(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(buffer, 'png')
    triangle = [[0, 0], [4, 0], [0, 4]]
    shapes: list[dict] = [
        dict(label='a', points=triangle, group_id=1, shape_type='polygon'),
        dict(label='a', points=[[6, 6], [8, 6], [8, 8]], group_id=1, shape_type='polygon'),
        dict(label='b', points=[[5, 5], [7, 5]], group_id=None, shape_type='circle'),
        dict(
            label='b', points=[[2, 3], [6, 6]], group_id=None, shape_type='mask',
            mask=base64.b64encode(buffer.getvalue()).decode(),
        ),
    ]  # fmt: skip
    for name in ('1', '2'):
        write_pictures(tmp_path, [f'images/{name}.jpg'])
        content = dict(shapes=shapes, imagePath=f'..\\images\\{name}.jpg', imageHeight=10)
        write_json(tmp_path / 'labels' / f'{name}.json', dict(content, imageWidth=10))
    content = read_detection(tmp_path, 0.5, 0).splits['train'].content
    boxes = [np.round(item['bbox'], 3).tolist() for item in content['annotations']]
    assert boxes == [[0, 0, 8, 8], [3, 3, 4, 4], [2, 3, 4, 3]]
    assert len(content['annotations'][0]['segmentation']) == 2


def write_boxes_of_yolo(root: Path, suffix: str = '', names: str = '[a, b]') -> None:
    """Four images with a box of the second class, and a file that names the classes."""
    write_pictures(root, [f'{i}.jpg' for i in range(4)])
    for i in range(4):
        (root / f'{i}.txt').write_text(f'1 0.5 0.5 0.5 0.5{suffix}\n')
    (root / 'data.yaml').write_text(f'train: .\nnames: {names}\n')


def boxes(found: Detection) -> list[list[float]]:
    return [x['bbox'] for split in found.splits.values() for x in split.content['annotations']]


@pytest.mark.parametrize('points', [' 0.1 0.1 1 0.2 0.2 0', ' 0.1 0.1 0.2 0.2', ' .1 .1 2 ' * 3])
def test_of_poses_the_boxes_are_read(points: str, tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path, points)
    with (tmp_path / 'data.yaml').open('a') as file:
        file.write('kpt_shape: [2, 3]\n')
    found = read_detection(tmp_path, 0.5, 0)
    assert boxes(found) == [[2, 2, 4, 4]] * 4
    assert found.notes[0].startswith('The labels have keypoints: of these the boxes alone')


@pytest.mark.parametrize(
    'points, is_pose',
    [
        (' 0.1 0.1 1 0.2 0.2 0', True),
        (' 0.1 0.1 1.0 0.2 0.2 2.000000', True),
        (' .1 .1 2 ' * 3, True),
        (' 0.1 0.1 0.9 0.2 0.2 0', False),
        (' 0.9 0.1 0.1 0.9', False),
    ],
)
def test_points_with_visibilities_are_no_polygon(
    points: str, is_pose: bool, tmp_path: Path
) -> None:
    write_boxes_of_yolo(tmp_path, points)
    found = read_detection(tmp_path, 0.5, 0)
    assert (boxes(found) == [[2, 2, 4, 4]] * 4) == is_pose
    assert any('have keypoints' in note for note in found.notes) == is_pose
    (tmp_path / '3.txt').write_text('1 0 0 1 0 1 1 0.5 0.5 0.2 0.9\n')  # of one polygon all are
    if points.endswith('0.2 0'):
        assert boxes(read_detection(tmp_path, 0.5, 0))[0] != [2, 2, 4, 4]


@pytest.mark.parametrize(
    'more, note',
    [
        (
            ' 0.2 0.3 0.4 0.5',
            'All objects are outlines of 4 points, as oriented boxes of 4 are: if',
        ),
        (' 0.6 0.6', 'All objects are outlines of 3 points, as'),
        (' 1.57', '4 objects have a sixth number, such as a confidence or an angle: left out.'),
        (' nan', '4 objects have a sixth number, such as'),
        ('', None),
    ],
)
def test_numbers_behind_a_box_are_told(more: str, note: str | None, tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path, more)
    found = read_detection(tmp_path, 0.5, 0)
    assert not note or found.notes[0].startswith(note)
    assert len(found.notes) == 3 + (note is not None)
    assert (boxes(found) == [[2, 2, 4, 4]] * 4) == (len(more) < 6)
    (tmp_path / '3.txt').write_text('1 0 0 1 0 1 1 0.5 0.5 0.2 0.9\n')
    assert not any(text.startswith('All') for text in read_detection(tmp_path, 0.5, 0).notes)


def test_rectangles_of_polygons_at_the_borders_are_no_poses(tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path)
    for path in tmp_path.glob('?.txt'):
        path.write_text('1 0 0 0.5 0 0.5 1 0 1 0 0\n')
    assert boxes(read_detection(tmp_path, 0.5, 0)) == [[0, 0, 4, 8]] * 4


@pytest.mark.parametrize('names', ['[yes, no]', '{0: yes, 1: no}', "{'1': no, '0': yes}"])
def test_names_of_classes_are_text(names: str, tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path, names=names)
    found = read_detection(tmp_path, 0.5, 0)
    assert found.classes == ('yes', 'no') and found.objects('train') == dict(no=2)


def test_numbers_of_classes_may_have_gaps(tmp_path: Path) -> None:
    for count in ('', 'nc: 2', 'nc: 8'):  # names, or numbers from 0 on
        write_boxes_of_yolo(tmp_path, names=f'{{7: a, 1: b}}\n{count}')
        found = read_detection(tmp_path, 0.5, 0)
        assert found.classes == ('b', 'a') and found.objects('train') == dict(b=2)


@pytest.mark.parametrize('value', ['0.1', 'true', '{epochs: 3}', '[3]'])
def test_keys_of_a_training_are_no_splits_of_yolo(value: str, tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path)
    with (tmp_path / 'data.yaml').open('a') as file:
        file.write(f'\ntraining: {value}\nvalidation: {value}\n')
    assert len(boxes(read_detection(tmp_path, 0.5, 0))) == 4


@pytest.mark.parametrize('key', ['val', 'valid', 'validation'])
def test_paths_of_yolo_may_lead_up_and_splits_have_other_names(key: str, tmp_path: Path) -> None:
    for folder in ('one', 'two'):
        write_boxes_of_yolo(tmp_path / folder)
        (tmp_path / folder / 'data.yaml').unlink()
    (tmp_path / 'sets').mkdir()
    (tmp_path / 'sets' / 'data.yaml').write_text(
        f'path: ..\ntrain: {tmp_path}/one\n{key}: two\nnames: [a, b]\n'
    )
    found = read_detection(tmp_path, 0.5, 0)
    assert {split: len(found.images(split)) for split in found.splits} == dict(train=4, val=4)


def test_folders_of_yolo_on_another_computer_are_found(tmp_path: Path) -> None:
    for split in ('train', 'val'):
        write_boxes_of_yolo(tmp_path / split / 'images')
        (tmp_path / split / 'images' / 'data.yaml').unlink()
    paths = 'train: /content/parts-1/train/images\nval: parts-1/val/images\n'
    (tmp_path / 'data.yaml').write_text(f'{paths}names: [a, b]\n')
    found = read_detection(tmp_path, 0.5, 0)
    assert {split: len(found.images(split)) for split in found.splits} == dict(train=4, val=4)
    (tmp_path / 'images').mkdir()  # says of no split that it is the one
    (tmp_path / 'data.yaml').write_text('train: /data/dogs/images\nnames: [a, b]\n')
    with pytest.raises(UserError, match="names '/data/dogs/images' for train, where no image"):
        read_detection(tmp_path, 0.5, 0)


@pytest.mark.parametrize('more', ['', 'kpt_shape: [1, 3]\n'])
def test_names_of_yolo_without_splits_are_read(more: str, tmp_path: Path) -> None:
    for split in ('train', 'val'):
        write_boxes_of_yolo(tmp_path / split, ' 0.1 0.1 1' if more else '')
        (tmp_path / split / 'data.yaml').unlink()
    (tmp_path / 'data.yaml').write_text(f'names: [a, b]\nnc: 2\n{more}')
    found = read_detection(tmp_path, 0.5, 0)
    assert found.classes == ('a', 'b') and boxes(found) == [[2, 2, 4, 4]] * 8
    assert {split: len(found.images(split)) for split in found.splits} == dict(train=4, val=4)


@pytest.mark.parametrize(
    'names, sentence',
    [
        ('a, b', "has the names 'a, b', which are no list"),
        ('[a, a]', 'gives the classes 0 and 1 the same name'),
        ('[a, ""]', 'has no name for class 1'),
        ('{1: a, c: b}', "numbers its names '1' and 'c': they must be whole numbers"),
        ('{2: a, 4: b}', 'line 1 .* is not a class from 2 to 4'),
        ('[a]', "line 1 '1 0.5 0.5 0.5 0.5', which is not a class from 0 to 0"),
        ('{2: a, 4: a}', 'gives the classes 2 and 4 the same name'),
        ('[a, , b]', 'no file names the classes .*data.yaml is not YAML'),
    ],
)
def test_names_that_do_not_name_each_class_are_refused(
    names: str, sentence: str, tmp_path: Path
) -> None:
    write_boxes_of_yolo(tmp_path, names=names)
    with pytest.raises(UserError, match=sentence):
        read_detection(tmp_path, 0.5, 0)


@pytest.mark.parametrize(
    'texts, sentence',
    [
        ({'classes.txt': '\na\nb\n'}, 'classes.txt has no name for class 0'),
        ({'classes.txt': 'a\na\n'}, 'classes.txt gives the classes 0 and 1'),
        ({'classes.txt': 'a\nb', 'x/classes.txt': 'b\na'}, 'name other classes, or in another'),
    ],
)
def test_files_that_name_classes_in_two_ways_are_refused(
    texts: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    write_boxes_of_yolo(tmp_path / 'boxes')
    (tmp_path / 'boxes' / 'data.yaml').unlink()
    write_pictures(tmp_path / 'pets', ['1.jpg', '2.jpg'])
    (tmp_path / 'pets' / 'train.txt').write_text('1.jpg 0\n2.jpg 1\n')
    for root, read in ((tmp_path / 'boxes', read_detection), (tmp_path / 'pets', read_classified)):
        for name, text in texts.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(text)
        with pytest.raises(UserError, match=sentence):
            read(root, 0.5, 0)


@pytest.mark.parametrize(
    'image, label',
    [
        ('Images/{}.jpg', 'Labels/{}.TXT'),
        ('images/a/{}.jpg', 'labels/a/{}.Txt'),
        ('{}.JPG', '{}.TXT'),
        ('data/{}.jpg', 'data/Labels/{}.txt'),
    ],
)
def test_labels_of_yolo_may_be_in_capitals(image: str, label: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, [image.format(name) for name in 'abcA'])
    for name in 'abc':
        path = tmp_path / label.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('1 0.5 0.5 0.5 0.5\n')
    (tmp_path / 'classes.txt').write_text('x\ny\n')
    assert boxes(read_detection(tmp_path, 0.5, 0)) == [[2, 2, 4, 4]] * 3


def test_a_test_split_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path)
    with (tmp_path / 'data.yaml').open('a') as file:
        file.write('nc: 2\ntest: ../test/images\n')
    found = read_detection(tmp_path, 0.5, 0)
    note = "data.yaml names '../test/images' for test, where no image is: left out."
    assert found.notes[0] == note and set(found.splits) == {'train', 'val'}
    with (tmp_path / 'data.yaml').open('a') as file:
        file.write('val: ../valid/images\n')
    with pytest.raises(UserError, match=r"names '../valid/images' for val, where no image is"):
        read_detection(tmp_path, 0.5, 0)


@pytest.mark.parametrize('count', ['3', '"3"'])
def test_a_number_of_classes_that_names_contradict_is_refused(count: str, tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path)
    with (tmp_path / 'data.yaml').open('a') as file:
        file.write(f'nc: {count}\n')
    sentence = r'data.yaml has 3 classes \(nc\), but 2 names: make them agree'
    with pytest.raises(UserError, match=sentence):
        read_detection(tmp_path, 0.5, 0)


def test_lists_of_darknet_are_splits(tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path)
    (tmp_path / 'data.yaml').unlink()
    (tmp_path / 'obj.names').write_text('a\nb\n\n')
    (tmp_path / 'train.txt').write_text('data/0.jpg\r\ndata/1.jpg\r\n')
    (tmp_path / 'valid.txt').write_text('data/3.jpg\n')
    found = read_detection(tmp_path, 0.5, 0)
    assert [len(found.images(split)) for split in ('train', 'val')] == [2, 1]
    note = '1 images, such as 2.jpg, have no annotations, or are in no list: they are left out.'
    assert found.notes[0] == note


def test_images_that_share_a_label_are_told(tmp_path: Path) -> None:
    write_pictures(tmp_path, ['images/a.jpg', 'images/a.png', 'Images/b.jpg', 'images/b.jpg'])
    write_pictures(tmp_path, ['images/c.jpg'])
    (tmp_path / 'classes.txt').write_text('bolt\n')
    (tmp_path / 'labels').mkdir()
    for name in 'abc':
        (tmp_path / 'labels' / f'{name}.txt').write_text('0 0.5 0.5 0.2 0.2\n')
    found = read_detection(tmp_path, 0.2, 0)
    note = '2 label files are for several images each, such as Images/b.jpg and images/b.jpg: all'
    assert found.notes[0].startswith(note)
    assert len(boxes(found)) == 5


def write_boxes_of_voc(root: Path, of: str = '{}', name: str = ' a\n') -> None:
    """Four images and files, in each a name of an image."""
    write_pictures(root, [f'{i}.jpg' for i in range(4)])
    for i in range(4):
        box = f'<xmin>1</xmin><ymin>1</ymin><xmax>{i + 3}</xmax><ymax>4</ymax>'
        (root / f'{i}.xml').write_text(
            f'<annotation><filename> {of.format(i)}.jpg </filename>'
            f'<object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>',
            encoding='utf-8',
        )


RING = '<x1>1</x1><y1>2</y1><x2>6</x2><y2>2</y2><x3>6</x3><y3>5</y3>'


@pytest.mark.parametrize(
    'outline, box',
    [
        (RING, [1, 1, 2, 3]),
        (
            '<username>anna</username><pt><x>1</x><y>2</y></pt><pt><x>6</x><y>2</y></pt>'
            '<pt><x>6</x><y>5</y></pt>',
            [1, 2, 5, 3],
        ),
    ],
    ids=['Roboflow, beside a box', 'LabelMe, alone'],
)
def test_outlines_in_files_of_voc_are_read(outline: str, box: list, tmp_path: Path) -> None:
    write_boxes_of_voc(tmp_path)
    text = (tmp_path / '0.xml').read_text()
    if '<pt>' in outline:
        text = re.sub('<bndbox>.*</bndbox>', '', text)
    text = text.replace('</object>', f'<polygon>{outline}</polygon></object>')
    gone = '<object><name>b</name><deleted>1</deleted></object>'
    (tmp_path / '0.xml').write_text(text.replace('</annotation>', f'{gone}</annotation>'))
    found = read_detection(tmp_path, 0.5, 0)
    assert found.classes == ('a',) and box in boxes(found) and found.without_mask() == 3
    outlines = [x['segmentation'] for s in found.splits.values() for x in s.content['annotations']]
    assert [[1, 2, 6, 2, 6, 5]] in outlines


@pytest.mark.parametrize(
    'points, count',
    [('', 0), ('<x1/><y1/>', 0), (''.join(f'<x{i}>2</x{i}>' for i in range(7)), 0), (RING, 2)],
    ids=['none', 'empty', 'odd', 'two parts'],
)
def test_an_object_of_voc_may_have_any_number_of_outlines(
    points: str, count: int, tmp_path: Path
) -> None:
    write_boxes_of_voc(tmp_path)
    for path in tmp_path.glob('*.xml'):
        rings = f'<polygon>{points}</polygon>' * 2
        path.write_text(path.read_text().replace('</object>', f'{rings}</object>'))
    found = read_detection(tmp_path, 0.5, 0)
    outlines = [x['segmentation'] for s in found.splits.values() for x in s.content['annotations']]
    assert outlines == [[[1, 2, 6, 2, 6, 5]] * count] * 4


def test_boxes_of_voc_with_sides_in_the_other_order_are_told(tmp_path: Path) -> None:
    write_boxes_of_voc(tmp_path)
    text = (tmp_path / '2.xml').read_text()
    (tmp_path / '2.xml').write_text(text.replace('<xmin>1<', '<xmin>7<'))
    found = read_detection(tmp_path, 0.5, 0)
    assert all(width > 0 and height > 0 for _, _, width, height in boxes(found))
    assert [5, 1, 2, 3] in boxes(found)
    for path in tmp_path.glob('[013].xml'):
        path.write_text(path.read_text().replace('<xmin>1<', '<xmin>7<'))
    with pytest.raises(UserError, match='4 of 4 boxes have an xmin above .*: write corners'):
        read_detection(tmp_path, 0.5, 0)
    note = '1 boxes have an xmin above their xmax, or ymin above ymax, such as in 2.xml'
    assert found.notes[0].startswith(note)


def test_difficult_boxes_of_voc_are_told_of(tmp_path: Path) -> None:
    write_boxes_of_voc(tmp_path)
    text = (tmp_path / '2.xml').read_text()
    text = text.replace('<bndbox>', '<difficult>1</difficult><bndbox>')
    start, end = text.index('<object>'), text.index('</annotation>')
    deleted = text[start:end].replace('<object>', '<object><deleted>1</deleted>')
    (tmp_path / '2.xml').write_text(f'{text[:end]}{deleted}</annotation>')
    found = read_detection(tmp_path, 0.5, 0)
    assert found.notes[0].startswith('1 objects are marked as difficult (difficult is 1): they are')
    assert sum(found.objects(split)['a'] for split in ('train', 'val')) == 4


@pytest.mark.parametrize(
    'encoding, declared',
    [('latin-1', 'ISO-8859-1'), ('utf-16', 'UTF-16'), ('gbk', 'GB2312'), ('utf-8', 'ascii')],
)
def test_a_file_of_voc_may_have_any_encoding(encoding: str, declared: str, tmp_path: Path) -> None:
    name = '猫' if encoding == 'gbk' else 'Bär'
    write_boxes_of_voc(tmp_path, name=name)
    for path in tmp_path.glob('*.xml'):
        text = path.read_text(encoding='utf-8')
        declaration = f'<?xml version="1.0" encoding="{declared}"?>'
        path.write_bytes(f'{declaration}{text}'.encode(encoding))
    assert read_detection(tmp_path, 0.5, 0).classes == (name,)


@pytest.mark.parametrize(
    'start, sentence',
    [
        ('', '0.xml is not XML, or declares no encoding'),
        (
            '<?xml version="1.0" encoding="klingon"?>',
            '0.xml is neither in the encoding .* nor in UTF-8',
        ),
        (
            '<?xml version="1.0" encoding="ascii"?>',
            '0.xml is neither in the encoding .* nor in UTF-8',
        ),
    ],
)
def test_a_file_of_voc_in_no_known_encoding_is_refused(
    start: str, sentence: str, tmp_path: Path
) -> None:
    write_boxes_of_voc(tmp_path)
    text = (tmp_path / '0.xml').read_text().replace('a', 'ä')
    (tmp_path / '0.xml').write_bytes(f'{start}{text}'.encode('latin-1'))
    with pytest.raises(UserError, match=sentence):
        read_detection(tmp_path, 0.5, 0)


def write_outlines(root: Path, of: str = '{}', **changes: Any) -> None:
    """The same as labelme's."""
    write_pictures(root, [f'{i}.jpg' for i in range(4)])
    for i in range(4):
        points = [[1, 1], [i + 3, 1], [i + 3, 4], [1, 4]]
        shape = dict(label='a', points=points, shape_type='polygon') | changes
        content = dict(shapes=[shape], imagePath=f'{of.format(i)}.jpg', imageWidth='8')
        write_json(root / f'{i}.json', dict(content, imageHeight=8.0))


@pytest.mark.parametrize('write', [write_boxes_of_voc, write_outlines])
def test_a_name_that_several_files_hold_is_not_gone_by(write: Any, tmp_path: Path) -> None:
    """As of images that were renamed."""
    write(tmp_path, '0')
    found = read_detection(tmp_path, 0.25, 0)
    widths = {
        images[item['image_id']]['file_name']: item['bbox'][2]
        for split in found.splits.values()
        for images in [{image['id']: image for image in split.content['images']}]
        for item in split.content['annotations']
    }
    assert widths == {f'{i}.jpg': i + 2 for i in range(4)} and found.classes == ('a',)
    (tmp_path / '2.jpg').unlink()
    with pytest.raises(UserError, match=r'^[02]\.\w+ and [02]\.\w+ of .* image 0.jpg'):
        read_detection(tmp_path, 0.25, 0)


def test_names_that_find_one_image_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, {'1.jpg': 'a', '2.jpg': 'a'})
    content = json.loads((tmp_path / 'a.json').read_text())
    content['images'][1]['file_name'] = 'other/1.jpg'
    write_json(tmp_path / 'a.json', content)
    with pytest.raises(UserError, match='1.jpg and other/1.jpg of .*a.json would both be for'):
        read_detection(tmp_path, 0.5, 0)


@pytest.mark.parametrize('kind', ['rotation', 'oriented_rectangle', 'quadrilateral'])
def test_outlines_of_any_kind_are_objects(kind: str, tmp_path: Path) -> None:
    write_outlines(tmp_path, shape_type=kind)
    found = read_detection(tmp_path, 0.25, 0)
    assert sorted(boxes(found)) == [[1, 1, i + 2, 3] for i in range(4)]
    image = found.splits['train'].content['images'][0]
    assert (image['width'], image['height']) == (8, 8)


@pytest.mark.parametrize(
    'write, sentence',
    [
        (partial(write_outlines, label=None), 'shape, number 1, that has no label or cannot be'),
        (partial(write_outlines, label=3), 'shape, number 1, that has no label or cannot be'),
        (partial(write_outlines, shape_type='line'), 'the labelme files of .* have no object'),
        (partial(write_boxes_of_voc, name=''), '0.xml has an object without a name: give it one'),
    ],
)
def test_objects_without_a_class_are_refused(write: Any, sentence: str, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=sentence):
        read_detection(tmp_path, 0.25, 0)


def test_lists_of_voc_may_hold_suffixes_and_other_words(tmp_path: Path) -> None:
    write_boxes_of_voc(tmp_path)
    lists = tmp_path / 'ImageSets' / 'Main'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('0.jpg\n1.jpg\n')
    (lists / 'validation.txt').write_text('2.jpg\n3.jpg\n')
    found = read_detection(tmp_path, 0.25, 0)
    assert {s: len(found.images(s)) for s in found.splits} == dict(train=2, val=2)
    assert not any('ImageSets' in note for note in found.notes)


@pytest.mark.parametrize('kind', ['Main', 'Segmentation'])
def test_images_of_lists_of_voc_that_are_not_there_are_told(kind: str, tmp_path: Path) -> None:
    if kind == 'Main':
        write_boxes_of_voc(tmp_path)
    else:
        for i in range(4):
            write_pictures(tmp_path, [f'JPEGImages/{i}.jpg'])
            write_colored(tmp_path / f'SegmentationClass/{i}.png', np.arange(3)[None], 'palette')
    lists = tmp_path / 'ImageSets' / kind
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('0 1\n1.jpg -1\n2\nlost one.jpg\n..\n')
    (lists / 'val.txt').write_text('3\nlost one.jpg\n8\n')
    read = partial(read_segmented, zero=None) if kind == 'Segmentation' else read_detection
    note = (
        f'3 images in lists of ImageSets/{kind}, such as lost one.jpg of ImageSets/{kind}/train.txt'
    )
    assert sum(said.startswith(note) for said in read(tmp_path, 0.25, 0).notes) == 1


def test_labels_of_yolo_without_images_are_told(tmp_path: Path) -> None:
    write_boxes_of_yolo(tmp_path)
    (tmp_path / 'readme.txt').write_text('Exported on 1 2 3 4 5\n')
    (tmp_path / 'latin.txt').write_bytes('größe\n'.encode('latin-1'))
    assert not any('label files' in note for note in read_detection(tmp_path, 0.5, 0).notes)
    for name in '24':
        (tmp_path / f'{name}.jpg').unlink(missing_ok=True)
        (tmp_path / f'{name}.txt').write_text('1 0.5 0.5 0.5 0.5\n')
    note = '2 label files, such as 2.txt, have no image: they are left out.'
    assert note in read_detection(tmp_path, 0.5, 0).notes
