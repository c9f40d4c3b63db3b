"""Accuracy of a classifier, and pictures with predicted and true class.

What the functions take is said in :class:`mmdat.analysis.report.Task`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmdat.checks.images import load_image
from mmdat.visualization.comparison import draw_titled

from .tables import ALL_CLASSES, Tables


def class_accuracy(predictions: Sequence[dict[str, Any]], dataset: BaseDataset) -> Tables:
    """Accuracy and precision of each class, and its share of the images.

    Of all classes the accuracy is that of all images, the precision the mean of the classes'.
    """
    truth, found = _labels(predictions)
    right = truth == found
    rows = {
        name: _row(right[truth == index], right[found == index], truth == index)
        for index, name in enumerate(dataset.metainfo['classes'])
    }
    precisions = np.array(
        [row['precision'] for row in rows.values() if row['precision'] is not None]
    )
    whole = _row(right, precisions, np.ones_like(right))
    return dict(accuracy={ALL_CLASSES: whole, **rows})


def confused_images(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, score_thr: float
) -> np.ndarray:
    """Count the images of each class by their predicted class, which each has at any score.

    Returns:
        (classes, classes), by true and by predicted class.
    """
    num_classes = len(dataset.metainfo['classes'])
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, _labels(predictions), 1)
    return counts


def _labels(predictions: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes, each (n,)."""
    truth, found = (
        np.array([int(sample[key]) for sample in predictions]) for key in ('gt_label', 'pred_label')
    )
    return truth, found


def _row(accuracy: Any, precision: Any, images: Any) -> dict[str, float | None]:
    return {
        'accuracy': float(accuracy.mean()) if len(accuracy) else None,
        'precision': float(precision.mean()) if len(precision) else None,
        'share of images': float(images.mean()),
    }


def draw_classified(
    predictions: Sequence[dict[str, Any]],
    dataset: BaseDataset,
    indices: Sequence[int],
    score_thr: float,
) -> list[np.ndarray]:
    """Draw images with the predicted class and its score and, where it is wrong, the true class.

    A class with a lower score than ``score_thr`` is not named.
    """
    # ImageNet gives a class several names: the first is drawn.
    names = [name.split(',')[0] for name in dataset.metainfo['classes']]
    by_path = {sample['img_path']: sample for sample in predictions}
    cells = []
    for path in (dataset.get_data_info(index)['img_path'] for index in indices):
        sample = by_path[path]
        found, truth = int(sample['pred_label']), int(sample['gt_label'])
        score = float(sample['pred_score'].max())
        title = f'{names[found]} {score:.2f}' if score >= score_thr else f'? {score:.2f}'
        if found != truth:
            title += f' (is {names[truth]})'
        cells.append(draw_titled(title, load_image(dataset, path), found == truth))
    return cells
