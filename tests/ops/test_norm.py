"""LayerNorm of a map computes its equation, in C++ too, and in half precision its gradients."""

from functools import partial

import pytest
import torch
from helpers.compiled import differentiate, needs_kernels
from helpers.errors import relative_errors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmdat.ops import layer_norm, prefer_implementation

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
in_bfloat16 = partial(torch.autocast, 'cpu', torch.bfloat16)


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A map far from zero, a weight and a bias."""
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = shape, shape[1:2], shape[1:2]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    tensors[0] = 3 * tensors[0] + 5
    return [x.to(dtype).requires_grad_() for x in tensors]


def equation(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    distances = x - x.mean(1, keepdim=True)
    out = distances / (distances.square().mean(1, keepdim=True) + eps).sqrt()
    return out * weight[:, None, None] + bias[:, None, None]


def errors(out: Tensor, inputs: list[Tensor], eps: float = 1e-5) -> list[float]:
    """Of the output and of the gradients of the inputs, relative to the largest of each."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    truth = differentiate(equation(*exact, eps), exact)
    return relative_errors(differentiate(out, inputs), truth)


@needs_kernels
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    dtype_of_weights=st.sampled_from([torch.float32, torch.bfloat16]),
    channels_last=st.booleans(),
    eps=st.sampled_from([1e-6, 1e-5, 0.5]),
)
def test_kernels_compute_the_equation(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    dtype_of_weights: torch.dtype,
    channels_last: bool,
    eps: float,
) -> None:
    batch, blocks, height, width = shape
    inputs = draw(batch, 16 * blocks, height, width, dtype=dtype_of_weights)
    inputs[0] = inputs[0].detach().to(dtype)
    if channels_last:
        inputs[0] = inputs[0].to(memory_format=torch.channels_last)
    inputs[0].requires_grad_()
    with in_bfloat16():
        out = layer_norm(*inputs, eps, implementation='compiled')
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert max(errors(out, inputs, eps)) < TOLERANCES[torch.bfloat16]
    with torch.no_grad(), in_bfloat16():
        torch.testing.assert_close(
            layer_norm(*inputs, eps, implementation='compiled'), out, rtol=0, atol=0
        )


def test_the_dense_implementation_computes_the_equation() -> None:
    inputs = draw(2, 6, 3, 4, dtype=torch.float64)
    function = partial(layer_norm, implementation='dense')
    torch.testing.assert_close(function(*inputs), equation(*inputs))
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize('implementation', ['dense', pytest.param('auto', marks=needs_kernels)])
@pytest.mark.parametrize('dtype', TOLERANCES)
@pytest.mark.parametrize('autocast', [False, True])
def test_gradients_of_weights_are_exact_on_large_maps(
    implementation: str, dtype: torch.dtype, autocast: bool
) -> None:
    inputs = draw(1, 16, 200, 336, dtype=dtype)
    with in_bfloat16(enabled=autocast):
        out = layer_norm(*inputs, implementation=implementation)
    if autocast and dtype == torch.float32:
        assert out.dtype == torch.bfloat16
    assert max(errors(out, inputs)) < TOLERANCES[out.dtype]


@needs_kernels
def test_channels_that_are_alike_become_the_bias() -> None:
    x, weight, bias = draw(2, 48, 3, 5)
    with in_bfloat16():
        out = layer_norm(torch.full_like(x, 1e6 + 0.1), weight, bias, implementation='compiled')
    expected = bias.detach()[:, None, None].expand_as(out).bfloat16()
    torch.testing.assert_close(out.detach(), expected, rtol=0, atol=0)


@needs_kernels
@pytest.mark.usefixtures('threads')
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    inputs = draw(2, 48, 40, 21)
    found = []
    for number in (1, 2, 3, 4):
        torch.set_num_threads(number)
        with in_bfloat16():
            found.append(differentiate(layer_norm(*inputs), inputs))
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@needs_kernels
def test_the_map_is_kept_in_bfloat16() -> None:
    x, *parameters = draw(1, 32, 8, 9)
    kept = []
    with (
        in_bfloat16(),
        torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x),
    ):
        layer_norm(x, *parameters)
    assert [(y.dtype, y.numel()) for y in kept] == [
        (torch.float32, 32),
        (torch.bfloat16, x.numel()),
        (torch.float32, 8 * 9),
    ]


@needs_kernels
@pytest.mark.parametrize('frozen', [False, True])
def test_second_derivatives_are_refused(frozen: bool) -> None:
    inputs = draw(1, 16, 4, 5)
    if frozen:
        inputs[1:] = [x.detach() for x in inputs[1:]]
    with in_bfloat16():
        out = layer_norm(*inputs)
    (first,) = torch.autograd.grad(out.sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"prefer_implementation\('dense'\)"):
        torch.autograd.grad(first.sum(), inputs[:1])


@needs_kernels
def test_a_negated_view_is_negated() -> None:
    inputs = [x.detach() for x in draw(1, 16, 4, 5)]
    views = [torch.complex(torch.zeros_like(x), -x).conj().imag for x in inputs]
    assert all(x.is_neg() for x in views)
    with in_bfloat16():
        torch.testing.assert_close(
            layer_norm(*views, implementation='compiled'), layer_norm(*inputs)
        )


@needs_kernels
@pytest.mark.parametrize(
    'inputs, reason',
    [
        (draw(1, 8, 4, 4), '8 channels are no multiple of 16'),
        (draw(0, 16, 4, 4), 'is empty'),
        (draw(1, 16, 4, 4), 'torch.float32, as autocast does not round it'),
        (draw(1, 16, 4, 4, dtype=torch.float16), 'torch.float16, as autocast does not round it'),
        ([x.to('meta') for x in draw(1, 16, 4, 4)], 'something traces'),
    ],
)
def test_what_kernels_cannot_take_is_said(inputs: list[Tensor], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        layer_norm(*inputs, implementation='compiled')


@needs_kernels
def test_the_equation_can_be_preferred() -> None:
    inputs = draw(1, 16, 4, 4)
    with in_bfloat16():
        assert '_Compiled' in type(layer_norm(*inputs).grad_fn).__name__
        with prefer_implementation('dense'):
            assert '_Compiled' not in type(layer_norm(*inputs).grad_fn).__name__


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, weight, bias = draw(1, 16, 4, 4)
    for wrong in ((x[0], weight, bias), (x, weight[:8], bias), (x, weight, bias[:8])):
        with pytest.raises(ValueError, match=r'weight and bias \(channels,\)'):
            layer_norm(*wrong)
