"""DAT backbone (Xia et al., Vision Transformer with Deformable Attention, arXiv 2201.00520)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.models.arch import StageSettings, tabulate
from mmdat.models.attentions import (
    DeformableAttention,
    NeighborhoodAttention,
    PyramidAttention,
    SlideAttention,
    WindowAttention,
)
from mmdat.models.layers import (
    FFN,
    Conv2d,
    ConvFFN,
    DropPath,
    LayerNorm2d,
    LayerScale,
    ResidualDepthwiseConv,
    depthwise_conv,
)
from mmdat.ops import residual_add
from mmdat.registry import MODELS

from . import dat_published
from .base import HierarchicalBackbone

# The letters of ``DATSettings.blocks``, which says what they stand for.
LETTERS = 'LSDNPXE'

# fmt: off
DAT_ARCHITECTURES = tabulate(
    'embed_dims',                   'num_heads',     'groups',      'blocks',         'window_size',
    nano    =((16, 32, 64, 128),     (1, 2, 4, 8),   (1, 1, 2, 4), ('LS', 'LS', 'LD'*3, 'LD'), 7),
    tiny    =((96, 192, 384, 768),   (3, 6, 12, 24), (1, 1, 3, 6), ('LS', 'LS', 'LD'*3, 'LD'), 7),
    small   =((96, 192, 384, 768),   (3, 6, 12, 24), (1, 1, 3, 6), ('LS', 'LS', 'LD'*9, 'LD'), 7),
    base    =((128, 256, 512, 1024), (4, 8, 16, 32), (1, 1, 4, 8), ('LS', 'LS', 'LD'*9, 'LD'), 7),
    # For images of 384 x 384, whose maps windows of 12 fill.
    base_384=((128, 256, 512, 1024), (4, 8, 16, 32), (1, 1, 4, 8), ('LS', 'LS', 'LD'*9, 'LD'), 12),
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class DATSettings(StageSettings):
    """What a stage of DAT or DAT++ is built from.

    Attributes:
        embed_dims: Channels.
        blocks: A letter for each block: ``L`` window attention, ``S`` shifted window attention,
            ``D`` deformable attention, ``N`` neighborhood attention, ``P`` spatial-reduction
            attention (PVT), ``X`` a ConvNeXt block, ``E`` slide attention.
        num_heads: Attention heads.
        groups: Groups of channels in ``D`` that sample their keys together.
        stride: Stride of the key grid in ``D``.
        offset_kernel_size: Kernel size of the convolution in ``D`` that computes the offsets.
        offset_range: Largest offset in ``D``, in half steps of the key grid; None for
            unbounded offsets, of which the sampling locations are clamped to the map.
        pooled_keys: Average the map for the keys of ``D`` instead of sampling it.
        position_bias: Position bias of ``D``: ``'none'``, ``'table'``, ``'fixed'``, ``'log'`` or
            ``'depthwise'``.
        window_size: Side of the windows in ``L`` and ``S``, of the kernel in ``X``.
        neighborhood_size: Side of the window in ``N``.
        reduction_ratio: Factor between the sides of the map and of the keys' map in ``P``.
        ffn_ratio: Factor between the channels inside a feed-forward network and ``embed_dims``.
        conv_ffn: Put a depthwise convolution into the feed-forward networks.
        local_perception: Add a depthwise convolution of the map to it before each attention.
        layer_scale: First value of the learned factors of attention and feed-forward network, 0
            for none.
        conv_embedding: Embed with overlapping convolutions instead of patches.
    """

    embed_dims: int
    blocks: str
    num_heads: int
    groups: int = 1
    stride: int = 1
    offset_kernel_size: int = 3
    offset_range: float | None = None
    pooled_keys: bool = False
    position_bias: str = 'table'
    window_size: int = 7
    neighborhood_size: int = 7
    reduction_ratio: int = 1
    ffn_ratio: float = 4
    conv_ffn: bool = False
    local_perception: bool = False
    layer_scale: float = 0.0
    conv_embedding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.blocks) - set(LETTERS)
        if unknown or not self.blocks:
            raise UserError(
                f"arch field 'blocks' has {self.blocks!r}: "
                f'use the letters {", ".join(LETTERS[:-1])} and {LETTERS[-1]}'
            )
        if self.embed_dims % self.num_heads:
            raise UserError(
                f'arch has a stage with {self.embed_dims} channels and '
                f'{self.num_heads} heads: heads must divide channels'
            )
        if 'E' in self.blocks and self.embed_dims % (4 * self.num_heads):
            raise UserError(
                f'arch has an E block with {self.embed_dims} channels and '
                f'{self.num_heads} heads: 4 times the heads must divide channels'
            )
        for letter, name in (('N', 'neighborhood_size'), ('X', 'window_size')):
            if letter in self.blocks and getattr(self, name) % 2 == 0:
                raise UserError(
                    f"arch field '{name}' must be odd where there are {letter} blocks, "
                    f'got {getattr(self, name)}'
                )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)


class DATBlock(nn.Module):
    """Attention and feed-forward network, each added to its input (DAT++, figure 4).

    Args:
        settings: Settings of the stage.
        attention: The block's attention module.
        drop_path_rate: Probability to leave out a residual branch of a sample in training.
    """

    def __init__(self, settings: DATSettings, attention: nn.Module, drop_path_rate: float) -> None:
        super().__init__()
        dims = settings.embed_dims
        self.local_perception = (
            ResidualDepthwiseConv(dims) if settings.local_perception else nn.Identity()
        )
        self.norm1 = LayerNorm2d(dims)
        self.attention = attention
        self.norm2 = LayerNorm2d(dims)
        self.ffn = _ffn(settings)
        self.scale1, self.scale2 = (
            LayerScale(dims, settings.layer_scale) if settings.layer_scale > 0 else nn.Identity()
            for _ in range(2)
        )
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        x = self.local_perception(x)
        x = residual_add(x, self.drop_path(self.scale1(self.attention(self.norm1(x)))))
        return residual_add(x, self.drop_path(self.scale2(self.ffn(self.norm2(x)))))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution and feed-forward network in one residual (ConvNeXt, arXiv 2201.03545).

    Args:
        settings: Settings of the stage.
        drop_path_rate: Probability to leave out the residual branch of a sample in training.
    """

    def __init__(self, settings: DATSettings, drop_path_rate: float) -> None:
        super().__init__()
        dims = settings.embed_dims
        self.local_perception = (
            ResidualDepthwiseConv(dims) if settings.local_perception else nn.Identity()
        )
        self.dwconv = depthwise_conv(dims, settings.window_size)
        self.norm = LayerNorm2d(dims)
        self.ffn = _ffn(settings)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        x = self.local_perception(x)
        return residual_add(x, self.drop_path(self.ffn(self.norm(self.dwconv(x)))))


