"""Layers that the backbones share."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath as DropPathOfMMCV

from mmdat.models.attentions.deformable import DeformableAttention
from mmdat.models.attentions.neighborhood import NeighborhoodAttention
from mmdat.models.layers import DropPath, LayerNorm2d, ResidualDepthwiseConv, StridedDepthwiseConv
from mmdat.ops import reference_points, strided_depthwise_conv


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('training', [True, False])
def test_drop_path_draws_and_computes_what_mmcv_does(dtype: torch.dtype, training: bool) -> None:
    x = torch.randn(64, 3, 2, 2).to(dtype)
    results = []
    for layer in (DropPath(0.3), DropPathOfMMCV(0.3)):
        torch.manual_seed(0)
        results.append(layer.train(training)(x))
    assert torch.equal(*results)
    dropped = (results[0].flatten(1) == 0).all(1).sum()
    assert 10 < dropped < 30 if training else dropped == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_norms_take_maps_that_float16_cannot_hold(dtype: torch.dtype) -> None:
    x = 1e5 * torch.randn(1, 8, 3, 4)
    with torch.autocast('cpu', dtype):
        out = LayerNorm2d(8)(x)
    torch.testing.assert_close(out.float(), LayerNorm2d(8)(x), rtol=0.01, atol=0.01)


def test_autocast_leaves_the_offsets_of_keys_in_float32() -> None:
    module, x = DeformableAttention(8, 2, 1, 1, 3, (9, 9)), 0.1 * torch.randn(1, 8, 9, 9)
    depthwise, norm, gelu, pointwise = module.offsets
    with torch.autocast('cpu', torch.bfloat16):
        locations = module.sampling_locations(x)
        hidden = strided_depthwise_conv(x, depthwise.weight, depthwise.bias, 1, 1)
        hidden = gelu(norm(hidden)).float()
    offsets = F.conv2d(hidden, pointwise.weight).permute(0, 2, 3, 1)
    expected = (reference_points(9, 9) + offsets).clamp(-1, 1)
    torch.testing.assert_close(locations[:, 0], expected, rtol=0, atol=1e-6)


def test_strided_depthwise_convolutions_compute_in_float32_on_cpus() -> None:
    conv, x = StridedDepthwiseConv(4, 2), torch.randn(1, 4, 6, 8).bfloat16()
    expected = F.conv2d(x.float(), conv.weight, conv.bias, 2, groups=4).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(conv(x), expected)
    conv = conv.bfloat16()
    assert conv(x).dtype == torch.bfloat16


def test_gradients_of_one_sample_stay_channels_last() -> None:
    module = NeighborhoodAttention(8, 2, 3)
    strides = []
    module.qkv.register_full_backward_pre_hook(lambda _, grads: strides.append(grads[0].stride()))
    x = torch.randn(1, 8, 5, 6).to(memory_format=torch.channels_last)
    module(x.requires_grad_()).sum().backward()
    assert strides == [(5 * 6 * 24, 1, 6 * 24, 24)]


@pytest.mark.parametrize('channels', [4, 16])  # of which kernels in C++ take 16
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_residual_convolution_adds_its_input_in_both_precisions(
    dtype: torch.dtype, channels: int
) -> None:
    torch.manual_seed(0)
    conv = ResidualDepthwiseConv(channels)
    x = torch.randn(2, channels, 6, 5, dtype=dtype, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        out = conv(x)
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
        branch = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=channels)
    assert out.dtype == dtype
    # PyTorch, unlike the kernels, rounds the branch before it is added.
    rounds = dtype == torch.bfloat16 and channels == 16
    tolerances = dict(atol=1e-2, rtol=1e-2) if rounds else {}
    torch.testing.assert_close(out, x + branch, **tolerances)
    (grad,) = torch.autograd.grad(out.float().sum(), x)
    (expected,) = torch.autograd.grad((x + branch).float().sum(), x)
    torch.testing.assert_close(grad, expected, **tolerances)
