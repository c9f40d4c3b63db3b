"""What the data of a config hold and what is wrong with them, before anything is trained."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, EVALUATOR
from rich.table import Table

from mmdat import checks
from mmdat.apis.model import build_model
from mmdat.apis.runner import add_checks, read_run_config
from mmdat.apis.toolboxes import toolbox_of
from mmdat.checks.exceptions import explained
from mmdat.checks.images import evenly_spaced, to_rgb
from mmdat.checks.masks import IGNORED
from mmdat.checks.mmengine_private import in_scope
from mmdat.checks.run import check_least, check_writable
from mmdat.errors import UserError, enumerate_names
from mmdat.visualization.comparison import (
    SIDE,
    arrange,
    draw_objects,
    draw_segments,
    draw_titled,
    resize,
    write_picture,
)
from mmdat.visualization.predictions import distinct_colors, draw_text

from .data_summary import (
    READ,
    Summary,
    broken_images,
    items_of,
    load,
    rare_classes,
    same_images,
    same_objects,
    small_boxes,
    summarize,
)
from .detections import ground_truth_in
from .tables import class_table, print_table

SPLITS = ('train', 'val', 'test')
GRAY = (128, 128, 128)  # of the pixels of a mask that count for nothing


@dataclass
class DataReport:
    """What :func:`check_data` found.

    Attributes:
        splits: What each split holds; those that cannot be built are not there.
        errors: What ends a run, or makes it learn what is wrong; a sentence each.
        warnings: What is worth to know; a sentence each.
        pictures: File with images and their annotations; None if there are none.
    """

    splits: dict[str, Summary] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: Path | None = None

    def attempt(self, check: Callable[[], Any]) -> Any:
        """Call a function, and keep the sentence of the error that it ends with."""
        try:
            return check()
        except UserError as error:
            if str(error) not in self.errors:
                self.errors.append(str(error))


def check_data(
    config: str,
    out_dir: str | None = None,
    num_images: int = 12,
    cfg_options: dict[str, Any] | None = None,
) -> DataReport:
    """Build the model and data sets of a config as a training does, and look for what is wrong.

    Args:
        config: Path of the config, of mmdet, mmsegmentation or mmpretrain.
        out_dir: Folder for ``data.png``, made if it is not there; that of a training if None.
        num_images: Number of images in it, spaced evenly over each split.
        cfg_options: Values to put into the config, by dotted key.

    Raises:
        UserError: For a mistake in what was given.
    """
    check_least('--num-images', num_images, 1)
    cfg = read_run_config(config, out_dir, cfg_options, 'none')
    checks.after_reading(cfg)
    check_writable('--out-dir', cfg.work_dir)
    report = DataReport()
    with in_scope(toolbox_of(cfg).name), _collect(report.warnings):
        add_checks(cfg)
        report.attempt(partial(checks.before_training, cfg, warn=report.warnings.append))
        model = report.attempt(partial(_explained, cfg, partial(build_model, cfg)))
        datasets = _build_datasets(cfg, report)
        if model is not None:
            evaluators = {
                split: evaluator
                for split in datasets
                if (evaluator := _build_evaluator(cfg, split, report)) is not None
            }
            for check in checks.first_step_checks(
                model, datasets, evaluators, report.warnings.append
            ):
                report.attempt(check)
        report.splits = {split: summarize(dataset) for split, dataset in datasets.items()}
        if 'train' in report.splits:
            report.warnings += broken_images(datasets['train'])
            report.warnings += rare_classes(report.splits['train'])
        report.warnings += same_images(datasets)
        report.warnings += same_objects(datasets)
        if model is not None and cfg.default_scope == 'mmdet':
            report.warnings += small_boxes(model, datasets)
        if datasets:
            report.pictures = Path(cfg.work_dir, 'data.png')
            write_picture(report.pictures, _draw(datasets, num_images))
    return report


def print_data_report(report: DataReport) -> None:
    """Print what the splits hold, then errors, warnings, and the path of the pictures."""
    if report.splits:
        table = Table(
            'split', 'images', 'not used', 'without objects', 'shorter sides', 'longer sides'
        )
        for name, split in report.splits.items():
            empty = '-' if split.empty is None else str(split.empty)
            sides = (
                f'{least}' if least == most else f'{least} to {most}, median {median}'
                for least, median, most in split.sides
            )
            table.add_row(name, str(split.images), str(split.left_out), empty, *sides)
        counts = class_table(*report.splits)
        for name in dict.fromkeys(
            name for split in report.splits.values() for name in split.counts
        ):
            values = (split.counts.get(name, '-') for split in report.splits.values())
            counts.add_row(name, *(f'{x:.1%}' if isinstance(x, float) else str(x) for x in values))
        print_table(table)
        print_table(counts)
        if estimated := [name for name, split in report.splits.items() if split.estimated]:
            shares = ' and parts of the pixels' * (report.splits[estimated[0]].empty is None)
            print(f'Sides{shares} are those of {READ} images of {enumerate_names(estimated)}')
    for kind, sentences in (('error', report.errors), ('warning', report.warnings)):
        for sentence in sentences:
            print(f'{kind}: {sentence}')
    print(f'Errors: {len(report.errors)}, warnings: {len(report.warnings)}')
    if report.pictures is not None:
        print(f'Pictures: {report.pictures.resolve()}')


@contextlib.contextmanager
def _collect(warnings: list[str]) -> Iterator[None]:
    """Add what is logged as a warning to a list, and print nothing of what is logged."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING and record.getMessage() not in warnings:
                warnings.append(record.getMessage())

    logger = MMLogger.get_current_instance()
    handlers, logger.handlers = logger.handlers, [Collector()]
    try:
        yield
    finally:
        logger.handlers = handlers


