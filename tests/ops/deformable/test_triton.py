"""The fused implementation computes what the dense one does, as far as a machine without a GPU can
tell: in Triton's interpreter, and compiled for a GPU, but not run there.

The functions `interpreted_*`, `compiled_*` and `launched_*` run as tests/ops/test_triton.py says.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.locations import locations_between_entries
from helpers.memory import largest_allocation
from helpers.stub_cuda import Write, expect_launches
from helpers.triton_on_cpu import (  # noqa: F401
    NEEDS_TRITON,
    capability,
    check_as_close_as_dense,
    check_code,
    inputs_at_stage,
    interpreter,
    record_kernels,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmdat.ops import deformable_attention
from mmdat.ops.deformable import triton as fused
from mmdat.ops.deformable.triton import fused_deformable_attention, unsupported

KERNELS = ['attend', 'prepare', 'deltas', 'query_gradients', 'key_gradients', 'add_up']
# What a forward and a backward pass launch.
LAUNCHES = ['prepare', *KERNELS]
# Largest difference over largest magnitude, of the output and the gradients. In bfloat16 the
# backward pass starts from an output of three digits.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-1, torch.float16: 1e-2}
# For a compute capability and a dtype, what the code of each of KERNELS may take, as `check_code`
# says: of registers so many that no more would leave room for as many programs on a
# multiprocessor, and of the rest a little more than Triton 3.6 needs.
BOUNDS: dict[tuple[int, torch.dtype], list[tuple[int, ...]]] = {
    (80, torch.bfloat16): [
        (128, 0, 41),
        (40, 0),
        (32, 0, 5),
        (168, 0, 40),
        (255, 320, 6, 8, 65),
        (48, 0, 8, 24, 54),
    ],
    (80, torch.float32): [
        (96, 0, 125),
        (40, 0),
        (40, 0, 7),
        (128, 0, 152),
        (255, 48, 14, 17, 242),
        (48, 0, 10, 36, 106, 106),
    ],
    (90, torch.bfloat16): [
        (72, 0, 42),
        (48, 0),
        (32, 0, 5),
        (128, 0, 38),
        (255, 128, 6, 8, 58),
        (48, 0, 8, 24, 54),
    ],
    (90, torch.float32): [
        (104, 0, 127),
        (48, 0),
        (48, 0, 7),
        (128, 0, 153),
        (255, 40, 14, 17, 245),
        (48, 0, 10, 36, 106, 106),
    ],
}


@dataclass(frozen=True)
class Case:
    """Sizes of a call: ``groups`` of ``heads`` heads each, and the largest key coordinate."""

    batch: int = 1
    groups: int = 1
    heads: int = 1
    height: int = 5
    width: int = 6
    num_keys: int = 7
    head_dim: int = 4
    value_dim: int = 4
    table: tuple[int, int] = (9, 11)
    reach: float = 1.0
    seed: int = 0

    def inputs(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        num_heads = self.groups * self.heads

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        # As the backbones have them: queries come from a map with the channels first.
        query = random(self.batch, num_heads, self.head_dim, self.height, self.width)
        keys = self.batch, num_heads, self.num_keys
        locations = locations_between_entries(
            (self.batch, self.groups, self.num_keys),
            (self.height, self.width),
            self.table,
            self.reach,
            generator,
        )
        inputs = [
            query.movedim(2, -1).to(dtype),
            random(*keys, self.head_dim).to(dtype),
            random(*keys, self.value_dim).to(dtype),
            locations.float(),
            random(num_heads, *self.table),
        ]
        return [x.requires_grad_() for x in inputs]


def results(inputs: list[Tensor], kernels: bool) -> list[Tensor]:
    """The output and the gradients of the inputs, of the Triton kernels or of the dense one."""
    if kernels:
        out, _ = fused_deformable_attention(*inputs)
    else:
        out = deformable_attention(*inputs, implementation='dense')
    return [out, *torch.autograd.grad(out.sin().sum(), inputs)]


def check(case: Case, dtype: torch.dtype = torch.float32) -> None:
    """Check that the fused implementation is about as close to the truth as the dense one."""
    check_as_close_as_dense(results, case.inputs(dtype), TOLERANCES[dtype])


@pytest.mark.parametrize(
    'case',
    [
        Case(height=1, width=1, num_keys=1, head_dim=1, value_dim=1, table=(1, 1)),
        Case(
            batch=2,
            groups=2,
            heads=2,
            height=3,
            width=5,
            num_keys=17,
            head_dim=5,
            value_dim=3,
            reach=1.7,
        ),
        Case(heads=2, height=1, width=17, head_dim=16, value_dim=33, table=(5, 3)),
        Case(height=17, width=1, head_dim=20, value_dim=16, table=(1, 8), reach=0.9),
        Case(groups=2, height=2, width=3, table=(31, 27)),
        Case(height=3, width=9, num_keys=17, table=(17, 17), reach=6.0),
    ],
    ids=str,
)
def interpreted_equals_the_dense_one(case: Case) -> None:
    check(case)


sides = st.one_of(st.integers(1, 4), st.integers(5, 12))


@pytest.mark.slow
@given(
    st.builds(
        Case,
        batch=st.integers(1, 2),
        groups=st.integers(1, 2),
        heads=st.integers(1, 2),
        height=sides,
        width=sides,
        num_keys=st.integers(1, 20),
        head_dim=st.integers(1, 20),
        value_dim=st.integers(1, 20),
        table=st.tuples(sides, sides),
        reach=st.sampled_from([0.9, 1.7, 4.0]),
        seed=st.integers(0, 2**31),
    ),
    st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16]),
)
def interpreted_equals_the_dense_one_at_random_sizes(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@pytest.mark.parametrize(
    'dtype', [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
def interpreted_takes_half_precision(dtype: torch.dtype) -> None:
    check(Case(heads=2, num_keys=70), dtype)


def interpreted_locations_that_are_no_numbers_make_no_numbers() -> None:
    inputs = [x.detach().clone() for x in Case(batch=3, num_keys=17).inputs()]
    inputs[3][0, 0, 16, 1] = torch.nan
    inputs[3][1, 0, 3] = torch.inf
    found, dense = (
        results([x.requires_grad_() for x in inputs], kernels) for kernels in (True, False)
    )
    assert all(x[:2].isnan().all() for x in found[:2])
    assert not found[5].isfinite().any()
    torch.testing.assert_close(found[0], dense[0], equal_nan=True)
    torch.testing.assert_close([x[2] for x in found[1:5]], [x[2] for x in dense[1:5]])


@pytest.mark.parametrize('grad', [1e-30, 1e30, torch.inf])
def interpreted_gradients_of_the_table_have_any_magnitude(grad: float) -> None:
    *inputs, table = Case(height=3, width=4).inputs()
    out = fused_deformable_attention(*inputs, table)[0]
    dense = deformable_attention(*inputs, table, implementation='dense')
    grad_out = grad * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    found, expected = (torch.autograd.grad(x, table, grad_out)[0] for x in (out, dense))
    if grad == torch.inf:
        assert not found.isfinite().any()
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * grad)


def interpreted_gradients_of_the_table_are_bounded_by_all_values() -> None:
    """Two large values behind the first block of keys cancel in the output, and so in delta."""
    query, key, value, locations, table = (x.detach() for x in Case(num_keys=34).inputs())
    value = torch.zeros_like(value)
    value[:, :, -2:] = 1e6 * torch.tensor([1, -1])[:, None]
    inputs = torch.zeros_like(query), key, value, locations, torch.zeros_like(table)
    found, dense = (
        results([x.clone().requires_grad_() for x in inputs], kernels)[-1]
        for kernels in (True, False)
    )
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=10.0)


@pytest.mark.slow
def interpreted_takes_three_products_of_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, 'allows_tf32', lambda: True)
    check(Case(heads=2))


@pytest.mark.slow
def interpreted_programs_share_the_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that share the queries of a key block add up to the same gradients."""
    monkeypatch.setattr(fused, 'MIN_TILES_PER_PROGRAM', 2)
    check(Case(batch=2, height=17, width=15))


