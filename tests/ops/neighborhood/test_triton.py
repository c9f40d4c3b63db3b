"""The fused implementation computes what the dense one does, as far as a machine without a GPU can
tell: in Triton's interpreter, and compiled for a GPU, but not run there.

The functions `interpreted_*` and `compiled_*` run as tests/ops/test_triton.py says.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers.triton_on_cpu import (  # noqa: F401
    NEEDS_TRITON,
    capability,
    check_as_close_as_dense,
    check_code,
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