def _build_datasets(cfg: Config, report: DataReport) -> dict[str, Any]:
    """Split -> data set, those that can be built; that of tests if it is another than val's."""
    configs = {split: (cfg.get(f'{split}_dataloader') or {}).get('dataset') for split in SPLITS}
    if configs['test'] == configs['val']:
        configs.pop('test')
    datasets = {}
    for split, config in configs.items():
        if config is not None:
            built = report.attempt(partial(_explained, cfg, partial(DATASETS.build, config)))
            if built is not None and len(built):
                datasets[split] = built
    return datasets


def _build_evaluator(cfg: Config, split: str, report: DataReport) -> Evaluator | None:
    evaluator = cfg.get(f'{split}_evaluator')  # training has none
    if evaluator is None:
        return None
    if not isinstance(evaluator, Mapping) or 'metrics' not in evaluator:
        evaluator = dict(metrics=evaluator)
    config = {'type': 'Evaluator', **evaluator}
    with _collect([]):  # metrics warn of themselves
        return report.attempt(partial(_explained, cfg, partial(EVALUATOR.build, config)))


def _explained(cfg: Config, build: Callable[[], Any]) -> Any:
    # pycocotools prints its progress, which belongs to no report.
    with explained(cfg), contextlib.redirect_stdout(io.StringIO()):
        return build()


def _draw(datasets: dict[str, Any], num_images: int) -> np.ndarray:
    """Draw images of all splits with their annotations; (height, width, 3), RGB uint8."""
    cells = []
    for split, dataset in datasets.items():
        items = list(items_of(dataset))
        for index in evenly_spaced(max(1, num_images // len(datasets)), len(items)):
            title = Path(items[index][1]['img_path']).name
            cells.append(draw_titled(f'{split}: {title}', _draw_annotated(*items[index])))
    return arrange(cells)


def _draw_annotated(dataset: Any, info: dict[str, Any]) -> np.ndarray:
    """Draw an image with its annotations; (height, width, 3), RGB uint8."""
    names = [str(name) for name in dataset.metainfo.get('classes') or ()]
    palette = list(dataset.metainfo.get('palette') or distinct_colors(len(names)))
    loaded = load(dataset, info)
    if loaded is None:
        return draw_text(np.zeros((SIDE, SIDE, 3), np.uint8), 'cannot be loaded')
    image = to_rgb(loaded['img'])
    if 'gt_seg_map' in loaded:
        names += [f'class {i}' for i in range(len(names), IGNORED)] + ['ignored']
        palette += [GRAY] * (1 + IGNORED - len(palette))
        return draw_segments(image, loaded['gt_seg_map'], names, palette)
    if 'gt_label' in info:
        text = ', '.join(names[label] for label in np.ravel(info['gt_label']))
        return draw_text(resize(image), text)
    if 'instances' not in info:
        return image
    return draw_objects(image, ground_truth_in(info), names, palette)
