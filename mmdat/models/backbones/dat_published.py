"""Names in the checkpoints and configs of the authors of DAT and DAT++, and ours."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from mmdat.errors import UserError
from mmdat.models.attentions import (
    DeformableAttention,
    NeighborhoodAttention,
    PyramidAttention,
    SlideAttention,
    WindowAttention,
)
from mmdat.models.layers import FFN, ConvFFN

from .published_options import check_lengths, check_names, make_arguments

# The authors' name of a classifier's norm, and of each module of its head by mmpretrain's name.
CLASSIFIER_NORM = 'cls_norm.norm'
CLASSIFIER_HEAD = {'fc': 'cls_head'}

# Our name and theirs for the parts of an attention or a feed-forward network.
PARTS: dict[type[nn.Module], dict[str, str]] = {
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
    FFN: {'expand': 'chunk.linear1', 'reduce': 'chunk.linear2'},
    ConvFFN: {'expand': 'linear1.0', 'dwconv': 'dwc', 'reduce': 'linear2.0'},
}

PER_STAGE_OPTIONS = frozenset(
    {
        'dims',
        'depths',
        'heads',
        'stage_spec',
        'window_sizes',
        'groups',
        'use_pes',
        'dwc_pes',
        'fixed_pes',
        'log_cpb',
        'no_offs',
        'strides',
        'offset_range_factor',
        'ksizes',
        'nat_ksizes',
        'sr_ratios',
        'layer_scale_values',
        'use_dwc_mlps',
        'use_lpus',
    }
)
# Options that configs set to None where they do not use them.
MAY_BE_NONE = frozenset({'sr_ratios', 'log_cpb', 'layer_scale_values'})
# The authors' code takes these and does nothing with them.
IGNORED_OPTIONS = frozenset(
    {
        'ns_per_pts',
        'heads_q',
        'nqs',
        'ksize_qnas',
        'qna_activation',
        'lower_lr_kvs',
        'local_orf',
        'local_kv_sizes',
        'offset_pes',
        'ape',
    }
)
OPTIONS = PER_STAGE_OPTIONS | IGNORED_OPTIONS | {'expansion', 'dim_stem', 'use_conv_patches'}


def module_names(embeddings: nn.ModuleList, stages: nn.ModuleList) -> Iterator[tuple[str, str]]:
    """Our name and theirs for each module of a backbone of these parts, but its output norms."""
    for s, embedding in enumerate(embeddings):
        for index, layer in embedding.named_children():
            published = f'down_projs.{s - 1}.{index}' if s else f'patch_proj.{index}'
            norm = '.norm' if isinstance(layer, nn.LayerNorm) else ''
            yield f'embeddings.{s}.{index}', published + norm
    for s, b, block in _blocks(stages):
        ours, theirs = f'stages.{s}.blocks.{b}', f'stages.{s}'
        yield f'{ours}.local_perception', f'{theirs}.local_perception_units.{b}'
        for part, published in PARTS[type(block.get_submodule('ffn'))].items():
            yield f'{ours}.ffn.{part}', f'{theirs}.mlps.{b}.{published}'
        if _is_convnext(block):
            yield f'{ours}.dwconv', f'{theirs}.attns.{b}'
            yield f'{ours}.norm', f'{theirs}.ln_cnvnxt.{b}.norm'
            continue
        for branch in (0, 1):
            yield f'{ours}.norm{branch + 1}', f'{theirs}.layer_norms.{2 * b + branch}.norm'
            yield f'{ours}.scale{branch + 1}', f'{theirs}.layer_scales.{2 * b + branch}'
        for part, published in PARTS[type(block.get_submodule('attention'))].items():
            yield f'{ours}.attention.{part}', f'{theirs}.attns.{b}.{published}'


def part_names(stage: int) -> tuple[str, ...]:
    """Their names of the parts of a stage after the first, beside ``stages.<stage>``."""
    return (f'down_projs.{stage - 1}',)


def unused_names(stages: nn.ModuleList) -> Iterator[str]:
    """Their names of the parameters that no computation of these stages uses."""
    for s, b, block in _blocks(stages):
        if _is_convnext(block):
            yield f'stages.{s}.layer_scales.{2 * b}.weight'
            yield f'stages.{s}.layer_scales.{2 * b + 1}.weight'
        elif isinstance(block.attention, DeformableAttention) and block.attention.pooled_keys:
            for leaf in ('0.weight', '0.bias', '1.norm.weight', '1.norm.bias', '3.weight'):
                yield f'stages.{s}.attns.{b}.conv_offset.{leaf}'


def dat_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``DAT`` and ``DATPlusPlus`` for options of their authors' configs.

    Raises:
        UserError: If an option is unknown, missing or of no use here.
    """
    check_names(options, OPTIONS, required=('dims', 'heads', 'stage_spec'))
    options = {
        name: value
        for name, value in options.items()
        if value is not None or name not in MAY_BE_NONE
    }
    check_lengths(options, PER_STAGE_OPTIONS, 'dims')
    dims, blocks = options['dims'], [''.join(letters) for letters in options['stage_spec']]
    if options.get('dim_stem', dims[0]) != dims[0]:
        raise UserError(
            f"option 'dim_stem' is {options['dim_stem']}, but the first of 'dims' is "
            f'{dims[0]}: they must be equal'
        )
    depths = options.get('depths', [len(letters) for letters in blocks])
    if [len(letters) for letters in blocks] != list(depths):
        raise UserError(
            f"option 'depths' is {list(depths)}, but 'stage_spec' has "
            f'{[len(letters) for letters in blocks]} blocks: they must agree'
        )
    values, all_blocks = _reader(options, blocks), ''.join(blocks)
    arch = dict(
        embed_dims=tuple(dims),
        blocks=tuple(blocks),
        num_heads=tuple(options['heads']),
        groups=values('groups', 'D', unused=1),
        stride=values('strides', 'D', unused=1),
        offset_kernel_size=values('ksizes', 'D', unused=1, absent=(9, 7, 5, 3)),
        offset_range=tuple(
            None if factor < 0 else factor
            for factor in values('offset_range_factor', 'D', unused=-1)
        ),
        pooled_keys=values('no_offs', 'D', unused=False, absent=False),
        position_bias=_position_biases(values),
        window_size=values('window_sizes', 'LSX', unused=1),
        neighborhood_size=values('nat_ksizes', 'N', unused=1),
        reduction_ratio=values('sr_ratios', 'P', unused=1, absent=1),
        ffn_ratio=options.get('expansion', 4),
        conv_ffn=values('use_dwc_mlps', all_blocks, absent=False),
        local_perception=values('use_lpus', all_blocks, absent=False),
        layer_scale=tuple(
            max(0.0, value) for value in values('layer_scale_values', all_blocks, absent=0.0)
        ),
        conv_embedding=options.get('use_conv_patches', False),
    )
    return make_arguments(arch, options)


