"""The fused implementation computes what the dense one does, as far as a machine without a GPU can
tell: in Triton's interpreter, and compiled for a GPU, but not run there.

The functions `interpreted_*`, `compiled_*` and `launched_*` run as tests/ops/test_triton.py says.
"""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
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

from mmdat.ops import neighborhood_attention
from mmdat.ops.neighborhood import triton as fused
from mmdat.ops.neighborhood.triton import fused_neighborhood_attention, unsupported

# Largest difference over largest magnitude, of the output and the gradients.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
KERNELS = ['attend', 'query_gradients', 'key_gradients', 'bias_gradients', 'table_gradients']
# For a compute capability and a dtype, what the code of each of KERNELS may take, as `check_code`
# says: of registers so many that no more would leave room for as many programs on a
# multiprocessor, and of the rest a little more than Triton 3.6 needs.
BOUNDS: dict[tuple[int, torch.dtype], list[tuple[int, ...]]] = {
    (80, torch.bfloat16): [(128, 0, 25), (128, 0, 19), (255, 0, 28, 31), (128, 0, 31), (32, 0)],
    (80, torch.float32): [(128, 0, 97), (255, 0, 129), (168, 32, 177, 181), (128, 0, 108), (32, 0)],
    (90, torch.bfloat16): [(128, 0, 25), (80, 0, 18), (128, 0, 28, 31), (96, 0, 32), (32, 0)],
    (90, torch.float32): [(128, 0, 98), (255, 0, 129), (168, 8, 178, 182), (128, 0, 109), (32, 0)],
}


