"""Depthwise convolutions of any stride compute their equation, in C++ too."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.compiled import differentiate, differentiate_twice, needs_kernels
from helpers.errors import relative_errors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmdat.ops import prefer_implementation, strided_depthwise_conv

TOLERANCES = {torch.float32: 4e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def draw(
    batch: int,
    groups: int,
    channels: int,
    sides: tuple[int, int],
    kernel: tuple[int, int],
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """A map, a weight and a bias."""
    generator = torch.Generator().manual_seed(sum(sides))
    shapes = (batch, groups * channels, *sides), (channels, 1, *kernel), (channels,)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def equation(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    maps = x.unflatten(1, (-1, len(weight))).flatten(0, 1)
    out = F.conv2d(maps, weight, bias, stride, padding, groups=len(weight))
    return out.unflatten(0, (len(x), -1)).flatten(1, 2)


@needs_kernels
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    blocks=st.integers(1, 3),
    sides=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    kernel=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=st.integers(1, 9),
    padding=st.integers(0, 6),
    dtype=st.sampled_from([*TOLERANCES]),
    channels_last=st.booleans(),
)
def test_kernels_compute_the_equation(
    batch: int,
    groups: int,
    blocks: int,
    sides: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    sides = tuple(max(side, taps - 2 * padding) for side, taps in zip(sides, kernel, strict=True))
    inputs = draw(batch, groups, 16 * blocks, sides, kernel, dtype)
    if channels_last:
        inputs[0] = inputs[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    out = strided_depthwise_conv(*inputs, stride, padding, implementation='compiled')
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = differentiate(equation(*exact, stride, padding), exact)
    assert max(relative_errors(differentiate(out, inputs), expected)) < TOLERANCES[dtype]


@pytest.mark.parametrize('groups', [1, 2])
def test_the_dense_implementation_computes_the_equation(groups: int) -> None:
    inputs = draw(2, groups, 3, (7, 6), (3, 2), torch.float64)
    function = partial(strided_depthwise_conv, stride=2, padding=1, implementation='dense')
    torch.testing.assert_close(function(*inputs), equation(*inputs, 2, 1))
    assert torch.autograd.gradcheck(function, inputs)


@needs_kernels
@pytest.mark.usefixtures('threads')
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    inputs = draw(2, 2, 32, (23, 9), (5, 3))
    found = []
    for number in (1, 2, 3, 4):
        torch.set_num_threads(number)
        out = strided_depthwise_conv(*inputs, 2, 1, implementation='compiled')
        found.append(differentiate(out, inputs))
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@needs_kernels
def test_derivatives_of_all_kinds_are_those_of_the_equation() -> None:
    inputs = draw(1, 2, 16, (7, 5), (3, 3))
    wanted = [x.detach().clone().requires_grad_() for x in inputs]

    found, exact = (partial(f, stride=2, padding=1) for f in (strided_depthwise_conv, equation))
    torch.testing.assert_close(
        differentiate_twice(found, inputs), differentiate_twice(exact, wanted), rtol=1e-4, atol=1e-3
    )
    out, expected = found(*inputs), exact(*wanted)
    directions = torch.stack([torch.ones_like(out), out.detach()])
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, directions, is_grads_batched=True),
        torch.autograd.grad(expected, wanted, directions, is_grads_batched=True),
    )
    primals = tuple(x.detach() for x in inputs)
    torch.testing.assert_close(
        torch.func.jvp(found, primals, primals), torch.func.jvp(exact, primals, primals)
    )


@needs_kernels
def test_dtypes_may_differ_and_some_gradients_be_wanted_alone() -> None:
    x, weight, bias = draw(1, 2, 16, (7, 5), (3, 3))
    rounded = x.detach().bfloat16().requires_grad_()
    out = strided_depthwise_conv(rounded, weight, bias.detach(), 2, 1)
    expected = equation(rounded.float(), weight, bias.detach(), 2, 1)
    assert out.dtype == torch.bfloat16
    assert 'Compiled' in type(out.grad_fn).__name__
    for wanted in ([rounded, weight], [weight], [rounded]):
        found, exact = (
            torch.autograd.grad(y.float().sum(), wanted, retain_graph=True) for y in (out, expected)
        )
        assert [grad.dtype for grad in found] == [y.dtype for y in wanted]
        torch.testing.assert_close(found, exact, rtol=2e-2, atol=2e-2)


@needs_kernels
def test_weights_and_maps_may_lie_in_any_order_and_be_negated() -> None:
    inputs = [x.detach() for x in draw(1, 1, 16, (6, 7), (2, 3))]
    expected = strided_depthwise_conv(*inputs, 2)
    turned = [x.movedim(0, -1).contiguous().movedim(-1, 0) for x in inputs]
    negated = [torch.complex(torch.zeros_like(x), -x).conj().imag for x in inputs]
    for views in (turned, negated):
        found = strided_depthwise_conv(*views, 2, implementation='compiled')
        torch.testing.assert_close(found, expected)


@needs_kernels
def test_kernels_write_beside_their_map_whatever_the_default_device() -> None:
    inputs = draw(1, 1, 16, (4, 5), (2, 2))
    expected = strided_depthwise_conv(*inputs, 2, implementation='compiled')
    with torch.device('meta'):
        found = strided_depthwise_conv(*inputs, 2, implementation='compiled')
    assert torch.equal(found, expected)


@needs_kernels
@pytest.mark.parametrize(
    'inputs, reason',
    [
        (draw(1, 2, 8, (4, 4), (2, 2)), '8 channels are no multiple of 16'),
        (draw(0, 1, 16, (4, 4), (2, 2)), 'is empty'),
        (draw(1, 1, 16, (4, 4), (2, 2), torch.float64), 'torch.float64 is none of'),
        (draw(1, 1, 16, (4, 4), (2, 5)), r'a kernel of \(2, 5\) is larger than the padded map'),
    ],
)
def test_what_the_kernels_cannot_take_is_said(inputs: list[Tensor], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strided_depthwise_conv(*inputs, 2, implementation='compiled')


@needs_kernels
def test_the_preferred_implementation_runs() -> None:
    inputs = draw(1, 1, 16, (4, 4), (2, 2))
    assert 'Compiled' in type(strided_depthwise_conv(*inputs, 2).grad_fn).__name__
    with prefer_implementation('dense'):
        assert 'Compiled' not in type(strided_depthwise_conv(*inputs, 2).grad_fn).__name__


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, weight, bias = draw(1, 2, 16, (4, 4), (2, 2))
    for wrong in (
        (x[0], weight, bias),
        (x[:, :24], weight, bias),
        (x, weight[:0], bias[:0]),
        (x, weight[0], bias),
        (x, weight, bias[:8]),
    ):
        with pytest.raises(ValueError, match=r'weight \(channels, 1, '):
            strided_depthwise_conv(*wrong, 2)
    for stride, padding in ((0, 0), (1, -1)):
        with pytest.raises(ValueError, match=f'got {stride}, {padding}'):
            strided_depthwise_conv(x, weight, bias, stride, padding)
