"""Predict images, folders, videos and cameras with a trained model."""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmdat.checks import log_warning
from mmdat.checks.images import is_utf8
from mmdat.checks.run import check_writable
from mmdat.datasets.inputs import FOLDERS, Frame, Input, count_frames, find_inputs, read_frames
from mmdat.errors import UserError, is_out_of_memory, list_first
from mmdat.visualization.fonts import lack_of_fonts

from .prediction_files import PredictionFiles
from .predictor import Predictor
from .results import Prediction

COLUMNS = (
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn('{task.fields[rate]} images/s'),
    TimeRemainingColumn(),
)
MOST_NAMED = 8  # inputs that could not be read, and videos that could not be written


@dataclass(frozen=True)
class Summary:
    """What :func:`write_predictions` did.

    Attributes:
        images: Number of images and frames that were predicted.
        seconds: From the first image's reading to the last file.
        unreadable: Path of each input that could not be read, with the reason.
        paths: What was written: ``predictions.json``, ``pictures``, ``masks``.
        unwritten: Path of each video that OpenCV does not write.
    """

    images: int
    seconds: float
    unreadable: dict[str, str]
    paths: list[Path]
    unwritten: list[Path]

    @property
    def images_per_second(self) -> float:
        """Images a second, with reading and writing."""
        return self.images / max(self.seconds, 1e-9)


def predict(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    **options: Any,
) -> Iterator[Prediction]:
    """Predict images and videos, and yield the results as they come.

    An input that cannot be read is logged and left out.

    Args:
        config: Path of a config, or the config. Its data sets need not be there.
        checkpoint: Path or URL of a checkpoint of the config's model.
        inputs: Images, folders, patterns, videos, numbers of cameras or URLs.
        options: As for :class:`mmdat.apis.predictor.Predictor`: ``score_thr=0.3``,
            ``batch_size=1``, ``device='cpu'``, ``slice_size=None``, ``overlap=0.2``,
            ``cfg_options=None``. It is also what predicts images in memory.

    Raises:
        UserError: For a mistake in what was given, before the first image is read.
    """
    found = find_inputs(inputs)
    predictor = Predictor(config, checkpoint, **options)
    return _run(predictor, found, warn_of_unreadable, log_warning)


def warn_of_unreadable(path: str, why: str) -> None:
    """Log that an input cannot be read, and why."""
    log_warning(f'{path} cannot be read: {why}')


def write_predictions(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    out_dir: str | Path = 'predictions',
    *,
    pictures: bool = True,
    **options: Any,
) -> Summary:
    """Predict images and videos into a folder, with a progress bar.

    Writes ``predictions.json``, ``pictures/`` and, from a segmentor, ``masks/``, as
    :class:`mmdat.apis.prediction_files.PredictionFiles` says. Ctrl-C or an error ends it with
    what has been predicted by then.

    Args:
        config: As for :func:`predict`.
        checkpoint: As for :func:`predict`.
        inputs: As for :func:`predict`; what lies in ``out_dir``'s folders is not searched.
        out_dir: Folder to write into.
        pictures: Whether to draw pictures.
        options: As for :func:`predict`.

    Raises:
        UserError: For a mistake in what was given, before the first image is read; if a file cannot
            be written.
    """
    check_writable('--out-dir', out_dir)
    found = find_inputs(inputs, [Path(out_dir, name) for name in FOLDERS])
    if pictures and not is_utf8(out_dir) and any(item.is_video for item in found):
        raise UserError(f'--out-dir {out_dir} is not in UTF-8, as videos need it: give another')
    predictor = Predictor(config, checkpoint, **options)
    files = PredictionFiles(out_dir, predictor, pictures)
    unreadable: dict[str, str] = {}
    start = time.monotonic()
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)

    def summary() -> Summary:
        seconds = time.monotonic() - start
        return Summary(files.num_images, seconds, unreadable, files.paths, files.unwritten)

    def on_unreadable(path: str, why: str) -> None:
        if unreadable.get(path) != why:  # as of each frame of a video
            console.print(f'{path} cannot be read: {why}', style='red')
        unreadable[path] = why
        progress.advance(task)

    if pictures and (lack := lack_of_fonts(predictor.classes)):
        console.print(lack)
    if any(Path(out_dir, name).exists() for name in FOLDERS):
        console.print(
            f'{out_dir} holds files of an earlier run: those that this one does not replace remain'
        )
    try:
        with Progress(*COLUMNS, console=console) as progress, files:
            task = progress.add_task('', total=count_frames(found), rate='')
            for prediction in _run(predictor, found, on_unreadable, console.print):
                files.write(prediction)
                progress.update(task, advance=1, rate=f'{summary().images_per_second:.1f}')
    except BaseException:
        _print_files(summary())
        raise
    return summary()


def print_summary(summary: Summary, verb: str = 'Predicted') -> None:
    """Print what was predicted, or drawn, and where it is.

    Raises:
        UserError: If an input could not be read, or a video could not be written.
    """
    _print_files(summary, verb)
    problems = [
        f'{what}: {len(paths)} ({list_first(paths, MOST_NAMED)})'
        for what, paths in (
            ('inputs that could not be read and were skipped', list(summary.unreadable)),
            ('videos that OpenCV does not write', list(map(str, summary.unwritten))),
        )
        if paths
    ]
    if problems:
        raise UserError('; '.join(problems))


def _print_files(summary: Summary, verb: str = 'Predicted') -> None:
    print(f'{verb}: {summary.images} images, {summary.images_per_second:.1f} a second')
    for path in summary.paths:
        print(f'{path.name.removesuffix(".json").capitalize()}: {path.resolve()}')


def _run(
    predictor: Predictor,
    inputs: Sequence[Input],
    on_unreadable: Callable[[str, str], None],
    notify: Callable[[str], None],
) -> Iterator[Prediction]:
    """Predict images, and the frames of videos, in batches; yield a prediction of each in turn."""
    frames = read_frames(inputs, on_unreadable, notify, predictor.is_turning)
    while batch := list(itertools.islice(frames, predictor.batch_size)):
        for frame, output in _outputs(predictor, batch, on_unreadable):
            yield Prediction(
                frame.name,
                frame.path,
                frame.number,
                frame.rate,
                np.ascontiguousarray(frame.image[..., ::-1]),  # OpenCV draws on no other
                predictor.classes,
                **output,
            )


def _outputs(
    predictor: Predictor, frames: Sequence[Frame], on_unreadable: Callable[[str, str], None]
) -> Iterable[tuple[Frame, dict[str, Any]]]:
    """Images with what is predicted for them, without those that the memory is too small for."""
    try:
        return zip(frames, predictor([frame.image for frame in frames]), strict=True)
    except (MemoryError, RuntimeError, cv2.error) as error:
        if not is_out_of_memory(error):
            raise
    if len(frames) > 1:  # one by one they may fit
        return [pair for frame in frames for pair in _outputs(predictor, [frame], on_unreadable)]
    height, width = frames[0].image.shape[:2]
    on_unreadable(
        frames[0].path,
        f'{width} x {height} pixels do not fit into the memory with this model'
        + (': predict tiles of it with --slice' if predictor.can_slice else ''),
    )
    return []
