"""ScalableViT backbone (Yang et al., ScalableViT: Rethinking the Context-oriented Generalization of
Vision Transformer, arXiv 2203.10790).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from mmdat.errors import UserError
from mmdat.models.arch import StageSettings, tabulate
from mmdat.models.attentions import InteractiveWindowAttention, ScalableAttention
from mmdat.models.layers import FFN, Conv2d, DropPath, LayerNorm2d, ResidualDepthwiseConv
from mmdat.ops import residual_add
from mmdat.registry import MODELS

from . import scalablevit_published
from .base import HierarchicalBackbone

# fmt: off
SCALABLEVIT_ARCHITECTURES = tabulate(
    'embed_dims',                 'num_heads',      'depth',        'channel_ratio',
    nano =((16, 32, 64, 128),     (1, 2, 4, 8),    2,             (1.25, 1.25, 1.25, 1)),
    small=((64, 128, 256, 512),   (2, 4, 8, 16),   (2, 2, 20, 2), (1.25, 1.25, 1.25, 1)),
    base =((96, 192, 384, 768),   (3, 6, 12, 24),  (2, 2, 14, 6), (2, 1.25, 1.25, 1)),
    large=((128, 256, 512, 1024), (4, 8, 16, 32),  (2, 6, 12, 4), (0.25, 0.5, 1, 1)),
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class ScalableViTSettings(StageSettings):
    """What a stage of ScalableViT is built from.

    Attributes:
        embed_dims: Channels.
        depth: Number of blocks, in turn with window and with scalable attention.
        num_heads: Attention heads.
        window_size: Side of the windows in window attention (IWSA).
        reduction_ratio: Factor between the sides of the map and of the keys' map in scalable
            attention (SSA).
        channel_ratio: Factor between the channels of queries and keys in SSA and ``embed_dims``.
        ffn_ratio: Factor between the channels inside a feed-forward network and ``embed_dims``.
        qkv_bias: Add a bias to queries, keys and values.
    """

    embed_dims: int
    depth: int
    num_heads: int
    window_size: int = 7
    reduction_ratio: int = 1
    channel_ratio: float = 1
    ffn_ratio: float = 4
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed_dims % self.num_heads:
            raise UserError(
                f'arch has a stage with {self.embed_dims} channels and '
                f'{self.num_heads} heads: heads must divide channels'
            )


class ScalableViTBlock(nn.Module):
    """Attention and feed-forward network, each added to its input (ScalableViT, section 3.1).

    Args:
        settings: Settings of the stage.
        attention: The block's attention module.
        drop_path_rate: Probability to leave out a residual branch of a sample in training.
        with_position: Add a depthwise convolution of the map to the result, the position encoding
            generator (PEG) of CPVT, arXiv 2102.10882.
    """

    def __init__(
        self,
        settings: ScalableViTSettings,
        attention: nn.Module,
        drop_path_rate: float,
        with_position: bool,
    ) -> None:
        super().__init__()
        dims = settings.embed_dims
        self.norm1 = LayerNorm2d(dims, eps=ScalableViT.NORM_EPS)
        self.attention = attention
        self.norm2 = LayerNorm2d(dims, eps=ScalableViT.NORM_EPS)
        self.ffn = FFN(dims, int(dims * settings.ffn_ratio))
        self.drop_path = DropPath(drop_path_rate)
        self.position = ResidualDepthwiseConv(dims) if with_position else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[batch, embed_dims, height, width] -> the same shape."""
        x = residual_add(x, self.drop_path(self.attention(self.norm1(x))))
        x = residual_add(x, self.drop_path(self.ffn(self.norm2(x))))
        return self.position(x)