def _blocks(stages: nn.ModuleList) -> Iterator[tuple[int, int, nn.Module]]:
    """Yield each block with the index of its stage and its index in there."""
    for s, stage in enumerate(stages):
        for b, block in enumerate(stage.get_submodule('blocks').children()):
            yield s, b, block


def _is_convnext(block: nn.Module) -> bool:
    return not hasattr(block, 'attention')


def _reader(options: Mapping[str, Any], blocks: list[str]) -> Callable[..., tuple]:
    """A function that reads an option's value for each stage of these blocks."""

    def values(name: str, letters: str, *, unused: Any = None, absent: Any = None) -> tuple:
        """Values of stages with one of the ``letters``, ``unused`` for the others.

        An option that is missing has the value ``absent``, or its value for each stage.
        """
        used = [bool(set(letters) & set(stage)) for stage in blocks]
        if name not in options and any(used) and absent is None:
            raise UserError(f"option '{name}' is missing: blocks {', '.join(letters)} need it")
        default = absent if isinstance(absent, tuple) else (absent,) * len(blocks)
        given = options.get(name, default)
        return tuple(given[stage] if is_used else unused for stage, is_used in enumerate(used))

    return values


def _position_biases(values: Callable[..., tuple]) -> tuple[str, ...]:
    """The position bias of the deformable attention of each stage."""
    switches = [
        values(name, 'D', unused=False, absent=False)
        for name in ('no_offs', 'use_pes', 'dwc_pes', 'fixed_pes', 'log_cpb')
    ]
    return tuple(_position_bias(*stage) for stage in zip(*switches, strict=True))


def _position_bias(pooled: bool, biased: bool, depthwise: bool, fixed: bool, log: bool) -> str:
    """The bias that the authors' code chooses where several of its switches are on."""
    if pooled and depthwise:
        raise UserError(
            "options 'no_offs' and 'dwc_pes' exclude each other in a stage: unset one of them"
        )
    if pooled or not biased:
        return 'none'
    if depthwise:
        return 'depthwise'
    if fixed:
        return 'fixed'
    if log:
        return 'log'
    return 'table'
