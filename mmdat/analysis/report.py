"""Report on a test: predictions beside the ground truth, and how good they are for each class."""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from mmdat.apis.curves import read_log
from mmdat.apis.model import load_config
from mmdat.apis.toolboxes import in_toolbox, toolbox_of
from mmdat.checks import log_warning
from mmdat.checks.checkpoint import last_checkpoint
from mmdat.checks.images import evenly_spaced
from mmdat.checks.results import check_same_data, read_results
from mmdat.checks.run import check_least, check_parts, check_share, check_writable
from mmdat.errors import UserError
from mmdat.files import write_whole
from mmdat.stack import installed_version
from mmdat.version import __version__
from mmdat.visualization.comparison import SCORE_THRESHOLD, arrange, write_picture
from mmdat.visualization.curves import draw_curves, in_order

from .classes import class_accuracy, confused_images, draw_classified
from .detections import MATCHING_IOU, average_precision, confused_objects, draw_detections
from .page import shown_confusion, write_page
from .points import draw_points
from .segments import confused_pixels, draw_predicted_segments, segment_overlap
from .tables import Tables, print_tables, to_markdown

Predictions = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """What is reported of a task.

    Attributes:
        file_name: Name of the files with the tables, without suffix.
        measure: Makes the tables from predictions, as tests of the toolbox write them, and the data
            set that was tested on.
        draw: Draws the predictions for the images of some indices, down to a score if there are
            scores; of each (height, width, 3), RGB uint8.
        confuse: Counts what each class was found as, down to a score if there are scores.
        counted: What is counted, as a sentence for people, with a place for the least score.
        drawn: What the pictures show besides, likewise.
    """

    file_name: str
    measure: Callable[[Predictions, BaseDataset], Tables]
    draw: Callable[[Predictions, BaseDataset, Sequence[int], float], list[np.ndarray]]
    confuse: Callable[[Predictions, BaseDataset, float], np.ndarray]
    counted: str
    drawn: str


TASKS = dict(
    mmdet=Task(
        'ap',
        average_precision,
        draw_detections,
        confused_objects,
        'What the objects of each class (row) were found as (column), by boxes with a score of '
        f'{{:g}} or more that overlap with an IoU of {MATCHING_IOU} or more. Last column: objects '
        'that were missed. Last row: boxes where there is no object.',
        ' Objects with a score of {:g} or more.',
    ),
    mmseg=Task(
        'iou',
        segment_overlap,
        draw_predicted_segments,
        confused_pixels,
        'What the pixels of each class (row) were predicted as (column).',
        '',
    ),
    mmpretrain=Task(
        'accuracy',
        class_accuracy,
        draw_classified,
        confused_images,
        'What the images of each class (row) were predicted as (column).',
        ' What is wrong is red; a score below {:g} has a question mark.',
    ),
)
# Pictures on the page, so that it stays small: of predictions, and of deformed points.
MOST_PICTURES, MOST_POINTS = 12, 3


@dataclass(frozen=True)
class Report:
    """What :func:`write_report` wrote.

    Attributes:
        pictures: File with predictions beside the ground truth.
        table: Markdown file with a row a class.
        figures: JSON file with the same numbers.
        page: HTML file with all of it, the curves of the training and a confusion matrix.
        tables: Content of ``figures``.
    """

    pictures: Path
    table: Path
    figures: Path
    page: Path
    tables: Tables