@MODELS.register_module()
class DAT(HierarchicalBackbone):
    """DAT: window attention, and deformable attention in the last two of four stages.

    Args:
        arch: ``'nano'`` (for demos and tests), ``'tiny'``, ``'small'``, ``'base'``,
            ``'base_384'`` (for images of 384 x 384, with windows of 12), or a dict with
            the fields of :class:`DATSettings`, of which ``embed_dims``, ``blocks`` and
            ``num_heads`` must be there. A field is a sequence with a value for each stage, or one
            for all.
        out_indices: Stages whose maps are returned, in the order of the stages, each behind a norm
            of its own; all if None. Stages after the last of them are not built.
        drop_path_rate: Stochastic depth rate of the last block of ``arch``, built or not; the first
            has 0, those between rise linearly.
        frozen_stages: Number of stages, with their embeddings and output norms, that are not
            trained, at most those that are built; 0 freezes the first embedding alone, -1 nothing.
        with_cp: Recompute the activations of each block in the backward pass to save memory.
        pretrain_img_size: Side in pixels of the square images that the bias tables cover.
        in_channels: Channels of the images. A pretrained first convolution for 3 is summed over
            them for 1, and repeated and scaled for another number.
        init_cfg: mmengine's initialization config; ``Pretrained`` takes the authors' checkpoints
            and ordinary ones alike.

    Input: Tensor[batch, in_channels, height, width] of at least 32 x 32. Output: a tuple of
    Tensor[batch, embed_dims[i], height / stride_i, width / stride_i], rounded down, with strides
    4, 8, 16, 32.

    Raises:
        UserError: If ``arch`` is unknown, has an unknown or missing field or does not fit together,
            if an argument is out of range, or, in a forward pass, if the images are too small.

    Example:
        >>> backbone = DAT(arch='nano')
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 16, 16, 24), (1, 32, 8, 12), (1, 64, 4, 6), (1, 128, 2, 3)]
    """

    ARCHITECTURES: ClassVar[Mapping[str, Mapping[str, Any]]] = DAT_ARCHITECTURES
    DEFAULTS: ClassVar[Mapping[str, Any]] = dict(offset_kernel_size=(9, 7, 5, 3), offset_range=2)
    SETTINGS = DATSettings
    PUBLISHED_HEAD = dat_published.CLASSIFIER_HEAD
    PUBLISHED_NORM = dat_published.CLASSIFIER_NORM

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        pretrain_img_size: int = 224,
        in_channels: int = 3,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            arch,
            out_indices,
            drop_path_rate,
            frozen_stages,
            with_cp,
            pretrain_img_size,
            in_channels,
            init_cfg,
        )

    @classmethod
    def from_published(cls, **options: Any) -> 'DAT':
        """Build the backbone that the authors' code builds from ``options`` of their configs.

        Args:
            options: ``dims``, ``stage_spec``, ``heads``, ``strides``, ``use_pes``, ... Options
                that their code ignores are ignored. This class's own arguments, but for ``arch``
                and ``pretrain_img_size``, may stand beside them.

        Raises:
            UserError: If an option is unknown, missing or of no use here.

        Example:
            >>> backbone = DAT.from_published(
            ...     dims=[16, 32], heads=[1, 2], groups=[1, 1], stage_spec=['LS', 'ND'],
            ...     strides=[2, 1], offset_range_factor=[-1, 2], use_pes=[True, True],
            ...     window_sizes=[7, 7], nat_ksizes=[3, 3])
            >>> backbone.settings[1].offset_range
            2
        """
        return cls(**dat_published.dat_arguments(options))

    def _build_embedding(self, stage: int, previous_dims: int, settings: DATSettings) -> nn.Module:
        dims = settings.embed_dims
        if stage > 0:
            conv = (
                Conv2d(previous_dims, dims, 3, stride=2, padding=1, bias=False)
                if settings.conv_embedding
                else Conv2d(previous_dims, dims, 2, stride=2, bias=False)
            )
            return nn.Sequential(conv, LayerNorm2d(dims))
        if not settings.conv_embedding:
            return nn.Sequential(Conv2d(previous_dims, dims, 4, stride=4), LayerNorm2d(dims))
        return nn.Sequential(
            Conv2d(previous_dims, dims // 2, 3, stride=2, padding=1),
            LayerNorm2d(dims // 2),
            nn.GELU(),
            Conv2d(dims // 2, dims, 3, stride=2, padding=1),
            LayerNorm2d(dims),
        )

    def _build_blocks(
        self, settings: DATSettings, map_side: int, drop_path_rates: Iterator[float]
    ) -> Iterator[nn.Module]:
        for letter in settings.blocks:
            if letter == 'X':
                yield ConvNeXtBlock(settings, next(drop_path_rates))
            else:
                yield DATBlock(
                    settings, _attention(letter, settings, map_side), next(drop_path_rates)
                )

    def _published_modules(self) -> Iterator[tuple[str, str]]:
        return dat_published.module_names(self.embeddings, self.stages)

    def _published_parts(self, stage: int) -> tuple[str, ...]:
        return dat_published.part_names(stage)

    def _published_unused(self) -> Iterator[str]:
        return dat_published.unused_names(self.stages)


def _attention(letter: str, settings: DATSettings, map_side: int) -> nn.Module:
    """The attention module that a letter of ``blocks`` stands for."""
    dims, heads = settings.embed_dims, settings.num_heads
    match letter:
        case 'L' | 'S':
            return WindowAttention(dims, heads, settings.window_size, shifted=letter == 'S')
        case 'N':
            return NeighborhoodAttention(dims, heads, settings.neighborhood_size)
        case 'P':
            return PyramidAttention(dims, heads, settings.reduction_ratio)
        case 'E':
            return SlideAttention(dims, heads)
        case 'D':
            return DeformableAttention(
                dims,
                heads,
                settings.groups,
                settings.stride,
                settings.offset_kernel_size,
                (map_side, map_side),
                settings.offset_range,
                settings.pooled_keys,
                settings.position_bias,
            )
    raise AssertionError(f'no attention module for the letter {letter}')


def _ffn(settings: DATSettings) -> nn.Module:
    """The feed-forward network of a stage's blocks."""
    hidden_dims = int(settings.embed_dims * settings.ffn_ratio)
    return (ConvFFN if settings.conv_ffn else FFN)(settings.embed_dims, hidden_dims)
