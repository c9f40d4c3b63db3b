"""Masks that are missing, or that have a class too many, are refused by name."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.datasets import BaseSegDataset
from mmseg.structures import SegDataSample
from torch import nn

from mmdat.checks.masks import check_mask_classes, check_mask_files
from mmdat.errors import UserError


def test_a_missing_or_truncated_mask_is_refused(tmp_path: Path) -> None:
    for folder, suffix in (('images', 'jpg'), ('masks', 'png')):
        (tmp_path / folder).mkdir()
        for name in 'ab':
            cv2.imwrite(str(tmp_path / folder / f'{name}.{suffix}'), np.zeros((2, 2), np.uint8))
    prefix = dict(img_path='images', seg_map_path='masks')
    load = dict(type='mmseg.LoadAnnotations')
    dataset = BaseSegDataset(data_root=str(tmp_path), data_prefix=prefix, pipeline=[load])
    check_mask_files(dataset)
    mask = tmp_path / 'masks' / 'b.png'
    mask.write_bytes(mask.read_bytes()[:-12])
    with pytest.raises(UserError, match=r'mask .*b.png cannot be read .*: mend it, or take its im'):
        check_mask_files(dataset)
    mask.unlink()
    with pytest.raises(UserError, match=r'image .*b.jpg has no mask .*b.png: check data_prefix.s'):
        check_mask_files(dataset)


def test_masks_that_are_not_loaded_need_not_be_there(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'a.jpg'), np.zeros((2, 2), np.uint8))
    prefix = dict(img_path='', seg_map_path='masks')
    check_mask_files(BaseSegDataset(data_root=str(tmp_path), data_prefix=prefix))


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
