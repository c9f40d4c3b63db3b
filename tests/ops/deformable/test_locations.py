"""Keys lie where their equation puts them, in C++ too."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.compiled import differentiate, differentiate_twice, needs_kernels
from helpers.errors import relative_errors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmdat.ops import key_locations, prefer_implementation

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def draw(
    batch: int,
    groups: int,
    channels: int,
    grid: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    reach: float = 1.0,
) -> list[Tensor]:
    """A map, a norm's weight and bias, and a weight, with offsets of about ``reach``."""
    generator = torch.Generator().manual_seed(sum(grid))
    shapes = (batch, groups * channels, *grid), (channels,), (channels,), (2, channels, 1, 1)
    x, *parameters = (torch.randn(y, generator=generator, dtype=torch.float64) for y in shapes)
    parameters[-1] *= reach / math.sqrt(channels)
    return [y.to(dtype).requires_grad_() for y in (x, *parameters)]


def equation(
    x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, offset_range: float | None, eps: float
) -> Tensor:
    height, width = x.shape[2:]
    hidden = x.unflatten(1, (-1, len(weight))).movedim(2, -1)  # (batch, groups, h, w, channels)
    hidden = F.gelu(F.layer_norm(hidden, weight.shape, weight, bias, eps))
    offsets = hidden @ rows.flatten(1).T
    y, x = (
        (torch.arange(size) + 0.5) / (size - 1) * 2 - 1 if size > 1 else torch.zeros(1)
        for size in (height, width)
    )
    points = torch.stack(torch.meshgrid(y, x, indexing='ij'), -1)
    if offset_range is None:
        return (points + offsets).clamp(-1, 1)
    steps = torch.tensor([1 / max(1, height - 1), 1 / max(1, width - 1)], dtype=offsets.dtype)
    return points + offset_range * steps * offsets.tanh()


@needs_kernels
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 4),
    blocks=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    offset_range=st.sampled_from([0.0, 1.0, 2.5]),
    eps=st.sampled_from([1e-5, 1e-2]),
    dtype=st.sampled_from([*TOLERANCES]),
    channels_last=st.booleans(),
)
def test_kernels_compute_the_equation_for_bounded_offsets(
    batch: int,
    groups: int,
    blocks: int,
    grid: tuple[int, int],
    offset_range: float,
    eps: float,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    inputs = draw(batch, groups, 16 * blocks, grid, dtype)
    if channels_last:
        inputs[0] = inputs[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    out = key_locations(*inputs, offset_range, eps, implementation='compiled')
    assert out.dtype == torch.float32
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = differentiate(equation(*exact, offset_range, eps), exact)
    assert max(relative_errors(differentiate(out, inputs), expected)) < TOLERANCES[dtype]


@needs_kernels
@given(
    groups=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    reach=st.sampled_from([0.01, 0.1, 1.0]),
    dtype=st.sampled_from([*TOLERANCES]),
)
def test_kernels_clamp_unbounded_offsets(
    groups: int, grid: tuple[int, int], reach: float, dtype: torch.dtype
) -> None:
    inputs = draw(2, groups, 32, grid, dtype, reach)
    out = key_locations(*inputs, implementation='compiled')
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = equation(*exact, None, 1e-5)
    assert max(relative_errors([out], [expected])) < TOLERANCES[dtype]
    # On the border, rounding decides whether there is a gradient.
    direction = (1 - expected.detach().abs() > 1e-2).double()
    found = torch.autograd.grad(out, inputs, direction.float())
    wanted = torch.autograd.grad(expected, exact, direction)
    assert max(relative_errors(found, wanted)) < TOLERANCES[dtype]


def test_clamped_locations_have_no_gradient() -> None:
    inputs = draw(1, 1, 16, (15, 15))
    for implementation in ('dense', 'auto'):
        out = key_locations(*inputs, implementation=implementation)
        clamped = out.detach().abs() == 1
        assert clamped.any()
        grads = torch.autograd.grad(out, inputs, clamped.float())
        assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize('offset_range', [None, 2.0])
def test_the_dense_implementation_computes_the_equation(offset_range: float | None) -> None:
    inputs = draw(2, 2, 3, (4, 3), torch.float64, 0.1)
    options = dict(offset_range=offset_range, eps=0.5)
    function = partial(key_locations, **options, implementation='dense')
    torch.testing.assert_close(function(*inputs), equation(*inputs, **options))
    assert torch.autograd.gradcheck(function, inputs)


@needs_kernels
def test_the_dense_implementation_runs_no_kernel_inside() -> None:
    inputs = draw(1, 1, 16, (3, 3), torch.bfloat16)
    out = key_locations(*inputs, offset_range=2.0, implementation='dense')
    first = torch.autograd.grad(out.sum(), inputs, create_graph=True)
    torch.autograd.grad(sum(x.sum() for x in first), inputs)  # kernels of the norm would refuse


@needs_kernels
@pytest.mark.usefixtures('threads')
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    inputs = draw(2, 2, 32, (13, 9))
    found = []
    for number in (1, 2, 3, 4):
        torch.set_num_threads(number)
        out = key_locations(*inputs, implementation='compiled')
        found.append(differentiate(out, inputs))
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@needs_kernels
def test_derivatives_of_all_kinds_are_those_of_the_equation() -> None:
    inputs = draw(1, 2, 16, (5, 4))
    wanted = [x.detach().clone().requires_grad_() for x in inputs]

    found, exact = (partial(f, offset_range=2.0, eps=1e-5) for f in (key_locations, equation))
    torch.testing.assert_close(
        differentiate_twice(found, inputs), differentiate_twice(exact, wanted), rtol=1e-4, atol=1e-3
    )
    out, expected = found(*inputs), exact(*wanted)
    directions = torch.stack([torch.ones_like(out), out.detach()])
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, directions, is_grads_batched=True),
        torch.autograd.grad(expected, wanted, directions, is_grads_batched=True),
        rtol=1e-4,
        atol=1e-4,
    )
    primals = tuple(x.detach() for x in inputs)
    torch.testing.assert_close(
        torch.func.jvp(found, primals, primals), torch.func.jvp(exact, primals, primals)
    )


