"""Shapes that do not fit each other are refused with what was expected and what was given."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmdat.ops import (
    deformable_attention,
    global_attention,
    log_spaced_deformable_attention,
    neighborhood_attention,
    slide_attention,
    window_attention,
)

MAP, KEYS, LOCATIONS, TABLE = (2, 2, 3, 5, 4), (2, 2, 6, 4), (2, 2, 6, 2), (2, 4, 7)


def windows(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
    return window_attention(query, key, value, 7, table)


@pytest.mark.parametrize(
    'operator, shapes, sentence',
    [
        (deformable_attention, [MAP[1:], KEYS, KEYS], 'query must be'),
        (deformable_attention, [MAP, (2, 3, 6, 4), KEYS], 'key and value must be'),
        (deformable_attention, [MAP, (2, 2, 0, 4), (2, 2, 0, 4)], 'of at least one key'),
        (deformable_attention, [MAP, KEYS, (2, 2, 6)], 'key and value must be'),
        (deformable_attention, [MAP, KEYS, KEYS, (2,)], 'divide the 2 heads'),
        (deformable_attention, [MAP, KEYS, KEYS, (2, 0, 6, 2)], 'divide the 2 heads'),
        (deformable_attention, [MAP, KEYS, KEYS, (2, 3, 6, 2)], 'divide the 2 heads'),
        (deformable_attention, [MAP, KEYS, KEYS, LOCATIONS, (4, 3, 3)], 'with 2 heads'),
        (deformable_attention, [MAP, KEYS, KEYS, LOCATIONS, (2, 0, 7)], 'with 2 heads'),
        (deformable_attention, [MAP, KEYS, KEYS, None, TABLE], 'needs sampling_locations'),
        (
            log_spaced_deformable_attention,
            [MAP, KEYS, KEYS, LOCATIONS, (8, 2), (8,), (2, 8)],
            'output_weight must be .* 2 heads and 2 groups',
        ),
        (
            log_spaced_deformable_attention,
            [MAP, KEYS, KEYS, (2, 3, 6, 2), (8, 2), (8,), (1, 8)],
            'divide the 2 heads',
        ),
        (global_attention, [MAP[1:], KEYS, KEYS], 'query must be'),
        (global_attention, [MAP, (2, 2, 6, 5), (2, 2, 6, 5)], 'key must be'),
        (global_attention, [MAP, KEYS, KEYS, (2, 14, 6)], 'bias must be'),
        (neighborhood_attention, [MAP, MAP, MAP, (2, 13, 13)], 'the map must be at least 7 x 7'),
        (neighborhood_attention, [MAP, MAP, MAP, (1, 5, 5)], 'with 2 heads'),
        (neighborhood_attention, [MAP, MAP, MAP, (2, 5, 3)], 'odd k'),
        (neighborhood_attention, [MAP, MAP, KEYS, (2, 5, 5)], 'query, key and value must all be'),
        (windows, [MAP, MAP, KEYS, (169, 2)], 'query, key and value must all be'),
        (windows, [MAP, MAP, MAP, (9, 2)], r'num_heads\) = \(169, 2\)'),
        (
            slide_attention,
            [(1, 2, 3, 4, 5), (1, 2, 3, 9, 4, 6), (1, 2, 3, 9, 4, 6), (2, 9)],
            'query must be',
        ),
        (
            slide_attention,
            [(1, 2, 3, 4, 5), (1, 2, 3, 9, 4, 5), (1, 2, 3, 9, 4, 5), (2, 8)],
            'position_bias must be',
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    operator: Callable[..., Tensor], shapes: list[tuple[int, ...] | None], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        operator(*(None if shape is None else torch.zeros(shape) for shape in shapes))


def test_a_window_has_a_position() -> None:
    with pytest.raises(ValueError, match='window_size must be at least 1, got 0'):
        window_attention(*torch.zeros(3, 1, 2, 4, 4, 3), 0)
