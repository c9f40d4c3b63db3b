"""Masks that do not fit their image or the classes are refused, with what to do, in any split."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
import torch
from helpers.imports import ROOT
from mmdet.datasets.transforms import LoadAnnotations
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.datasets import BaseSegDataset
from mmseg.structures import SegDataSample
from PIL import Image
from torch import nn

from mmdat.analysis.data_summary import load
from mmdat.checks import masks
from mmdat.checks.images import DataFiles
from mmdat.checks.masks import (
    check_annotated,
    check_mask_classes,
    check_mask_files,
    check_mask_sizes,
    check_mask_values,
    check_same_zero,
)
from mmdat.datasets.segmentation_map import PackSegInputs
from mmdat.errors import UserError

LOAD = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]


def write(
    root: Path, *values: Sequence[int], size: tuple[int, int] = (4, 6), name: str = '{}.png'
) -> None:
    """Write an image and a mask for each list of values, which fills the mask."""
    for folder in ('images', 'masks'):
        (root / folder).mkdir(exist_ok=True)
    for number, of_mask in enumerate(values):
        cv2.imwrite(str(root / 'images' / f'{number}.jpg'), np.zeros((4, 6, 3), np.uint8))
        mask = np.resize(np.array(of_mask, np.uint8), size)
        cv2.imwrite(str(root / 'masks' / name.format(number)), mask)


def build(root: Path, *classes: str, **options: Any) -> BaseSegDataset:
    """The data set of the images and masks in a folder."""
    return BaseSegDataset(
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        metainfo=dict(classes=classes or ('background', 'road')),
        serialize_data=False,
        **{'pipeline': LOAD, **options},
    )


def findings(dataset: Any, in_training: bool = True) -> list[str]:
    """What the values of masks are warned of."""
    warnings: list[str] = []
    check_mask_values(DataFiles(dataset, in_training), warnings.append)
    return warnings


def refusal(dataset: Any, in_training: bool = True) -> str:
    """The sentence that refuses the values of masks."""
    with pytest.raises(UserError) as refused:
        findings(dataset, in_training)
    assert len(str(refused.value)) <= 800
    return str(refused.value)


def test_a_missing_mask_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [0, 1], [0, 1])
    dataset = build(tmp_path)
    check_mask_files(DataFiles(dataset))
    (tmp_path / 'masks' / '1.png').unlink()
    with pytest.raises(UserError, match=r'image .*1.jpg has no mask .*1.png: check data_prefix.s'):
        check_mask_files(DataFiles(dataset))
    (tmp_path / 'masks' / '0.png').unlink()
    with pytest.raises(UserError, match=r'0.png \(2 of 2 images are so\): check data_prefix.seg'):
        check_mask_files(DataFiles(dataset))


def test_masks_that_are_not_loaded_need_not_be_there(tmp_path: Path) -> None:
    write(tmp_path, [0])
    (tmp_path / 'masks' / '0.png').unlink()
    dataset = build(tmp_path, pipeline=[])
    check_mask_files(DataFiles(dataset))
    check_mask_sizes(DataFiles(dataset, False), pytest.fail)
    check_mask_values(DataFiles(dataset, False), pytest.fail)


@pytest.mark.parametrize('in_training', [True, False])
def test_a_mask_that_ends_or_breaks_in_the_middle_is_refused(
    tmp_path: Path, in_training: bool
) -> None:
    write(tmp_path, [0, 1], [0, 1])
    dataset = build(tmp_path)
    assert findings(dataset, in_training) == []
    path = tmp_path / 'masks' / '1.png'
    content = path.read_bytes()
    middle = content.index(b'IDAT') + 8
    for broken in (content[:-12], content[: middle - 2], b'', b'no image'):
        path.write_bytes(broken)
        assert 'masks/1.png cannot be read (it does not decode): mend it' in refusal(dataset)
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    assert 'masks/1.png cannot be read (it does not decode): mend it' in refusal(dataset)


def test_a_mask_of_another_size_is_refused_in_any_split(tmp_path: Path) -> None:
    write(tmp_path, [0, 1], [0, 1], size=(2, 3))
    for in_training in (True, False):
        with pytest.raises(
            UserError,
            match=r'0.jpg has 6 x 4 pixels, but its mask .*0.png is for 3'
            r' x 2: .* \(2 of 2 images are so\)',
        ):
            check_mask_sizes(DataFiles(build(tmp_path), in_training), pytest.fail)


def test_an_image_that_loading_turns_is_refused_beside_its_mask(tmp_path: Path) -> None:
    write(tmp_path, [0, 1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (6, 4)).save(tmp_path / 'images' / '0.jpg', exif=exif)
    with pytest.raises(
        UserError, match=r'1 of 1 images, such as .*0.jpg, have an EXIF orientation'
    ):
        check_mask_sizes(DataFiles(build(tmp_path), True), pytest.fail)
    untouched = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation'), LOAD[1]]
    check_mask_sizes(DataFiles(build(tmp_path, pipeline=untouched), True), pytest.fail)


@pytest.mark.parametrize('in_training', [True, False])
def test_0_and_255_leave_one_class(tmp_path: Path, in_training: bool) -> None:
    write(tmp_path, [0, 255], [0])
    sentence = refusal(build(tmp_path), in_training)
    assert "of which 255 count as ignored, so that 'background' alone is left" in sentence
    assert "type='mmdat.SegmentationDataset'" in sentence
    assert "mask_values={0: 'background', 255: 'road'}" in sentence


@pytest.mark.parametrize(
    'values, options, parts',
    [
        ([0, 128], {}, ['the value 128', "mask_values={0: 'background', 128: 'road'}"]),
        ([0, 1, 2], {}, ['the value 2', 'set reduce_zero_label=True if 0 stands for no class']),
        ([0, 1, 7], {}, ['the value 7', 'mask_values={0:']),
        (
            [1, 2, 9],
            dict(reduce_zero_label=True),
            ['the value 9', 'of the 2 classes after reduce_zero_label', 'mask_values'],
        ),
    ],
)
def test_a_value_that_is_no_class_is_refused(
    tmp_path: Path, values: list[int], options: dict, parts: list[str]
) -> None:
    write(tmp_path, values[:1], values)
    for in_training in (True, False):
        sentence = refusal(build(tmp_path, **options), in_training)
        assert 'masks/1.png' in sentence and '(1 of 2 masks have' in sentence
        assert all(part in sentence for part in parts), sentence


@pytest.mark.parametrize('suffix', ['.jpg', '.webp'])
def test_masks_compressed_with_loss_are_refused(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, [0, 1])
    image = Image.new('L', (6, 4))
    image.save(tmp_path / 'masks' / f'0{suffix}')
    dataset = build(tmp_path, seg_map_suffix=suffix)
    assert f'0{suffix} is compressed with loss (JPEG or WebP)' in refusal(dataset)
    if suffix == '.webp':
        image.save(tmp_path / 'masks' / '0.webp', lossless=True)
        assert 'with loss' not in refusal(dataset)


@pytest.mark.parametrize('in_training', [True, False])
def test_masks_without_any_class_are_refused(tmp_path: Path, in_training: bool) -> None:
    write(tmp_path, [255], [255])
    dataset = build(tmp_path)
    assert 'so that no class is left' in refusal(dataset, in_training)


def test_heads_that_do_not_ignore_255_refuse_it(tmp_path: Path) -> None:
    write(tmp_path, [0, 1, 255])
    with pytest.raises(UserError, match=r'value 255, which .* but the heads have ignore_index=0'):
        check_mask_values(DataFiles(build(tmp_path), True), pytest.fail, ignore_index=0)
    write(tmp_path, [1, 2])
    dataset = build(tmp_path, 'a', 'b', 'c')
    check_mask_values(DataFiles(dataset, True), pytest.fail, ignore_index=0)
    write(tmp_path, [0, 1, 100])
    check_mask_values(DataFiles(build(tmp_path), True), pytest.fail, ignore_index=100)


def test_a_class_that_reduce_zero_label_ignores_is_found(tmp_path: Path) -> None:
    write(tmp_path, [0, 1, 2])
    reduced = dict(reduce_zero_label=True)
    sentence = refusal(build(tmp_path, '_background_', 'cat', 'dog', **reduced))
    assert "ignores 0 and makes 1 the class '_background_', so that none is 'dog'" in sentence
    assert 'set reduce_zero_label=False' in sentence
    [warning] = findings(build(tmp_path, 'sky', 'cat', 'dog', **reduced))
    assert 'set reduce_zero_label=False if 0 is a class' in warning
    assert findings(build(tmp_path, '_background_', 'cat', 'dog')) == []
    # 0 is nothing, and 1 is the ground.
    assert findings(build(tmp_path, 'background', 'cat', **reduced)) == []


def test_classes_without_a_mask_are_told(tmp_path: Path) -> None:
    write(tmp_path, [0, 2], [2, 255])
    [warning] = findings(build(tmp_path, 'a', 'b', 'c', 'd'), in_training=False)
    folder = tmp_path / 'masks'
    assert warning == f"2 of the 4 classes are in none of the 2 masks in {folder}: 'b' and 'd'"


def test_a_value_of_several_colors_is_told(tmp_path: Path) -> None:
    """Programs that leave the palette to each file number the colors as they come."""
    write(tmp_path, [0, 1], [0, 1], [0])
    for index, palette in enumerate(([0, 0, 0, 9, 9, 9], [0, 0, 0, 5, 6, 7], [0, 0, 0, 8, 8, 8])):
        path = tmp_path / 'masks' / f'{index}.png'
        mask = Image.open(path)
        mask.putpalette(palette)
        mask.save(path)
    [warning] = findings(build(tmp_path))
    assert 'masks/1.png show the value 1 in the colors (9, 9, 9) and (5, 6, 7), but' in warning
    (tmp_path / 'masks' / '1.png').unlink()
    (tmp_path / 'images' / '1.jpg').unlink()
    assert findings(build(tmp_path)) == []  # 1 is not in the third


def test_masks_of_one_class_teach_nothing(tmp_path: Path) -> None:
    write(tmp_path, [1], [1])
    assert "so that 'road' alone is left: check data_prefix" in refusal(build(tmp_path))
    [warning] = findings(build(tmp_path), in_training=False)
    assert 'in none of the 2 masks in ' in warning and "'background'" in warning
    write(tmp_path, [0, 1], [0])
    sentence = refusal(build(tmp_path, 'sky', 'road', reduce_zero_label=True))
    assert "so that none is 'road': set reduce_zero_label=False" in sentence


def test_a_mask_of_more_pixels_than_pillow_decodes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [0, 1])
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 5)
    assert '0.png has more pixels than Pillow decodes: cut it' in refusal(build(tmp_path))
    dataset = build(tmp_path)
    assert load(dataset, dataset.get_data_info(0)) is None


def test_masks_of_several_pages_are_told(tmp_path: Path) -> None:
    write(tmp_path, [0, 1], [0, 1])
    page = Image.open(tmp_path / 'masks' / '0.png')
    page.load()
    page.save(tmp_path / 'masks' / '0.png', 'TIFF', save_all=True, append_images=[page])
    told: list[str] = []
    check_mask_sizes(DataFiles(build(tmp_path)), told.append)
    [warning] = told
    assert warning.startswith('1 of 2 masks, such as ') and '0.png, hold several images' in warning


def test_depth_and_channels_of_masks_are_looked_at(tmp_path: Path) -> None:
    write(tmp_path, [0, 1])
    path = tmp_path / 'masks' / '0.png'
    values = np.resize(np.array([0, 1]), (4, 6))
    for mode, kind in (('RGB', 'a color image'), ('LA', 'an image with transparency')):
        Image.fromarray(values.astype(np.uint8)).convert(mode).save(path)
        assert f'is {kind}, not one with the number of a class' in refusal(build(tmp_path))
    Image.fromarray((values * 300).astype(np.uint16)).save(path)
    assert 'has values from 0 to 300, which loading would cut to' in refusal(build(tmp_path))
    Image.fromarray(values.astype(np.uint16)).save(path)
    assert findings(build(tmp_path)) == [], '16 bits with the numbers of classes'
    Image.fromarray(values.astype(bool)).save(path)
    assert findings(build(tmp_path)) == [], '1 bit'
    palette = Image.fromarray(values.astype(np.uint8), 'P')
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(path)
    assert findings(build(tmp_path)) == [], 'a palette'
    by_opencv = [dict(type='mmseg.LoadAnnotations', imdecode_backend='cv2')]
    assert 'is a color image' in refusal(build(tmp_path, pipeline=by_opencv))


def test_of_many_training_masks_some_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [0], [0, 9], [0], [0, 1])
    monkeypatch.setattr(masks, 'MOST_MASKS', 2)
    assert findings(build(tmp_path)) == [], 'the others may have the class that these lack'
    assert 'the value 9' in refusal(build(tmp_path), in_training=False)


def test_values_that_the_head_ignores_pass(tmp_path: Path) -> None:
    write(tmp_path, [0, 1, 200])
    check_mask_values(DataFiles(build(tmp_path), True), pytest.fail, ignore_index=200)


def batch(*values: int) -> dict:
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([[values]])))
    sample.set_metainfo(dict(seg_map_path='a.png'))
    return dict(data_samples=[sample])


def test_a_class_too_many_is_refused() -> None:
    model = nn.Module()
    model.decode_head = SimpleNamespace(num_classes=3, ignore_index=255)
    check_mask_classes(model, batch(0, 2, 255))
    check_mask_classes(nn.Module(), batch(9))
    with pytest.raises(
        UserError,
        match=r'mask a.png has class 3 \(counted from 0, after reduce_zero_label\), but there are',
    ):
        check_mask_classes(model, batch(0, 3, 255))


def test_masks_whose_labels_a_worker_noted_are_not_scanned_again() -> None:
    model = nn.Module()
    model.decode_head = SimpleNamespace(num_classes=3, ignore_index=255)

    def packed(*values: int) -> dict:
        results = dict(gt_seg_map=np.array([values], np.uint8), seg_map_path='a.png')
        return dict(data_samples=[PackSegInputs().transform(results)['data_samples']])

    good = packed(2, 255, 0)
    del good['data_samples'][0].gt_sem_seg.data
    check_mask_classes(model, good)
    with pytest.raises(UserError, match='mask a.png has class 4 '):
        check_mask_classes(model, packed(0, 4, 3, 255))
    model.decode_head.ignore_index = 3
    check_mask_classes(model, packed(0, 3))
    with pytest.raises(UserError, match='has class 255 '):
        check_mask_classes(model, packed(0, 3, 255))


def test_labels_of_a_volume_are_told() -> None:
    volume = np.zeros((1, 4, 600), np.uint8)
    volume[0, 2, 5] = 7
    with pytest.warns(UserWarning, match='segmentation map'):
        packed = PackSegInputs(meta_keys=()).transform(
            dict(img=np.zeros((4, 600, 3), np.uint8), gt_seg_map=volume)
        )
    assert packed['data_samples'].gt_sem_seg.labels == [0, 7]


@pytest.mark.parametrize(
    'name', ['upernet_dat_pp_t_ade20k', 'mask2former_dat_pp_t_ade20k', 'upernet_dat_pp_nano_shapes']
)
def test_labels_are_noted_in_training(name: str) -> None:
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    assert cfg.train_dataloader.dataset.pipeline[-1].type == 'mmdat.PackSegInputs'


def test_splits_that_read_0_differently_are_refused() -> None:
    def data(is_reduced: bool | None, values: Any = None) -> SimpleNamespace:
        return SimpleNamespace(reduce_zero_label=is_reduced, mask_values=values)

    both = SimpleNamespace(datasets=[data(False), data(True)])
    check_same_zero(dict(train=data(False), val=data(None), test=SimpleNamespace()))
    check_same_zero(dict(train=both, val=data(True), test=data(False)))
    check_same_zero(dict(train=data(True), val=data(False, {0: 'a'})))
    with pytest.raises(UserError, match=r'of the train data is False, that of the val data True'):
        check_same_zero(dict(train=data(False), val=data(True)))


@pytest.mark.parametrize(
    'item, key, sentence',
    [
        (dict(instances=[dict(bbox=[0, 0, 2, 2])]), 'with_mask', 'masks of objects (boxes alone)'),
        (dict(gt_label=1), 'with_bbox', 'boxes'),
        (dict(seg_map_path='a.png'), 'with_bbox', 'boxes'),
        (dict(instances=[dict(bbox=[0, 0, 2, 2], mask=[])]), 'with_seg', 'maps of classes'),
        (dict(reduce_zero_label=False), 'with_seg', 'maps of classes'),
        (dict(instances=[], seg_map_path=None), 'with_seg', 'maps of classes'),
    ],
)
def test_annotations_that_a_pipeline_loads_must_be_there(
    item: dict[str, Any], key: str, sentence: str
) -> None:
    """As of boxes alone for masks, or of images by class for a detector."""
    load = LoadAnnotations(**{'with_bbox': False, key: True})
    error = str(_annotated(item, load, in_training=key == 'with_seg' and 'instances' in item))
    assert error.startswith(f'2 of 2 images of a.json have no {sentence}') and f'{key}=' in error
    fine = dict(instances=[dict(bbox=[0, 0, 2, 2], mask=[])], seg_map_path='a.png')
    assert _annotated(fine, load) is None
    assert _annotated(item, LoadAnnotations(with_bbox=False, with_label=False)) is None


def test_maps_may_be_missing_where_mmdet_validates() -> None:
    """As its own configs of HTC are written."""
    assert _annotated(dict(instances=[], seg_map_path=None), LoadAnnotations(with_seg=True)) is None


def _annotated(item: dict[str, Any], load: Any, in_training: bool = False) -> UserError | None:
    """What a data set of two such items is refused with."""
    data = MagicMock(pipeline=SimpleNamespace(transforms=[load]), ann_file='a.json')
    data.__len__.return_value = 2
    data.get_data_info.return_value = item
    try:
        check_annotated(DataFiles(data, in_training))
    except UserError as error:
        return error
    return None