@MODELS.register_module()
class ScalableViT(HierarchicalBackbone):
    """ScalableViT: window and scalable attention in turn, in four stages.

    Args:
        arch: ``'nano'`` (for demos and tests), ``'small'``, ``'base'``, ``'large'``, or a dict with
            the fields of :class:`ScalableViTSettings`, of which ``embed_dims``, ``depth`` and
            ``num_heads`` must be there. A field is a sequence with a value for each stage, or one
            for all.
        out_indices: Stages whose maps are returned, in the order of the stages, each behind a norm
            of its own; all if None. Stages after the last of them are not built.
        drop_path_rate: Stochastic depth rate of the last block of ``arch``, built or not; the first
            has 0, those between rise linearly.
        frozen_stages: Number of stages, with their embeddings and output norms, that are not
            trained, at most those that are built; 0 freezes the first embedding alone, -1 nothing.
        with_cp: Recompute the activations of each block in the backward pass to save memory.
        pretrain_img_size: Without effect, as the model has no bias tables; for configs that set it
            for each backbone.
        in_channels: Channels of the images. A pretrained first convolution for 3 is summed over
            them for 1, and repeated and scaled for another number.
        init_cfg: mmengine's initialization config; ``Pretrained`` takes the authors' checkpoints
            and ordinary ones alike.

    Input: Tensor[batch, in_channels, height, width] of any size. Output: a tuple of
    Tensor[batch, embed_dims[i], height / stride_i, width / stride_i], rounded up, with strides
    4, 8, 16, 32.

    Raises:
        UserError: If ``arch`` is unknown, has an unknown or missing field or does not fit together,
            or if an argument is out of range.

    Example:
        >>> backbone = ScalableViT(arch='nano')
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 90))]
        [(1, 16, 16, 23), (1, 32, 8, 12), (1, 64, 4, 6), (1, 128, 2, 3)]
    """

    ARCHITECTURES: ClassVar[Mapping[str, Mapping[str, Any]]] = SCALABLEVIT_ARCHITECTURES
    PUBLISHED_PREFIX = 'scalablevit'
    DEFAULTS: ClassVar[Mapping[str, Any]] = dict(reduction_ratio=(8, 4, 2, 1))
    SETTINGS = ScalableViTSettings
    PUBLISHED_HEAD = scalablevit_published.CLASSIFIER_HEAD
    PUBLISHED_NORM = scalablevit_published.CLASSIFIER_NORM
    NORM_EPS = 1e-6

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'small',
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
    def from_published(cls, **options: Any) -> 'ScalableViT':
        """Build the backbone that the authors' code builds from ``options`` of their configs.

        Args:
            options: ``embed_dims``, ``depths``, ``num_heads``, ``wss``, ``sr_ratios``, ... Options
                that their code ignores are ignored. This class's own arguments, but for ``arch``
                and ``pretrain_img_size``, may stand beside them.

        Raises:
            UserError: If an option is unknown, missing or of no use here.

        Example:
            >>> ScalableViT.from_published(embed_dims=[16, 32], depths=[1, 2], num_heads=[1, 2],
            ...                            wss=[7, 7], sr_ratios=[2, 1], c_ratios=[1.25, 1],
            ...                            out_indices=(1,)).settings[0].channel_ratio
            1.25
        """
        return cls(**scalablevit_published.scalablevit_arguments(options))

    def _build_embedding(
        self, stage: int, previous_dims: int, settings: ScalableViTSettings
    ) -> nn.Module:
        kernel_size, stride = (3, 2) if stage else (7, 4)
        return nn.Sequential(
            Conv2d(previous_dims, settings.embed_dims, kernel_size, stride, kernel_size // 2),
            LayerNorm2d(settings.embed_dims, eps=self.NORM_EPS),
        )

    def _build_blocks(
        self, settings: ScalableViTSettings, map_side: int, drop_path_rates: Iterator[float]
    ) -> Iterator[nn.Module]:
        dims, heads, bias = settings.embed_dims, settings.num_heads, settings.qkv_bias
        for index in range(settings.depth):
            attention: nn.Module
            if index % 2 == 0:
                attention = InteractiveWindowAttention(dims, heads, settings.window_size, bias)
            else:
                attention = ScalableAttention(
                    dims, heads, settings.reduction_ratio, settings.channel_ratio, bias
                )
            yield ScalableViTBlock(
                settings, attention, next(drop_path_rates), with_position=index == 0
            )

    def _published_modules(self) -> Iterator[tuple[str, str]]:
        return scalablevit_published.module_names(self.stages)

    def _published_parts(self, stage: int) -> tuple[str, ...]:
        return scalablevit_published.part_names(stage)
