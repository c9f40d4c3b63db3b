"""Feature maps and bias tables are read where they say."""

from functools import partial

import pytest
import torch
from helpers.compiled import differentiate, needs_kernels
from helpers.errors import relative_errors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmdat.ops import relative_position_bias, sample_at
from mmdat.ops.deformable import sampling

TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_bias_between_grid_points_is_the_table_itself() -> None:
    # A query and a key on a 4 x 4 grid are a whole number of the table's cells apart.
    table = random(1, 7, 7)
    grid = torch.linspace(-1, 1, 4, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    bias = relative_position_bias(points, points[None, None], table).view(4, 4, 4, 4)
    for y, x, key_y, key_x in [(0, 0, 0, 0), (3, 0, 0, 3), (1, 2, 2, 0)]:
        torch.testing.assert_close(bias[y, x, key_y, key_x], table[0, y - key_y + 3, x - key_x + 3])


def test_sampling_at_the_positions_themselves_returns_the_map() -> None:
    x = random(1, 4, 3, 5)
    y, x_coordinate = (torch.linspace(-1, 1, size, dtype=torch.float64) for size in (3, 5))
    grid = torch.stack(torch.meshgrid(y, x_coordinate, indexing='ij'), -1)
    torch.testing.assert_close(sample_at(x, grid.expand(1, 2, -1, -1, -1)), x)


@pytest.mark.parametrize('order', [torch.channels_last, torch.contiguous_format])
def test_what_is_sampled_lies_in_the_order_of_the_map(order: torch.memory_format) -> None:
    x = torch.randn(2, 6, 4, 5, dtype=torch.bfloat16).contiguous(memory_format=order)
    out = sample_at(x, torch.zeros(2, 2, 3, 3, 2), implementation='dense')
    assert out.dtype == x.dtype and out.is_contiguous(memory_format=order)


@pytest.mark.parametrize('height, width', [(5, 7), (1, 3), (1, 1)])
def test_sampling_in_deterministic_mode_is_the_same(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random(2, 4, height, width).requires_grad_()
    locations = 1.5 * random(2, 2, 3, 4, 2)
    locations[0, 0, 0] = torch.tensor([1.0, -1.0])  # at the last row, the first column
    locations.requires_grad_()

    def results() -> list[Tensor]:
        out = sample_at(x, locations)
        return [out, *torch.autograd.grad(out.sin().sum(), (x, locations))]

    expected = results()
    monkeypatch.setattr(sampling.F, 'grid_sample', None)
    monkeypatch.setattr(sampling, '_adds_up_in_any_order', lambda x: True)
    torch.testing.assert_close(results(), expected)


def test_sampling_at_nan_in_deterministic_mode_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, '_adds_up_in_any_order', lambda x: True)
    locations = torch.zeros(1, 1, 1, 2, 2)
    locations[..., 0, 1] = torch.nan
    assert sample_at(torch.ones(1, 1, 3, 3), locations).isnan().tolist() == [[[[True, False]]]]


def draw(*shape: int, groups: int, points: tuple[int, int]) -> list[Tensor]:
    """A map, and locations of which some are beyond it, but none on a position's edge."""
    return [random(*shape), 1.2 * random(shape[0], groups, *points, 2)]


@needs_kernels
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)),
    group_blocks=st.integers(1, 3),
    points=st.tuples(st.integers(1, 13), st.integers(1, 9)),
    dtype=st.sampled_from([*TOLERANCES]),
    channels_last=st.booleans(),
)
def test_kernels_sample_as_pytorch_does(
    shape: tuple[int, int, int, int],
    group_blocks: int,
    points: tuple[int, int],
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    batch, groups, height, width = shape
    channels = 16 * group_blocks * groups
    x, locations = draw(batch, channels, height, width, groups=groups, points=points)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    inputs = [x.to(dtype).requires_grad_(), locations.float().requires_grad_()]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    out = sample_at(*inputs, implementation='compiled')
    assert out.dtype == dtype
    expected = differentiate(sample_at(*exact), exact)
    assert max(relative_errors(differentiate(out, inputs), expected)) < TOLERANCES[dtype]


@needs_kernels
@pytest.mark.usefixtures('threads')
def test_results_of_kernels_do_not_depend_on_the_number_of_threads() -> None:
    inputs = [x.float().requires_grad_() for x in draw(2, 96, 9, 7, groups=2, points=(8, 9))]
    found = []
    for number in (1, 2, 3, 4):
        torch.set_num_threads(number)
        found.append(differentiate(sample_at(*inputs, implementation='compiled'), inputs))
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@needs_kernels
def test_kernels_read_only_what_is_on_the_map() -> None:
    x = torch.ones(1, 16, 3, 3)
    far = [torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 2.0, 1.0]
    locations = torch.zeros(1, 1, 1, len(far), 2)
    locations[..., 1] = torch.tensor(far)
    inputs = [x.requires_grad_(), locations.requires_grad_()]
    out = sample_at(*inputs, implementation='compiled')
    expected = sample_at(*inputs, implementation='dense')
    torch.testing.assert_close(out, expected, equal_nan=True)
    assert out[0, 0, 0].isnan().tolist() == [True, True, True, False, False, False, False]
    finite = out.isfinite()
    found, wanted = (torch.autograd.grad(y[finite].sum(), x)[0] for y in (out, expected))
    torch.testing.assert_close(found, wanted)


@needs_kernels
def test_kernels_are_differentiated_in_batches_and_once() -> None:
    inputs = [x.float().requires_grad_() for x in draw(1, 32, 4, 5, groups=2, points=(2, 3))]
    gradients = []
    for implementation in ('compiled', 'dense'):
        out = sample_at(*inputs, implementation=implementation)
        directions = torch.stack([torch.ones_like(out), torch.arange(192.0).view(out.shape)])
        function = partial(torch.autograd.grad, out, inputs, retain_graph=True)
        gradients.append(torch.func.vmap(function)(directions))
        gradients.append(function(directions, is_grads_batched=True))
        (first,) = torch.autograd.grad(
            sample_at(*inputs, implementation=implementation).sum(), inputs[0], create_graph=True
        )
        # PyTorch has no second derivatives either.
        with pytest.raises(RuntimeError, match='grid_sampler_2d_backward is not implemented'):
            torch.autograd.grad(first.sum(), inputs[1])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])


