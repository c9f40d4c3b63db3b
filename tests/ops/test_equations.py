"""The operators are their equations, written out pair by pair."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmdat.ops import (
    deformable_attention,
    global_attention,
    log_spaced_deformable_attention,
    neighborhood_attention,
    slide_attention,
    tiling,
    window_attention,
)

sides = st.integers(1, 9)
TOLERANCE = 1e-12


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def attend(
    query: Tensor, keys: list[Tensor], values: list[Tensor], biases: list[float], scale: float
) -> Tensor:
    """Attention of one query."""
    logits = torch.stack(
        [scale * (query @ key) + bias for key, bias in zip(keys, biases, strict=True)]
    )
    return logits.softmax(0) @ torch.stack(values)


@given(
    height=sides,
    width=sides,
    window=st.integers(1, 4),
    shifted=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 9),
)
def test_window_attention_sees_the_real_positions_of_a_window(
    height: int, width: int, window: int, shifted: bool, biased: bool, seed: int
) -> None:
    heads, dim = 2, 3
    shift = math.ceil(window / 2) if shifted else 0
    query, key, value = random(3, 1, heads, height, width, dim, seed=seed)
    table = random((2 * window - 1) ** 2, heads, seed=seed + 1) if biased else None
    out = window_attention(query, key, value, window, table, shift=shift)

    def rolled(position: int, size: int) -> tuple[int, int, int]:
        """Position in the rolled map, and its window and region."""
        padded = size + -size % window
        position = (position - shift) % padded
        region = sum(position >= padded - cut for cut in (window, shift)) if shift else 0
        return position, position // window, region

    for head in range(heads):
        for y in range(height):
            for x in range(width):
                (row, row_window, row_region) = rolled(y, height)
                (column, column_window, column_region) = rolled(x, width)
                keys, values, biases = [], [], []
                for ky in range(height):
                    for kx in range(width):
                        other_row, *row_place = rolled(ky, height)
                        other_column, *column_place = rolled(kx, width)
                        if (row_place[0], column_place[0]) != (row_window, column_window):
                            continue
                        bias = 0.0
                        if table is not None:
                            dy, dx = row - other_row, column - other_column
                            bias += float(
                                table[(dy + window - 1) * (2 * window - 1) + dx + window - 1, head]
                            )
                        if (row_place[1], column_place[1]) != (row_region, column_region):
                            bias -= 100
                        keys.append(key[0, head, ky, kx])
                        values.append(value[0, head, ky, kx])
                        biases.append(bias)
                expected = attend(query[0, head, y, x], keys, values, biases, dim**-0.5)
                assert (out[0, head, y, x] - expected).abs().max() < TOLERANCE


@given(
    height=st.integers(5, 8),
    width=st.integers(5, 9),
    kernel=st.sampled_from([1, 3, 5]),
    implementation=st.sampled_from(['dense', 'tiled', 'traced']),
    seed=st.integers(0, 9),
)
def test_neighborhood_attention_sees_the_nearest_window_inside(
    height: int, width: int, kernel: int, implementation: str, seed: int
) -> None:
    query, key, value = random(3, 1, 2, height, width, 3, seed=seed)
    table = random(2, 2 * kernel - 1, 2 * kernel - 1, seed=seed + 1)
    out = neighborhood_attention(query, key, value, table, implementation=implementation)
    for head in range(2):
        for y in range(height):
            for x in range(width):
                top = min(max(y - kernel // 2, 0), height - kernel)
                left = min(max(x - kernel // 2, 0), width - kernel)
                window = [
                    (ky, kx) for ky in range(top, top + kernel) for kx in range(left, left + kernel)
                ]
                expected = attend(
                    query[0, head, y, x],
                    [key[0, head, ky, kx] for ky, kx in window],
                    [value[0, head, ky, kx] for ky, kx in window],
                    [
                        float(table[head, ky - y + kernel - 1, kx - x + kernel - 1])
                        for ky, kx in window
                    ],
                    3**-0.5,
                )
                assert (out[0, head, y, x] - expected).abs().max() < TOLERANCE


def bilinear(table: Tensor, y: float, x: float) -> float:
    """``table`` at (y, x) in [-1, 1] from its first to its last entry, zero outside."""
    total = 0.0
    y, x = ((place + 1) / 2 * (size - 1) for place, size in zip((y, x), table.shape, strict=True))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < table.shape[0] and 0 <= column < table.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(table[row, column])
    return total


@given(
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    groups=st.sampled_from([1, 2]),
    blocks=st.booleans(),
    implementation=st.sampled_from(['dense', 'tiled']),
    seed=st.integers(0, 9),
)
def test_deformable_attention_samples_its_biases_at_half_the_displacement(
    height: int, width: int, groups: int, blocks: bool, implementation: str, seed: int
) -> None:
    heads, dim, num_keys = 2, 3, 4
    query = random(1, heads, height, width, dim, seed=seed)
    key, value = random(2, 1, heads, num_keys, dim, seed=seed + 1)
    locations = random(1, groups, num_keys, 2, seed=seed + 2)  # some lie outside the map
    table = random(heads, 5, 7, seed=seed + 3)
    hidden_weight, hidden_bias = random(8, 2), random(8)
    output_weight = random(heads // groups, 8)
    with pytest.MonkeyPatch.context() as patch:
        if blocks:
            patch.setattr(tiling, 'LOGITS_PER_BLOCK', 1)
        out = deformable_attention(
            query, key, value, locations, table, implementation=implementation
        )
        log_out = log_spaced_deformable_attention(
            query, key, value, locations, hidden_weight, hidden_bias, output_weight
        )
    for head in range(heads):
        group, head_in_group = divmod(head, heads // groups)
        for y in range(height):
            for x in range(width):
                place = [
                    index / (size - 1) * 2 - 1 if size > 1 else 0.0
                    for index, size in ((y, height), (x, width))
                ]
                displacements = [
                    [place[axis] - float(locations[0, group, k, axis]) for axis in (0, 1)]
                    for k in range(num_keys)
                ]
                biases = [bilinear(table[head], dy / 2, dx / 2) for dy, dx in displacements]
                log_biases = []
                for displacement in displacements:
                    spaced = torch.tensor(
                        [
                            math.copysign(math.log2(abs(4 * d) + 1) / math.log2(8), d)
                            for d in displacement
                        ],
                        dtype=torch.double,
                    )
                    hidden = (hidden_weight @ spaced + hidden_bias).clamp(min=0)
                    log_biases.append(float(output_weight[head_in_group] @ hidden))
                for result, values in ((out, biases), (log_out, log_biases)):
                    expected = attend(
                        query[0, head, y, x],
                        list(key[0, head]),
                        list(value[0, head]),
                        values,
                        dim**-0.5,
                    )
                    assert (result[0, head, y, x] - expected).abs().max() < TOLERANCE


@given(
    head_dim=st.integers(1, 5),
    value_dim=st.integers(1, 5),
    biased=st.booleans(),
    seed=st.integers(0, 9),
)
def test_global_attention_takes_values_of_another_width(
    head_dim: int, value_dim: int, biased: bool, seed: int
) -> None:
    query = random(2, 3, 4, 5, head_dim, seed=seed)
    key, value = random(2, 3, 6, head_dim, seed=seed + 1), random(2, 3, 6, value_dim, seed=seed + 2)
    bias = random(3, 20, 6, seed=seed + 3) if biased else None
    logits = 0.7 * query.flatten(2, 3) @ key.mT + (0 if bias is None else bias)
    expected = (logits.softmax(-1) @ value).unflatten(2, (4, 5))
    out = global_attention(query, key, value, bias, scale=0.7)
    assert out.shape == expected.shape
    assert (out - expected).abs().max() < TOLERANCE


def test_slide_attention_weighs_the_taps_of_each_position() -> None:
    query, (key, value) = random(1, 2, 3, 4, 5), random(2, 1, 2, 3, 9, 4, 5, seed=1)
    bias = random(2, 9, seed=2)
    out = slide_attention(query, key, value, bias, scale=0.7)
    for head in range(2):
        for y in range(4):
            for x in range(5):
                keys = [key[0, head, :, tap, y, x] + bias[head, tap] for tap in range(9)]
                values = [value[0, head, :, tap, y, x] for tap in range(9)]
                expected = attend(query[0, head, :, y, x], keys, values, [0.0] * 9, 0.7)
                assert (out[0, head, :, y, x] - expected).abs().max() < TOLERANCE
