"""Folders that do not exist, and labels that are no class, are refused by name."""

from pathlib import Path
from typing import Any

import mmpretrain.datasets
import pytest
from mmengine.config import Config

from mmdat.checks.folders import check_data_roots, check_labels
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


def test_data_roots_that_are_there_or_elsewhere_pass() -> None:
    check_data_roots(config(concatenated('.', 's3://bucket/data', '')), ('train', 'val'))


@pytest.mark.parametrize('label', [-1, 2])
def test_a_label_of_no_class_is_refused(label: int, tmp_path: Path) -> None:
    path = tmp_path / 'train.txt'
    for last in (1, label):
        path.write_text(f'a.jpg 0\nb.jpg {last}\n')
        dataset = mmpretrain.datasets.CustomDataset(
            data_root=str(tmp_path), ann_file='train.txt', metainfo=dict(classes=('cat', 'dog'))
        )
        if last == 1:
            check_labels(dataset)
    with pytest.raises(UserError, match=rf'train.txt gives image .*b.jpg the class {label}, but '):
        check_labels(dataset)