@needs_kernels
def test_locations_may_lie_in_any_order_and_be_in_half_precision() -> None:
    x, locations = (y.float() for y in draw(1, 16, 4, 5, groups=1, points=(3, 2)))
    turned = locations.movedim(-1, 1).contiguous().movedim(1, -1)
    assert not turned.is_contiguous()
    expected = sample_at(x, locations, implementation='dense')
    torch.testing.assert_close(sample_at(x, turned, implementation='compiled'), expected)
    half = locations.bfloat16().requires_grad_()
    out = sample_at(x, half, implementation='compiled')
    expected = sample_at(x, half.float(), implementation='dense')
    torch.testing.assert_close(out, expected)
    found, wanted = (torch.autograd.grad(y.sum(), half)[0] for y in (out, expected))
    torch.testing.assert_close(found, wanted)


@needs_kernels
def test_kernels_write_beside_their_map_whatever_the_default_device() -> None:
    x, locations = (y.float() for y in draw(1, 16, 4, 5, groups=1, points=(3, 2)))
    with torch.device('meta'):
        out = sample_at(x, locations, implementation='compiled')
    assert torch.equal(out, sample_at(x, locations, implementation='compiled'))


@needs_kernels
@pytest.mark.parametrize(
    'inputs, reason',
    [
        (draw(1, 32, 4, 4, groups=4, points=(2, 2)), '8 channels are no multiple of 16'),
        (draw(0, 16, 4, 4, groups=1, points=(2, 2)), 'is empty'),
    ],
)
def test_what_kernels_cannot_take_is_said(inputs: list[Tensor], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        sample_at(*(x.float() for x in inputs), implementation='compiled')
    with pytest.raises(ValueError, match='torch.float64 is none of'):
        sample_at(*inputs, implementation='compiled')


def test_locations_that_do_not_fit_are_refused() -> None:
    x, locations = draw(1, 6, 4, 4, groups=2, points=(3, 2))
    with pytest.raises(ValueError, match='groups must divide channels'):
        sample_at(x[0], locations)
    for wrong in (
        locations[0],
        locations[:, :0],
        locations.expand(2, -1, -1, -1, -1),
        locations.repeat(1, 2, 1, 1, 1),
    ):
        with pytest.raises(ValueError, match='groups must divide channels'):
            sample_at(x, wrong)
