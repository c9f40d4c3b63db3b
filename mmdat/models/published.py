"""Names of the parameters in the authors' published checkpoints, and ours."""
from torch import nn

from .attentions import DeformableAttention, NeighborhoodAttention
from .backbones import DATPlusPlus

_CONV_STEM = {'stem.0': 'patch_proj.0', 'stem.1': 'patch_proj.1.norm',
              'stem.3': 'patch_proj.3', 'stem.4': 'patch_proj.4.norm'}
_CONV_FFN = {'expand': 'linear1.0', 'dwconv': 'dwc', 'reduce': 'linear2.0'}
_ATTENTIONS: dict[type[nn.Module], dict[str, str]] = {
    DeformableAttention: {
        'query': 'proj_q', 'key': 'proj_k', 'value': 'proj_v', 'project': 'proj_out',
        'offsets.0': 'conv_offset.0', 'offsets.1': 'conv_offset.1.norm',
        'offsets.3': 'conv_offset.3', 'relative_position_bias_table': 'rpe_table'},
    NeighborhoodAttention: {
        'qkv': 'qkv', 'project': 'proj', 'relative_position_bias_table': 'rpb'},
}


def published_names(backbone: DATPlusPlus) -> dict[str, str]:
    """The published name of each parameter of a backbone, by ours.

    Example:
        >>> published_names(DATPlusPlus('nano'))['stages.1.blocks.1.norm2.weight']
        'stages.1.layer_norms.3.norm.weight'
    """
    modules = dict(_CONV_STEM)
    for index in range(len(backbone.downsamples)):
        modules[f'downsamples.{index}.0'] = f'down_projs.{index}.0'
        modules[f'downsamples.{index}.1'] = f'down_projs.{index}.1.norm'
    for s, stage in enumerate(backbone.stages):
        for b, block in enumerate(stage.get_submodule('blocks').children()):
            ours, theirs = f'stages.{s}.blocks.{b}', f'stages.{s}'
            modules[f'{ours}.local_perception'] = f'{theirs}.local_perception_units.{b}'
            modules[f'{ours}.norm1'] = f'{theirs}.layer_norms.{2 * b}.norm'
            modules[f'{ours}.norm2'] = f'{theirs}.layer_norms.{2 * b + 1}.norm'
            for name, published in _ATTENTIONS[type(block.get_submodule('attention'))].items():
                modules[f'{ours}.attention.{name}'] = f'{theirs}.attns.{b}.{published}'
            for name, published in _CONV_FFN.items():
                modules[f'{ours}.ffn.{name}'] = f'{theirs}.mlps.{b}.{published}'
    for index_name in backbone.norms:
        modules[f'norms.{index_name}'] = f'norms.{index_name}.norm'
    names = {}
    for name, _ in backbone.named_parameters():
        module, _, leaf = name.rpartition('.')
        names[name] = modules[name] if name in modules else f'{modules[module]}.{leaf}'
    return names