@needs_kernels
def test_what_is_no_number_stays_so_where_it_is() -> None:
    inputs = [x.detach() for x in draw(1, 2, 16, (3, 3))]
    inputs[0][0, 3, 1, 2] = torch.nan
    for implementation in ('dense', 'compiled'):
        missing = key_locations(*inputs, implementation=implementation).isnan()
        assert missing[0, 0, 1, 2].all() and missing.sum() == 2


@needs_kernels
def test_tensors_may_lie_in_any_order_and_be_negated() -> None:
    inputs = [x.detach() for x in draw(2, 2, 16, (4, 5))]
    expected = key_locations(*inputs)
    turned = [x.movedim(0, -1).contiguous().movedim(-1, 0) for x in inputs]
    negated = [torch.complex(torch.zeros_like(x), -x).conj().imag for x in inputs]
    for views in (turned, negated):
        torch.testing.assert_close(key_locations(*views, implementation='compiled'), expected)


@needs_kernels
def test_gradients_may_lie_in_any_order() -> None:
    inputs = draw(2, 2, 16, (4, 5))
    out = key_locations(*inputs, offset_range=2.0, implementation='compiled')
    direction = torch.randn(out.shape)
    turned = direction.movedim(-1, 0).contiguous().movedim(0, -1)
    found = (torch.autograd.grad(out, inputs, x, retain_graph=True) for x in (turned, direction))
    assert all(map(torch.equal, *found))


@needs_kernels
def test_kernels_write_beside_their_map_whatever_the_default_device() -> None:
    inputs = draw(1, 1, 16, (4, 5))
    expected = key_locations(*inputs, implementation='compiled')
    with torch.device('meta'):
        assert torch.equal(key_locations(*inputs, implementation='compiled'), expected)


@needs_kernels
@pytest.mark.parametrize(
    'inputs, reason',
    [
        (draw(1, 2, 8, (4, 4)), '8 channels are no multiple of 16'),
        (draw(0, 1, 16, (4, 4)), 'is empty'),
        (draw(1, 1, 16, (4, 4), torch.float64), 'torch.float64 is none of'),
        ([*draw(1, 1, 16, (4, 4))[:3], torch.zeros(2, 16, 1, 1).double()], 'torch.float64 is none'),
    ],
)
def test_what_the_kernels_cannot_take_is_said(inputs: list[Tensor], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        key_locations(*inputs, implementation='compiled')


@needs_kernels
def test_the_preferred_implementation_runs() -> None:
    inputs = draw(1, 1, 16, (4, 4))
    assert 'Compiled' in type(key_locations(*inputs).grad_fn).__name__
    with prefer_implementation('dense'):
        assert 'Compiled' not in type(key_locations(*inputs).grad_fn).__name__


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, weight, bias, rows = draw(1, 2, 16, (4, 4))
    for wrong in (
        (x[0], weight, bias, rows),
        (x[:, :24], weight, bias, rows),
        (x, weight[:0], bias[:0], rows[:, :0]),
        (x, weight, bias[:8], rows),
        (x, weight, bias, rows[..., 0]),
        (x, weight[None], bias[None], rows),
        (x, weight[0], bias[0], rows[:, :1]),
    ):
        with pytest.raises(ValueError, match=r'weight \(2, channels, 1, 1\)'):
            key_locations(*wrong)
