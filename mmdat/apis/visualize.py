"""Pictures of what a model's attention looks at, for images and folders."""

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from rich.console import Console
from rich.progress import Progress

from mmdat.checks.run import check_writable
from mmdat.datasets.inputs import Input, find_inputs, read_frames
from mmdat.errors import UserError
from mmdat.visualization import Recording, draw_deformed_points, draw_offsets, draw_query
from mmdat.visualization.attention import check_query
from mmdat.visualization.comparison import write_picture

from .predict import COLUMNS, Summary
from .predictor import Predictor

Query = tuple[float, float]


def write_attention(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    out_dir: str | Path = 'attention',
    *,
    queries: Sequence[Query] = (),
    stages: Sequence[int] = (),
    device: str = 'cpu',
    cfg_options: dict[str, Any] | None = None,
) -> Summary:
    """Draw what a model's attention looks at into a folder, with a progress bar.

    Writes ``points/`` and ``offsets/`` of the deformable blocks, if there are any, and a folder
    for each query, with pictures (PNG) below the names and subfolders of the images.

    Args:
        config: Path of a config, or the config. Its data sets need not be there.
        checkpoint: Path or URL of a checkpoint of the config's model.
        inputs: Images, folders, patterns or URLs.
        out_dir: Folder to write into; what lies in it is not searched.
        queries: (x, y) each, in pixels of the images; the center of each image if there are none.
        stages: Numbers of the stages to draw, from 0; all if there are none.
        device: Such as ``'cpu'`` or ``'cuda:0'``.
        cfg_options: Values to put into the config, by dotted key.

    Returns:
        What was drawn, and the inputs that could not be read.

    Raises:
        UserError: For a mistake in what was given, as a query outside one of the images, before
            anything is written; if a file cannot be written.
    """
    check_writable('--out', out_dir)
    found = find_inputs(inputs, [Path(out_dir)])
    images = [item for item in found if not item.is_video]
    unreadable: dict[str, str] = {}
    predictor = Predictor(config, checkpoint, device=device, cfg_options=cfg_options)
    _check_queries(queries, images, predictor.is_turning)
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    start = time.monotonic()
    drawn = 0
    folders: dict[str, Path] = {}

    def on_unreadable(path: str, why: str) -> None:
        unreadable[path] = why
        progress.advance(task)
        console.print(f'{path} cannot be read: {why}', style='red')

    with Progress(*COLUMNS, console=console) as progress:
        task = progress.add_task('', total=len(found), rate='')
        for item in found:
            if item.is_video:
                on_unreadable(item.path, 'it is a video, and attention is drawn in images alone')
        frames = read_frames(images, on_unreadable, console.print, predictor.is_turning)
        for frame in frames:
            try:
                recording = predictor.record_attention(frame.image)
                pictures = _draw(frame.image[..., ::-1], recording, queries, stages)
            except UserError as error:
                raise UserError(f'{frame.path}: {error}') from error
            for folder, picture in pictures.items():
                folders[folder] = Path(out_dir, folder)
                write_picture(folders[folder] / f'{frame.name}.png', picture)
            drawn += 1
            rate = drawn / max(time.monotonic() - start, 1e-9)
            progress.update(task, advance=1, rate=f'{rate:.1f}')
    return Summary(drawn, time.monotonic() - start, unreadable, list(folders.values()), [])


def _check_queries(queries: Sequence[Query], inputs: Sequence[Input], is_turning: bool) -> None:
    """Refuse queries that lie outside an image; what cannot be read is told when it is drawn."""
    if not queries:
        return
    for frame in read_frames(inputs, lambda path, why: None, lambda text: None, is_turning):
        for query in queries:
            try:
                check_query(query, frame.image)
            except UserError as error:
                raise UserError(f'{frame.path}: {error}') from error


def _draw(
    image: np.ndarray, recording: Recording, queries: Sequence[Query], stages: Sequence[int]
) -> dict[str, np.ndarray]:
    """Pictures of an image, (height, width, 3) RGB uint8, by the folder that they belong to."""
    image = np.ascontiguousarray(image)
    pictures = {}
    stages = stages or recording.stages
    blocks = [recording.last(stage=stage) for stage in stages]
    deforming = {block.stage for block in recording.blocks if block.kind == 'deformable'}
    if deformable := [
        recording.last('deformable', stage) for stage in stages if stage in deforming
    ]:
        pictures['points'] = draw_deformed_points(image, recording, deformable)
        pictures['offsets'] = draw_offsets(image, recording, deformable)
    center = image.shape[1] / 2, image.shape[0] / 2
    for x, y in queries or [center]:
        name = f'query_{x:g}_{y:g}' if queries else 'query_center'
        pictures[name] = draw_query(image, recording, (x, y), blocks)
    return pictures
