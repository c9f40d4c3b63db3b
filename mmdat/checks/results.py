"""Read a detector's results, and check that they belong to a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmengine
from mmengine.dataset import BaseDataset

from mmdat.errors import UserError


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the pickle of detections that MMDetection's ``DumpDetResults`` writes.

    Raises:
        UserError: The file is missing or holds something else.
    """
    if not path.is_file():
        raise UserError(
            f'there are no results at {path}: write them with '
            f'`tools/test.py CONFIG CHECKPOINT --out {path}`'
        )
    try:
        predictions = mmengine.load(path, file_format='pkl')
    except Exception as error:  # a file that is no pickle can raise anything
        raise UserError(
            f'{path} is not a pickle of results ({error}): give the file that '
            '`tools/test.py --out` wrote'
        ) from error
    is_results = (
        isinstance(predictions, list)
        and predictions
        and all(
            isinstance(sample, dict)
            and {'img_id', 'ori_shape', 'pred_instances'} <= sample.keys()
            and {'bboxes', 'scores', 'labels'} <= set(sample['pred_instances'].keys())
            for sample in predictions
        )
    )
    if not is_results:
        raise UserError(
            f'{path} holds no detections: give the file that `tools/test.py --out` '
            'wrote for a detector'
        )
    return predictions


def check_same_data(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, source: Path
) -> None:
    """Refuse results for other images or classes than a data set's.

    Args:
        predictions: What :func:`read_results` returned.
        dataset: A built data set in COCO format.
        source: The file with the results, for the sentence.

    Raises:
        UserError: Says how many images are the same, or which class there is not.
    """
    expected = {
        info['img_id']: (info['height'], info['width'])
        for info in map(dataset.get_data_info, range(len(dataset)))
    }
    given = {sample['img_id']: tuple(sample['ori_shape'][:2]) for sample in predictions}
    if given != expected:
        same = sum(expected.get(image) == shape for image, shape in given.items())
        raise UserError(
            f'{source} belongs to another data set than {dataset.ann_file}: {same} of its '
            f'{len(given)} images are among the {len(expected)} there; run `tools/test.py --out` '
            'with this config'
        )
    num_classes = len(dataset.metainfo['classes'])
    highest = max(
        (
            int(sample['pred_instances']['labels'].max())
            for sample in predictions
            if len(sample['pred_instances']['labels'])
        ),
        default=0,
    )
    if highest >= num_classes:
        raise UserError(
            f'{source} predicts class number {highest}, but {dataset.ann_file} has '
            f'only {num_classes} classes: run `tools/test.py --out` with this config'
        )
