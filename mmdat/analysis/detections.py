"""Average precision (AP) of detections, and pictures of them beside the truth.

What the functions take is said in :class:`mmdat.analysis.report.Task`.
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdat.checks.images import load_image
from mmdat.errors import UserError
from mmdat.visualization import compare_objects

from .tables import ALL_CLASSES, Tables

# IoU from which a box is matched to a true one in the confusion matrix.
MATCHING_IOU = 0.5
# Column of the table -> IoU threshold, or None for the mean over all, and range of areas, as COCO's
# protocol names it.
COLUMNS = {
    'AP': (None, 'all'),
    'AP50': (0.5, 'all'),
    'AP75': (0.75, 'all'),
    'AP small': (None, 'small'),
    'AP medium': (None, 'medium'),
    'AP large': (None, 'large'),
}


def average_precision(predictions: Sequence[dict[str, Any]], dataset: BaseDataset) -> Tables:
    """Box AP and, where masks were predicted, mask AP by COCO's protocol, overall and per class.

    Returns:
        By ``'bbox'`` and ``'segm'``.

    Raises:
        UserError: If the data set has no annotations in COCO's format.
    """
    if not hasattr(dataset, 'cat_ids'):
        raise UserError(
            f'test_dataloader.dataset is a {type(dataset).__name__}, but a report measures data in '
            "COCO's format alone (CocoDataset): take the figures from mmdat test"
        )
    from mmdat.datasets.coco import CheckedCOCO  # so that reports of other tasks need no mmdet

    # Each image counts once, as in a test, though it may have been tested twice.
    predictions = list({sample['img_id']: sample for sample in predictions}.values())
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        with_masks = 'masks' in predictions[0]['pred_instances']
        ground_truth = CheckedCOCO(dataset.ann_file, with_masks)
        metrics = ['bbox'] + ['segm'] * with_masks
        return {
            metric: _average_precision(predictions, dataset, ground_truth, metric)
            for metric in metrics
        }


def _average_precision(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, ground_truth: COCO, metric: str
) -> dict[str, dict[str, float | None]]:
    detections = [
        detection
        for sample in predictions
        for detection in _coco_detections(sample, dataset.cat_ids, metric)
    ]
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(detections), metric)
    evaluation.params.catIds = dataset.cat_ids
    evaluation.params.imgIds = [sample['img_id'] for sample in predictions]
    evaluation.evaluate()
    evaluation.accumulate()
    # [IoU threshold, recall, class by id, area range], at the largest number of detections
    precisions = evaluation.eval['precision'][..., -1]
    ranks = [sorted(dataset.cat_ids).index(number) for number in dataset.cat_ids]
    classes = dict.fromkeys([ALL_CLASSES], slice(None)) | {
        name: [rank] for name, rank in zip(dataset.metainfo['classes'], ranks, strict=True)
    }

    def mean_precision(
        chosen: slice | list[int], threshold: float | None, area: str
    ) -> float | None:
        part = precisions[:, :, chosen, evaluation.params.areaRngLbl.index(area)]
        if threshold is not None:
            part = part[np.isclose(evaluation.params.iouThrs, threshold)]
        part = part[part > -1]  # -1 where there is nothing to find
        return float(part.mean()) if part.size else None

    return {
        name: {column: mean_precision(chosen, *condition) for column, condition in COLUMNS.items()}
        for name, chosen in classes.items()
    }


def _coco_detections(
    sample: dict[str, Any], category_ids: Sequence[int], metric: str
) -> list[dict[str, Any]]:
    instances = sample['pred_instances']
    scores = instances['scores']
    if metric == 'segm':
        scores = instances.get('mask_scores', scores)
        shapes = [dict(segmentation=rle) for rle in instances['masks']]
    else:
        boxes = instances['bboxes'].clone()
        boxes[:, 2:] -= boxes[:, :2]
        shapes = [dict(bbox=box) for box in boxes.tolist()]
    return [
        dict(image_id=sample['img_id'], category_id=category_ids[label], score=score, **shape)
        for label, score, shape in zip(
            instances['labels'].tolist(), scores.tolist(), shapes, strict=True
        )
    ]


def confused_objects(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, score_thr: float
) -> np.ndarray:
    """Count what objects of each class were found as.

    Boxes are matched to true ones one to one, those that overlap most first.

    Returns:
        (classes + 1, classes + 1), by true and by found class; the last column has objects that
        were not found, the last row boxes where there is none. Boxes on crowds are not counted.
    """
    nothing = len(dataset.metainfo['classes'])
    counts = np.zeros((nothing + 1, nothing + 1), int)
    found_in = {sample['img_id']: sample['pred_instances'] for sample in predictions}
    for info in map(dataset.get_data_info, range(len(dataset))):
        found = found_in[info['img_id']]
        kept = found['scores'] >= score_thr
        labels = found['labels'][kept].tolist()
        true_labels = [item['bbox_label'] for item in info['instances']]
        crowds = np.array([item['ignore_flag'] for item in info['instances']], bool)
        overlaps = mask_api.iou(
            _as_xywh(found['bboxes'][kept].tolist()),
            _as_xywh([item['bbox'] for item in info['instances']]),
            crowds.tolist(),
        )
        overlaps = np.array(overlaps, float).reshape(len(labels), len(crowds))
        on_crowds = np.any(overlaps[:, crowds] >= MATCHING_IOU, axis=1)
        overlaps[:, crowds] = 0
        missed, false = dict(enumerate(true_labels)), dict(enumerate(labels))
        pairs = np.argwhere(overlaps >= MATCHING_IOU).tolist()
        for box, index in sorted(pairs, key=lambda pair: -overlaps[tuple(pair)]):
            if box in false and index in missed:
                counts[missed.pop(index), false.pop(box)] += 1
        for index, label in missed.items():
            counts[label, nothing] += not crowds[index]
        for box, label in false.items():
            counts[nothing, label] += not on_crowds[box]
    return counts


def _as_xywh(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    array = np.array(boxes, float).reshape(-1, 4)
    array[:, 2:] -= array[:, :2]
    return array


def draw_detections(
    predictions: Sequence[dict[str, Any]],
    dataset: BaseDataset,
    indices: Sequence[int],
    score_thr: float,
) -> list[np.ndarray]:
    """Draw the detections of images beside the truth."""
    by_image = {sample['img_id']: sample['pred_instances'] for sample in predictions}
    return [
        compare_objects(
            Path(info['img_path']).name,
            load_image(dataset, info['img_path']),
            ground_truth_in(info),
            _prediction(by_image[info['img_id']]),
            dataset.metainfo['classes'],
            dataset.metainfo.get('palette'),
            score_thr,
        )
        for info in map(dataset.get_data_info, indices)
    ]


def ground_truth_in(info: dict[str, Any]) -> InstanceData:
    """Boxes, labels and, if there are any, masks in an item of a data set; no crowds."""
    from mmdet.datasets.transforms import LoadAnnotations

    with_mask = all('mask' in item for item in info['instances'])
    load = LoadAnnotations(with_mask=with_mask, box_type=None)
    loaded = load(dict(info, ori_shape=(info['height'], info['width'])))
    instances = InstanceData(
        bboxes=torch.from_numpy(loaded['gt_bboxes']),
        labels=torch.from_numpy(loaded['gt_bboxes_labels']),
    )
    if with_mask:
        instances.masks = loaded['gt_masks'].masks.astype(bool)
    return instances[~loaded['gt_ignore_flags']]


def _prediction(detections: dict[str, Any]) -> InstanceData:
    instances = InstanceData(
        bboxes=detections['bboxes'], labels=detections['labels'], scores=detections['scores']
    )
    if detections.get('masks'):
        instances.masks = mask_api.decode(detections['masks']).transpose(2, 0, 1).astype(bool)
    return instances
