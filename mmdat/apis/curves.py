"""Curves of trainings, from what mmengine logged in their work dirs."""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdat.checks import log_warning
from mmdat.errors import UserError
from mmdat.files import whole_file
from mmdat.visualization.curves import Curves, draw_curves, save_figure
from mmdat.visualization.fonts import lack_of_fonts

LOGS = '*/vis_data/scalars.json'
# What a row has beside losses, learning rates and metrics.
NO_METRICS = {'step', 'iter', 'epoch', 'time', 'data_time', 'memory'}
# The loss of one of a transformer's inner decoder layers, as of DINO: there are dozens.
INNER_LAYER = re.compile(r'd\d+\.')

# Iteration, panel and name of a curve, and value.
Point = tuple[int, str, str, float]


@dataclass(frozen=True)
class TrainingLog:
    """What the last training in a work dir logged, with those that it resumed.

    Attributes:
        runs: Names of the runs' folders, the first first.
        curves: What was logged.
    """

    runs: Sequence[str]
    curves: Curves


def read_log(work_dir: str | Path) -> TrainingLog:
    """Read what the last training in a work dir logged, joined to those that it resumed.

    Lines that are not whole are left out, as the last one of a run that was killed.

    Raises:
        UserError: If there is no log, or nothing in it yet.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(Path(work_dir).glob(LOGS), reverse=True):
        rows = list(_rows(file))
        if not rows:
            continue
        runs[file.parts[-3]] = rows
        if not _resumes(file.with_name('config.py')):
            break
    names = list(reversed(runs))
    points: list[Point] = []
    for name in names:
        start = next((row['step'] for row in runs[name] if 'iter' in row), math.inf)
        points = [point for point in points if point[0] < start]
        points += _points(runs[name], points[-1][0] if points else 0)
    if not points:
        raise UserError(
            f'{work_dir} has no log of a training ({LOGS}), or nothing in it yet: give a folder '
            'that mmdat train wrote to'
        )
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for step, panel, name, value in points:
        curves.setdefault(panel, {}).setdefault(name, []).append((step, value))
    return TrainingLog(names, curves)


def write_curves(work_dirs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Draw losses, learning rates and validation metrics of trainings into one picture.

    Args:
        work_dirs: Of each training its work dir; the picture names them.
        out: The picture, a PNG file; ``curves.png`` if None, of a single training in its work dir.

    Returns:
        Path of the picture.

    Raises:
        UserError: If a work dir has no log, or the picture cannot be written.
    """
    if out is not None and Path(out).suffix.lower() != '.png':
        raise UserError(f'--out {out} must end in .png')
    logs = [read_log(work_dir) for work_dir in work_dirs]
    path = Path(work_dirs[0] if len(work_dirs) == 1 else '', 'curves.png') if out is None else out
    names = _short_names([os.path.abspath(work_dir) for work_dir in work_dirs])
    drawn = [name for log in logs for lines in log.curves.values() for name in lines]
    if lack := lack_of_fonts([*names, *drawn]):
        log_warning(lack)
    figure = draw_curves({name: log.curves for name, log in zip(names, logs, strict=True)})
    with whole_file(Path(path)) as partial:
        save_figure(figure, partial)
    return Path(path)


def _points(rows: Sequence[dict[str, Any]], trained: int) -> Iterator[Point]:
    """What a run logged, that began, or went on, after ``trained`` iterations."""
    for row in rows:
        in_training = 'iter' in row
        # The step of a validation is the epoch, where the config counts epochs.
        trained = max(trained, row['step'])
        for name, value in row.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            name = re.sub('^(train|val)/', '', name)
            # COCO's metrics are -1 where there is nothing to find.
            if name not in NO_METRICS and not (name.startswith('coco/') and value == -1):
                panel = _training_panel(name) if in_training else _validation_panel(name)
                if panel is not None:
                    yield trained, panel, name, value


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a log that are of a step."""
    for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get('step'), int):
            yield row


def _resumes(config: Path) -> bool:
    """Whether the run with a config went on from a checkpoint."""
    return config.is_file() and bool(re.search('^resume *= *True', config.read_text('utf-8'), re.M))


def _training_panel(name: str) -> str | None:
    if name == 'loss':
        return 'loss'
    if name.endswith('lr'):
        return 'learning rate'
    return 'parts of the loss' if 'loss' in name and not INNER_LAYER.match(name) else None


def _validation_panel(name: str) -> str:
    """Where a metric is drawn, as ``validation: coco/bbox`` for ``coco/bbox_mAP_50``."""
    group, _, metric = name.rpartition('/')
    if '_mAP' in metric:
        group = f'{group}/{metric.split("_mAP")[0]}'
    return f'validation: {group}' if group else 'validation'


def _short_names(paths: Sequence[str]) -> list[str]:
    """Shorten paths to their last parts: as many of each as tell all of them apart."""
    for length in range(1, max(path.count('/') for path in paths) + 1):
        names = ['/'.join(path.split('/')[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(paths)
