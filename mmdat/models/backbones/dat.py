"""DAT++ backbone (Xia et al., DAT++: Spatially Dynamic Vision Transformer with Deformable
Attention, arXiv 2309.01430).
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdat.errors import UserError, suggest
from mmdat.models.attentions import DeformableAttention, NeighborhoodAttention
from mmdat.models.layers import ConvFFN, LayerNorm2d, depthwise_conv, init_projections
from mmdat.registry import MODELS

PUBLISHED = ('ND', 'NDND', 'ND' * 9, 'DD')


@dataclass(frozen=True)
class DATArchitecture:
    """A network of the family; each field has a value for each stage.

    Attributes:
        embed_dims: Channels.
        blocks: A letter for each block: ``N`` neighborhood attention, ``D`` deformable attention.
        num_heads: Attention heads.
        groups: Groups of channels in ``D`` that sample their keys together.
        strides: Of the key grid in ``D``.
        offset_kernel_sizes: Of the convolution in ``D`` that computes the offsets.
        neighborhood_sizes: Side of the window in ``N``.
    """
    embed_dims: Sequence[int]
    blocks: Sequence[str]
    num_heads: Sequence[int]
    groups: Sequence[int]
    strides: Sequence[int] = (8, 4, 2, 1)
    offset_kernel_sizes: Sequence[int] = (9, 7, 5, 3)
    neighborhood_sizes: Sequence[int] = (7, 7, 7, 7)

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> 'DATArchitecture':
        """Build from a config's dict; a field that is unknown or missing is a UserError."""
        valid = {field.name for field in fields(cls)}
        for name in options:
            if name not in valid:
                raise UserError(f"unknown field '{name}' in arch: {suggest(name, valid)}")
        try:
            return cls(**options)
        except TypeError as error:
            raise UserError(f'arch is incomplete: {error}') from None

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if isinstance(values, str) or len(values) != len(self.embed_dims):
                raise UserError(f"arch field '{field.name}' needs a value for each of the "
                                f'{len(self.embed_dims)} stages, got {values!r}')
        for dims, letters, heads, groups in zip(self.embed_dims, self.blocks, self.num_heads,
                                                self.groups, strict=True):
            unknown = set(letters) - set('ND')
            if unknown or not letters:
                raise UserError(f"arch field 'blocks' has {letters!r}: use the letters N and D")
            if dims % heads or heads % groups:
                raise UserError(f'arch has a stage with {dims} channels, {heads} heads and '
                                f'{groups} groups: heads must divide channels, groups heads')

    @property
    def depths(self) -> list[int]:
        """Blocks in each stage."""
        return [len(letters) for letters in self.blocks]


