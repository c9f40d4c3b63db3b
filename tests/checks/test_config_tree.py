"""Data sets and transforms are found in any wrappers, in a config and built."""

from typing import Any, ClassVar

import mmcv.transforms
import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset

from mmdat.checks import config_tree


def single(root: str) -> dict[str, Any]:
    return dict(type='CocoDataset', data_root=root)


def concat(*datasets: dict[str, Any]) -> dict[str, Any]:
    return dict(type='ConcatDataset', datasets=list(datasets))


def wrapped(kind: str, dataset: dict[str, Any]) -> dict[str, Any]:
    return dict(type=kind, dataset=dataset)


@pytest.mark.parametrize(
    'dataset, found',
    [
        (single('a'), {'': 'a'}),
        (concat(single('a'), single('b')), {'.datasets.0': 'a', '.datasets.1': 'b'}),
        (
            wrapped('RepeatDataset', concat(single('a'), wrapped('KFoldDataset', single('b')))),
            {'.dataset.datasets.0': 'a', '.dataset.datasets.1.dataset': 'b'},
        ),
        (
            wrapped('MultiImageMixDataset', wrapped('ClassBalancedDataset', single('a'))),
            {'.dataset.dataset': 'a'},
        ),
    ],
)
def test_each_data_set_of_a_config_is_found_where_it_stands(
    dataset: dict[str, Any], found: dict[str, str]
) -> None:
    cfg = Config(dict(train_dataloader=dict(dataset=dataset), val_dataloader=None))
    pairs = list(config_tree.datasets(cfg, 'train'))
    assert {path: part.data_root for path, part in pairs} == {
        f'train_dataloader.dataset{path}': root for path, root in found.items()
    }
    assert all(config_tree.value_at(cfg, path) is part for path, part in pairs)
    assert not list(config_tree.datasets(cfg, 'val'))
    assert not list(config_tree.datasets(cfg, 'test'))


def test_each_built_data_set_is_found() -> None:
    class Labels(BaseDataset):
        METAINFO: ClassVar[dict[str, Any]] = dict(classes=('a',))

        def load_data_list(self) -> list[dict[str, Any]]:
            return [dict(gt_label=0)]

        def get_cat_ids(self, index: int) -> list[int]:
            return [0]

    first, second, empty = Labels(), Labels(), Labels(indices=[], serialize_data=False)
    balanced = dict(type=ClassBalancedDataset, dataset=first, oversample_thr=0.1)
    repeated = dict(type=RepeatDataset, dataset=second, times=2)
    both = ConcatDataset([balanced, repeated])
    assert [part for _, part in config_tree.unwrap(both)] == [first, second]
    assert [part for _, part in config_tree.unwrap(empty)] == [empty]


def test_transforms_are_found_in_others() -> None:
    load, flip = dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5)
    choice = dict(type='RandomChoice', transforms=[[flip], [load, flip]])
    kinds = [part['type'] for part in config_tree.transforms([load, choice])]
    assert kinds == ['LoadImageFromFile', 'RandomChoice', 'RandomFlip', *kinds[:1], 'RandomFlip']
    built = [
        mmcv.transforms.RandomChoice([[flip], [load]]),
        mmcv.transforms.TestTimeAug([[load], [flip]]),
    ]
    names = [type(part).__name__ for part in config_tree.transforms(built)]
    assert names.count('LoadImageFromFile') == names.count('RandomFlip') == 2
