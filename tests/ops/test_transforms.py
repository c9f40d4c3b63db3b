"""What the operators do with transformed, wrapped and negated tensors, and asked for more."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers.compiled import needs_kernels
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from mmdat.ops import (
    deformable_attention,
    global_attention,
    neighborhood_attention,
    window_attention,
)

Attend = Callable[..., Tensor]


def draw(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


MAP, KEYS = (1, 2, 8, 9, 16), (1, 2, 60, 16)
OPERATORS: dict[str, tuple[Attend, list[Tensor]]] = {
    'window': (partial(window_attention, window_size=3), draw(MAP, MAP, MAP)),
    'neighborhood': (neighborhood_attention, draw(MAP, MAP, MAP, (2, 5, 5))),
    'global': (global_attention, draw(MAP, KEYS, KEYS)),
    'deformable': (deformable_attention, draw(MAP, KEYS, KEYS, (1, 1, 60, 2), (2, 9, 9))),
}
CASES = [
    ('window', 'fused'),
    *(
        pytest.param(operator, name, marks=needs_kernels if name == 'compiled' else ())
        for operator in ('neighborhood', 'deformable')
        for name in ('tiled', 'compiled')
    ),
    *(pytest.param(name, 'compiled', marks=needs_kernels) for name in ('global', 'window')),
]
each = pytest.mark.parametrize('operator, implementation', CASES)


def loss(operator: str, implementation: str, *inputs: Tensor) -> Tensor:
    out = OPERATORS[operator][0](*inputs, implementation=implementation)
    return out.square().mean()


@each
def test_torch_func_computes_gradients(operator: str, implementation: str) -> None:
    _, inputs = OPERATORS[operator]
    found, expected = (
        torch.func.grad(partial(loss, operator, name))(*inputs)
        for name in (implementation, 'dense')
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_batch_of_windows_may_be_empty() -> None:
    leaves = [torch.zeros(0, 2, 8, 9, 16, requires_grad=True) for _ in range(3)]
    out = window_attention(*leaves, window_size=4)
    assert [x.shape for x in torch.autograd.grad(out.sum(), leaves)] == 3 * [out.shape]


@each
def test_calls_and_backward_passes_are_mapped_over(operator: str, implementation: str) -> None:
    attend, inputs = OPERATORS[operator]
    attend = partial(attend, implementation=implementation)
    stacks = [torch.stack([x, 2 * x]) for x in inputs[:3]]
    expected = torch.stack(
        [attend(*(stack[index] for stack in stacks), *inputs[3:]) for index in range(2)]
    )
    mapped = torch.func.vmap(lambda *maps: attend(*maps, *inputs[3:]))
    torch.testing.assert_close(mapped(*stacks), expected)
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attend(*leaves)
    directions = torch.stack([torch.ones_like(out), out.detach()])
    differentiate = partial(torch.autograd.grad, out, leaves, retain_graph=True)
    found = torch.func.vmap(differentiate)(directions)
    for index, direction in enumerate(directions):
        expected = differentiate(direction)
        for stack, each_expected in zip(found, expected, strict=True):
            torch.testing.assert_close(stack[index], each_expected)


# The first calls PyTorch's attention, which refuses to be mapped over nothing.
@pytest.mark.parametrize('operator, implementation', CASES[1:])
def test_calls_mapped_over_nothing_have_empty_results(operator: str, implementation: str) -> None:
    attend, inputs = OPERATORS[operator]
    attend = partial(attend, implementation=implementation)
    maps = [x.expand(0, *x.shape).requires_grad_() for x in inputs[:3]]
    out = torch.func.vmap(lambda *each: attend(*each, *inputs[3:]))(*maps)
    assert out.shape == (0, *inputs[0].shape)
    found = torch.autograd.grad(out.sum(), maps)
    assert [x.shape for x in found] == [x.shape for x in maps]
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attend(*leaves)
    differentiate = torch.func.vmap(partial(torch.autograd.grad, out, leaves))
    found = differentiate(out.new_zeros(0, *out.shape))
    assert [x.shape for x in found] == [(0, *x.shape) for x in leaves]


def test_windows_without_the_kernel_take_batches_of_backward_passes() -> None:
    leaves = [x.detach().requires_grad_() for x in OPERATORS['window'][1]]
    out = window_attention(*leaves, window_size=4)
    directions = torch.stack([torch.ones_like(out), out.detach()])
    found = torch.autograd.grad(out, leaves, directions, is_grads_batched=True, retain_graph=True)
    for index, direction in enumerate(directions):
        expected = torch.autograd.grad(out, leaves, direction, retain_graph=True)
        for stack, each_expected in zip(found, expected, strict=True):
            torch.testing.assert_close(stack[index], each_expected)


@each
def test_a_negated_view_is_negated(operator: str, implementation: str) -> None:
    attend, inputs = OPERATORS[operator]
    views = [torch.complex(torch.zeros_like(x), -x).conj().imag for x in inputs]
    assert all(x.is_neg() for x in views)
    found = attend(*views, implementation=implementation)
    torch.testing.assert_close(found, attend(*inputs, implementation=implementation))


@pytest.mark.parametrize('operator, implementation', CASES[1:])
def test_tensors_without_memory_are_not_read(operator: str, implementation: str) -> None:
    attend, inputs = OPERATORS[operator]
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(x) for x in inputs]
    assert attend(*fakes, implementation=implementation).shape == inputs[0].shape


@each
def test_autocast_leaves_the_dtype_of_values(operator: str, implementation: str) -> None:
    attend, inputs = OPERATORS[operator]
    expected = attend(*inputs, implementation=implementation)
    with torch.autocast('cpu', torch.bfloat16):
        found = attend(*inputs, implementation=implementation)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@each
def test_second_derivatives_are_refused(operator: str, implementation: str) -> None:
    leaves = [x.detach().requires_grad_() for x in OPERATORS[operator][1]]
    function = partial(loss, operator, implementation)
    first = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match=r"prefer_implementation\('dense'\)"):
        torch.autograd.grad(sum(x.square().sum() for x in first), leaves)
    gradient = torch.func.grad(function)
    with pytest.raises(RuntimeError, match='differentiable once|derivative .* not implemented'):
        torch.func.grad(lambda *inputs: gradient(*inputs).square().sum())(*leaves)


@each
def test_forward_derivatives_are_refused_also_without_gradients(
    operator: str, implementation: str
) -> None:
    attend, inputs = OPERATORS[operator]
    with torch.no_grad(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, torch.ones_like(x)) for x in inputs]
        with pytest.raises(RuntimeError, match='forward'):
            attend(*duals, implementation=implementation)
