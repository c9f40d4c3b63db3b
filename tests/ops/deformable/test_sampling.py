"""Feature maps and bias tables are read where they say."""

import pytest
import torch
from torch import Tensor

from mmdat.ops import relative_position_bias, sample_at
from mmdat.ops.deformable import sampling


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_bias_between_grid_points_is_the_table_itself() -> None:
    # A query and a key on a 4 x 4 grid are a whole number of the table's cells apart.
    table = random(1, 7, 7)
    grid = torch.linspace(-1, 1, 4, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    bias = relative_position_bias(points, points[None, None], table).view(4, 4, 4, 4)
    for y, x, key_y, key_x in [(0, 0, 0, 0), (3, 0, 0, 3), (1, 2, 2, 0)]:
        torch.testing.assert_close(bias[y, x, key_y, key_x], table[0, y - key_y + 3, x - key_x + 3])


def test_sampling_at_the_positions_themselves_returns_the_map() -> None:
    x = random(1, 4, 3, 5)
    y, x_coordinate = (torch.linspace(-1, 1, size, dtype=torch.float64) for size in (3, 5))
    grid = torch.stack(torch.meshgrid(y, x_coordinate, indexing='ij'), -1)
    torch.testing.assert_close(sample_at(x, grid.expand(1, 2, -1, -1, -1)), x)


@pytest.mark.parametrize('height, width', [(5, 7), (1, 3), (1, 1)])
def test_sampling_in_deterministic_mode_is_the_same(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random(2, 4, height, width).requires_grad_()
    locations = 1.5 * random(2, 2, 3, 4, 2)
    locations[0, 0, 0] = torch.tensor([1.0, -1.0])  # at the last row, the first column
    locations.requires_grad_()

    def results() -> list[Tensor]:
        out = sample_at(x, locations)
        return [out, *torch.autograd.grad(out.sin().sum(), (x, locations))]

    expected = results()
    monkeypatch.setattr(sampling.F, 'grid_sample', None)
    monkeypatch.setattr(sampling, '_adds_up_in_any_order', lambda x: True)
    torch.testing.assert_close(results(), expected)


def test_sampling_at_nan_in_deterministic_mode_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, '_adds_up_in_any_order', lambda x: True)
    locations = torch.zeros(1, 1, 1, 2, 2)
    locations[..., 0, 1] = torch.nan
    assert sample_at(torch.ones(1, 1, 3, 3), locations).isnan().tolist() == [[[[True, False]]]]
