"""Report on a test: predictions beside the ground truth, and how good they are for each class."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from mmdat.apis.toolboxes import toolbox_of
from mmdat.checks.exceptions import explained
from mmdat.checks.results import check_same_data, read_results
from mmdat.checks.run import check_least, check_parts, check_share, check_writable
from mmdat.visualization.comparison import SCORE_THRESHOLD

from .browse import evenly_spaced
from .classes import class_accuracy, draw_classified
from .detections import average_precision, draw_detections
from .model import load_config
from .segments import draw_predicted_segments, segment_overlap
from .tables import Tables, print_tables, to_markdown

Predictions = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """What is reported of a task.

    Attributes:
        file_name: Name of the files with the tables, without suffix.
        measure: Makes the tables from predictions and data set.
        draw: Draws the predictions for the images of some indices, down to a score.
    """

    file_name: str
    measure: Callable[[Predictions, BaseDataset], Tables]
    draw: Callable[[Predictions, BaseDataset, Sequence[int], float], np.ndarray]


TASKS = dict(
    mmdet=Task('ap', average_precision, draw_detections),
    mmseg=Task('iou', segment_overlap, draw_predicted_segments),
    mmpretrain=Task('accuracy', class_accuracy, draw_classified),
)


@dataclass(frozen=True)
class Report:
    """What :func:`write_report` wrote.

    Attributes:
        pictures: File with predictions beside the ground truth.
        table: Markdown file with a row a class.
        figures: JSON file with the same numbers.
        tables: Content of ``figures``.
    """

    pictures: Path
    table: Path
    figures: Path
    tables: Tables


def write_report(
    config: str | Path | Config,
    results: str | Path,
    out_dir: str | Path | None = None,
    num_images: int = 8,
    score_thr: float = SCORE_THRESHOLD,
) -> Report:
    """Draw and measure the results that ``tools/test.py CONFIG CHECKPOINT --out`` wrote.

    Writes ``predictions.png`` and, of a detector, ``ap.md`` and ``ap.json``, of a segmentor
    ``iou``, of a classifier ``accuracy``. The pictures are spaced evenly over the test set, not
    picked.

    ``results`` is a pickle, the toolboxes' format for results. A pickle can run code when it is
    read: give files that you wrote yourself.

    Args:
        config: Config of the model, or its path; its test data set holds the ground truth.
        results: Path of the pickle.
        out_dir: Folder of the files, that of ``results`` if None.
        num_images: Number of pictures.
        score_thr: Least score of detections that are drawn and of classes that are named.

    Raises:
        UserError: ``results`` is missing, is no pickle of results or belongs to another task or
            data set, ``num_images`` is not positive, ``score_thr`` is not in [0, 1], or the config
            has a mistake or no test data.
    """
    results = Path(results)
    check_least('--num-images', num_images, 1)
    check_share('--score-thr', score_thr)
    cfg = config if isinstance(config, Config) else load_config(config)
    scope = toolbox_of(cfg).name
    predictions = read_results(results, scope)
    check_parts(cfg, ('test_dataloader.dataset',))
    out_dir = results.parent if out_dir is None else Path(out_dir)
    check_writable('--out-dir', out_dir)
    task = TASKS[scope]
    with DefaultScope.overwrite_default_scope(scope), explained(cfg):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        check_same_data(predictions, dataset, results)
        tables = task.measure(predictions, dataset)
        indices = evenly_spaced(num_images, len(dataset))
        picture = task.draw(predictions, dataset, indices, score_thr)
    out_dir.mkdir(parents=True, exist_ok=True)
    report = Report(
        out_dir / 'predictions.png',
        out_dir / f'{task.file_name}.md',
        out_dir / f'{task.file_name}.json',
        tables,
    )
    mmcv.imwrite(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), str(report.pictures))
    report.table.write_text(to_markdown(tables), encoding='utf-8')
    report.figures.write_text(json.dumps(tables, indent=2) + '\n', encoding='utf-8')
    return report


def print_report(report: Report) -> None:
    """Print the tables, and last the paths of the pictures and of the tables."""
    print_tables(report.tables)
    # rich would wrap a long path, which then can neither be clicked nor copied.
    print(f'Pictures: {report.pictures.resolve()}')
    print(f'Table: {report.table.resolve()}')
