"""The residual depthwise convolution computes its equation, in C++ too."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.compiled import differentiate, differentiate_twice, needs_kernels
from helpers.errors import relative_errors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmdat.ops import prefer_implementation, residual_depthwise_conv

TOLERANCES = {torch.float32: 4e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def draw(
    *shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = True
) -> list[Tensor]:
    """A map, a weight and a bias."""
    generator = torch.Generator().manual_seed(sum(shape))
    channels = shape[1]
    tensors = [
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in (shape, (channels, 1, 3, 3), (channels,))
    ]
    if channels_last:
        tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    return [x.to(dtype).requires_grad_() for x in tensors]


def equation(x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool) -> Tensor:
    out = x + F.conv2d(x, weight, bias, padding=1, groups=x.shape[1])
    return out * (1 + torch.erf(out / 2**0.5)) / 2 if with_gelu else out


@needs_kernels
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 40), st.integers(1, 20)),
    dtype=st.sampled_from([*TOLERANCES]),
    channels_last=st.booleans(),
    with_gelu=st.booleans(),
)
def test_kernels_compute_the_equation(
    shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool, with_gelu: bool
) -> None:
    batch, blocks, height, width = shape
    inputs = draw(batch, 16 * blocks, height, width, dtype=dtype, channels_last=channels_last)
    out = residual_depthwise_conv(*inputs, with_gelu=with_gelu, implementation='compiled')
    assert out.dtype == dtype
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = differentiate(equation(*exact, with_gelu), exact)
    assert max(relative_errors(differentiate(out, inputs), expected)) < TOLERANCES[dtype]


@pytest.mark.parametrize('with_gelu', [False, True])
def test_the_dense_implementation_computes_the_equation(with_gelu: bool) -> None:
    inputs = draw(2, 3, 5, 6, dtype=torch.float64)
    function = partial(residual_depthwise_conv, with_gelu=with_gelu, implementation='dense')
    torch.testing.assert_close(function(*inputs), equation(*inputs, with_gelu))
    assert torch.autograd.gradcheck(function, inputs)


@needs_kernels
@pytest.mark.usefixtures('threads')
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    inputs = draw(2, 48, 40, 7)
    found = []
    for number in (1, 2, 3, 4):
        torch.set_num_threads(number)
        out = residual_depthwise_conv(*inputs, with_gelu=True, implementation='compiled')
        found.append(differentiate(out, inputs))
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@needs_kernels
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_gelu_far_from_zero_is_as_exact(dtype: torch.dtype) -> None:
    values = torch.cat(
        [
            torch.linspace(-12, 12, 4801, dtype=torch.float64),
            torch.tensor([-1e38, -40, -0.0, 0, 1e-30, 40, 1e38, torch.inf, torch.nan]),
        ]
    ).to(dtype)
    x = values.view(1, 1, 1, -1).expand(1, 16, 1, -1).detach().requires_grad_()
    zeros = torch.zeros(16, 1, 3, 3), torch.zeros(16)
    # Zero times infinity, or times no number, is no number in their neighbors.
    finite = values.isfinite()
    out = residual_depthwise_conv(
        x[..., finite],
        *(zero.to(dtype) for zero in zeros),
        with_gelu=True,
        implementation='compiled',
    )
    (grad,) = torch.autograd.grad(out.sum(), x)
    exact = values[finite].double().requires_grad_()
    expected = exact * torch.special.erfc(-exact / 2**0.5) / 2  # exact also far below zero
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    tolerances = dict(rtol=1e-5, atol=1e-36) if dtype == torch.float32 else {}
    torch.testing.assert_close(out[0, 0, 0], expected.to(dtype), **tolerances)
    torch.testing.assert_close(grad[0, 0, 0, finite], slope.to(dtype), rtol=1e-2, atol=1e-6)
    for value, result in ((torch.inf, torch.inf), (-torch.inf, 0.0), (torch.nan, torch.nan)):
        alone = torch.full((1, 16, 1, 1), value, dtype=dtype)
        out = residual_depthwise_conv(
            alone, *(zero.to(dtype) for zero in zeros), with_gelu=True, implementation='compiled'
        )
        torch.testing.assert_close(out, torch.full_like(out, result), equal_nan=True)


@needs_kernels
def test_the_map_alone_is_kept_for_the_backward_pass() -> None:
    inputs = draw(1, 32, 8, 9)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        out = residual_depthwise_conv(*inputs, with_gelu=True)
    assert [x.data_ptr() for x in kept] == [x.data_ptr() for x in inputs]
    assert out.is_contiguous(memory_format=torch.channels_last)


@needs_kernels
def test_derivatives_of_all_kinds_are_those_of_the_equation() -> None:
    inputs = draw(1, 16, 4, 5)
    wanted = [x.detach().clone().requires_grad_() for x in inputs]

    found = partial(residual_depthwise_conv, with_gelu=True)
    exact = partial(equation, with_gelu=True)
    torch.testing.assert_close(
        differentiate_twice(found, inputs), differentiate_twice(exact, wanted), rtol=1e-4, atol=1e-3
    )
    # Where autocast let dtypes differ, second derivatives are in float32.
    inputs[0] = inputs[0].detach().bfloat16().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        mixed = found(*inputs)
    first = torch.autograd.grad(mixed.float().sin().sum(), inputs, create_graph=True)
    assert [x.dtype for x in first] == [x.dtype for x in inputs]
    assert all(x.isfinite().all() for x in torch.autograd.grad(first[0].float().sum(), inputs))
    inputs = [x.detach().clone().requires_grad_() for x in wanted]
    out, expected = found(*inputs), exact(*wanted)
    directions = torch.stack([torch.ones_like(out), out.detach()])
    gradients = []
    for result, tensors in ((out, inputs), (expected, wanted)):
        function = partial(torch.autograd.grad, result, tensors, retain_graph=True)
        gradients.append(torch.func.vmap(function)(directions))
        gradients.append(function(directions, is_grads_batched=True))
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])
    torch.testing.assert_close(
        torch.func.grad(lambda *x: found(*x).sin().sum())(*(x.detach() for x in inputs)),
        torch.autograd.grad(exact(*wanted).sin().sum(), wanted)[0],
    )


@needs_kernels
def test_a_weight_may_lie_in_any_order() -> None:
    x, weight, bias = (x.detach() for x in draw(1, 16, 4, 5))
    turned = weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not turned.is_contiguous()
    torch.testing.assert_close(
        residual_depthwise_conv(x, turned, bias), residual_depthwise_conv(x, weight, bias)
    )


@needs_kernels
def test_a_negated_view_is_negated() -> None:
    inputs = [x.detach() for x in draw(1, 16, 4, 5)]
    views = [torch.complex(torch.zeros_like(x), -x).conj().imag for x in inputs]
    assert all(x.is_neg() for x in views)
    torch.testing.assert_close(
        residual_depthwise_conv(*views, implementation='compiled'),
        residual_depthwise_conv(*inputs, implementation='compiled'),
    )


@needs_kernels
@pytest.mark.parametrize(
    'inputs, reason',
    [
        (draw(1, 8, 4, 4), '8 channels are no multiple of 16'),
        (draw(0, 16, 4, 4), 'is empty'),
        (draw(1, 16, 4, 4, dtype=torch.float64), 'torch.float64 is none of'),
        ([draw(1, 16, 4, 4)[0].bfloat16(), *draw(1, 16, 4, 4)[1:]], 'autocast is off'),
        ([x.to('meta') for x in draw(1, 16, 4, 4)], 'something traces'),
    ],
)
def test_what_kernels_cannot_take_is_said(inputs: list[Tensor], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        residual_depthwise_conv(*inputs, implementation='compiled')


@needs_kernels
def test_the_equation_can_be_preferred() -> None:
    inputs = draw(1, 16, 4, 4)
    assert 'Compiled' in type(residual_depthwise_conv(*inputs).grad_fn).__name__
    with prefer_implementation('dense'):
        assert 'Compiled' not in type(residual_depthwise_conv(*inputs).grad_fn).__name__


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, weight, bias = draw(1, 16, 4, 4)
    for wrong in ((x[0], weight, bias), (x, weight[:8], bias), (x, weight, bias[:8])):
        with pytest.raises(ValueError, match=r'weight \(channels, 1, 3, 3\)'):
            residual_depthwise_conv(*wrong)
