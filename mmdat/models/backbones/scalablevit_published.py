"""Names in the checkpoints and configs of the authors of ScalableViT, and ours."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from mmdat.models.attentions import InteractiveWindowAttention, ScalableAttention

from .published_options import check_lengths, check_names, make_arguments

# The authors' name of a classifier's norm, and of each module of its head by mmpretrain's name.
CLASSIFIER_NORM = 'norm'
CLASSIFIER_HEAD = {'layers.0.fc': 'head.0', 'layers.0.norm': 'head.1', 'layers.1.fc': 'head.3'}

# Our name and theirs for the parts of an attention.
ATTENTION_PARTS: dict[type[nn.Module], dict[str, str]] = {
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

PER_STAGE_OPTIONS = frozenset(
    {'embed_dims', 'num_heads', 'depths', 'wss', 'sr_ratios', 'c_ratios', 'mlp_ratios'}
)
OPTIONS = PER_STAGE_OPTIONS | {'qkv_bias', 'in_chans'}


def module_names(stages: nn.ModuleList) -> Iterator[tuple[str, str]]:
    """Our name and theirs for each module of a backbone with these stages, but its norms."""
    for s, stage in enumerate(stages):
        yield f'embeddings.{s}.0', f'patch_embeds.{s}.proj'
        yield f'embeddings.{s}.1', f'patch_embeds.{s}.norm'
        yield f'stages.{s}.blocks.0.position', f'pos_block.{s}.proj.0'
        for b, block in stage.get_submodule('blocks').named_children():
            ours, theirs = f'stages.{s}.blocks.{b}', f'stages.{s}.{b}'
            yield f'{ours}.norm1', f'{theirs}.norm1'
            yield f'{ours}.norm2', f'{theirs}.norm2'
            yield f'{ours}.ffn.expand', f'{theirs}.mlp.fc1'
            yield f'{ours}.ffn.reduce', f'{theirs}.mlp.fc2'
            for part, published in ATTENTION_PARTS[type(block.get_submodule('attention'))].items():
                yield f'{ours}.attention.{part}', f'{theirs}.attn.{published}'


def part_names(stage: int) -> tuple[str, ...]:
    """Their names of the parts of a stage, beside ``stages.<stage>``."""
    return f'patch_embeds.{stage}', f'pos_block.{stage}'


def scalablevit_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``ScalableViT`` for options of its authors' configs.

    Raises:
        UserError: If an option is unknown, missing or of no use here.
    """
    check_names(options, OPTIONS, ('embed_dims', 'num_heads', 'depths', 'sr_ratios', 'c_ratios'))
    check_lengths(options, PER_STAGE_OPTIONS, 'embed_dims')
    arch = dict(
        embed_dims=tuple(options['embed_dims']),
        depth=tuple(options['depths']),
        num_heads=tuple(options['num_heads']),
        window_size=options.get('wss', 7),
        reduction_ratio=tuple(options['sr_ratios']),
        channel_ratio=tuple(options['c_ratios']),
        ffn_ratio=options.get('mlp_ratios', 4),
        qkv_bias=options.get('qkv_bias', True),
    )
    return dict(in_channels=options.get('in_chans', 3)) | make_arguments(arch, options)
