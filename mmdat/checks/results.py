"""Read the results of a test, and check that they belong to a data set."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
from mmengine.dataset import BaseDataset

from mmdat.errors import UserError

# Default scope -> who writes the results, and keys of each sample and of parts in it.
CONTENT: dict[str, tuple[str, dict[str, set[str]]]] = {
    'mmdet': ('a detector', {'pred_instances': {'bboxes', 'scores', 'labels'}}),
    'mmseg': ('a segmentor with masks', {'pred_sem_seg': {'data'}, 'gt_sem_seg': {'data'}}),
    'mmpretrain': ('a classifier of one class an image', {}),
}
KEYS = {
    'mmdet': {'img_id', 'ori_shape'},
    'mmseg': {'img_path', 'ori_shape'},
    'mmpretrain': {'img_path', 'pred_label', 'pred_score', 'gt_label'},
}


def read_results(path: Path, scope: str) -> list[dict[str, Any]]:
    """Read the pickle of results that ``tools/test.py --out`` writes.

    Args:
        scope: Default scope of the config that was tested.

    Raises:
        UserError: The file is missing or holds something else; nothing in it is run.
    """
    if not path.is_file():
        raise UserError(
            f'there are no results at {path}: write them with '
            f'`mmdat test CONFIG CHECKPOINT --out {path}`'
        )
    try:
        predictions = mmengine.load(path, file_format='pkl')
    except UserError as error:  # something that could run code
        raise UserError(f'{path} is not read: {error}') from error
    except Exception as error:  # a file that is no pickle can raise anything
        raise UserError(
            f'{path} is not a pickle of results ({error}): give the file that '
            '`mmdat test --out` wrote'
        ) from error
    writer, parts = CONTENT[scope]
    is_results = (
        isinstance(predictions, list)
        and predictions
        and all(
            isinstance(sample, dict)
            and KEYS[scope] | parts.keys() <= sample.keys()
            and all(keys <= set(sample[part].keys()) for part, keys in parts.items())
            and len(np.ravel(sample.get('gt_label', 0))) == 1
            for sample in predictions
        )
    )
    if not is_results:
        raise UserError(
            f'{path} holds no results of {writer}: give the file that `mmdat test --out` '
            'wrote with this config'
        )
    return predictions


def check_same_data(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, source: Path
) -> None:
    """Refuse results for other images or classes than a data set's.

    Args:
        predictions: What :func:`read_results` returned.
    """
    if not hasattr(dataset, 'ann_file'):
        raise UserError(
            f'test_dataloader.dataset is a {type(dataset).__name__}: give a config with the data '
            'set that it wraps, and its results'
        )
    infos = map(dataset.get_data_info, range(len(dataset)))
    expected: dict[Any, Any]
    given: dict[Any, Any]
    if 'img_id' in predictions[0]:
        expected = {info['img_id']: (info['height'], info['width']) for info in infos}
        given = {sample['img_id']: tuple(sample['ori_shape'][:2]) for sample in predictions}
    else:
        expected = {info['img_path']: None for info in infos}
        given = {sample['img_path']: None for sample in predictions}
    if given != expected:
        same = len(given.items() & expected.items())
        raise UserError(
            f'{source} belongs to another data set than {_name(dataset)}: {same} of its '
            f'{len(given)} images are among the {len(expected)} there; run `mmdat test --out` '
            'with this config'
        )
    classes = tuple(dataset.metainfo['classes'])
    # mmdat's tests write the classes of the tested data set with the first prediction.
    tested = predictions[0].get('classes') or classes
    for number, (old, new) in enumerate(zip_longest(tested, classes)):
        if old != new:
            raise UserError(
                f'{source} has other classes than {_name(dataset)}: number {number} is {old!r} in '
                f'the one and {new!r} in the other; run `mmdat test --out` with this config'
            )
    num_classes = len(classes)
    highest = max(map(_highest_class, predictions))
    if highest >= num_classes:
        raise UserError(
            f'{source} predicts class number {highest}, but {_name(dataset)} has '
            f'only {num_classes} classes: run `mmdat test --out` with this config'
        )


def _highest_class(sample: dict[str, Any]) -> int:
    """The highest number of a class in a prediction, -1 if there is none."""
    if 'pred_instances' in sample:
        labels = sample['pred_instances']['labels']
    else:
        labels = (
            sample['pred_sem_seg']['data'] if 'pred_sem_seg' in sample else sample['pred_label']
        )
    return int(labels.max()) if len(labels) else -1


def _name(dataset: BaseDataset) -> str:
    """What a sentence calls a data set: its file or, where it has none, its folder."""
    return dataset.ann_file or next(iter(dataset.data_prefix.values()))
