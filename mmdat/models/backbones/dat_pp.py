"""DAT++ backbone (Xia et al., DAT++: Spatially Dynamic Vision Transformer with Deformable
Attention, arXiv 2309.01430).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from mmdat.registry import MODELS

from .dat import DAT

PUBLISHED_BLOCKS = ('ND', 'NDND', 'ND' * 9, 'DD')


@MODELS.register_module()
class DATPlusPlus(DAT):
    """DAT++: deformable and neighborhood attention in four stages, with convolutions between.

    Arguments and errors are those of :class:`DAT`; it differs in the named architectures and in the
    fields that a custom one may leave out.

    Input: Tensor[batch, 3, height, width] of any size. Output: a tuple of
    Tensor[batch, embed_dims[i], height / stride_i, width / stride_i], rounded up, with strides
    4, 8, 16, 32.

    Example:
        >>> backbone = DATPlusPlus(arch='nano')
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 90))]
        [(1, 16, 16, 23), (1, 32, 8, 12), (1, 64, 4, 6), (1, 128, 2, 3)]
    """

    ARCHITECTURES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        'nano': dict(
            embed_dims=(16, 32, 64, 128),
            num_heads=(1, 2, 4, 8),
            groups=(1, 1, 2, 4),
            blocks=('ND', 'ND', 'ND', 'DD'),
        ),
        'tiny': dict(
            embed_dims=(64, 128, 256, 512),
            num_heads=(2, 4, 8, 16),
            groups=(1, 2, 4, 8),
            blocks=PUBLISHED_BLOCKS,
        ),
        'small': dict(
            embed_dims=(96, 192, 384, 768),
            num_heads=(3, 6, 12, 24),
            groups=(1, 2, 3, 6),
            blocks=PUBLISHED_BLOCKS,
        ),
        'base': dict(
            embed_dims=(128, 256, 512, 1024),
            num_heads=(4, 8, 16, 32),
            groups=(2, 4, 8, 16),
            blocks=PUBLISHED_BLOCKS,
        ),
    }
    DEFAULTS: ClassVar[Mapping[str, Any]] = dict(
        stride=(8, 4, 2, 1),
        offset_kernel_size=(9, 7, 5, 3),
        conv_ffn=True,
        local_perception=True,
        conv_embedding=True,
    )
