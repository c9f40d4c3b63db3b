"""The attention operators compute their equations, whatever the size of their blocks."""

import pytest
import torch
from torch import Tensor

from mmdat.ops import (
    deformable_attention,
    log_spaced_deformable_attention,
    neighborhood_attention,
    relative_position_bias,
    row_blocks,
    sample_at,
)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_neighborhood_attention_equals_a_loop_over_positions() -> None:
    height, width, kernel_size = 6, 9, 5
    query, key, value = (random(1, 2, height, width, 3) for _ in range(3))
    table = random(2, 9, 9)
    out = neighborhood_attention(query, key, value, table)
    for y in range(height):
        for x in range(width):
            top = min(max(y - 2, 0), height - kernel_size)
            left = min(max(x - 2, 0), width - kernel_size)
            window = slice(top, top + kernel_size), slice(left, left + kernel_size)
            for head in range(2):
                bias = table[head, top - y + 4 : top - y + 9, left - x + 4 : left - x + 9]
                logits = (key[0, head][window] @ query[0, head, y, x]) * 3**-0.5 + bias
                expected = logits.flatten().softmax(0) @ value[0, head][window].flatten(0, 1)
                torch.testing.assert_close(out[0, head, y, x], expected)


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


def test_row_blocks_change_neither_outputs_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [
        random(2, 4, 7, 8, 3),
        random(2, 4, 5, 3),
        random(2, 4, 5, 3),
        torch.rand(2, 2, 5, 2, dtype=torch.float64).requires_grad_(),
        random(6, 2),
        random(6),
        random(2, 6),
    ]
    results = []
    for logits_per_block in (2**24, 1):  # all rows in one block, and a block a row
        monkeypatch.setattr(row_blocks, 'LOGITS_PER_BLOCK', logits_per_block)
        out = log_spaced_deformable_attention(*inputs)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for whole, in_blocks in zip(*results, strict=True):
        torch.testing.assert_close(whole, in_blocks)


@pytest.mark.parametrize(
    'shapes, sentence',
    [
        ([(1, 2, 4, 4, 8), (1, 3, 5, 8), (1, 2, 5, 8)], 'key and value must be'),
        ([(2, 4, 4, 8), (1, 2, 5, 8), (1, 2, 5, 8)], 'query must be'),
        (
            [(1, 2, 4, 4, 8), (1, 2, 5, 8), (1, 2, 5, 8), (1, 3, 5, 2), (2, 3, 3)],
            'divide the 2 heads',
        ),
        ([(1, 2, 4, 4, 8), (1, 2, 5, 8), (1, 2, 5, 8), (1, 2, 5, 2), (4, 3, 3)], 'with 2 heads'),
    ],
)
def test_deformable_attention_refuses_shapes_that_do_not_fit(shapes: list, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        deformable_attention(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize(
    'size, table, sentence',
    [
        ((4, 9), (2, 13, 13), 'the map must be at least 7 x 7'),
        ((9, 9), (1, 13, 13), 'with 2 heads'),
        ((9, 9), (2, 13, 11), 'odd k'),
    ],
)
def test_neighborhood_attention_refuses_shapes_that_do_not_fit(
    size: tuple, table: tuple, sentence: str
) -> None:
    qkv = torch.zeros(3, 1, 2, *size, 4)
    with pytest.raises(ValueError, match=sentence):
        neighborhood_attention(*qkv, torch.zeros(table))
