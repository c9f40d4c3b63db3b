"""Each implementation of an operator computes what the dense one does, in less memory."""
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmdat.ops import deformable_attention, implementations
from mmdat.ops.tiled_deformable_attention import tiled_deformable_attention
from mmdat.ops.tiling import LOGITS_PER_TILE

# The package's attribute of that name is the function.
MODULE = sys.modules['mmdat.ops.deformable_attention']
IMPLEMENTATIONS = ('tiled',)
# Largest difference over largest magnitude, of the output and the gradients. In bfloat16 the
# backward pass starts from an output of three digits.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Case:
    """Sizes, and how many logits a tile may have."""
    batch: int
    groups: int
    heads_per_group: int
    height: int
    width: int
    num_keys: int
    head_dim: int
    table: tuple[int, int] | None
    reach: float
    logits_per_tile: int
    seed: int

    def inputs(self, dtype: torch.dtype) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        num_heads = self.groups * self.heads_per_group

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        # As the backbones have them: queries come from a map with the channels first.
        query = random(self.batch, num_heads, self.head_dim, self.height, self.width)
        keys = self.batch, num_heads, self.num_keys, self.head_dim
        inputs = [query.movedim(2, -1), random(*keys), random(*keys)]
        if self.table is not None:
            # Positions and tables stay in float32 under autocast.
            precise = torch.promote_types(dtype, torch.float32)
            locations = torch.rand(self.batch, self.groups, self.num_keys, 2, generator=generator,
                                   dtype=torch.float64)
            inputs += [((2 * locations - 1) * self.reach).to(precise),
                       random(num_heads, *self.table).to(precise)]
        return [x.requires_grad_() for x in inputs]


sides = st.one_of(st.integers(1, 4), st.integers(5, 20))
cases = st.builds(
    Case, batch=st.integers(1, 3), groups=st.integers(1, 3), heads_per_group=st.integers(1, 2),
    height=sides, width=sides, num_keys=st.integers(1, 20), head_dim=st.integers(1, 9),
    table=st.one_of(st.none(), st.tuples(st.integers(1, 45), st.integers(1, 45))),
    reach=st.sampled_from([0.9, 1.0, 1.7, 4.0]),
    logits_per_tile=st.sampled_from([2**10, 2**12, 2**22]), seed=st.integers(0, 2**31))


def results(inputs: list[Tensor], implementation: str) -> list[Tensor]:
    """The output and the gradients of the inputs."""
    out = deformable_attention(*inputs, implementation=implementation)
    return [out, *torch.autograd.grad(out.sin().sum(), inputs)]


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
@pytest.mark.parametrize('dtype, examples', [
    (torch.float64, 500), (torch.float32, 200), (torch.bfloat16, 200)])
def test_deformable_attention_equals_the_dense_one(implementation: str, dtype: torch.dtype,
                                                   examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(cases)
    def check(case: Case) -> None:
        inputs = case.inputs(dtype)
        truth = results([x.detach().double().requires_grad_() for x in inputs], 'dense')
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(LOGITS_PER_TILE, 'cpu', case.logits_per_tile)
            found = results(inputs, implementation)
        dense = results(inputs, 'dense')
        # Some gradients, such as that of a table with one cell, are zero but for rounding.
        floor = 0.1 * max(x.abs().max() for x in truth)
        for index, (x, y, expected) in enumerate(zip(found, dense, truth, strict=True)):
            if index == 4 and dtype != torch.float64:
                continue  # the locations' gradient jumps at the table's cells, where rounding moves
            error, dense_error = ((z - expected).abs().max() / max(floor, expected.abs().max())
                                  for z in (x, y))
            assert error <= max(TOLERANCES[dtype], 3 * dense_error), (error, dense_error)

    check()


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_gradients_equal_finite_differences(implementation: str,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGITS_PER_TILE, 'cpu', 40)
    case = Case(2, 2, 1, 3, 5, 3, 2, (4, 7), 0.9, 40, seed=0)
    assert torch.autograd.gradcheck(
        lambda *inputs: deformable_attention(*inputs, implementation=implementation),
        case.inputs(torch.float64))


def test_nothing_of_size_queries_times_keys_is_allocated() -> None:
    case = Case(1, 1, 2, 64, 64, 256, 8, (31, 31), 1.0, 2**16, seed=0)
    inputs = case.inputs(torch.float32)
    pairs = 2 * 64 * 64 * 256
    largest = {}
    for implementation in ('dense', *IMPLEMENTATIONS):
        with pytest.MonkeyPatch.context() as patch, torch.profiler.profile(
                profile_memory=True, acc_events=True,
                activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            patch.setitem(LOGITS_PER_TILE, 'cpu', case.logits_per_tile)
            results(inputs, implementation)
        largest[implementation] = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest.pop('dense') >= 4 * pairs
    for size in largest.values():
        assert size < 4 * pairs / 8


@pytest.mark.parametrize('operator', [
    tiled_deformable_attention, torch.ops.mmdat.tiled_deformable_attention_backward])
def test_operators_are_registered_as_torch_wants_them(operator: Any) -> None:
    inputs = Case(2, 2, 1, 3, 5, 3, 2, (4, 7), 0.9, 2**20, seed=0).inputs(torch.float32)
    if operator is not tiled_deformable_attention:
        out, log_sums = (x.detach() for x in tiled_deformable_attention(*inputs, 1.0))
        inputs = [out, out, log_sums, *(x.detach() for x in inputs)]
    torch.library.opcheck(operator, (*inputs, 1.0))


def test_auto_is_dense_for_small_maps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(MODULE, 'tiled_deformable_attention',
                        lambda *inputs: calls.append(inputs) or (inputs[0], None))
    small = Case(1, 1, 1, 8, 8, 4, 2, (3, 3), 1.0, 0, seed=0).inputs(torch.float32)
    deformable_attention(*small)
    assert not calls
    monkeypatch.setattr(MODULE, 'DENSE_LOGITS', 8 * 8 * 4 - 1)
    deformable_attention(*small)
    assert len(calls) == 1


def test_dropout_falls_back_to_the_dense_implementation_with_one_warning() -> None:
    implementations._warn_of_dropout.cache_clear()
    inputs = Case(1, 1, 1, 8, 8, 4, 2, (3, 3), 1.0, 0, seed=0).inputs(torch.float32)
    outs = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for implementation in ('tiled', 'tiled', 'dense'):
            torch.manual_seed(0)
            outs.append(deformable_attention(*inputs, dropout_p=0.5,
                                             implementation=implementation))
    assert len(caught) == 1
    assert torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[2], deformable_attention(*inputs, implementation='dense'))


@pytest.mark.parametrize('options, sentence', [
    (dict(implementation='flash'), "no implementation 'flash': choose from auto, dense, tiled"),
    (dict(dropout_p=1.0), 'dropout_p must be'),
])
def test_options_that_do_not_fit_are_refused(options: dict, sentence: str) -> None:
    inputs = Case(1, 1, 1, 2, 2, 2, 2, (3, 3), 1.0, 0, seed=0).inputs(torch.float32)
    with pytest.raises(ValueError, match=sentence):
        deformable_attention(*inputs, **options)
