"""Shapes of the images that the model of a config takes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmengine.config import Config

from mmdat.apis.toolboxes import toolbox_of
from mmdat.checks import config_tree
from mmdat.checks.run import check_shape
from mmdat.errors import UserError, reason


def image_shape(cfg: Config, shape: Sequence[int] | None = None) -> tuple[int, int]:
    """Height and width of an image for the model of a config.

    Args:
        shape: Height and width in pixels, or one number for both; None for those that the papers
            of the task count at, or that a classifier's images are cropped to.

    Raises:
        UserError: If that is no shape.
    """
    if shape is None:
        toolbox = toolbox_of(cfg)
        if toolbox.name == 'mmpretrain':
            return _size_after_pipeline(cfg) or toolbox.shape
        return toolbox.shape
    check_shape(shape)
    return shape[0], shape[-1]


def _size_after_pipeline(cfg: Config) -> tuple[int, int] | None:
    """Height and width that the last crop or resize of the validation pipeline leaves."""
    steps = [
        step
        for _, dataset in config_tree.datasets(cfg, 'val')
        for step in config_tree.transforms(dataset.get('pipeline', []))
    ]
    for step in reversed(steps):
        size = step.get('crop_size', step.get('scale'))
        if size is not None:
            width, height = (size, size) if isinstance(size, int) else size
            return height, width
    return None


@contextmanager
def refuse_shape(shape: tuple[int, int]) -> Iterator[None]:
    """Turn what a model raises on images of an unfit shape into a UserError that names it."""
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
