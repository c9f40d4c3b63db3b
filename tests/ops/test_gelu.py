"""GELU computes its equation, in C++ too."""

import pytest
import torch
from helpers.compiled import needs_kernels
from torch import Tensor

from mmdat.ops.gelu import gelu

# The slope's zero is where two terms cancel, of which each has the relative error of few terms.
TOLERANCES = {torch.float32: dict(rtol=1e-5, atol=2e-6), torch.bfloat16: dict(rtol=8e-3, atol=3e-4)}


def draw(*shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = True) -> Tensor:
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    order = torch.channels_last if channels_last else torch.contiguous_format
    return x.to(dtype, memory_format=order).requires_grad_()


def equation(x: Tensor) -> Tensor:
    return x * torch.special.erfc(-x / 2**0.5) / 2


@needs_kernels
@pytest.mark.parametrize('dtype', [*TOLERANCES])
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (2, 3, 5, 7), (1, 24, 33, 41)])
def test_kernels_compute_the_equation(
    shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype
) -> None:
    x = draw(*shape, dtype=dtype, channels_last=channels_last)
    exact = x.detach().double().requires_grad_()
    out, expected = gelu(x, implementation='compiled'), equation(exact)
    assert out.stride() == x.stride()
    torch.testing.assert_close(out, expected.to(dtype), **TOLERANCES[dtype])
    # As a sum gives it, in no order of memory.
    direction = torch.ones(()).expand(shape)
    (found,) = torch.autograd.grad(out, x, direction.to(dtype), retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, exact, direction)
    torch.testing.assert_close(found, wanted.to(dtype), **TOLERANCES[dtype])
    direction = draw(*shape, dtype=dtype).detach().contiguous()
    (found,) = torch.autograd.grad(out, x, direction)
    torch.testing.assert_close(found, (wanted * direction).to(dtype), **TOLERANCES[dtype])


@pytest.mark.parametrize('implementation', ['dense', pytest.param('compiled', marks=needs_kernels)])
def test_it_is_in_place_where_no_gradient_is_wanted(implementation: str) -> None:
    x = draw(1, 24, 3, 5).detach()
    expected = equation(x)
    with torch.no_grad():
        out = gelu(x, implementation=implementation)
    assert out is x
    assert x._version  # a graph that keeps the map for its backward pass takes notice
    torch.testing.assert_close(out, expected)
    for kept in (draw(1, 24, 3, 5), draw(1, 24, 3, 5).detach()):
        before = kept.detach().clone()
        torch.testing.assert_close(gelu(kept, implementation=implementation), equation(kept))
        assert torch.equal(kept, before)


@needs_kernels
def test_second_derivatives_are_those_of_the_equation() -> None:
    x = draw(1, 16, 4, 5)

    def second(out: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    found, expected = second(gelu(x, implementation='compiled')), second(equation(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@needs_kernels
def test_what_transforms_the_code_meets_the_equation() -> None:
    x = draw(2, 16, 4, 5)
    out, directions = gelu(x, implementation='compiled'), torch.stack([x, x + 1]).detach()
    batched = torch.autograd.grad(out, x, directions, is_grads_batched=True, retain_graph=True)[0]
    torch.testing.assert_close(batched[1], torch.autograd.grad(out, x, directions[1])[0])
    torch.testing.assert_close(torch.func.vmap(gelu)(x.detach()[None])[0], out)
    slope = torch.func.grad(lambda x: gelu(x).sum())(x.detach())
    for grad in (True, False):
        with torch.set_grad_enabled(grad), torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x.detach().clone(), torch.ones_like(x))
            tangent = torch.autograd.forward_ad.unpack_dual(gelu(dual)).tangent
        torch.testing.assert_close(tangent, slope)


@needs_kernels
def test_a_negated_view_is_negated() -> None:
    x = draw(1, 16, 4, 5, channels_last=False).detach()
    view = torch._neg_view(-x)
    assert view.is_neg()
    with torch.no_grad():
        torch.testing.assert_close(gelu(view, implementation='compiled'), equation(x))


@needs_kernels
@pytest.mark.parametrize(
    'x, reason',
    [
        (draw(1, 2, 3, 4, dtype=torch.float16), 'the map is in torch.float16'),
        (draw(1, 2, 3, 4)[..., :2], 'neither contiguous nor channels-last'),
        (draw(1, 2, 3, 4).to('meta'), 'something traces'),
    ],
)
def test_what_kernels_cannot_take_is_said(x: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        gelu(x, implementation='compiled')
    assert gelu(x).shape == x.shape
