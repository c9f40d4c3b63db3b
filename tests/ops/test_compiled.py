"""The kernels in C++: when they run, and that their results are the same on any threads."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers.compiled import needs_kernels
from helpers.errors import relative_errors
from torch import Tensor

from mmdat.ops import (
    compiled,
    cpu,
    deformable_attention,
    full,
    global_attention,
    neighborhood_attention,
    window,
    window_attention,
)
from mmdat.ops.deformable import api
from mmdat.ops.neighborhood import api as neighborhood_api

pytestmark = needs_kernels


def deformable_inputs(
    height: int, width: int, num_keys: int, table: tuple[int, int]
) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(1, 2, height, width, 8),
        *torch.randn(2, 1, 2, num_keys, 8),
        torch.rand(1, 1, num_keys, 2),
        torch.randn(2, *table),
    ]


def neighborhood_inputs(height: int, width: int, head_dim: int = 8) -> list[Tensor]:
    torch.manual_seed(0)
    return [*torch.randn(3, 1, 2, height, width, head_dim), torch.randn(2, 5, 5)]


def results(
    operator: Callable[..., Tensor], inputs: list[Tensor], implementation: str
) -> list[Tensor]:
    """The output and the gradients of the inputs."""
    out = operator(*(x.requires_grad_() for x in inputs), implementation=implementation)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), inputs)]


@pytest.mark.usefixtures('threads')
@pytest.mark.parametrize(
    'operator, inputs',
    [
        (deformable_attention, deformable_inputs(40, 20, 70, (31, 11))),
        (global_attention, deformable_inputs(40, 20, 70, (31, 11))[:3]),
        (neighborhood_attention, neighborhood_inputs(40, 150)),
        (partial(window_attention, window_size=3), neighborhood_inputs(40, 150)[:3]),
    ],
)
def test_results_do_not_depend_on_the_number_of_threads(
    operator: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    torch.set_num_threads(1)
    expected = results(operator, inputs, 'compiled')
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        assert all(map(torch.equal, results(operator, inputs, 'compiled'), expected))


# Tiles are turned in the columns behind the last that fill a vector of 8 or 16.
@pytest.mark.parametrize('height, width', [(40, 20), (60, 2), (7, 33), (25, 42), (50, 31), (1, 17)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_maps_of_any_width_are_covered(height: int, width: int, dtype: torch.dtype) -> None:
    inputs = deformable_inputs(height, width, 70, (min(21, 2 * height - 1), min(11, 2 * width - 1)))
    inputs = [*(x.to(dtype) for x in inputs[:3]), *inputs[3:]]
    found = results(deformable_attention, inputs, 'compiled')
    exact = [x.detach().double() for x in inputs]
    expected = results(deformable_attention, exact, 'dense')
    assert max(relative_errors(found, expected)) < (2e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    'name, inputs',
    [
        ('deformable', deformable_inputs(4, 5, 3, (7, 9))),
        ('global', deformable_inputs(4, 5, 3, (7, 9))[:3]),
        ('neighborhood', neighborhood_inputs(5, 6)),
        ('window', neighborhood_inputs(5, 6)),
    ],
)
def test_results_are_laid_out_as_torch_compile_is_told(
    name: str, inputs: list[Tensor], dtype: torch.dtype
) -> None:
    forward = getattr(torch.ops.mmdat, f'compiled_{name}_attention')
    backward = getattr(torch.ops.mmdat, f'compiled_{name}_attention_backward')
    inputs = [*(x.to(dtype) for x in inputs[:3]), *inputs[3:]]
    real, told = [], []
    for tensors, found in ((inputs, real), ([x.to('meta') for x in inputs], told)):
        out, lse = forward(*tensors)
        found += out, lse, *backward(out, out, lse, *tensors)
    for x, expected in zip(real, told, strict=True):
        assert (x.shape, x.stride(), x.dtype) == (expected.shape, expected.stride(), expected.dtype)


def test_auto_is_compiled_where_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def record(query: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        calls.append(query)
        return query, None

    monkeypatch.setattr(api, 'compiled_deformable_attention', record)
    monkeypatch.setattr(neighborhood_api, 'compiled_neighborhood_attention', record)
    inputs, others = deformable_inputs(4, 5, 3, (7, 9)), neighborhood_inputs(4, 5)
    deformable_attention(*inputs)
    neighborhood_attention(*others)
    assert len(calls) == 2
    deformable_attention(*inputs[:3])
    deformable_attention(*(x.double() for x in inputs))
    deformable_attention(*inputs[:4], torch.randn(2, 8, 9))
    neighborhood_attention(*neighborhood_inputs(4, 5, head_dim=33))
    monkeypatch.setattr(cpu, 'KERNELS', None)
    deformable_attention(*inputs)
    neighborhood_attention(*others)
    assert len(calls) == 2


def test_windows_are_compiled_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def record(query: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        calls.append(query)
        return query, None

    monkeypatch.setattr(window, 'compiled_window_attention', record)
    inputs, table = neighborhood_inputs(7, 8)[:3], torch.zeros(25, 2)
    window_attention(*inputs, 3)
    window_attention(*inputs, 3, table)
    assert len(calls) == 2
    window_attention(*inputs, 4)
    window_attention(*inputs, 13)
    window_attention(*inputs, 3, table, shift=1)
    window_attention(*(x.double() for x in inputs), 3)
    window_attention(*neighborhood_inputs(7, 8, head_dim=33)[:3], 3)
    window_attention(*torch.zeros(3, 0, 2, 7, 8, 8), 3)
    assert len(calls) == 2
    for options, reason in (
        (dict(shift=1), 'not shifted, got 3 x 3 with shift 1'),
        ({}, 'is empty'),
    ):
        empty = not options
        with pytest.raises(ValueError, match=reason):
            window_attention(
                *(x[:0] if empty else x for x in inputs), 3, **options, implementation='compiled'
            )


def test_gradients_of_a_table_that_is_not_contiguous_are_in_their_places() -> None:
    *maps, table = neighborhood_inputs(7, 8)
    turned = table.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not turned.is_contiguous()
    expected = results(neighborhood_attention, [*maps, table], 'compiled')[-1]
    torch.testing.assert_close(
        results(neighborhood_attention, [*maps, turned.detach()], 'compiled')[-1], expected
    )


def test_attention_without_a_bias_is_compiled_where_there_are_many_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def record(query: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        calls.append(query)
        return query, None

    monkeypatch.setattr(full, 'compiled_global_attention', record)
    global_attention(*deformable_inputs(2, 3, full.COMPILED_KEYS, (1, 1))[:3])
    assert len(calls) == 1
    global_attention(*deformable_inputs(2, 3, full.COMPILED_KEYS - 1, (1, 1))[:3])
    query, key, value = deformable_inputs(2, 3, full.COMPILED_KEYS, (1, 1))[:3]
    global_attention(query, key, value, torch.zeros(2, 6, full.COMPILED_KEYS))
    assert len(calls) == 1
    few = [x.bfloat16() for x in deformable_inputs(2, 3, full.COMPILED_KEYS_HALF, (1, 1))[:3]]
    global_attention(*few)
    assert len(calls) == 2


@pytest.mark.parametrize(
    'change, sentence',
    [
        (lambda x: [*x[:4], torch.randn(2, 7, 10)], 'table of 7 x 10 is too fine for a map of 4 x'),
        (lambda x: [x[0].double(), *x[1:]], 'torch.float64 is none of torch.float32'),
        (lambda x: [y.to('meta') for y in x], 'the tensors are on meta'),
    ],
)
def test_what_it_cannot_take_is_refused(change, sentence: str) -> None:
    inputs = change(deformable_inputs(4, 5, 3, (7, 9)))
    with pytest.raises(ValueError, match=sentence):
        deformable_attention(*inputs, implementation='compiled')


def test_large_logits_overflow_nowhere() -> None:
    inputs = deformable_inputs(5, 6, 70, (3, 3))
    inputs[0] *= 1000
    for found, expected in zip(
        results(deformable_attention, inputs, 'compiled'),
        results(deformable_attention, inputs, 'dense'),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-3)


def test_logits_below_all_others_have_their_weights() -> None:
    inputs = deformable_inputs(5, 6, 70, (3, 3))
    inputs[0], inputs[1] = 1e17 * inputs[0].abs(), -1e17 * inputs[1].abs()
    maps = [1e17 * torch.ones(1, 2, 5, 6, 8), -1e17 * torch.ones(1, 2, 5, 6, 8)]
    masked = [inputs[0], inputs[1].clone(), inputs[2]]
    masked[1][:, :, :64] = -torch.inf
    for operator, tensors in (
        (deformable_attention, inputs),
        (global_attention, masked),
        (neighborhood_attention, [*maps, torch.randn(1, 2, 5, 6, 8), torch.zeros(2, 5, 5)]),
    ):
        found, expected = (operator(*tensors, implementation=x) for x in ('compiled', 'dense'))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('multiplies_bfloat16', [True, False])
def test_what_is_no_number_on_a_gpu_is_none_in_bfloat16(
    multiplies_bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, 'MULTIPLIES_BFLOAT16', multiplies_bfloat16)
    for operator, inputs in (
        (deformable_attention, deformable_inputs(5, 6, 70, (3, 3))),
        (neighborhood_attention, neighborhood_inputs(5, 6)),
    ):
        inputs[-1].view(torch.int32).fill_(0x7FFFFFFF)  # as CUDA writes NaN
        inputs = [*(x.bfloat16() for x in inputs[:3]), *inputs[3:]]
        assert all(x.isnan().all() for x in results(operator, inputs, 'compiled')[:2])


def test_nothing_of_size_queries_times_keys_is_allocated() -> None:
    inputs = deformable_inputs(128, 128, 1024, (31, 31))
    measure = pytest.importorskip('mmdat.analysis.measure', exc_type=ImportError)
    memory = measure.PeakMemory(torch.device('cpu'))
    results(deformable_attention, inputs, 'compiled')
    assert memory.bytes < 2 * 128**2 * 1024 * 4 / 4


def test_errors_do_not_grow_with_the_number_of_keys() -> None:
    values = torch.zeros(1, 1, 30000, 8, dtype=torch.bfloat16)
    values[:, :, :15000] = 1  # of which the mean is 0.5
    query = torch.randn(1, 1, 3, 16, 8, dtype=torch.bfloat16)
    out = global_attention(query, torch.zeros_like(values), values, implementation='compiled')
    torch.testing.assert_close(out, torch.full_like(out, 0.5), atol=1e-3, rtol=0)


def test_queries_that_overlap_in_memory_are_converted() -> None:
    _, *others = (x.half() for x in deformable_inputs(5, 4, 70, (3, 3)))
    inputs = [torch.randn(1, 2, 5, 11).half().unfold(-1, 8, 1), *others]
    found = deformable_attention(*inputs, implementation='compiled')
    expected = deformable_attention(*inputs, implementation='dense')
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