@dataclass(frozen=True)
class Case:
    """Sizes of a call."""

    batch: int = 1
    heads: int = 1
    height: int = 9
    width: int = 10
    head_dim: int = 4
    kernel_size: int = 7
    seed: int = 0

    def inputs(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        # As the backbones have them: parts of one map, channels last.
        maps = random(self.batch, self.height, self.width, 3 * self.heads * self.head_dim)
        side = 2 * self.kernel_size - 1
        inputs = [
            x.unflatten(-1, (self.heads, self.head_dim)).movedim(3, 1)
            for x in maps.to(dtype).chunk(3, dim=-1)
        ]
        return [x.requires_grad_() for x in (*inputs, random(self.heads, side, side))]


def results(inputs: list[Tensor], kernels: bool) -> list[Tensor]:
    """The output and the gradients of the inputs, of the Triton kernels or of the dense one."""
    if kernels:
        out, _ = fused_neighborhood_attention(*inputs)
    else:
        out = neighborhood_attention(*inputs, implementation='dense')
    return [out, *torch.autograd.grad(out.sin().sum(), inputs)]


def check(case: Case, dtype: torch.dtype = torch.float32) -> None:
    """Check that the fused implementation is about as close to the truth as the dense one."""
    check_as_close_as_dense(results, case.inputs(dtype), TOLERANCES[dtype])


@pytest.mark.parametrize(
    'case',
    [
        Case(height=7, width=7),
        Case(height=1, width=2, kernel_size=1),
        Case(height=10, width=6, kernel_size=5),  # its last tile begins behind some moved windows
        Case(batch=2, heads=2, height=3, width=9, head_dim=20, kernel_size=3),
    ],
    ids=str,
)
def interpreted_equals_the_dense_one(case: Case) -> None:
    check(case)


@pytest.mark.slow
@given(
    st.sampled_from([1, 3, 5, 7]).flatmap(
        lambda kernel_size: st.builds(
            Case,
            batch=st.integers(1, 2),
            heads=st.integers(1, 2),
            height=st.integers(kernel_size, 27),
            width=st.integers(kernel_size, 27),
            head_dim=st.integers(1, 20),
            kernel_size=st.just(kernel_size),
            seed=st.integers(0, 2**31),
        )
    ),
    st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16]),
)
def interpreted_equals_the_dense_one_at_random_sizes(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@pytest.mark.parametrize(
    'dtype', [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
def interpreted_takes_half_precision(dtype: torch.dtype) -> None:
    check(Case(height=5, width=4, kernel_size=3), dtype)


@pytest.mark.slow
def interpreted_takes_three_products_of_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, 'allows_tf32', lambda: True)
    check(Case(height=5, width=4, kernel_size=3))


@pytest.mark.slow
def interpreted_programs_share_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that share the tiles add up to the same gradient of the table."""
    monkeypatch.setattr(fused, 'MIN_TILES_PER_PROGRAM', 3)
    check(Case(batch=2, width=7, kernel_size=3))


@pytest.mark.slow
def interpreted_takes_expanded_tensors() -> None:
    query, key, value, table = Case(batch=2, heads=2).inputs()
    channels_first = query.movedim(-1, 2).contiguous().movedim(2, -1)
    inputs = [channels_first, key[:1, :1].expand_as(key), value, table.mT.contiguous().mT]
    for found, expected in zip(results(inputs, True), results(inputs, False), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def interpreted_operators_are_registered_as_torch_wants_them() -> None:
    inputs = Case(batch=2).inputs()
    torch.library.opcheck(torch.ops.mmdat.fused_neighborhood_attention, inputs)
    out, lse = (x.detach() for x in fused_neighborhood_attention(*inputs))
    torch.library.opcheck(
        torch.ops.mmdat.fused_neighborhood_attention_backward,
        (out, out, lse, *(x.detach() for x in inputs)),
    )


@pytest.mark.parametrize(
    'case, dtype',
    [
        (Case(head_dim=32), torch.bfloat16),
        pytest.param(Case(head_dim=32), torch.float32, marks=pytest.mark.slow),
        pytest.param(Case(head_dim=33, kernel_size=3), torch.float16, marks=pytest.mark.slow),
    ],
)
def compiled_kernels(case: Case, dtype: torch.dtype, capability: int) -> None:  # noqa: F811
    """The interpreter takes much that the compiler does not."""
    with record_kernels() as compiled:
        results(case.inputs(dtype), True)
    assert [name for name, _ in compiled] == KERNELS


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def compiled_kernels_stay_within_bounds(
    dtype: torch.dtype,
    capability: int,  # noqa: F811
) -> None:
    bounds = dict(zip(KERNELS, BOUNDS[capability, dtype], strict=True))
    check_code(
        'neighborhood',
        fused_neighborhood_attention,
        dtype,
        lambda o: o['tile'] ** 2 * o['block_rows'] * o['block_width'],
        bounds,
    )


def compiled_once_for_maps_of_all_sizes(capability: int) -> None:  # noqa: F811
    with record_kernels(compile=False) as compiled:
        for height, width in ((64, 32), (17, 40), (9, 16), (65, 7)):
            results(Case(2, 2, height, width, 16).inputs(torch.bfloat16), True)
    names = [name for name, _ in set(compiled)]
    assert 'attend' in names
    assert len(names) == len(set(names))


@pytest.mark.slow
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@pytest.mark.parametrize('stage', [0, 3])
def launched_with_the_right_arguments(stage: int, dtype: torch.dtype, batch: int) -> None:
    inputs = inputs_at_stage('neighborhood', stage, batch, dtype)
    query, key, value, table = inputs
    heads, height, width, dim = query.shape[1:]
    tiles = math.ceil(height / 8) * math.ceil(width / 8)
    grid = tiles, batch * heads, 1

    out = torch.ones(batch, height, width, heads, dim, dtype=dtype).movedim(3, 1)
    lse = torch.full((batch, heads, height, width), 2.0)
    delta = 3 * lse
    grad_out = torch.randn(out.shape).to(dtype)  # its strides are not those of the output
    strides = tuple(x.stride() for x in (query, key, value, out, grad_out, out, out, out))
    common = dict(
        query=query,
        key=key,
        value=value,
        table=table,
        lse=lse,
        strides=strides,
        num_heads=heads,
        height=height,
        width=width,
        scale=pytest.approx(math.log2(math.e) / math.sqrt(dim)),
    )
    attend = dict(common, out=Write(out), lse=Write(lse), strides=strides[:4] + 4 * ((),))
    with expect_launches(attend=(grid, attend)):
        found, _ = fused_neighborhood_attention(*inputs)

    tiles_per_program = max(8, math.ceil(7 * heads * batch * tiles / 1024))
    programs = math.ceil(batch * tiles / tiles_per_program)
    sums = torch.full((programs, heads, 64, 14, 16), 7.0)
    common.update(grad_out=grad_out, delta=delta)
    grad_scale = pytest.approx(1 / math.sqrt(dim))
    query_gradients = dict(
        common, out=out, delta=Write(delta), grad_query=Write(4 * out), grad_scale=grad_scale
    )
    key_gradients = dict(
        common, grad_key=Write(5 * out), grad_value=Write(6 * out), grad_scale=grad_scale
    )
    bias_gradients = dict(
        common, grad_bias=Write(sums), num_tiles=batch * tiles, tiles_per_program=tiles_per_program
    )
    table_gradients = dict(
        grad_bias=programs * sums[0], grad_table=Write(torch.full((heads, 13, 13), 8.0))
    )
    with expect_launches(
        query_gradients=(grid, query_gradients),
        key_gradients=(grid, key_gradients),
        bias_gradients=((7, heads, programs), bias_gradients),
        table_gradients=((13, heads, 1), table_gradients),
    ):
        gradients = torch.autograd.grad(found, inputs, grad_out)
    for gradient, x, number in zip(gradients, inputs, (4, 5, 6, 8), strict=True):
        assert torch.equal(gradient, torch.full_like(x, number))


@NEEDS_TRITON
@pytest.mark.parametrize(
    'changes, sentence',
    [
        ({}, None),
        (dict(kernel_size=9), 'windows are wider than 7 positions'),
        (dict(head_dim=65), 'heads have 65 dimensions, more than 64 in torch.float32'),
    ],
)
def test_what_is_not_supported_is_said(
    changes: dict[str, Any], sentence: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    inputs = Case(**changes).inputs()
    assert unsupported(*inputs) == sentence
    if sentence:
        with pytest.raises(ValueError, match=f"'fused': {sentence}"):
            neighborhood_attention(*inputs, implementation='fused')