def write_report(
    config: str | Path | Config,
    results: str | Path,
    out_dir: str | Path | None = None,
    num_images: int = 8,
    score_thr: float = SCORE_THRESHOLD,
    command: str = '',
    checkpoint: str | None = None,
) -> Report:
    """Draw and measure the results that ``tools/test.py CONFIG CHECKPOINT --out`` wrote.

    Writes ``predictions.png`` and, of a detector, ``ap.md`` and ``ap.json``, of a segmentor
    ``iou``, of a classifier ``accuracy``. The pictures are spaced evenly over the test set, not
    picked. ``report.html`` has all of it on a page, with a confusion matrix and with the curves of
    the training whose log is beside the results.

    ``results`` is a pickle, the toolboxes' format for results. Code in it is not run.

    Args:
        config: Config of the model, or its path; its test data set holds the ground truth.
        results: Path of the pickle.
        out_dir: Folder of the files, that of ``results`` if None.
        num_images: Number of pictures.
        score_thr: Least score of detections that are drawn and counted as confused, and of classes
            that are named.
        command: The command that the page names.
        checkpoint: Weights with which the page shows where deformable attention looks; the last of
            the training whose log is beside the results if None, if it is there and fits.

    Raises:
        UserError: ``results`` is missing, is no pickle of results or belongs to another task or
            data set, ``checkpoint`` is of another model, ``num_images`` is not positive,
            ``score_thr`` is not in [0, 1], or the config has a mistake or no test data.
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
    is_named = checkpoint is not None
    if checkpoint is None:
        folder, name = last_checkpoint(cfg, results.parent)
        checkpoint = str(folder / name) if (folder / name).is_file() else None
    points = []
    with in_toolbox(cfg):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        check_same_data(predictions, dataset, results)
        indices = evenly_spaced(num_images, len(dataset))
        shown = evenly_spaced(MOST_PICTURES, len(indices))
        if checkpoint is not None:  # before what takes long, as it may be of another model
            chosen = [indices[i] for i in shown[:MOST_POINTS]]
            try:
                points = draw_points(cfg, checkpoint, dataset, chosen)
            except UserError as error:
                if is_named:
                    raise
                log_warning(f'The page does not show where attention looks: {error}')
        tables = task.measure(predictions, dataset)
        pictures = task.draw(predictions, dataset, indices, score_thr)
        confusion = shown_confusion(
            task.confuse(predictions, dataset, score_thr),
            dataset.metainfo['classes'],
            task.counted.format(score_thr) + ' In percent of the row.',
        )
    report = Report(
        out_dir / 'predictions.png',
        out_dir / f'{task.file_name}.md',
        out_dir / f'{task.file_name}.json',
        out_dir / 'report.html',
        tables,
    )
    write_picture(report.pictures, arrange(pictures))
    write_whole(report.table, to_markdown(tables))
    write_whole(report.figures, json.dumps(tables, indent=2) + '\n')
    write_page(
        report.page,
        title=Path(cfg.filename or scope).stem,
        facts=_facts(cfg, results, command),
        curves=_curves(results.parent),
        tables=tables,
        confusion=confusion,
        pictures=[pictures[index] for index in shown],
        paired=pictures[0].shape[1] > pictures[0].shape[0],
        pictures_text=task.drawn.format(score_thr),
        points=points,
        points_text='Where the last deformable block takes its keys from in some of these images, '
        f'with the weights of {checkpoint}.',
    )
    return report


def _facts(cfg: Config, results: Path, command: str) -> dict[str, str]:
    packages = ('torch', 'mmengine', 'mmcv', toolbox_of(cfg).name)
    versions = dict(mmdat=__version__, Python=platform.python_version())
    versions |= {package: str(installed_version(package)) for package in packages}
    facts = dict(
        Config=str(cfg.filename or ''),
        Results=str(results),
        Date=f'{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}',
        Command=command,
        Versions=', '.join(f'{name} {version}' for name, version in versions.items()),
    )
    return {name: text for name, text in facts.items() if text}


def _curves(work_dir: Path) -> list[Figure]:
    """The curves of the training in a work dir, panel by panel; none if it has no log."""
    try:
        curves = read_log(work_dir).curves
    except UserError:
        return []
    return [draw_curves({'': {title: curves[title]}}) for title in in_order(curves)]


def print_report(report: Report) -> None:
    """Print the tables, and last the paths of the pictures, of the tables and of the page."""
    print_tables(report.tables)
    # rich would wrap a long path, which then can neither be clicked nor copied.
    print(f'Pictures: {report.pictures.resolve()}')
    print(f'Table: {report.table.resolve()}')
    print(f'Report: {report.page.resolve()}')
