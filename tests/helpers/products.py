"""Multiply-accumulates of ScalableViT's attention, from the paper's equations."""

import functools
from typing import Any

from mmdat.checkpoints.shapes import without_values
from mmdat.models import ScalableViT


def products_of_attention(arch: str, height: int, width: int) -> int:
    """Products of queries with keys and of weights with values, in all blocks, for one image.

    The paper's own counts leave these out. Windows are counted with their padding.
    """
    total = 0
    for index, stage in enumerate(_stages(arch)):
        rows, columns = _sides(index, height, width)
        keys = _up(rows, stage.reduction_ratio) * _up(columns, stage.reduction_ratio)
        query_dims = (
            stage.embed_dims
            if stage.reduction_ratio == 1
            else int(stage.embed_dims * stage.channel_ratio)
        )
        windows = _up(rows, stage.window_size) * _up(columns, stage.window_size)
        of_window = 2 * stage.window_size**4 * stage.embed_dims
        scalable = rows * columns * keys * (query_dims + stage.embed_dims)
        total += -(-stage.depth // 2) * windows * of_window + stage.depth // 2 * scalable
    return total


def projections_of_padding(arch: str, height: int, width: int) -> int:
    """Projections to queries, keys and values of what pads a map to whole windows.

    The paper's counts have these; the model here projects the map, then pads.
    """
    total = 0
    for index, stage in enumerate(_stages(arch)):
        rows, columns = _sides(index, height, width)
        windows = _up(rows, stage.window_size) * _up(columns, stage.window_size)
        padding = windows * stage.window_size**2 - rows * columns
        total += -(-stage.depth // 2) * padding * 3 * stage.embed_dims**2
    return total


@functools.cache
def _stages(arch: str) -> list[Any]:
    with without_values():
        return ScalableViT(arch=arch).settings


def _sides(stage: int, height: int, width: int) -> tuple[int, int]:
    return _up(height, 2 ** (2 + stage)), _up(width, 2 ** (2 + stage))


def _up(size: int, unit: int) -> int:
    return -(-size // unit)
