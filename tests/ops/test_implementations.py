"""Each implementation of an operator computes what the dense one does, in less memory."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers.compiled import needs_kernels
from helpers.errors import relative_errors
from helpers.locations import locations_between_entries
from helpers.memory import largest_allocation
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmdat.ops import (
    compiled,
    deformable_attention,
    global_attention,
    neighborhood_attention,
    tiling,
    window_attention,
)
from mmdat.ops import window as window_module
from mmdat.ops.tiling import LOGITS_PER_TILE

# Largest difference over largest magnitude, of the output and the gradients. In bfloat16 the
# backward pass starts from an output of three digits.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 4e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Case:
    """A call of an operator, and how many logits a tile or a block of rows may have."""

    operator: Callable[..., Tensor]
    implementation: str
    inputs: list[Tensor]
    options: dict[str, Any]
    logits_per_tile: int

    def to(self, dtype: torch.dtype) -> 'Case':
        """Convert the inputs; positions and tables stay in float32 or better, as under autocast."""
        inputs = [
            x.to(dtype if index < 3 else torch.promote_types(dtype, torch.float32))
            for index, x in enumerate(self.inputs)
        ]
        return replace(self, inputs=[x.requires_grad_() for x in inputs])

    def limit_tiles(self, patch: pytest.MonkeyPatch) -> None:
        """Make the operators cut maps into tiles and blocks as small as the case says."""
        patch.setitem(LOGITS_PER_TILE, 'cpu', self.logits_per_tile)
        patch.setattr(tiling, 'LOGITS_PER_BLOCK', self.logits_per_tile)
        patch.setattr(window_module, 'LOGITS_PER_SLICE', self.logits_per_tile)

    def results(self, implementation: str) -> list[Tensor]:
        """The output and the gradients of the inputs."""
        out = self.operator(*self.inputs, **self.options, implementation=implementation)
        return [out, *torch.autograd.grad(out.sin().sum(), self.inputs)]


def random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_map(
    seed: int,
    batch: int,
    num_heads: int,
    height: int,
    width: int,
    head_dim: int,
    channels_last: bool,
) -> Tensor:
    """Tensor[batch, num_heads, height, width, head_dim], its channels last or first in memory."""
    if channels_last:
        return random(seed, batch, height, width, num_heads, head_dim).movedim(3, 1)
    return random(seed, batch, num_heads, head_dim, height, width).movedim(2, -1)


def deformable(
    batch: int,
    groups: int,
    heads_per_group: int,
    height: int,
    width: int,
    num_keys: int,
    head_dim: int,
    table: tuple[int, int] | None,
    reach: float,
    channels_last: bool,
    logits_per_tile: int,
    seed: int,
    implementation: str = 'tiled',
) -> Case:
    num_heads = groups * heads_per_group
    if implementation == 'compiled' and table is not None:  # it takes no finer ones
        table = tuple(
            min(entries, 2 * size - 1) if size > 1 else entries
            for entries, size in zip(table, (height, width), strict=True)
        )
    inputs = [
        random_map(seed, batch, num_heads, height, width, head_dim, channels_last),
        random(seed + 1, batch, num_heads, num_keys, head_dim),
        random(seed + 2, batch, num_heads, num_keys, head_dim),
    ]
    if table is not None:
        locations = locations_between_entries(
            (batch, groups, num_keys),
            (height, width),
            table,
            reach,
            torch.Generator().manual_seed(seed + 3),
        )
        inputs += [locations, random(seed + 4, num_heads, *table)]
    return Case(deformable_attention, implementation, inputs, {}, logits_per_tile)


def neighborhood(
    batch: int,
    num_heads: int,
    kernel_size: int,
    more: tuple[int, int],
    head_dim: int,
    channels_last: bool,
    logits_per_tile: int,
    seed: int,
    implementation: str = 'tiled',
) -> Case:
    size = kernel_size + more[0], kernel_size + more[1]
    inputs = [
        random_map(seed + index, batch, num_heads, *size, head_dim, channels_last)
        for index in range(3)
    ]
    table = random(seed + 3, num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1)
    return Case(neighborhood_attention, implementation, [*inputs, table], {}, logits_per_tile)


def window(
    batch: int,
    num_heads: int,
    height: int,
    width: int,
    window_size: int,
    shift: int,
    head_dim: int,
    with_table: bool,
    seed: int,
    logits_per_tile: int = 2**20,
    implementation: str = 'fused',
) -> Case:
    inputs = [random(seed + index, batch, num_heads, height, width, head_dim) for index in range(3)]
    options = dict(window_size=window_size, shift=min(shift, window_size))
    if with_table:
        inputs.append(random(seed + 3, (2 * window_size - 1) ** 2, num_heads))

    def operator(*tensors: Tensor, **options: Any) -> Tensor:
        query, key, value, *table = tensors
        return window_attention(query, key, value, options.pop('window_size'), *table, **options)

    return Case(operator, implementation, inputs, options, logits_per_tile)


def to_all_keys(
    batch: int,
    num_heads: int,
    height: int,
    width: int,
    num_keys: int,
    head_dim: int,
    value_dim: int,
    with_bias: bool,
    seed: int,
    implementation: str = 'fused',
    logits_per_tile: int = 2**20,
) -> Case:
    inputs = [
        random(seed, batch, num_heads, height, width, head_dim),
        random(seed + 1, batch, num_heads, num_keys, head_dim),
        random(seed + 2, batch, num_heads, num_keys, value_dim),
    ]
    if with_bias:
        inputs.append(random(seed + 3, num_heads, height * width, num_keys))
    return Case(global_attention, implementation, inputs, {}, logits_per_tile)


sides = st.one_of(st.integers(1, 4), st.integers(5, 20))
few = st.integers(1, 3)
dims = st.integers(1, 9)
seeds = st.integers(0, 2**31)
tiles = st.sampled_from([2**10, 2**12, 2**22])
tables = st.tuples(st.integers(1, 45), st.integers(1, 45))
any_deformable = partial(
    st.builds,
    deformable,
    batch=few,
    groups=few,
    heads_per_group=st.integers(1, 2),
    height=sides,
    width=sides,
    num_keys=st.integers(1, 20),
    head_dim=dims,
    reach=st.sampled_from([0.9, 1.0, 1.7, 4.0]),
    channels_last=st.booleans(),
    logits_per_tile=tiles,
    seed=seeds,
)
any_neighborhood = partial(
    st.builds,
    neighborhood,
    batch=few,
    num_heads=few,
    kernel_size=st.sampled_from([1, 3, 5, 7, 9, 13]),
    more=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    channels_last=st.booleans(),
    logits_per_tile=st.sampled_from([1, 2**16, 2**22]),
    seed=seeds,
)
CASES = dict(
    deformable=any_deformable(table=st.one_of(st.none(), tables)),
    compiled_deformable=any_deformable(
        table=tables,
        height=st.one_of(sides, st.integers(30, 50)),
        width=st.one_of(sides, st.integers(30, 50)),
        num_keys=st.one_of(st.integers(1, 20), st.integers(60, 140)),
        head_dim=st.one_of(dims, st.integers(15, 33)),
        implementation=st.just('compiled'),
    ),
    neighborhood=any_neighborhood(head_dim=dims),
    compiled_to_all_keys=st.builds(
        to_all_keys,
        batch=few,
        num_heads=few,
        height=sides,
        width=sides,
        num_keys=st.one_of(st.integers(1, 20), st.integers(60, 140)),
        head_dim=dims,
        value_dim=dims,
        with_bias=st.just(False),
        seed=seeds,
        implementation=st.just('compiled'),
    ),
    compiled_neighborhood=any_neighborhood(
        head_dim=st.one_of(dims, st.sampled_from([16, 31, 32])), implementation=st.just('compiled')
    ),
    window=st.builds(
        window,
        batch=few,
        num_heads=few,
        height=sides,
        width=sides,
        window_size=st.integers(1, 8),
        shift=st.integers(0, 4),
        head_dim=dims,
        with_table=st.booleans(),
        seed=seeds,
        logits_per_tile=tiles,
    ),
    compiled_window=st.builds(
        window,
        batch=few,
        num_heads=few,
        height=st.one_of(sides, st.integers(30, 50)),
        width=st.one_of(sides, st.integers(60, 80)),
        window_size=st.sampled_from([1, 3, 5, 7, 9, 11]),
        shift=st.just(0),
        head_dim=st.one_of(dims, st.sampled_from([16, 31, 32])),
        with_table=st.booleans(),
        seed=seeds,
        implementation=st.just('compiled'),
    ),
    to_all_keys=st.builds(
        to_all_keys,
        batch=few,
        num_heads=few,
        height=sides,
        width=sides,
        num_keys=st.integers(1, 20),
        head_dim=dims,
        value_dim=dims,
        with_bias=st.booleans(),
        seed=seeds,
        implementation=st.sampled_from(['fused', 'tiled']),
        logits_per_tile=tiles,
    ),
)


@pytest.mark.parametrize(
    'dtype, operator',
    [
        pytest.param(dtype, name, marks=needs_kernels if name.startswith('compiled') else ())
        for dtype, name in itertools.product(TOLERANCES, CASES)
        if not (name.startswith('compiled') and dtype == torch.float64)
    ],
)
@given(data=st.data())
def test_implementations_equal_the_dense_one(
    operator: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    case = data.draw(CASES[operator])
    truth = case.to(torch.float64).results('dense')
    case = case.to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        case.limit_tiles(patch)
        # Products of bfloat16, which no instruction computes on some processors, and of float32.
        patch.setattr(compiled, 'MULTIPLIES_BFLOAT16', data.draw(st.booleans()))
        found = case.results(case.implementation)
    dense = case.results('dense')
    for error, dense_error in zip(
        relative_errors(found, truth), relative_errors(dense, truth), strict=True
    ):
        assert error <= max(TOLERANCES[dtype], 3 * dense_error), (error, dense_error)


SMALL = dict(
    deformable=deformable(2, 2, 1, 3, 5, 3, 2, (4, 7), 0.9, True, 40, seed=0),
    neighborhood=neighborhood(2, 2, 3, (1, 6), 2, True, 1, seed=0),
)


@pytest.mark.parametrize('operator', SMALL)
def test_gradients_equal_finite_differences(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = SMALL[operator].to(torch.float64)
    case.limit_tiles(monkeypatch)
    torch.autograd.gradcheck(
        lambda *inputs: case.operator(*inputs, implementation=case.implementation),
        case.inputs,
        fast_mode=True,
    )


PAIRS = 2 * 64 * 64 * 256


@pytest.mark.parametrize(
    'case, pairs',
    [
        pytest.param(
            deformable(1, 1, 2, 64, 64, 256, 8, (31, 31), 1.0, True, 2**16, seed=0),
            PAIRS,
            id='deformable',
        ),
        pytest.param(
            deformable(1, 1, 2, 64, 64, 256, 8, (127, 127), 1.0, True, 2**16, seed=0),
            PAIRS,
            id='deformable with a table as fine as the map',
        ),
        pytest.param(
            deformable(1, 1, 2, 64, 64, 256, 8, None, 1.0, False, 2**16, seed=0),
            PAIRS,
            id='deformable without a table',
        ),
        pytest.param(
            neighborhood(1, 2, 7, (377, 9), 4, True, 2**14, seed=0),
            2 * 384 * 16 * 7 * 7,
            id='neighborhood',
        ),
        pytest.param(
            window(1, 2, 64, 64, 32, 0, 8, False, seed=0), 2 * 64 * 64 * 32 * 32, id='window'
        ),
        pytest.param(
            window(1, 2, 64, 64, 8, 0, 2, False, 0, 2**13), 2 * 64 * 64 * 8 * 8, id='small windows'
        ),
        pytest.param(to_all_keys(1, 2, 64, 64, 256, 8, 8, False, seed=0), PAIRS, id='to_all_keys'),
        pytest.param(
            to_all_keys(1, 2, 64, 64, 256, 8, 6, False, 0, 'tiled', 2**16),
            PAIRS,
            id='to_all_keys tiled',
        ),
    ],
)
def test_nothing_of_size_queries_times_keys_is_allocated(
    case: Case, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case.to(torch.float32)
    case.limit_tiles(monkeypatch)
    largest, dense_largest = (
        largest_allocation(partial(case.results, implementation))
        for implementation in (case.implementation, 'dense')
    )
    assert dense_largest >= 4 * pairs
    assert largest < 4 * pairs / 8


def test_channels_need_not_lie_together_to_save_memory() -> None:
    query = random_map(0, 1, 2, 64, 64, 8, channels_last=False).float()
    key = random(1, 1, 2, 8, 256).float().mT
    assert largest_allocation(lambda: global_attention(query, key, key)) < PAIRS


def test_a_map_of_one_row_is_in_tiles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    case = deformable(1, 1, 1, 1, 4096, 256, 8, (3, 7), 1.0, True, 2**14, seed=0).to(torch.float32)
    case.limit_tiles(monkeypatch)
    assert largest_allocation(lambda: case.results('tiled')) < 4 * 4096 * 256 / 4


def test_what_lies_outside_the_map_has_no_gradients() -> None:
    case = SMALL['neighborhood'].to(torch.float32)
    case.inputs[3] = (case.inputs[3].detach() + 200).requires_grad_()
    for found, expected in zip(case.results('tiled'), case.results('dense'), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('implementation', ['tiled', pytest.param('compiled', marks=needs_kernels)])
def test_locations_that_are_no_numbers_make_no_numbers(implementation: str) -> None:
    inputs = [x.detach().float() for x in SMALL['deformable'].inputs]
    inputs[3][0, 0, 0] = torch.nan
    out = deformable_attention(*inputs, implementation=implementation)
    assert out[0, 0].isnan().all() and out[1].isfinite().all()


@pytest.mark.parametrize('implementation', ['auto', 'dense', 'tiled'])
@pytest.mark.parametrize('operator', SMALL)
def test_a_batch_may_be_empty(operator: str, implementation: str) -> None:
    inputs = list(SMALL[operator].to(torch.float32).inputs)
    *batched, table = inputs
    inputs = [*(x.detach()[:0].requires_grad_() for x in batched), table]
    out = SMALL[operator].operator(*inputs, implementation=implementation)
    assert out.shape == inputs[0].shape
    gradients = torch.autograd.grad(out.sum(), inputs)
    assert [x.shape for x in gradients] == [x.shape for x in inputs]
    assert not gradients[-1].any()


@pytest.mark.parametrize(
    'operator, name',
    [
        ('deformable', 'tiled_deformable_attention'),
        ('neighborhood', 'tiled_neighborhood_attention'),
    ],
)
def test_operators_are_registered_as_torch_wants_them(operator: str, name: str) -> None:
    inputs = SMALL[operator].to(torch.float32).inputs
    forward = getattr(torch.ops.mmdat, name)
    torch.library.opcheck(forward, inputs)
    out, lse = (x.detach() for x in forward(*inputs))
    torch.library.opcheck(
        getattr(torch.ops.mmdat, name + '_backward'), (out, out, lse, *(x.detach() for x in inputs))
    )
