"""Locations of keys for tests of deformable attention."""

import torch
from torch import Tensor


def locations_between_entries(
    shape: tuple[int, int, int],
    map_size: tuple[int, int],
    table_size: tuple[int, int],
    reach: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw locations of keys from which no query looks exactly at an entry of the bias table.

    There the gradient jumps, so that implementations may differ.

    Args:
        shape: (batch, groups, num_keys).
        map_size: (height, width) of the queries.
        table_size: (height, width) of the table.
        reach: Largest coordinate.
        generator: Source of the random numbers.

    Returns:
        Tensor[*shape, 2] in float64.
    """
    axes = []
    for size, entries in zip(map_size, table_size, strict=True):
        points = torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1)
        axis = torch.full(shape, torch.nan, dtype=torch.float64)
        while axis.isnan().any():
            drawn = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
            drawn *= reach
            looked_at = ((points - drawn[..., None]) / 2 + 1) / 2 * (entries - 1)
            clear = ((looked_at - looked_at.round()).abs() > 1e-4).all(-1) | (entries == 1)
            axis = torch.where(axis.isnan() & clear, drawn, axis)
        axes.append(axis)
    return torch.stack(axes, -1)