class DATBlock(nn.Module):
    """Local perception, attention and feed-forward, each added to its input (DAT++, figure 4).

    Args:
        embed_dims: Channels.
        attention: The block's attention module.
        drop_path_rate: Probability to leave out a residual branch of a sample in training.
    """

    def __init__(self, embed_dims: int, attention: nn.Module, drop_path_rate: float) -> None:
        super().__init__()
        self.local_perception = depthwise_conv(embed_dims, 3)
        self.norm1 = LayerNorm2d(embed_dims)
        self.attention = attention
        self.norm2 = LayerNorm2d(embed_dims)
        self.ffn = ConvFFN(embed_dims)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        x = x + self.local_perception(x)
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class DATStage(nn.Module):
    """The blocks of one resolution.

    Args:
        blocks: In order.
        with_cp: Recompute the activations of each block in the backward pass to save memory.
    """

    def __init__(self, blocks: Sequence[nn.Module], with_cp: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


@MODELS.register_module()
class DATPlusPlus(BaseModule):
    """DAT++: deformable and neighborhood attention in four stages of strides 4, 8, 16 and 32.

    Args:
        arch: ``'nano'`` (for demos and tests), ``'tiny'``, ``'small'``, ``'base'``, or a dict with
            the fields of :class:`DATArchitecture`.
        out_indices: Stages whose maps are returned, each behind a norm of its own.
        drop_path_rate: Of the last block; the others have linearly less, the first 0.
        frozen_stages: Number of stages, with the stem, that are not trained; -1 trains all.
        with_cp: Recompute the activations of each block in the backward pass to save memory.
        pretrain_img_size: Side in pixels of the square images that the bias tables cover.
        init_cfg: mmengine's initialization config.

    Input: Tensor[batch, 3, height, width] of any size. Output: a tuple of
    Tensor[batch, embed_dims[i], height / stride_i, width / stride_i], rounded up.

    Raises:
        UserError: If ``arch`` is unknown, has an unknown or missing field or does not fit together.

    Example:
        >>> backbone = DATPlusPlus(arch='nano')
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 16, 16, 24), (1, 32, 8, 12), (1, 64, 4, 6), (1, 128, 2, 3)]
    """
    ARCHITECTURES: ClassVar[dict[str, DATArchitecture]] = {
        #                        embed_dims             blocks     num_heads       groups
        'nano':  DATArchitecture((16, 32, 64, 128),     ('ND', 'ND', 'ND', 'DD'),
                                                                   (1, 2, 4, 8),   (1, 1, 2, 4)),
        'tiny':  DATArchitecture((64, 128, 256, 512),   PUBLISHED, (2, 4, 8, 16),  (1, 2, 4, 8)),
        'small': DATArchitecture((96, 192, 384, 768),   PUBLISHED, (3, 6, 12, 24), (1, 2, 3, 6)),
        'base':  DATArchitecture((128, 256, 512, 1024), PUBLISHED, (4, 8, 16, 32), (2, 4, 8, 16)),
    }

    def __init__(self,
                 arch: str | dict[str, Any] = 'tiny',
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 drop_path_rate: float = 0.0,
                 frozen_stages: int = -1,
                 with_cp: bool = False,
                 pretrain_img_size: int = 224,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        self.arch = self._resolve(arch)
        dims = self.arch.embed_dims
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.stem = nn.Sequential(
            nn.Conv2d(3, dims[0] // 2, 3, stride=2, padding=1), LayerNorm2d(dims[0] // 2),
            nn.GELU(),
            nn.Conv2d(dims[0] // 2, dims[0], 3, stride=2, padding=1), LayerNorm2d(dims[0]))
        self.downsamples = nn.ModuleList(
            nn.Sequential(nn.Conv2d(previous, current, 3, stride=2, padding=1, bias=False),
                          LayerNorm2d(current))
            for previous, current in pairwise(dims))
        drop_path_rates = iter(torch.linspace(0, drop_path_rate, sum(self.arch.depths)).tolist())
        self.stages = nn.ModuleList(
            DATStage([
                DATBlock(dims[stage], attention, next(drop_path_rates)) for attention in
                self._attentions(self.arch, stage, pretrain_img_size // 4 // 2**stage)
            ], with_cp) for stage in range(len(dims)))
        self.norms = nn.ModuleDict({str(stage): LayerNorm2d(dims[stage]) for stage in out_indices})
        init_projections(self)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        outputs = []
        for index, stage in enumerate(self.stages):
            if index > 0:
                x = self.downsamples[index - 1](x)
            x = stage(x)
            if index in self.out_indices:
                outputs.append(self.norms[str(index)](x))
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'DATPlusPlus':
        """Set the training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.stem, *self.stages[:self.frozen_stages],
                                   *self.downsamples[:max(0, self.frozen_stages - 1)]]
        for module in frozen:
            module.eval().requires_grad_(False)

    @classmethod
    def _resolve(cls, arch: str | dict[str, Any]) -> DATArchitecture:
        if isinstance(arch, dict):
            return DATArchitecture.from_options(arch)
        if arch not in cls.ARCHITECTURES:
            raise UserError(f"{cls.__name__} has no arch '{arch}': "
                            f'{suggest(arch, cls.ARCHITECTURES)}')
        return cls.ARCHITECTURES[arch]

    @staticmethod
    def _attentions(arch: DATArchitecture, stage: int,
                    bias_map_side: int) -> Iterator[nn.Module]:
        """The attention module of each block of a stage."""
        dims, heads = arch.embed_dims[stage], arch.num_heads[stage]
        for letter in arch.blocks[stage]:
            if letter == 'N':
                yield NeighborhoodAttention(dims, heads, arch.neighborhood_sizes[stage])
            else:
                yield DeformableAttention(dims, heads, arch.groups[stage], arch.strides[stage],
                                          arch.offset_kernel_sizes[stage],
                                          (bias_map_side, bias_map_side))
