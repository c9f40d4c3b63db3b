#!/usr/bin/env python
"""Draw attention.png: the bias of a key over a tile of queries, as two products."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from mmdat.ops import grid_points, relative_position_bias

MAP, TABLE, KEY = (20, 30), 15, (-0.3, 0.25)
ROWS, COLUMNS = slice(4, 12), slice(8, 20)


def hats(size: int, queries: slice, key: float) -> tuple[int, np.ndarray]:
    """First entry of the table that the queries reach, and their weights of it and those after."""
    points = np.arange(size)[queries] / (size - 1) * 2 - 1
    places = ((points - key) / 2 + 1) / 2 * (TABLE - 1)
    first, last = int(places[0]), int(places[-1]) + 1
    return first, np.clip(1 - np.abs(places[:, None] - np.arange(first, last + 1)), 0, None)


def main() -> None:
    """Draw the figure and write it beside this script."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(1, 1, 8, 8, generator=generator)
    table = torch.nn.functional.interpolate(coarse, (TABLE, TABLE), mode='bicubic')[0]
    bias = relative_position_bias(grid_points(*MAP).flatten(0, 1), torch.tensor([[[KEY]]]), table)
    bias = bias.view(MAP).numpy()
    table = table[0].numpy()
    (top, rows), (left, columns) = (
        hats(size, queries, key)
        for size, queries, key in zip(MAP, (ROWS, COLUMNS), KEY, strict=True)
    )
    window = table[top : top + rows.shape[1], left : left + columns.shape[1]]
    tile = rows @ window @ columns.T
    assert np.allclose(tile, bias[ROWS, COLUMNS], atol=1e-5)

    limits = dict(vmin=table.min(), vmax=table.max(), cmap='RdBu_r')
    figure, axes = plt.subplot_mosaic(
        'AABB;CDEF', figsize=(11, 6.5), height_ratios=(1.3, 1), layout='constrained'
    )
    for axis in axes.values():
        axis.set_xticks([])
        axis.set_yticks([])
    full, whole = axes['A'], axes['B']
    full.imshow(bias, **limits)
    full.plot((KEY[1] + 1) / 2 * (MAP[1] - 1), (KEY[0] + 1) / 2 * (MAP[0] - 1), 'k*', markersize=12)
    full.add_patch(
        Rectangle(
            (COLUMNS.start - 0.5, ROWS.start - 0.5),
            columns.shape[0],
            rows.shape[0],
            fill=False,
            linewidth=2,
        )
    )
    full.set_title('bias of one key (star) over the map,\nand a tile of queries')
    whole.imshow(table, **limits)
    whole.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5), window.shape[1], window.shape[0], fill=False, linewidth=2
        )
    )
    whole.set_title("the head's table,\nand what the tile reaches of it")
    for axis, image, title, options in (
        (axes['C'], tile, 'bias of the tile', limits),
        (axes['D'], rows, '=  row hats', dict(cmap='Greys')),
        (axes['E'], window, '@  window of the table', limits),
        (axes['F'], columns.T, '@  column hats', dict(cmap='Greys')),
    ):
        axis.imshow(image, **options)
        axis.set_title(title)
        axis.set_xlabel(f'{image.shape[0]} x {image.shape[1]}')
    figure.savefig(Path(__file__).with_name('attention.png'), dpi=110)


if __name__ == '__main__':
    main()
