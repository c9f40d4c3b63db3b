"""Predict images, folders, videos and cameras with a trained model."""

import functools
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmdat import checks
from mmdat.checks.config_file import read_config
from mmdat.checks.run import check_device, check_least, check_share, check_writable
from mmdat.datasets.inputs import Input, count_frames, find_inputs, read_frames
from mmdat.errors import UserError

from .prediction_files import PredictionFiles
from .predictor import Predictor
from .results import Prediction

LEAST_SLICE = 32  # in pixels: the coarsest stride of the backbones
MOST_NAMED = 8  # inputs that could not be read


@dataclass(frozen=True)
class Summary:
    """What :func:`write_predictions` did.

    Attributes:
        images: Number of images and frames that were predicted.
        seconds: From the first image's reading to the last file.
        unreadable: Path of each input that could not be read, with the reason.
        paths: What was written: ``predictions.json``, ``pictures``, ``masks``.
    """

    images: int
    seconds: float
    unreadable: dict[str, str]
    paths: list[Path]


def predict(
    config: str | Config,
    checkpoint: str,
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    score_thr: float = 0.3,
    batch_size: int = 1,
    device: str = 'cpu',
    slice_size: int | None = None,
    overlap: float = 0.2,
    cfg_options: dict[str, Any] | None = None,
) -> Iterator[Prediction]:
    """Predict images and videos, and yield the results as they come.

    An input that cannot be read is logged and left out.

    Args:
        config: A config, or its path. Its data sets need not be there.
        checkpoint: Path or URL of a checkpoint of the config's model.
        inputs: Images, folders, patterns, videos, numbers of cameras or URLs.
        score_thr: Objects with a lower score are left out.
        batch_size: Images that run through the model together.
        device: Such as ``'cpu'`` or ``'cuda:0'``.
        slice_size: Side in pixels of tiles to predict one by one, for images that are larger; None
            for no tiles.
        overlap: Share of a tile that the next one has too.
        cfg_options: Values to put into the config, by dotted key.

    Raises:
        UserError: For a mistake in what was given, before the first image is read.
    """
    found = find_inputs(_listed(inputs))
    predictor = _build(
        config, checkpoint, score_thr, batch_size, device, slice_size, overlap, cfg_options
    )

    def on_unreadable(path: str, why: str) -> None:
        _warn(f'{path} cannot be read: {why}')

    return _run(predictor, found, batch_size, on_unreadable, _warn)


def write_predictions(
    config: str | Config,
    checkpoint: str,
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    out_dir: str | Path = 'predictions',
    *,
    pictures: bool = True,
    score_thr: float = 0.3,
    batch_size: int = 1,
    device: str = 'cpu',
    slice_size: int | None = None,
    overlap: float = 0.2,
    cfg_options: dict[str, Any] | None = None,
) -> Summary:
    """Predict images and videos into a folder, with a progress bar.

    Writes ``predictions.json``, ``pictures/`` and, from a segmentor, ``masks/``, as
    :class:`mmdat.apis.prediction_files.PredictionFiles` says. Ctrl-C ends it with what has been
    predicted by then.

    Args:
        config: As for :func:`predict`, as are all that are not named here.
        checkpoint: As for :func:`predict`.
        inputs: As for :func:`predict`. ``out_dir`` is left out of folders that are searched.
        out_dir: Folder to write into.
        pictures: Whether to draw pictures.
        score_thr: As for :func:`predict`.
        batch_size: As for :func:`predict`.
        device: As for :func:`predict`.
        slice_size: As for :func:`predict`.
        overlap: As for :func:`predict`.
        cfg_options: As for :func:`predict`.

    Raises:
        UserError: For a mistake in what was given, before the first image is read.
    """
    check_writable('--out-dir', out_dir)
    found = find_inputs(_listed(inputs), leave_out=out_dir)
    predictor = _build(
        config, checkpoint, score_thr, batch_size, device, slice_size, overlap, cfg_options
    )
    unreadable: dict[str, str] = {}
    images = 0
    start = time.monotonic()
    console = Console(stderr=True)
    with (
        Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[rate]} images/s'),
            TimeRemainingColumn(),
            console=console,
        ) as progress,
        PredictionFiles(out_dir, predictor, pictures) as files,
    ):

        def on_unreadable(path: str, why: str) -> None:
            unreadable[path] = why
            progress.advance(task)
            console.print(f'{path} cannot be read: {why}', style='red', soft_wrap=True)

        say = functools.partial(console.print, soft_wrap=True)
        task = progress.add_task('', total=count_frames(found), rate='')
        for prediction in _run(predictor, found, batch_size, on_unreadable, say):
            files.write(prediction)
            images += 1
            rate = f'{images / (time.monotonic() - start):.1f}'
            progress.update(task, advance=1, rate=rate)
    return Summary(images, time.monotonic() - start, unreadable, files.paths)


def print_summary(summary: Summary) -> None:
    """Print what was predicted and where it is.

    Raises:
        UserError: If an input could not be read.
    """
    rate = summary.images / max(summary.seconds, 1e-9)
    print(f'{summary.images} images, {rate:.1f} a second')
    for path in summary.paths:
        print(f'{path.stem.capitalize()}: {path.resolve()}')
    if summary.unreadable:
        names = ', '.join(list(summary.unreadable)[:MOST_NAMED])
        more = len(summary.unreadable) - MOST_NAMED
        raise UserError(
            f'{len(summary.unreadable)} inputs could not be read and were skipped: {names}'
            + (f' and {more} more' if more > 0 else '')
        )


def _listed(inputs: str | os.PathLike | Iterable[str | os.PathLike]) -> Iterable[str | os.PathLike]:
    return [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs


def _build(
    config: str | Config,
    checkpoint: str,
    score_thr: float,
    batch_size: int,
    device: str,
    slice_size: int | None,
    overlap: float,
    cfg_options: dict[str, Any] | None,
) -> Predictor:
    check_least('--batch-size', batch_size, 1)
    check_share('--score-thr', score_thr)
    check_share('--overlap', overlap, below_one=True)
    if slice_size is not None:
        check_least('--slice', slice_size, LEAST_SLICE)
    check_device(device)
    cfg = config if isinstance(config, Config) else read_config(config, cfg_options)
    checks.after_reading(cfg)
    return Predictor(cfg, checkpoint, device, score_thr, batch_size, slice_size, overlap)


def _run(
    predictor: Predictor,
    inputs: Sequence[Input],
    batch_size: int,
    on_unreadable: Callable[[str, str], None],
    notify: Callable[[str], None],
) -> Iterator[Prediction]:
    """Predict inputs batch by batch; what there is to notify of is told once."""
    told: set[str] = set()

    def notify_once(text: str) -> None:
        if text not in told:
            told.add(text)
            notify(text)

    frames = read_frames(inputs, on_unreadable, notify_once)
    while batch := list(itertools.islice(frames, batch_size)):
        outputs = predictor([frame.image for frame in batch])
        for frame, output in zip(batch, outputs, strict=True):
            yield Prediction(
                frame.name,
                frame.number,
                frame.rate,
                frame.image[..., ::-1],
                predictor.classes,
                **output,
            )


def _warn(text: str) -> None:
    print_log(text, 'current', logging.WARNING)
