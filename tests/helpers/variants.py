"""Backbones that together have every kind of block, for tests that all must pass."""

from typing import Any

from mmdat.models import DAT, DATPlusPlus, ScalableViT

_SMALL = dict(embed_dims=(16, 32), num_heads=(1, 2), stride=(4, 2), offset_kernel_size=(5, 3))
# name -> class, arch
VARIANTS: dict[str, tuple[type, Any]] = {
    'dat': (DAT, 'nano'),
    'dat_pp': (DATPlusPlus, 'nano'),
    'scalablevit': (ScalableViT, 'nano'),
    'plain': (DAT, dict(_SMALL, blocks=('LS', 'LD'), offset_range=2)),
    'neighbors': (DATPlusPlus, dict(_SMALL, blocks='ND')),
    'local_blocks': (
        DATPlusPlus,
        dict(_SMALL, blocks=('PEXN', 'PSL'), reduction_ratio=(4, 1), layer_scale=0.1),
    ),
    'pooled_keys': (DATPlusPlus, dict(_SMALL, blocks='D', pooled_keys=True, position_bias='none')),
    'patch_offsets': (
        DATPlusPlus,
        dict(_SMALL, blocks='D', offset_kernel_size=(4, 2), offset_range=2, groups=(1, 2)),
    ),
    'no_bias': (DATPlusPlus, dict(_SMALL, blocks='D', position_bias='none', conv_ffn=False)),
    'fixed_bias': (DATPlusPlus, dict(_SMALL, blocks='D', position_bias='fixed')),
    'log_bias': (DATPlusPlus, dict(_SMALL, blocks='D', position_bias='log', groups=(1, 2))),
    'depthwise_bias': (DATPlusPlus, dict(_SMALL, blocks='D', position_bias='depthwise')),
    'few_channels': (
        ScalableViT,
        dict(
            embed_dims=(12, 24),
            depth=(3, 2),
            num_heads=(1, 3),
            reduction_ratio=(3, 1),
            channel_ratio=(0.5, 1.5),
            ffn_ratio=2.5,
            window_size=4,
            qkv_bias=False,
        ),
    ),
}
NANO = ('dat', 'dat_pp', 'scalablevit')
# Each kind of block, position bias and embedding once, for what takes long with each block.
TRACED: dict[str, tuple[type, Any]] = {
    'dat_blocks': (DAT, dict(_SMALL, blocks=('LS', 'XD'), offset_range=2)),
    'dat_pp_blocks': (
        DATPlusPlus,
        dict(
            embed_dims=(16, 16, 32, 32),
            num_heads=(1, 1, 2, 2),
            blocks=('PD', 'ED', 'ND', 'D'),
            position_bias=('none', 'fixed', 'log', 'depthwise'),
            pooled_keys=(True, False, False, False),
            groups=(1, 1, 2, 1),
            stride=(8, 2, 2, 1),
            offset_kernel_size=(9, 2, 3, 3),
            reduction_ratio=4,
            layer_scale=0.1,
        ),
    ),
    'scalablevit_blocks': VARIANTS['few_channels'],
}


def build(name: str, **options: Any) -> Any:
    """A small backbone of a name in ``VARIANTS`` or ``TRACED``."""
    family, arch = (VARIANTS | TRACED)[name]
    return family(arch, **{'pretrain_img_size': 64} | options)
