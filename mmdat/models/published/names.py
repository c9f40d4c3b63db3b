"""Names of the parameters in the authors' published checkpoints, and ours."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmdat.models.attentions import (
    DeformableAttention,
    InteractiveWindowAttention,
    NeighborhoodAttention,
    PyramidAttention,
    ScalableAttention,
    SlideAttention,
    WindowAttention,
)
from mmdat.models.layers import ConvFFN

# What a module's children and parameters are called, by ours.
_CHILDREN: dict[type[nn.Module], dict[str, str]] = {
    DeformableAttention: {
        'query': 'proj_q',
        'key': 'proj_k',
        'value': 'proj_v',
        'project': 'proj_out',
        'offsets.0': 'conv_offset.0',
        'offsets.1': 'conv_offset.1.norm',
        'offsets.3': 'conv_offset.3',
        'relative_position_bias_table': 'rpe_table',
        'position_bias_table': 'rpe_table',
        'position_bias_network': 'rpe_table',
        'position_conv': 'rpe_table',
    },
    NeighborhoodAttention: {'qkv': 'qkv', 'project': 'proj', 'relative_position_bias_table': 'rpb'},
    WindowAttention: {
        'qkv': 'proj_qkv',
        'project': 'proj_out',
        'relative_position_bias_table': 'relative_position_bias_table',
    },
    PyramidAttention: {
        'query': 'q',
        'key_value': 'kv',
        'project': 'proj',
        'reduction.0': 'proj_ds.0',
        'reduction.1': 'proj_ds.1.norm',
    },
    SlideAttention: {
        'qkv': 'qkv',
        'project': 'proj',
        'shifts': 'dep_conv',
        'deformed_shifts': 'dep_conv1',
        'relative_position_bias_table': 'relative_position_bias_table',
    },
    InteractiveWindowAttention: {'qkv': 'qkv', 'project': 'proj', 'local_interaction': 'lim_func'},
    ScalableAttention: {
        'query': 'q',
        'key': 'k',
        'value': 'v',
        'key_value': 'kv',
        'project': 'proj',
        'reduction.0': 'reduction.0',
        'reduction.1': 'reduction.1',
        'reduction.2': 'norm_act.0',
    },
}
_DAT_FFN = {
    False: {'expand': 'chunk.linear1', 'reduce': 'chunk.linear2'},
    True: {'expand': 'linear1.0', 'dwconv': 'dwc', 'reduce': 'linear2.0'},
}

Names = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class PublishedLayout:
    """How the authors name the parts of a family.

    Attributes:
        modules: Yields ours and theirs for the modules and single parameters of a backbone.
        unused: Yields their names of parameters that no computation of a backbone uses.
        classifier_norm: Their norm before the classification head, which is ours of the last stage.
        classifier_head: Theirs and ours (of mmpretrain) for the modules of the head.
    """

    modules: Callable[[Any], Names]
    unused: Callable[[Any], Iterator[str]]
    classifier_norm: str
    classifier_head: dict[str, str]


def published_names(backbone: Any) -> dict[str, str]:
    """The published name of each parameter of a backbone, by ours.

    Example:
        >>> from mmdat.models import DATPlusPlus
        >>> published_names(DATPlusPlus('nano'))['stages.1.blocks.1.norm2.weight']
        'stages.1.layer_norms.3.norm.weight'
    """
    modules = dict(backbone.PUBLISHED.modules(backbone))
    for stage in backbone.norms:
        modules[f'norms.{stage}'] = f'norms.{stage}.norm'
    names = {}
    for name, _ in backbone.named_parameters():
        module, leaf = name, ''
        while module not in modules:
            module, _, last = module.rpartition('.')
            leaf = f'.{last}{leaf}'
        names[name] = modules[module] + leaf
    return names


def _children(module: nn.Module, ours: str, theirs: str) -> Names:
    for child, published in _CHILDREN[type(module)].items():
        yield f'{ours}.{child}', f'{theirs}.{published}'


def _dat_modules(backbone: Any) -> Names:
    for s, (embedding, stage) in enumerate(zip(backbone.embeddings, backbone.stages, strict=True)):
        for index, layer in enumerate(embedding):
            published = f'down_projs.{s - 1}.{index}' if s else f'patch_proj.{index}'
            norm = '.norm' if isinstance(layer, nn.LayerNorm) else ''
            yield f'embeddings.{s}.{index}', published + norm
        for b, block in enumerate(stage.blocks):
            ours, theirs = f'stages.{s}.blocks.{b}', f'stages.{s}'
            yield f'{ours}.local_perception', f'{theirs}.local_perception_units.{b}'
            for name, published in _DAT_FFN[isinstance(block.ffn, ConvFFN)].items():
                yield f'{ours}.ffn.{name}', f'{theirs}.mlps.{b}.{published}'
            if _is_convnext(block):
                yield f'{ours}.dwconv', f'{theirs}.attns.{b}'
                yield f'{ours}.norm', f'{theirs}.ln_cnvnxt.{b}.norm'
                continue
            for branch in (0, 1):
                index = 2 * b + branch
                yield f'{ours}.norm{branch + 1}', f'{theirs}.layer_norms.{index}.norm'
                yield f'{ours}.scale{branch + 1}', f'{theirs}.layer_scales.{index}'
            yield from _children(block.attention, f'{ours}.attention', f'{theirs}.attns.{b}')


def _dat_unused(backbone: Any) -> Iterator[str]:
    for s, stage in enumerate(backbone.stages):
        for b, block in enumerate(stage.blocks):
            if _is_convnext(block):
                yield f'stages.{s}.layer_scales.{2 * b}.weight'
                yield f'stages.{s}.layer_scales.{2 * b + 1}.weight'
            elif isinstance(block.attention, DeformableAttention) and block.attention.pooled_keys:
                for leaf in ('0.weight', '0.bias', '1.norm.weight', '1.norm.bias', '3.weight'):
                    yield f'stages.{s}.attns.{b}.conv_offset.{leaf}'


def _is_convnext(block: nn.Module) -> bool:
    return not hasattr(block, 'attention')


def _scalablevit_modules(backbone: Any) -> Names:
    for s, stage in enumerate(backbone.stages):
        yield f'embeddings.{s}.0', f'patch_embeds.{s}.proj'
        yield f'embeddings.{s}.1', f'patch_embeds.{s}.norm'
        yield f'stages.{s}.blocks.0.position', f'pos_block.{s}.proj.0'
        for b, block in enumerate(stage.blocks):
            ours, theirs = f'stages.{s}.blocks.{b}', f'stages.{s}.{b}'
            yield f'{ours}.norm1', f'{theirs}.norm1'
            yield f'{ours}.norm2', f'{theirs}.norm2'
            yield f'{ours}.ffn.expand', f'{theirs}.mlp.fc1'
            yield f'{ours}.ffn.reduce', f'{theirs}.mlp.fc2'
            yield from _children(block.attention, f'{ours}.attention', f'{theirs}.attn')


def _scalablevit_unused(backbone: Any) -> Iterator[str]:
    return iter(())


DAT_LAYOUT = PublishedLayout(_dat_modules, _dat_unused, 'cls_norm.norm', {'cls_head': 'fc'})
SCALABLEVIT_LAYOUT = PublishedLayout(
    _scalablevit_modules,
    _scalablevit_unused,
    'norm',
    {'head.0': 'layers.0.fc', 'head.1': 'layers.0.norm', 'head.3': 'layers.1.fc'},
)
