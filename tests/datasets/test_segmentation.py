"""Folders of images and masks, of any suffix and with any values, become pairs and classes."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmseg.datasets.transforms import LoadAnnotations

from mmdat.checks.folders import check_left_out
from mmdat.checks.images import DataFiles
from mmdat.checks.masks import check_mask_values
from mmdat.datasets.segmentation import SegmentationDataset
from mmdat.datasets.segmentation_map import LoadSegmentationMap
from mmdat.errors import UserError
from mmdat.visualization.predictions import distinct_colors

VALUES = {0: 'ground', 7: None, 100: 'road', 255: 'car'}


def write(root: Path, *names: str, value: int = 0) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imencode('.png', np.full((2, 2), value, np.uint8))[1].tofile(root / name)


def build(root: Path, **options: Any) -> SegmentationDataset:
    prefix = dict(img_path='images', seg_map_path='masks')
    return SegmentationDataset(
        data_root=str(root), **{'data_prefix': prefix, 'serialize_data': False, **options}
    )


def pairs(dataset: SegmentationDataset) -> list[tuple[str, ...]]:
    """The images and masks of a data set, as paths below its folders."""
    items = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [
        tuple(
            str(Path(item[f'{key}_path']).relative_to(dataset.data_prefix[f'{key}_path']))
            for key in ('img', 'seg_map')
            if f'{key}_path' in item
        )
        for item in items
    ]


def test_images_of_any_suffix_find_their_masks(tmp_path: Path) -> None:
    write(tmp_path / 'images', 'a.jpg', 'b.JPG', 'c.jpeg', 'd.PNG', 'é f/e.tif', '.hidden.jpg')
    write(tmp_path / 'masks', 'a.png', 'b.png', 'c.PNG', 'd.bmp', 'é f/e.png')
    dataset = build(tmp_path)
    assert pairs(dataset) == [
        ('a.jpg', 'a.png'),
        ('b.JPG', 'b.png'),
        ('c.jpeg', 'c.PNG'),
        ('d.PNG', 'd.bmp'),
        ('é f/e.tif', 'é f/e.png'),
    ]
    check_left_out(DataFiles(dataset), pytest.fail)
    write(tmp_path / 'images', 'x.heic')
    warnings: list[str] = []
    check_left_out(DataFiles(dataset), warnings.append)
    assert len(warnings) == 1 and 'x.heic, are in a format that cannot be loaded' in warnings[0]


def test_suffixes_tell_images_from_masks_in_one_folder(tmp_path: Path) -> None:
    write(tmp_path, 'a_image.PNG', 'a_mask.png', 'b_image.png', 'b_mask.png')
    same = dict(data_prefix=dict(img_path='', seg_map_path=''))
    dataset = build(tmp_path, img_suffix='_image.png', seg_map_suffix='_mask.png', **same)
    assert pairs(dataset) == [('a_image.PNG', 'a_mask.png'), ('b_image.png', 'b_mask.png')]


def test_two_files_of_the_same_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 'images/a.jpg', 'images/a.png', 'masks/a.png')
    with pytest.raises(UserError, match=r'a.jpg and .*a.png have the same name .* img_suffix that'):
        build(tmp_path)
    assert pairs(build(tmp_path, img_suffix='.jpg')) == [('a.jpg', 'a.png')]
    write(tmp_path, 'masks/a.bmp')
    with pytest.raises(UserError, match=r'a.bmp and .*a.png have .* give seg_map_suffix that'):
        build(tmp_path, img_suffix='.jpg')


def test_what_has_no_partner_is_counted_and_left_out(tmp_path: Path) -> None:
    write(tmp_path / 'images', 'a.jpg', 'b.jpg', 'c.jpg')
    write(tmp_path / 'masks', 'c.png', 'd.png')
    dataset = build(tmp_path)
    assert pairs(dataset) == [('c.jpg', 'c.png')]
    lonely, unused = dataset.findings
    assert '2 files, such as ' in lonely and 'a.jpg, have no mask of the same name' in lonely
    assert '1 files, such as ' in unused and 'd.png, have no image of the same name' in unused


def test_folders_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'there is no image in .*images: check data_root'):
        build(tmp_path)
    write(tmp_path, 'images/a.jpg', 'masks/a_mask.png')
    with pytest.raises(
        UserError, match=r'none of the 1 images has a mask .* give img_suffix and s'
    ):
        build(tmp_path)
    with pytest.raises(UserError, match=r'there is no image \*_rgb.jpg in '):
        build(tmp_path, img_suffix='_rgb.jpg')


def test_a_list_chooses_images(tmp_path: Path) -> None:
    write(tmp_path / 'images', 'a.jpg', 'b.JPG', 'c d.jpg', 'e.jpg')
    write(tmp_path / 'masks', 'a.png', 'b.png', 'c d.png', 'e.png')
    (tmp_path / 'list.txt').write_bytes(b'c d\r\nb.JPG\r\n\r\n')
    assert pairs(build(tmp_path, ann_file='list.txt')) == [
        ('b.JPG', 'b.png'),
        ('c d.jpg', 'c d.png'),
    ]
    (tmp_path / 'list.txt').write_text('a\nx\ny.jpg\n')
    with pytest.raises(UserError, match=r'2 of the images that .*list.txt lists are not .* as x: '):
        build(tmp_path, ann_file='list.txt')


def test_images_to_be_tested_need_no_masks(tmp_path: Path) -> None:
    write(tmp_path, 'images/a.jpg')
    dataset = build(
        tmp_path,
        data_prefix=dict(img_path='images'),
        test_mode=True,
        metainfo=dict(classes=('a', 'b')),
    )
    assert pairs(dataset) == [('a.jpg',)]


@pytest.mark.parametrize('load', [LoadAnnotations, LoadSegmentationMap])
def test_any_values_become_classes_also_in_the_stock_transform(tmp_path: Path, load: type) -> None:
    write(tmp_path, 'images/a.jpg', 'masks/a.png')
    mask = np.array([[0, 7, 100], [255, 0, 255]], np.uint8)
    cv2.imwrite(str(tmp_path / 'masks' / 'a.png'), mask)
    for classes, expected in (
        (('ground', 'road', 'car'), [[0, 255, 1], [2, 0, 2]]),
        (('car', 'ground', 'road'), [[1, 255, 2], [0, 1, 0]]),
        (None, [[0, 255, 1], [2, 0, 2]]),
    ):
        metainfo = dict(classes=classes) if classes else None
        dataset = build(tmp_path, mask_values=VALUES, metainfo=metainfo, pipeline=[load()])
        assert dataset[0]['gt_seg_map'].tolist() == expected
        assert dataset.metainfo['classes'] == (classes or ('ground', 'road', 'car'))
        assert dataset.metainfo['palette'] == distinct_colors(3)
        check_mask_values(DataFiles(dataset, True), pytest.fail)


def test_values_survive_the_config_that_a_run_writes(tmp_path: Path) -> None:
    write(tmp_path, 'images/a.jpg', 'masks/a.png')
    text = Config(dict(mask_values=VALUES)).pretty_text
    for mask_values in (
        Config.fromstring(text, '.py').mask_values,
        {str(value): name for value, name in VALUES.items()},
    ):
        assert build(tmp_path, mask_values=mask_values).mask_values == VALUES


def test_a_value_without_a_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 'images/a.jpg', 'images/b.jpg', 'masks/a.png')
    write(tmp_path, 'masks/b.png', value=1)  # not to be taken for the number of a class
    dataset = build(tmp_path, mask_values=VALUES, pipeline=[LoadSegmentationMap()])
    with pytest.raises(UserError, match=r'b.png has the value 1, .* name the class of each value'):
        check_mask_values(DataFiles(dataset, True), pytest.fail)
    with pytest.raises(UserError, match=r'b.png has the value 1, which the data set does not know'):
        dataset[1]


def test_values_that_contradict_the_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names the classes 'ground', 'road' and 'car', but metai"):
        build(tmp_path, mask_values=VALUES, metainfo=dict(classes=('ground', 'road')))
    with pytest.raises(UserError, match=r'leave out reduce_zero_label, and give 0 the value None'):
        build(tmp_path, mask_values=VALUES, reduce_zero_label=True)
