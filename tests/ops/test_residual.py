"""A residual branch is added to its map, in C++ too."""

import pytest
import torch
from helpers.compiled import needs_kernels
from torch import Tensor

from mmdat.ops import prefer_implementation, residual_add


def draw(*shape: int, channels_last: bool = True) -> tuple[Tensor, Tensor]:
    """A map in float32 and a branch in bfloat16."""
    x, branch = torch.randn((2, *shape), generator=torch.Generator().manual_seed(sum(shape)))
    if channels_last:
        x, branch = (x.to(memory_format=torch.channels_last) for x in (x, branch))
    return x.requires_grad_(), branch.bfloat16().requires_grad_()


@needs_kernels
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (2, 3, 5, 7), (1, 16, 2, 3), (1, 24, 33, 41)])
def test_kernel_adds_as_pytorch_does(shape: tuple[int, ...], channels_last: bool) -> None:
    x, branch = draw(*shape, channels_last=channels_last)
    out = residual_add(x, branch, implementation='compiled')
    assert out.stride() == x.stride()
    expected = residual_add(x, branch, implementation='dense')
    assert torch.equal(out, expected)
    direction = torch.randn(shape)
    found, wanted = (torch.autograd.grad(y, (x, branch), direction) for y in (out, expected))
    assert all(map(torch.equal, found, wanted))


@needs_kernels
def test_derivatives_of_all_kinds_are_those_of_the_sum() -> None:
    x, branch = draw(1, 16, 4, 5)
    out = residual_add(x, branch, implementation='compiled')
    (first,) = torch.autograd.grad(out.pow(3).sum(), branch, create_graph=True)
    assert torch.allclose(torch.autograd.grad(first.sum(), x)[0], 6 * out)
    directions = torch.randn(3, *x.shape)
    batched = torch.autograd.grad(out, x, directions, is_grads_batched=True, retain_graph=True)
    assert torch.equal(batched[0], directions)
    tangents = directions[0], directions[1].bfloat16()
    with torch.autograd.forward_ad.dual_level():
        duals = map(torch.autograd.forward_ad.make_dual, (x, branch), tangents)
        tangent = torch.autograd.forward_ad.unpack_dual(residual_add(*duals)).tangent
    assert torch.equal(tangent, sum(tangents))
    mapped = torch.func.vmap(residual_add)(x[None], branch[None])
    assert torch.equal(mapped[0], out)


@needs_kernels
def test_negated_views_are_negated() -> None:
    x, branch = (tensor.detach() for tensor in draw(1, 16, 4, 5, channels_last=False))
    for inputs in ((torch._neg_view(-x), branch), (x, torch._neg_view(-branch))):
        assert any(tensor.is_neg() for tensor in inputs)
        assert torch.equal(residual_add(*inputs, implementation='compiled'), x + branch)


@needs_kernels
@pytest.mark.parametrize(
    'inputs, reason',
    [
        (draw(1, 2, 3, 4)[:1] * 2, 'the branch in torch.float32'),
        ([x[..., :2] for x in draw(1, 2, 3, 4)], 'not both contiguous'),
        ([draw(1, 2, 3, 4)[0], draw(1, 2, 3, 4, channels_last=False)[1]], 'not both contiguous'),
        ([x.to('meta') for x in draw(1, 2, 3, 4)], 'something traces'),
    ],
)
def test_what_the_kernel_cannot_take_is_said(inputs: list[Tensor], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        residual_add(*inputs, implementation='compiled')
    assert residual_add(*inputs).shape == inputs[0].shape


@needs_kernels
def test_pytorch_can_be_preferred() -> None:
    inputs = draw(1, 16, 4, 4)
    assert 'Compiled' in type(residual_add(*inputs).grad_fn).__name__
    with prefer_implementation('dense'):
        assert 'Compiled' not in type(residual_add(*inputs).grad_fn).__name__


def test_a_branch_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match='must have one shape'):
        residual_add(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 1))
