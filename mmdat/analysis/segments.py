"""Intersection over union (IoU) of predicted segments, and pictures of them beside the truth.

What the functions take is said in :class:`mmdat.analysis.report.Task`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmdat.checks.images import load_image
from mmdat.visualization.comparison import compare_segments

from .tables import ALL_CLASSES, Tables


def segment_overlap(predictions: Sequence[dict[str, Any]], dataset: BaseDataset) -> Tables:
    """IoU, accuracy and part of the pixels of each class; of all classes the means."""
    from mmseg.evaluation import IoUMetric  # so that reports of other tasks need no mmseg

    classes = dataset.metainfo['classes']
    areas = [
        IoUMetric.intersect_and_union(  # (shared, union, predicted, true) pixels, each (classes,)
            sample['pred_sem_seg']['data'].squeeze(),
            sample['gt_sem_seg']['data'].squeeze(),
            len(classes),
            dataset.ignore_index,
        )
        for sample in predictions
    ]
    shared, union, _, truth = (np.sum(part, 0) for part in zip(*areas, strict=True))
    with np.errstate(invalid='ignore'):  # of classes that are nowhere
        columns = dict(IoU=shared / union, accuracy=shared / truth)
    rows = {ALL_CLASSES: {name: _part(np.nanmean(values)) for name, values in columns.items()}}
    rows[ALL_CLASSES]['share of pixels'] = 1.0
    for index, name in enumerate(classes):
        rows[name] = {column: _part(values[index]) for column, values in columns.items()}
        rows[name]['share of pixels'] = _part(truth[index] / truth.sum())
    return dict(iou=rows)


def confused_pixels(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, score_thr: float
) -> np.ndarray:
    """Count the pixels of each class by their predicted class, which each has at any score.

    Returns:
        (classes, classes), by true and by predicted class.
    """
    num_classes = len(dataset.metainfo['classes'])
    counts = np.zeros(num_classes**2, int)
    for sample in predictions:
        truth, found = (sample[key]['data'].numpy() for key in ('gt_sem_seg', 'pred_sem_seg'))
        known = (truth != dataset.ignore_index) & (truth < num_classes)
        pairs = num_classes * truth[known].astype(int) + found[known]
        counts += np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _part(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def draw_predicted_segments(
    predictions: Sequence[dict[str, Any]],
    dataset: BaseDataset,
    indices: Sequence[int],
    score_thr: float,
) -> list[np.ndarray]:
    """Draw the predicted segments of images, all at any score, beside the truth."""
    by_path = {sample['img_path']: sample for sample in predictions}
    classes, palette = dataset.metainfo['classes'], dataset.metainfo.get('palette')
    pairs = []
    for path in (dataset.get_data_info(index)['img_path'] for index in indices):
        truth, found = (
            by_path[path][key]['data'].squeeze().numpy() for key in ('gt_sem_seg', 'pred_sem_seg')
        )
        image = load_image(dataset, path)
        pairs.append(compare_segments(Path(path).name, image, truth, found, classes, palette))
    return pairs
