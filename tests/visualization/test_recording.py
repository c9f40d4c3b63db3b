"""What is recorded of attention is what the modules compute."""

import functools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.variants import TRACED, VARIANTS, build
from mmcv.transforms import Compose
from mmdet.models.backbones import PyramidVisionTransformerV2, SwinTransformer
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import SwinTransformer as PretrainSwin
from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.visualization import Recording, record_attention, record_batch

# What a test does to an image, by the scope of its transforms.
META = ('ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
RESIZE = dict(type='Resize', scale=(150, 150), keep_ratio=True)
PIPELINES = {
    'mmdet': [RESIZE, dict(type='PackDetInputs', meta_keys=META)],
    'mmdet flipped': [
        RESIZE,
        dict(type='RandomFlip', prob=1.0, direction='horizontal'),
        dict(type='PackDetInputs', meta_keys=META),
    ],
    'mmseg': [RESIZE, dict(type='PackSegInputs', meta_keys=META)],
    'mmpretrain': [
        dict(type='ResizeEdge', scale=80),
        dict(type='CenterCrop', crop_size=67),
        dict(type='PackInputs'),
    ],
}
PREPROCESSORS = dict(
    mmdet=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    mmseg=dict(type='SegDataPreProcessor', size_divisor=32, test_cfg=dict(size_divisor=32)),
    mmpretrain=dict(type='ClsDataPreprocessor'),
)


def swin() -> nn.Module:
    return SwinTransformer(embed_dims=16, depths=(2, 2), num_heads=(1, 2), out_indices=(1,))


def pretrain_swin() -> nn.Module:
    arch = dict(embed_dims=16, depths=(2, 2), num_heads=(1, 2))
    return PretrainSwin(arch, img_size=64, pad_small_map=True, out_indices=(1,))


def pvt() -> nn.Module:
    return PyramidVisionTransformerV2(
        embed_dims=8, num_layers=(2, 1, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratios=(1, 1, 1, 1)
    )


def record(model: nn.Module, images: Tensor) -> list[Recording]:
    with record_attention(model) as recordings, torch.inference_mode():
        model(images)
    return recordings


def images(*size: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def centers(height: int, width: int, stride: int) -> Tensor:
    """(height * width, 2): the middle of each position of a map, (x, y) in pixels."""
    x, y = ((torch.arange(side) + 0.5) * stride for side in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1).flatten(0, 1)


class Outputs:
    """What the attention modules of a model put out, (batch, positions, channels) by name."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.found: dict[str, Tensor] = {}
        for name in self.modules:
            self.modules[name].register_forward_hook(self._keep(name), with_kwargs=True)

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
            if isinstance(out, Tensor):
                self.found[name] = out - kwargs['identity'] if 'identity' in kwargs else out

        return hook

    def expected(self, name: str) -> Tensor:
        out = self.found[name]
        return out.flatten(2).mT if out.ndim == 4 else out

    def put_out(self, name: str, heads: Tensor) -> Tensor:
        """The module's output from what its heads put out, (positions, channels)."""
        module: Any = self.modules[name]
        for convolution in ('local_interaction', 'position_conv'):
            added = self.found.get(f'{name}.{convolution}')
            if added is not None:
                heads = heads + added[-1].flatten(1).T
        if isinstance(module, nn.Module) and hasattr(module, 'w_msa'):
            return module.w_msa.proj(heads)
        if hasattr(module, 'attn'):
            return module.attn.out_proj(heads)
        maps = heads.T[None, :, :, None]
        return module.project(maps)[0, :, :, 0].T


def randomize(model: nn.Module) -> None:
    """Large weights, so that the offsets leave the map and the biases count."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize('name', [*VARIANTS, *TRACED, 'swin', 'pretrain_swin', 'pvt'])
def test_weights_times_values_are_the_modules_output(name: str) -> None:
    made = {'swin': swin, 'pretrain_swin': pretrain_swin, 'pvt': pvt}
    model = made[name]() if name in made else build(name)
    model.eval()
    randomize(model)
    outputs = Outputs(model)
    recording = record(model, images(75, 106, batch=2))[1]
    assert len(recording.blocks) > 1
    for block in recording.blocks:
        queries = centers(*block.map_size, block.stride)
        weights, points, values = block.attend(queries)
        assert weights.shape[:2] == (block.heads, len(queries))
        assert points.shape[0] == block.groups and points.shape[2:] == (weights.shape[2], 2)
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
        heads = (weights[:, :, None] @ values)[:, :, 0]  # (h, n, d)
        with torch.no_grad():
            out = outputs.put_out(block.name, heads.transpose(0, 1).flatten(1))
        expected = outputs.expected(block.name)[1]
        assert (out - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1), block
        if block.shares_keys:
            with torch.no_grad():  # as in a validation
                received = block.attended()
            assert torch.allclose(received, weights.sum(1), rtol=1e-4, atol=1e-4), block
            assert block.key_points.shape == (block.groups, weights.shape[2], 2)


def test_a_point_of_the_network_is_found_in_the_image() -> None:
    """A dot in the image, resized, flipped or cropped, and padded; D looks at it."""
    for name, steps in PIPELINES.items():
        scope = name.split()[0]
        image = np.zeros((60, 99, 3), np.uint8)
        x, y = 33, 21
        image[y - 1 : y + 2, x - 1 : x + 2] = 255  # it survives the resizing
        with DefaultScope.overwrite_default_scope(scope):
            pipeline = Compose(steps)
            model = SimpleNamespace(
                backbone=build('log_bias'), data_preprocessor=MODELS.build(PREPROCESSORS[scope])
            )
        item = pipeline(dict(img=image, img_shape=(60, 99), ori_shape=(60, 99), img_path=None))
        data = model.data_preprocessor(pseudo_collate([item]), False)
        brightness = data['inputs'][0].sum(0).clamp(min=0).double()
        rows, columns = (torch.arange(side) + 0.5 for side in brightness.shape)
        dot = (
            torch.stack(((brightness.sum(0) * columns).sum(), (brightness.sum(1) * rows).sum()))
            / brightness.sum()
        )
        stride, sizes = 8, torch.tensor([math.ceil(side / 8) for side in brightness.shape])
        locations = (dot.flip(0) / stride - 0.5) / (sizes - 1) * 2 - 1
        locations = locations.float().expand(1, 2, 3, 4, 2)
        module = model.backbone.stages[1].blocks[0].attention
        module.sampling_locations = functools.partial(lambda it, query: it, locations)
        recording = record_batch(model, pseudo_collate([item]))[0]
        points = recording.mapping.to_image(recording.last('deformable').sampling_locations)
        assert points.shape == (2, 3, 4, 2)
        middle = torch.tensor([x + 0.5, y + 0.5])
        assert (points - middle).abs().max() < 0.1, (name, points[0, 0, 0])
        assert (recording.mapping.to_input(middle) - dot).abs().max() < 0.1


def test_offsets_are_in_pixels() -> None:
    """Offsets set by hand: unbounded ones end at the map, bounded ones at their range."""
    backbone = build('patch_offsets')
    module = backbone.stages[1].blocks[0].attention  # stride 2 on a map of stride 8, range 2
    depthwise, norm, _, pointwise = module.offsets
    for parameter in (depthwise.weight, norm.weight, pointwise.weight):
        nn.init.zeros_(parameter)
    nn.init.constant_(norm.bias, 9)
    nn.init.constant_(pointwise.weight[1], 9)  # x
    block = record(backbone, images(64, 96))[0].last('deformable')
    height, width = 4, 6  # of the key grid
    steps = torch.tensor([2 * (12 - 1) / (width - 1) * 8 / 2, 0])
    assert torch.allclose(block.offsets, steps.expand(2, height, width, 2), atol=1e-3)
    assert torch.allclose(
        block.reference_points[0, 0],
        torch.tensor([(0.5 / (width - 1) * 11 + 0.5) * 8, (0.5 / (height - 1) * 7 + 0.5) * 8]),
    )
    module.offset_range = None
    block = record(backbone, images(64, 96))[0].last('deformable')
    assert torch.allclose(block.sampling_locations[..., 0], torch.tensor(92.0))
    pyramid = record(pvt(), images(64, 96))[0].last('pyramid', stage=0)
    assert pyramid.key_points[0].tolist() == [
        [32 * j + 16, 32 * i + 16] for i in range(2) for j in range(3)
    ]


def test_what_cannot_be_recorded_is_told() -> None:
    with pytest.raises(UserError, match='Linear has no attention that can be recorded: give'):
        record(nn.Linear(1, 1), images(8, 8))
    recording = record(build('dat'), images(64, 64))[0]
    with pytest.raises(UserError, match='no deformable block in stage 1: choose from stage 1: wi'):
        recording.last('deformable', stage=0)
    window = recording.last('window')
    with pytest.raises(UserError, match='stage 4, block 1: window has other keys for each query'):
        window.attended()
    with pytest.raises(UserError, match='has no sampling locations: choose a deformable block'):
        window.offsets  # noqa: B018


def test_nothing_stays_behind() -> None:
    model = build('dat_pp')
    with record_attention(model) as recordings:
        model(images(64, 64))
        model(images(64, 96, batch=2))
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert [block.map_size for block in recordings[0].blocks[:2]] == [(16, 24)] * 2  # the last pass
    assert len(recordings) == 2 and len(recordings[0].blocks) == 8
    assert recordings[0].stages == [0, 1, 2, 3]
    assert [block.block for block in recordings[0].blocks[:3]] == [0, 1, 0]
