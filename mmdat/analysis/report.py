"""Report on a detector's test: predictions beside the ground truth, and average precision (AP)."""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.table import Table

from mmdat.checks.exceptions import explained
from mmdat.checks.results import check_same_data, read_results
from mmdat.checks.run import check_least, check_parts, check_writable
from mmdat.visualization import Comparison, draw_comparisons

from .browse import evenly_spaced
from .model import load_config

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
ALL_CLASSES = 'all classes'
TITLES = dict(bbox='Box', segm='Mask')

# {'bbox' or 'segm': {class or ALL_CLASSES: {column: AP in [0, 1], or None without such objects}}}
AveragePrecisions = dict[str, dict[str, dict[str, float | None]]]


@dataclass(frozen=True)
class Report:
    """What :func:`write_report` wrote.

    Attributes:
        pictures: File with predictions beside the ground truth.
        table: Markdown file with a table of average precision.
        figures: JSON file with the same numbers.
        average_precisions: Content of ``figures``.
    """

    pictures: Path
    table: Path
    figures: Path
    average_precisions: AveragePrecisions


def write_report(
    config: str | Path | Config,
    results: str | Path,
    out_dir: str | Path | None = None,
    num_images: int = 8,
) -> Report:
    """Draw and measure the results that ``tools/test.py CONFIG CHECKPOINT --out`` wrote.

    Writes ``predictions.png``, ``ap.md`` and ``ap.json``. The pictures are spaced evenly over the
    test set, not picked.

    ``results`` is a pickle, MMDetection's format for results. A pickle can run code when it is
    read: give files that you wrote yourself.

    Args:
        config: Config of the model, or its path; its test data set holds the ground truth.
        results: Path of the pickle.
        out_dir: Folder of the files, that of ``results`` if None.
        num_images: Number of pictures.

    Raises:
        UserError: ``results`` is missing, is no pickle of detections or belongs to another data
            set, ``num_images`` is not positive, or the config has a mistake or no test data.
    """
    results = Path(results)
    check_least('--num-images', num_images, 1)
    predictions = read_results(results)
    cfg = config if isinstance(config, Config) else load_config(config)
    check_parts(cfg, ('test_dataloader.dataset',))
    out_dir = results.parent if out_dir is None else Path(out_dir)
    check_writable('--out-dir', out_dir)
    register_all_modules()
    with explained(cfg):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    check_same_data(predictions, dataset, results)

    average_precisions = average_precision(predictions, dataset)
    out_dir.mkdir(parents=True, exist_ok=True)
    report = Report(
        out_dir / 'predictions.png', out_dir / 'ap.md', out_dir / 'ap.json', average_precisions
    )
    picture = _draw(predictions, dataset, num_images)
    mmcv.imwrite(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), str(report.pictures))
    report.table.write_text(_markdown(average_precisions))
    report.figures.write_text(json.dumps(average_precisions, indent=2) + '\n')
    return report


def print_report(report: Report) -> None:
    """Print the tables, and last the paths of the pictures and of the table."""
    console = Console()
    for metric, rows in report.average_precisions.items():
        table = Table('class', *COLUMNS, title=f'{TITLES[metric]} AP')
        for name, row in rows.items():
            table.add_row(name, *map(_percent, row.values()), end_section=name == ALL_CLASSES)
        console.print(table)
    # rich would wrap a long path, which then can neither be clicked nor copied.
    print(f'Pictures: {report.pictures.resolve()}')
    print(f'AP table: {report.table.resolve()}')


def average_precision(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset
) -> AveragePrecisions:
    """Box AP and, where masks were predicted, mask AP by COCO's protocol, overall and per class."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        ground_truth = COCO(dataset.ann_file)
        metrics = ['bbox'] + ['segm'] * ('masks' in predictions[0]['pred_instances'])
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
    found = ground_truth.loadRes(detections) if detections else COCO()
    evaluation = COCOeval(ground_truth, found, metric)
    evaluation.params.catIds = dataset.cat_ids
    evaluation.params.imgIds = [sample['img_id'] for sample in predictions]
    evaluation.evaluate()
    evaluation.accumulate()
    # [IoU threshold, recall, class, area range], at the largest number of detections
    precisions = evaluation.eval['precision'][..., -1]
    classes = dict.fromkeys([ALL_CLASSES], slice(None)) | {
        name: [index] for index, name in enumerate(dataset.metainfo['classes'])
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


def _draw(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, num_images: int
) -> np.ndarray:
    by_image = {sample['img_id']: sample['pred_instances'] for sample in predictions}
    comparisons = []
    for index in evenly_spaced(num_images, len(dataset)):
        info = dataset.get_data_info(index)
        comparisons.append(
            Comparison(
                title=Path(info['img_path']).name,
                image=mmcv.imread(info['img_path'], channel_order='rgb'),
                ground_truth=_ground_truth(info),
                prediction=_prediction(by_image[info['img_id']]),
            )
        )
    return draw_comparisons(
        comparisons, dataset.metainfo['classes'], dataset.metainfo.get('palette')
    )


def _ground_truth(info: dict[str, Any]) -> InstanceData:
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


def _markdown(average_precisions: AveragePrecisions) -> str:
    parts = []
    for metric, rows in average_precisions.items():
        lines = [['class', *COLUMNS], ['---'] + ['---:'] * len(COLUMNS)]
        lines += [[name, *map(_percent, row.values())] for name, row in rows.items()]
        table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
        parts.append(f'## {TITLES[metric]} AP\n\n{table}\n')
    return '\n'.join(parts)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
