"""The kernel in C++ for deformable attention: when it runs, and that threads change nothing."""

from collections.abc import Iterator

import pytest
import torch
from helpers.compiled import needs_kernels
from torch import Tensor

from mmdat.analysis.measure import PeakMemory
from mmdat.ops import cpu, deformable_attention
from mmdat.ops.deformable import api

pytestmark = needs_kernels


def random_inputs(height: int, width: int, num_keys: int, table: tuple[int, int]) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(1, 2, height, width, 8),
        *torch.randn(2, 1, 2, num_keys, 8),
        torch.rand(1, 1, num_keys, 2),
        torch.randn(2, *table),
    ]


def gradients(inputs: list[Tensor], implementation: str) -> list[Tensor]:
    out = deformable_attention(*(x.requires_grad_() for x in inputs), implementation=implementation)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), inputs)]


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures('threads')
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    inputs = random_inputs(40, 20, 70, (31, 11))
    results = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        results.append(gradients(inputs, 'compiled'))
    for others in results[1:]:
        assert all(map(torch.equal, results[0], others))


def test_auto_is_compiled_where_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def record(query: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        calls.append(query)
        return query, None

    monkeypatch.setattr(api, 'compiled_deformable_attention', record)
    inputs = random_inputs(4, 5, 3, (7, 9))
    deformable_attention(*inputs)
    assert len(calls) == 1
    deformable_attention(*inputs[:3])
    deformable_attention(*(x.double() for x in inputs))
    deformable_attention(*inputs[:4], torch.randn(2, 8, 9))
    monkeypatch.setattr(cpu, 'KERNELS', None)
    deformable_attention(*inputs)
    assert len(calls) == 1


@pytest.mark.parametrize(
    'change, sentence',
    [
        (lambda x: [*x[:4], torch.randn(2, 7, 10)], 'table of 7 x 10 is too fine for a map of 4 x'),
        (lambda x: [x[0].double(), *x[1:]], 'torch.float64 is none of torch.float32'),
        (lambda x: [y.to('meta') for y in x], 'the tensors are on meta'),
    ],
)
def test_what_it_cannot_take_is_refused(change, sentence: str) -> None:
    inputs = change(random_inputs(4, 5, 3, (7, 9)))
    with pytest.raises(ValueError, match=sentence):
        deformable_attention(*inputs, implementation='compiled')


def test_large_logits_overflow_nowhere() -> None:
    inputs = random_inputs(5, 6, 70, (3, 3))
    inputs[0] *= 1000
    for found, expected in zip(
        gradients(inputs, 'compiled'), gradients(inputs, 'dense'), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-3)


def test_nothing_of_size_queries_times_keys_is_allocated() -> None:
    inputs = random_inputs(128, 128, 1024, (31, 31))
    memory = PeakMemory(torch.device('cpu'))
    gradients(inputs, 'compiled')
    assert memory.bytes < 2 * 128**2 * 1024 * 4 / 4
