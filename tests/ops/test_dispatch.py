"""Which implementation runs is what the caller chose, or the fastest that can."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from mmdat.ops import (
    deformable_attention,
    neighborhood_attention,
    prefer_implementation,
    window_attention,
)
from mmdat.ops.deformable import api
from mmdat.ops.tracing import fresh_sizes

NUM_LOGITS = 2 * 2 * 3 * 5 * 3
# Those whose implementations torch.compile sees as single operators.
OPERATORS = 'deformable', 'neighborhood'


@pytest.fixture
def inputs() -> list[Tensor]:
    """Inputs of deformable attention with ``NUM_LOGITS`` logits, which no kernel takes."""
    shapes = (2, 2, 3, 5, 2), (2, 2, 3, 2), (2, 2, 3, 2), (2, 2, 3, 2), (2, 4, 7)
    return [torch.zeros(shape, dtype=torch.double) for shape in shapes]


@pytest.fixture
def tiled_calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The queries of each call of tiled deformable attention."""
    calls: list[Tensor] = []

    def record(query: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        calls.append(query)
        return query, None

    monkeypatch.setattr(api, 'tiled_deformable_attention', record)
    return calls


def test_auto_is_dense_for_small_maps_alone(
    inputs: list[Tensor], tiled_calls: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, 'DENSE_LOGITS', NUM_LOGITS)
    deformable_attention(*inputs)
    assert not tiled_calls
    monkeypatch.setattr(api, 'DENSE_LOGITS', NUM_LOGITS - 1)
    deformable_attention(*inputs)
    assert len(tiled_calls) == 1


def test_auto_stands_for_what_is_preferred(inputs: list[Tensor], tiled_calls: list[Tensor]) -> None:
    with prefer_implementation('tiled'):
        deformable_attention(*inputs)
        deformable_attention(*inputs, implementation='dense')
        window_attention(*torch.zeros(3, 1, 1, 2, 2, 1), 2)  # has no such implementation
    deformable_attention(*inputs)
    assert len(tiled_calls) == 1


def test_compiled_code_runs_what_eager_code_does(
    inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, 'DENSE_LOGITS', NUM_LOGITS - 1)
    query = key = value = torch.zeros(1, 2, 5, 5, 4)
    table = torch.zeros(2, 5, 5)
    called: set[str] = set()

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        called.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    @torch.compile(backend=backend, fullgraph=True)
    def attend() -> tuple[Tensor, Tensor]:
        return deformable_attention(*inputs), neighborhood_attention(query, key, value, table)

    attend()
    # In it PyTorch's own is_exporting() is true.
    for name in OPERATORS:
        ways = {f'mmdat.{way}_{name}_attention.default' for way in ('tiled', 'compiled')}
        assert len(ways & called) == 1, name


@pytest.mark.skipif(
    not hasattr(torch.compiler, 'is_exporting'), reason='this PyTorch does not say that it exports'
)
def test_exporting_for_a_gpu_asks_for_no_size() -> None:
    class Attend(torch.nn.Module):
        def forward(self, query: Tensor, table: Tensor) -> Tensor:
            query = fresh_sizes(query, 0)
            return neighborhood_attention(query, query, query, table)

    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
        query = torch.empty(2, 2, 5, 5, 4, device='cuda')
        table = torch.empty(2, 5, 5, device='cuda')
    program = torch.export.export(
        Attend(), (query, table), dynamic_shapes=({0: Dim('batch')}, None), strict=False
    )
    assert not any('mmdat' in str(node.target) for node in program.graph.nodes)


def test_what_cannot_run_here_is_not_preferred(inputs: list[Tensor]) -> None:
    with prefer_implementation('fused'):
        assert deformable_attention(*inputs).shape == inputs[0].shape


def test_only_an_implementation_can_be_preferred() -> None:
    with (
        pytest.raises(ValueError, match="'flash': choose from auto, dense, tiled, fused"),
        prefer_implementation('flash'),
    ):
        pass


@pytest.mark.parametrize(
    'implementation, sentence',
    [
        ('flash', "no implementation 'flash': choose from auto, dense, tiled"),
        ('fused', "cannot run its implementation 'fused': "),
    ],
)
def test_an_implementation_that_cannot_run_is_refused(
    inputs: list[Tensor], implementation: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        deformable_attention(*inputs, implementation=implementation)
