"""Convolutions whose gradients of weights are matrix products have the gradients of PyTorch's."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.compiled import differentiate, differentiate_twice
from helpers.errors import relative_errors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmdat.models.layers import Conv2d, PointwiseLinear
from mmdat.ops import convolution, prefer_implementation
from mmdat.ops.convolution import conv2d

by_product = partial(conv2d, implementation='product')


def draw(
    batch: int = 2,
    channels: tuple[int, int] = (3, 5),
    sides: tuple[int, int] = (9, 7),
    kernel: tuple[int, int] = (3, 2),
    with_bias: bool = True,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """A map, a weight and, if wanted, a bias."""
    generator = torch.Generator().manual_seed(sum(sides))
    inputs, outputs = channels
    shapes = (batch, inputs, *sides), (outputs, inputs, *kernel), (outputs,)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes[: 2 + with_bias]
    ]


def takes_products(out: Tensor) -> bool:
    return type(out.grad_fn).__name__ == '_ConvolutionWithProductBackward'


@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    sides=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    with_bias=st.booleans(),
    channels_last=st.booleans(),
)
def test_gradients_are_those_of_the_equation(
    batch: int,
    channels: tuple[int, int],
    sides: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    with_bias: bool,
    channels_last: bool,
) -> None:
    rows, columns = (
        max(side, taps - 2 * zeros)
        for side, taps, zeros in zip(sides, kernel, padding, strict=True)
    )
    inputs = draw(batch, channels, (rows, columns), kernel, with_bias)
    if channels_last:
        inputs[0] = inputs[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    bias = inputs[2] if with_bias else None
    out = by_product(inputs[0], inputs[1], bias, stride, padding)
    assert takes_products(out)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = F.conv2d(exact[0], exact[1], exact[2] if with_bias else None, stride, padding)
    assert max(relative_errors(differentiate(out, inputs), differentiate(expected, exact))) < 4e-6


def test_derivatives_of_all_kinds_are_those_of_the_equation() -> None:
    inputs = draw(dtype=torch.float64)
    function = partial(by_product, stride=(2, 1), padding=(1, 0))
    exact = partial(F.conv2d, stride=(2, 1), padding=(1, 0))
    assert torch.autograd.gradcheck(function, inputs)
    torch.testing.assert_close(
        differentiate_twice(function, inputs), differentiate_twice(exact, inputs)
    )
    out, expected = function(*inputs), exact(*inputs)
    directions = torch.stack([torch.ones_like(out), out.detach()])
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, directions, is_grads_batched=True),
        torch.autograd.grad(expected, inputs, directions, is_grads_batched=True),
    )


@pytest.fixture
def products_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU where products are faster."""
    monkeypatch.setattr(convolution, '_PREFERS_PRODUCTS', True)


@pytest.mark.parametrize(
    'layer', [Conv2d(3, 5, 3, 2, 1), Conv2d(3, 5, 1, bias=False), PointwiseLinear(3, 5)]
)
@pytest.mark.usefixtures('products_preferred')
def test_layers_take_products_where_they_are_faster(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = draw()[0]
    assert takes_products(layer(x))
    with torch.autocast('cpu', torch.bfloat16):
        assert not takes_products(layer(x))
    with prefer_implementation('dense'):
        assert not takes_products(layer(x))
    with FlopCounterMode(display=False):  # which has to meet each operator
        assert not takes_products(layer(x))
    monkeypatch.setattr(convolution, '_PREFERS_PRODUCTS', False)
    assert not takes_products(layer(x))


@pytest.mark.usefixtures('products_preferred')
def test_products_are_for_weights_that_learn_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = draw()
    assert takes_products(conv2d(x, weight, bias))
    assert not takes_products(conv2d(x, weight.detach(), bias))
    assert not takes_products(conv2d(*(y.double() for y in (x, weight, bias))))
    assert not takes_products(conv2d(x[:0], weight, bias))
    assert not takes_products(conv2d(x[0], weight, bias))
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(convolution, 'apply', None)
        assert conv2d(x, weight, bias).grad_fn is None
    torch.testing.assert_close(
        torch.func.jvp(conv2d, (x, weight, bias), (x, weight, bias)),
        torch.func.jvp(F.conv2d, (x, weight, bias), (x, weight, bias)),
    )


@pytest.mark.usefixtures('products_preferred')
@pytest.mark.parametrize(
    'options',
    [
        dict(dilation=(2, 2)),
        dict(stride=1, padding=2),
        dict(padding='same', stride=(1, 1)),
        dict(padding_mode='circular'),
    ],
)
def test_layers_may_be_edited(options: dict[str, Any]) -> None:
    layer, plain = Conv2d(4, 6, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
    plain.load_state_dict(layer.state_dict())
    for conv in (layer, plain):
        for name, value in options.items():
            setattr(conv, name, value)
    x = draw(channels=(4, 6))[0]
    found, expected = (differentiate(conv(x), [x, *conv.parameters()]) for conv in (layer, plain))
    torch.testing.assert_close(found, expected)


def test_autocast_in_the_backward_pass_alone_changes_nothing() -> None:
    inputs = draw()
    out = by_product(*inputs)
    expected = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
    with torch.autocast('cpu', torch.bfloat16):
        assert all(map(torch.equal, torch.autograd.grad(out.sum(), inputs), expected))


@pytest.mark.parametrize(('wanted', 'products'), [((0,), 1), ((1,), 1), ((2,), 0), ((0, 1), 2)])
def test_only_wanted_gradients_are_computed(wanted: tuple[int, ...], products: int) -> None:
    inputs = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(draw())]
    out = by_product(*inputs)
    counter = FlopCounterMode(display=False)
    with counter:
        out.sum().backward()
    forward = 2 * out.numel() * inputs[1][0].numel()
    assert counter.get_total_flops() == products * forward
    assert [x.grad is not None for x in inputs] == [i in wanted for i in range(3)]


def test_it_says_why_it_takes_no_product() -> None:
    x, weight, bias = (y.detach() for y in draw())
    with pytest.raises(ValueError, match="'product': something traces"):
        torch.func.vmap(by_product, (0, None, None))(x[None], weight, bias)
    with torch.autocast('cpu', torch.bfloat16), pytest.raises(ValueError, match='autocast is on'):
        by_product(x, weight, bias)
    with pytest.raises(ValueError, match='the map is in torch.complex64'):
        by_product(x + 0j, weight + 0j)
    with pytest.raises(ValueError, match=r'\(0, 3, 9, 7\) is no batch of maps, or is empty'):
        by_product(x[:0], weight, bias)
    with pytest.raises(ValueError, match="conv2d has no implementation 'tiled'"):
        conv2d(x, weight, bias, implementation='tiled')
