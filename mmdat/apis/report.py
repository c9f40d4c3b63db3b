"""What a test of a detector came to: a picture grid and a table of average precision (AP)."""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import mmengine
import numpy as np
import torch
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

from mmdat.checks.config_file import read_config
from mmdat.checks.run import check_writable
from mmdat.errors import UserError
from mmdat.visualization import Comparison, draw_grid

# Column of the table -> (IoU threshold or None for the mean of all, area range) of COCO's protocol.
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
    """The files that :func:`write_report` wrote, and the figures in them."""

    grid: Path
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
        config: Of the model; its test data set holds the truth.
        results: Path of the pickle.
        out_dir: Folder of the files, that of ``results`` if None.
        num_images: Number of pictures.

    Raises:
        UserError: ``results`` is missing, is no pickle of detections or belongs to another data
            set, or ``num_images`` is not positive.
    """
    results = Path(results)
    if num_images < 1:
        raise UserError(f'num_images={num_images} leaves no picture: give at least 1.')
    predictions = load_results(results)
    if not isinstance(config, Config):
        config = read_config(config)
    out_dir = results.parent if out_dir is None else Path(out_dir)
    check_writable('--out-dir', out_dir)
    register_all_modules()
    dataset = DATASETS.build(config.test_dataloader.dataset)
    _check_same_data(predictions, dataset, results)

    average_precisions = measure(predictions, dataset)
    out_dir.mkdir(parents=True, exist_ok=True)
    report = Report(
        out_dir / 'predictions.png', out_dir / 'ap.md', out_dir / 'ap.json', average_precisions
    )
    mmcv.imwrite(
        cv2.cvtColor(_draw(predictions, dataset, num_images), cv2.COLOR_RGB2BGR), str(report.grid)
    )
    report.table.write_text(_markdown(average_precisions))
    report.figures.write_text(json.dumps(average_precisions, indent=2) + '\n')
    return report


def print_report(report: Report) -> None:
    """Print the tables, and last the paths of the grid and the table."""
    console = Console()
    for metric, rows in report.average_precisions.items():
        table = Table('class', *COLUMNS, title=f'{TITLES[metric]} AP')
        for name, row in rows.items():
            table.add_row(name, *map(_percent, row.values()), end_section=name == ALL_CLASSES)
        console.print(table)
    # Not by rich, which would wrap a long path and so break it for a click or a copy.
    print(f'Pictures: {report.grid.resolve()}')
    print(f'AP table: {report.table.resolve()}')


def load_results(path: Path) -> list[dict[str, Any]]:
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


def measure(predictions: Sequence[dict[str, Any]], dataset: BaseDataset) -> AveragePrecisions:
    """Box AP and, where masks were predicted, mask AP by COCO's protocol, in all and per class."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        truth = COCO(dataset.ann_file)
        metrics = ['bbox'] + ['segm'] * ('masks' in predictions[0]['pred_instances'])
        return {metric: _measure(predictions, dataset, truth, metric) for metric in metrics}


def _measure(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, truth: COCO, metric: str
) -> dict[str, dict[str, float | None]]:
    detections = [
        detection
        for sample in predictions
        for detection in _coco_detections(sample, dataset.cat_ids, metric)
    ]
    evaluation = COCOeval(truth, truth.loadRes(detections) if detections else COCO(), metric)
    evaluation.params.catIds = dataset.cat_ids
    evaluation.params.imgIds = [sample['img_id'] for sample in predictions]
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU threshold, recall, class, area range, number of detections)
    precisions = evaluation.eval['precision'][..., -1]
    classes = dict.fromkeys([ALL_CLASSES], slice(None)) | {
        name: [index] for index, name in enumerate(dataset.metainfo['classes'])
    }

    def mean(chosen: slice | list[int], threshold: float | None, area: str) -> float | None:
        part = precisions[:, :, chosen, evaluation.params.areaRngLbl.index(area)]
        if threshold is not None:
            part = part[np.isclose(evaluation.params.iouThrs, threshold)]
        part = part[part > -1]  # -1 where there is nothing to find
        return float(part.mean()) if part.size else None

    return {
        name: {column: mean(chosen, *condition) for column, condition in COLUMNS.items()}
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


def _check_same_data(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, results: Path
) -> None:
    expected = {
        info['img_id']: (info['height'], info['width'])
        for info in map(dataset.get_data_info, range(len(dataset)))
    }
    given = {sample['img_id']: tuple(sample['ori_shape'][:2]) for sample in predictions}
    if given != expected:
        same = sum(expected.get(image) == shape for image, shape in given.items())
        raise UserError(
            f'{results} belongs to another data set than {dataset.ann_file}: {same} of its '
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
            f'{results} predicts class number {highest}, but {dataset.ann_file} has '
            f'only {num_classes} classes: run `tools/test.py --out` with this config'
        )


def _draw(
    predictions: Sequence[dict[str, Any]], dataset: BaseDataset, num_images: int
) -> np.ndarray:
    by_image = {sample['img_id']: sample['pred_instances'] for sample in predictions}
    count = min(num_images, len(dataset))
    comparisons = []
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist():
        info = dataset.get_data_info(index)
        comparisons.append(
            Comparison(
                title=Path(info['img_path']).name,
                image=mmcv.imread(info['img_path'], channel_order='rgb'),
                truth=_truth_instances(info),
                prediction=_predicted_instances(by_image[info['img_id']]),
            )
        )
    return draw_grid(comparisons, dataset.metainfo['classes'], dataset.metainfo.get('palette'))


def _truth_instances(info: dict[str, Any]) -> InstanceData:
    shape = info['height'], info['width']
    objects = [item for item in info['instances'] if not item['ignore_flag']]
    instances = InstanceData(
        bboxes=torch.tensor([item['bbox'] for item in objects]).reshape(-1, 4),
        labels=torch.tensor([item['bbox_label'] for item in objects], dtype=torch.long),
    )
    if all('mask' in item for item in objects):
        instances.masks = _decode([_to_rle(item['mask'], *shape) for item in objects], *shape)
    return instances


def _predicted_instances(prediction: dict[str, Any]) -> InstanceData:
    instances = InstanceData(
        bboxes=prediction['bboxes'], labels=prediction['labels'], scores=prediction['scores']
    )
    if prediction.get('masks'):
        instances.masks = _decode(prediction['masks'], *prediction['masks'][0]['size'])
    return instances


def _to_rle(mask: dict[str, Any] | list[list[float]], height: int, width: int) -> dict[str, Any]:
    """COCO's polygons, uncompressed or compressed run lengths -> compressed run lengths."""
    if isinstance(mask, list):
        return mask_api.merge(mask_api.frPyObjects(mask, height, width))
    if isinstance(mask['counts'], list):
        return mask_api.frPyObjects(mask, height, width)
    return mask


def _decode(rles: Sequence[dict[str, Any]], height: int, width: int) -> np.ndarray:
    if not rles:
        return np.zeros((0, height, width), dtype=bool)
    return mask_api.decode(list(rles)).transpose(2, 0, 1).astype(bool)


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