@pytest.mark.slow
@pytest.mark.parametrize('case', [Case(batch=0), Case(height=0)], ids=str)
def interpreted_takes_no_queries(case: Case) -> None:
    found = results([torch.ones_like(x).requires_grad_() for x in case.inputs()], True)
    assert not any(gradient.any() for gradient in found)


@pytest.mark.slow
def interpreted_takes_expanded_tensors() -> None:
    query, key, value, locations, table = Case(batch=2, heads=2).inputs()
    inputs = [
        query[:1, :1].expand_as(query),
        key[:, :1].expand_as(key),
        value.mT.contiguous().mT,
        locations.flip(-1).flip(-1).mT.contiguous().mT,
        table.mT.contiguous().mT,
    ]
    for found, expected in zip(results(inputs, True), results(inputs, False), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def interpreted_allocates_nothing_of_size_queries_times_keys() -> None:
    inputs = Case(height=8, width=16, num_keys=128, table=(7, 7)).inputs(torch.bfloat16)
    pairs = 8 * 16 * 128
    dense_largest, largest = (
        largest_allocation(lambda kernels=kernels: results(inputs, kernels))
        for kernels in (False, True)
    )
    assert dense_largest >= 4 * pairs
    assert largest < 4 * pairs / 8


@pytest.mark.slow
def interpreted_operators_are_registered_as_torch_wants_them() -> None:
    inputs = Case(batch=2).inputs()
    torch.library.opcheck(torch.ops.mmdat.fused_deformable_attention, inputs)
    out, lse = (x.detach() for x in fused_deformable_attention(*inputs))
    torch.library.opcheck(
        torch.ops.mmdat.fused_deformable_attention_backward,
        (out, out, lse, *(x.detach() for x in inputs)),
    )


def check_compiled(compiled: list[tuple[str, str]]) -> None:
    """Check that each kernel was compiled once, and that for the table, in float32 whatever the
    dtype, once forward and once backward or before.
    """
    names = [name for name, _ in compiled]
    assert [name for name in names if name != 'prepare'] == [x for x in KERNELS if x != 'prepare']
    assert names.count('prepare') in (0, 2)


@pytest.mark.parametrize(
    'case, dtype',
    [
        (Case(head_dim=32, value_dim=32), torch.bfloat16),
        pytest.param(
            Case(head_dim=16, value_dim=16, height=1, table=(1, 9)),
            torch.float32,
            marks=pytest.mark.slow,
        ),
        pytest.param(Case(head_dim=20, value_dim=40), torch.float16, marks=pytest.mark.slow),
    ],
)
def compiled_kernels(case: Case, dtype: torch.dtype, capability: int) -> None:  # noqa: F811
    """The interpreter takes much that the compiler does not."""
    with record_kernels() as compiled:
        results(case.inputs(dtype), True)
    check_compiled(compiled)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def compiled_kernels_stay_within_bounds(
    dtype: torch.dtype,
    capability: int,  # noqa: F811
) -> None:
    bounds = dict(zip(KERNELS, BOUNDS[capability, dtype], strict=True))
    check_code(
        'deformable',
        fused_deformable_attention,
        dtype,
        # Or of a key and one of its dimensions.
        lambda o: (
            o['key_block'] * o.get('tile_height', 1) * o.get('tile_width', o.get('head_block'))
        ),
        bounds,
    )


def compiled_once_for_maps_of_all_sizes(capability: int) -> None:  # noqa: F811
    with record_kernels(compile=False) as compiled:
        for height, width, num_keys in ((64, 32, 32), (17, 40, 16), (9, 16, 1), (65, 1, 33)):
            case = Case(2, 2, 1, height, width, num_keys, 16, 16, table=(127, 127))
            query, key, value, *others = case.inputs(torch.bfloat16)
            maps = (  # channels last, as in models
                x.movedim(1, -2).contiguous().movedim(-2, 1) for x in (query, key, value)
            )
            results([*maps, *others], True)
    check_compiled(list(dict.fromkeys(compiled)))  # nothing was kept of what was not compiled


@pytest.mark.slow
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@pytest.mark.parametrize('stage', [0, 3])
def launched_with_the_right_arguments(stage: int, dtype: torch.dtype, batch: int) -> None:
    inputs = inputs_at_stage('deformable', stage, batch, dtype)
    query, key, value, locations, table = inputs
    heads, height, width, dim = query.shape[1:]
    num_keys, side = key.shape[2], table.shape[1]
    tiles = math.ceil(height / 4) * math.ceil(width / 16)
    grid = tiles, batch * heads, 1

    def place(index: int, location: float, size: int) -> float:
        """Entry of the padded table where a query looks from a key."""
        displacement = (2 * index / (size - 1) - 1 - location) / 2
        return 2 + (displacement + 1) / 2 * (side - 1)

    def axis(size: int) -> Any:
        origin = place(0, 0, size)
        step, factor = place(1, 0, size) - origin, origin - place(0, 1, size)
        return pytest.approx((step, origin, factor, side + 2.5))

    # Pairs of entries in base 2, the second in the higher bits.
    padded = F.pad(math.log2(math.e) * table.detach(), (2, 3, 2, 2)).view(torch.int32).long()
    pairs = padded[..., :-1] & 0xFFFFFFFF | padded[..., 1:] << 32
    out = torch.ones(batch, height, width, heads, dim, dtype=dtype).movedim(3, 1)
    lse = torch.full((batch, heads, tiles, 64), 2.0)
    delta, maxima = 3 * lse, torch.tensor([4.0, 5.0, 6.0])
    grad_out = torch.randn(out.shape).to(dtype)  # its strides are not those of the output
    prepare = dict(
        given=table,
        table=Write(pairs),
        table_height=side,
        table_width=side,
        num_heads=heads,
        scale=pytest.approx(math.log2(math.e)),
    )
    common = dict(
        query=query,
        key=key,
        value=value,
        locations=locations,
        table=pairs,
        query_strides=query.stride(),
        key_strides=key.stride(),
        value_strides=value.stride(),
        out_strides=out.stride(),
        height=height,
        width=width,
        padded_height=side + 4,
        padded_width=side + 4,
        rows=axis(height),
        columns=axis(width),
        num_keys=num_keys,
        num_heads=heads,
        heads_per_group=2,
        scale=pytest.approx(math.log2(math.e) / math.sqrt(dim)),
    )
    prepared = (math.ceil(pairs.numel() / 1024), 1, 1), prepare
    attend = grid, dict(common, out=Write(out), lse=Write(lse))
    with expect_launches(prepare=prepared, attend=attend):
        found, _ = fused_deformable_attention(*inputs)

    key_blocks = math.ceil(num_keys / (32 if dtype == torch.float32 else 64))
    tiles_per_program = max(8, math.ceil(tiles * key_blocks * batch * heads / 1024))
    programs = math.ceil(tiles / tiles_per_program)
    sums = torch.ones(programs, batch, heads, num_keys, dim)
    table_sums = torch.full_like(pairs, 9)
    prepare.update(
        grad_table=Write(torch.zeros_like(pairs)), maxima=Write(torch.zeros(3, dtype=torch.int32))
    )
    deltas = dict(
        out=out,
        grad_out=grad_out,
        value=value,
        delta=Write(delta),
        maxima=Write(maxima.view(torch.int32), torch.zeros(3, dtype=torch.int32)),
        out_strides=out.stride(),
        grad_strides=grad_out.stride(),
        value_strides=value.stride(),
        height=height,
        width=width,
        num_keys=num_keys,
        num_heads=heads,
    )
    common.update(grad_out=grad_out, lse=lse, delta=delta, out_strides=grad_out.stride())
    query_gradients = dict(
        common,
        grad_query=Write(7 * out),
        grad_query_strides=out.stride(),
        grad_scale=pytest.approx(1 / math.sqrt(dim)),
    )
    key_gradients = dict(
        common,
        grad_key=Write(8 * sums),
        grad_value=Write(9 * sums),
        grad_coordinates=Write(10 * sums[..., :2]),
        grad_table=Write(table_sums, torch.zeros_like(pairs)),
        maxima=maxima,
        table_scale=Write(torch.tensor(11.0)),
        window_rows=3,
        window_columns=5,
        num_tiles=tiles,
        tiles_per_program=tiles_per_program,
    )
    # Laid out as the map of which a convolution makes keys.
    key_gradient = torch.ones(batch, num_keys, heads, dim, dtype=dtype).transpose(1, 2)
    expected = 7 * out, 12 * key_gradient, 13 * key_gradient, 14 * locations, 15 * table
    moved = -(side - 1) / 4 / math.log2(math.e)
    add_up = dict(
        key_sums=8 * sums,
        value_sums=9 * sums,
        coordinate_sums=10 * sums[..., :2],
        table_sums=table_sums,
        table_scale=torch.tensor(11.0),
        grad_key=Write(expected[1]),
        grad_value=Write(expected[2]),
        grad_locations=Write(expected[3].detach()),
        grad_table=Write(expected[4].detach()),
        key_strides=key_gradient.stride(),
        value_strides=key_gradient.stride(),
        num_keys=num_keys,
        table_height=side,
        table_width=side,
        programs=programs,
        num_heads=heads,
        heads_per_group=2,
        key_scale=pytest.approx(1 / math.sqrt(dim)),
        y_scale=pytest.approx(moved),
        x_scale=pytest.approx(moved),
    )
    with expect_launches(
        prepare=prepared,
        deltas=(grid, deltas),
        query_gradients=(grid, query_gradients),
        key_gradients=((key_blocks, batch * heads, programs), key_gradients),
        add_up=(
            (math.ceil(num_keys / (16 if dtype == torch.float32 else 32)), batch * heads // 2, 1),
            add_up,
        ),
    ):
        gradients = torch.autograd.grad(found, inputs, grad_out)
    for gradient, values in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, values)


class Launches(TorchDispatchMode):
    """Names of the operators for which a GPU would launch kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if not function.is_view and 'empty' not in name:
            self.names.append(name)
        return function(*args, **(kwargs or {}))

    def kernel(self, name: str) -> dict[Any, Any]:
        """A kernel that does nothing, for any grid."""
        return defaultdict(lambda: lambda *args, **options: self.names.append(name))


def test_nothing_is_launched_but_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [x.detach() for x in inputs_at_stage('deformable', 3, 2, torch.bfloat16)]
    with Launches() as launches:
        kernels = SimpleNamespace(**{name: launches.kernel(name) for name in KERNELS})
        monkeypatch.setattr(fused, '_kernels', lambda: kernels)
        out, lse = fused._attend(*tensors)
        fused._gradients(out, out, lse, *tensors)
    assert launches.names == LAUNCHES


@pytest.mark.parametrize(
    'dtype, head_dim, interpret, sentence',
    [
        (torch.float32, 64, '1', None),
        (torch.bfloat16, 128, '1', None),
        (torch.float32, 64, '0', 'the tensors are on cpu rather than a CUDA device'),
        (
            torch.float64,
            64,
            '1',
            'torch.float64 is none of torch.float32, torch.bfloat16, torch.floa',
        ),
        (torch.float32, 65, '1', 'heads have 65 dimensions, more than 64 in torch.float32'),
    ],
)
@NEEDS_TRITON
def test_what_is_not_supported_is_said(
    dtype: torch.dtype,
    head_dim: int,
    interpret: str,
    sentence: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('TRITON_INTERPRET', interpret)
    query = torch.zeros(1, 1, 2, 2, 8, dtype=dtype)
    said = unsupported(query, query, torch.zeros(1, 1, 2, head_dim, dtype=dtype))
    assert (said is None) == (sentence is None)
    assert (said or '').startswith(sentence or '')


@NEEDS_TRITON
def test_queries_and_keys_of_different_dtypes_are_not_supported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    query, key, value, *_ = Case().inputs()
    assert unsupported(query, key, value) is None
    said = unsupported(query.half(), key, value)
    assert said == 'queries are in torch.float16, keys in torch.float32'


@NEEDS_TRITON
@pytest.mark.parametrize(
    'batch, heads, height, supported',
    [
        (1, 2, 2**14 - 1, True),
        (1, 2, 2**14, False),  # an output of 2^31 elements
        (2**13 - 1, 2, 2**13, True),
        (2**13, 2, 2**13, False),  # 2^31 programs
    ],
)
def test_more_than_32_bits_are_not_supported(
    batch: int, heads: int, height: int, supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    query = torch.empty(batch, heads, height, 2**10, 4, device='meta')
    key, value = (torch.empty(batch, heads, 1, size, device='meta') for size in (4, 64))
    said = unsupported(query, key, value)
    assert said == (None if supported else f'the map of {height} x 1024 is too large for 32 bits')


@NEEDS_TRITON
def test_strides_of_more_than_32_bits_are_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    query = torch.empty_strided((1, 1, 2, 2, 4), (1, 1, 2**31, 4, 1), device='meta')
    key = torch.empty(1, 1, 1, 4, device='meta')
    assert unsupported(query, key, key) == 'the map of 2 x 2 is too large for 32 bits'
