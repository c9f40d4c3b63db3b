"""Pictures of what a model is fed: images after the pipeline, with their annotations."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.models.utils import mask2ndarray
from mmdet.structures.bbox import BaseBoxes
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS, DefaultScope
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from mmdat.checks.exceptions import explained
from mmdat.checks.run import check_writable
from mmdat.errors import UserError

from .toolboxes import toolbox_of

# Opacity of the map of classes, so that the image is seen below it.
ALPHA = 0.5


def browse_dataset(
    cfg: Config,
    output_dir: str | Path | None = None,
    *,
    show: bool = False,
    number: int = 10,
    split: str = 'train',
    interval: float = 2.0,
) -> list[Path]:
    """Draw what the model of a config is fed, by the visualizer of its toolbox.

    The images are spaced evenly over the data set. Augmentation is random, as in training.

    Args:
        cfg: The config, of mmdet, mmsegmentation or mmpretrain.
        output_dir: Folder for the pictures, made if it is not there; None to write none.
        show: Show them in a window, which needs a display.
        number: Of pictures; at most all of the images.
        split: ``'train'`` or ``'val'``.
        interval: Seconds that a picture is shown.

    Returns:
        The files, ``<index>_<name of the image>.jpg``.

    Raises:
        UserError: For a mistake in the config, the data or what else was given.
    """
    if number < 1:
        raise UserError(f'--number must be at least 1, got {number}')
    if show and not has_display():
        raise UserError('there is no display to show pictures on: give --not-show and --output-dir')
    if output_dir is None and not show:
        raise UserError('--not-show leaves nothing to do without --output-dir: give a folder')
    if output_dir is not None:
        check_writable('--output-dir', output_dir)
    if not cfg.get(f'{split}_dataloader'):
        raise UserError(f'config {cfg.filename} has no {split}_dataloader')
    with DefaultScope.overwrite_default_scope(toolbox_of(cfg).name), explained(cfg):
        dataset = DATASETS.build(_dataset_of(cfg, split))
        visualizer = _visualizer(cfg)
        visualizer.dataset_meta = dataset.metainfo
        count = min(number, len(dataset))
        files = []
        for index in np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist():
            item = dataset[index]
            sample = item['data_samples']
            name = f'{index}_{Path(sample.get("img_path", "image")).stem}.jpg'
            out_file = None if output_dir is None else Path(output_dir, name)
            _draw(visualizer, _picture(item['inputs']), sample, name, out_file, show, interval)
            files += [] if out_file is None else [out_file]
    return files


def has_display() -> bool:
    """Whether a window can be opened."""
    return sys.platform != 'linux' or any(
        os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY')
    )


def _dataset_of(cfg: Config, split: str) -> dict[str, Any]:
    dataset = cfg[f'{split}_dataloader'].dataset.copy()
    inner = dataset
    while 'dataset' in inner:  # of a wrapper such as RepeatDataset
        inner = inner['dataset']
    # For evaluation annotations are loaded after the image is resized, to stay in its own size.
    if 'pipeline' in inner:
        inner['pipeline'] = sorted(inner['pipeline'], key=lambda step: not _loads(step))
    return dataset


def _loads(step: dict[str, Any]) -> bool:
    return step['type'].split('.')[-1].startswith('Load')


def _visualizer(cfg: Config) -> Visualizer:
    options = dict(cfg.get('visualizer') or {})
    if 'type' not in options:
        raise UserError(f'config {cfg.filename} has no visualizer')
    if toolbox_of(cfg).name == 'mmseg':
        options.setdefault('alpha', ALPHA)
    return VISUALIZERS.build(dict(options, vis_backends=None, name=f'browse {cfg.filename}'))


def _picture(image: Any) -> np.ndarray:
    """Tensor[3, height, width] in the order that OpenCV reads -> array[height, width, RGB]."""
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0)[..., ::-1]).astype(np.uint8)


def _draw(
    visualizer: Visualizer,
    image: np.ndarray,
    sample: BaseDataElement,
    name: str,
    out_file: Path | None,
    show: bool,
    interval: float,
) -> None:
    if 'gt_instances' in sample:
        _draw_as_arrays(sample.gt_instances)
    draw = getattr(visualizer, 'visualize_cls', None) or visualizer.add_datasample
    draw(
        name=name,
        image=image,
        data_sample=sample.numpy(),
        draw_pred=False,
        show=show,
        wait_time=interval,
        out_file=None if out_file is None else str(out_file),
    )


def _draw_as_arrays(instances: Any) -> None:
    """Give instances the types that mmdet's visualizer draws."""
    if isinstance(instances.get('bboxes'), BaseBoxes):
        instances.bboxes = instances.bboxes.tensor
    if 'masks' in instances:
        instances.masks = mask2ndarray(instances.masks).astype(bool)
