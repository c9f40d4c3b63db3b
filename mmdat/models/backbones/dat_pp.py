"""DAT++ backbone (Xia et al., DAT++: Spatially Dynamic Vision Transformer with Deformable
Attention, arXiv 2309.01430).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from mmdat.models.arch import tabulate
from mmdat.registry import MODELS

from .dat import DAT

PUBLISHED_BLOCKS = ('ND', 'NDND', 'ND' * 9, 'DD')

# fmt: off
DAT_PP_ARCHITECTURES = tabulate(
    'embed_dims',                 'num_heads',     'groups',       'blocks',
    nano =((16, 32, 64, 128),     (1, 2, 4, 8),    (1, 1, 2, 4),  ('ND', 'ND', 'ND', 'DD')),
    tiny =((64, 128, 256, 512),   (2, 4, 8, 16),   (1, 2, 4, 8),  PUBLISHED_BLOCKS),
    small=((96, 192, 384, 768),   (3, 6, 12, 24),  (1, 2, 3, 6),  PUBLISHED_BLOCKS),
    base =((128, 256, 512, 1024), (4, 8, 16, 32),  (2, 4, 8, 16), PUBLISHED_BLOCKS),
)
# fmt: on


@MODELS.register_module()
class DATPlusPlus(DAT):
    """DAT++: deformable and neighborhood attention in four stages, with convolutions between.

    Arguments and errors are those of :class:`DAT`; it differs in the named architectures and in the
    fields that a custom one may leave out.

    Input: Tensor[batch, in_channels, height, width] of any size. Output: a tuple of
    Tensor[batch, embed_dims[i], height / stride_i, width / stride_i], rounded up, with strides
    4, 8, 16, 32.

    Example:
        >>> backbone = DATPlusPlus(arch='nano')
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 90))]
        [(1, 16, 16, 23), (1, 32, 8, 12), (1, 64, 4, 6), (1, 128, 2, 3)]
    """

    ARCHITECTURES: ClassVar[Mapping[str, Mapping[str, Any]]] = DAT_PP_ARCHITECTURES
    PUBLISHED_PREFIX = 'dat_pp'
    DEFAULTS: ClassVar[Mapping[str, Any]] = dict(
        stride=(8, 4, 2, 1),
        offset_kernel_size=(9, 7, 5, 3),
        conv_ffn=True,
        local_perception=True,
        conv_embedding=True,
    )
