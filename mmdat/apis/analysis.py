"""What the tools that look at a model share: its config, the model, and made images to feed it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmdat.checks.config_file import read_config
from mmdat.checks.config_keys import check_keys
from mmdat.errors import UserError, reason
from mmdat.registry import MODELS

from .toolboxes import toolbox_of

# Of an image of COCO, on average.
NUM_OBJECTS = 7


def load_config(path: str | Path, cfg_options: dict[str, Any] | None = None) -> Config:
    """The config at ``path``, with other values by dotted key, and its keys checked.

    Raises:
        UserError: For a mistake in what was given.
    """
    cfg = read_config(path)
    try:
        cfg.merge_from_dict(cfg_options or {})
    except Exception as error:  # an index that is no number, a key below what is no dict
        raise UserError(f'--cfg-options do not fit config {path}: {reason(error)}') from error
    check_keys(cfg)
    toolbox_of(cfg)
    return cfg


def image_shape(cfg: Config, shape: Sequence[int] | None = None) -> tuple[int, int]:
    """Height and width of an image for the model of a config.

    Args:
        cfg: The config.
        shape: Height and width in pixels, or one number for both; None for those that the papers
            of the task count at, or that the pictures of a classifier are cut to.

    Raises:
        UserError: If that is no shape.
    """
    if shape is None:
        toolbox = toolbox_of(cfg)
        return (
            _size_of_a_picture(cfg, toolbox.shape)
            if toolbox.name == 'mmpretrain'
            else (toolbox.shape)
        )
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise UserError(
            f'--shape takes a height and a width, or one number for both, all positive;'
            f' got {" ".join(map(str, shape)) or "none"}'
        )
    return shape[0], shape[-1]


def _size_of_a_picture(cfg: Config, default: tuple[int, int]) -> tuple[int, int]:
    pipeline = cfg.get('val_dataloader', {}).get('dataset', {}).get('pipeline', ())
    sizes = [step.get('crop_size', step.get('scale')) for step in pipeline]
    size = next((size for size in reversed(sizes) if size is not None), default)
    return (size, size) if isinstance(size, int) else (size[1], size[0])


def build_model(cfg: Config) -> BaseModel:
    """The model of a config on the CPU, with random weights and no need for a process group."""
    model = cfg.model.copy()
    if cfg.get('data_preprocessor'):  # where mmpretrain's configs have it
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return revert_sync_batchnorm(MODELS.build(model))


@contextmanager
def refuse_shape(shape: tuple[int, int]) -> Iterator[None]:
    """Turn what a model raises on images of a shape, too small or too large for it, into words."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if 'more than 1 value per channel' in str(error):  # pooled to a point before a batch norm
            raise UserError(
                'the model does not train on one image a step, as it normalizes over '
                'images: give --batch-size 2'
            ) from error
        raise UserError(
            f'the model does not run on images of {shape[0]} x {shape[1]} '
            f'({reason(error)}): give another --shape'
        ) from error


def made_batch(cfg: Config, batch_size: int, shape: tuple[int, int]) -> dict[str, list[Any]]:
    """A batch of noise with annotations, as a data loader would hand it to the model of a config.

    Returns:
        ``inputs``: uint8 Tensor[3, height, width] for each image; ``data_samples``: of each
        the annotations that training wants, all of class 0.
    """
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator)
        for _ in range(batch_size)
    ]
    make = dict(mmdet=_detection, mmseg=_segmentation, mmpretrain=_classification)[
        toolbox_of(cfg).name
    ]
    samples = [make(shape, generator) for _ in images]
    for number, sample in enumerate(samples):
        sample.set_metainfo(
            dict(
                img_id=number,
                img_path=f'{number}.png',
                img_shape=shape,
                ori_shape=shape,
                pad_shape=shape,
                scale_factor=(1.0, 1.0),
            )
        )
    return dict(inputs=images, data_samples=samples)


def _detection(shape: tuple[int, int], generator: torch.Generator) -> DetDataSample:
    height, width = shape
    corners = torch.rand(NUM_OBJECTS, 2, generator=generator) / 2
    sides = torch.rand(NUM_OBJECTS, 2, generator=generator) / 4 + 0.1
    boxes = torch.cat([corners, corners + sides], dim=1) * torch.tensor(2 * (width, height))
    masks = np.zeros((NUM_OBJECTS, height, width), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top : bottom + 1, left : right + 1] = 1
    return DetDataSample(
        gt_instances=InstanceData(
            bboxes=boxes,
            labels=torch.zeros(NUM_OBJECTS, dtype=torch.long),
            masks=BitmapMasks(masks, height, width),
        ),
        ignored_instances=InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        ),
    )


def _segmentation(shape: tuple[int, int], _: torch.Generator) -> BaseDataElement:
    from mmseg.structures import SegDataSample

    classes = torch.zeros(1, *shape, dtype=torch.long)
    return SegDataSample(gt_sem_seg=PixelData(data=classes))


def _classification(*_: Any) -> BaseDataElement:
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(0)
