"""Options of the authors' configs, and the fields of our architectures that they stand for."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from mmdat.errors import UserError, suggest

# Arguments of the backbones that may stand beside the options.
_OURS = frozenset({'out_indices', 'drop_path_rate', 'frozen_stages', 'with_cp', 'init_cfg'})
# The classifier's part, and switches of dropout that our backbones do not have.
_COMMON = frozenset({'img_size', 'patch_size', 'num_classes', 'drop_rate', 'attn_drop_rate'})
_DAT_OPTIONS = frozenset(
    {
        'expansion',
        'dim_stem',
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
        'use_conv_patches',
    }
)
_DAT_NONE_IS_ABSENT = frozenset({'sr_ratios', 'log_cpb', 'layer_scale_values'})
_DAT_IGNORED = frozenset(
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
_SCALABLEVIT_OPTIONS = frozenset(
    {'embed_dims', 'num_heads', 'depths', 'wss', 'sr_ratios', 'c_ratios', 'mlp_ratios', 'qkv_bias'}
)
_SCALABLEVIT_IGNORED = frozenset({'in_chans'})


def dat_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``DAT`` and ``DATPlusPlus`` for options of their authors' configs.

    Raises:
        UserError: If an option is unknown, missing or of no use here.
    """
    _check_names(options, _DAT_OPTIONS, _DAT_IGNORED, required=('dims', 'heads', 'stage_spec'))
    options = {
        name: value
        for name, value in options.items()
        if value is not None or name not in _DAT_NONE_IS_ABSENT
    }
    dims, blocks = options['dims'], [''.join(letters) for letters in options['stage_spec']]
    _check_lengths(options, len(dims), scalars=('expansion', 'dim_stem', 'use_conv_patches'))
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
    values = _per_stage(options, blocks)
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
        conv_ffn=values('use_dwc_mlps', 'LSDNPXE', absent=False),
        local_perception=values('use_lpus', 'LSDNPXE', absent=False),
        layer_scale=tuple(
            max(0.0, value) for value in values('layer_scale_values', 'LSDNPXE', absent=0.0)
        ),
        conv_embedding=options.get('use_conv_patches', False),
    )
    return _arguments(arch, options)


def scalablevit_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``ScalableViT`` for options of its authors' configs.

    Raises:
        UserError: If an option is unknown, missing or of no use here.
    """
    _check_names(
        options,
        _SCALABLEVIT_OPTIONS,
        _SCALABLEVIT_IGNORED,
        required=('embed_dims', 'num_heads', 'depths', 'sr_ratios', 'c_ratios'),
    )
    if options.get('in_chans', 3) != 3:
        raise UserError(f"option 'in_chans' must be 3, got {options['in_chans']}")
    _check_lengths(options, len(options['embed_dims']), scalars=('qkv_bias', 'in_chans'))
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
    return _arguments(arch, options)


def _arguments(arch: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    ours = {name: value for name, value in options.items() if name in _OURS}
    return dict(arch=arch, pretrain_img_size=options.get('img_size', 224), **ours)


def _per_stage(options: Mapping[str, Any], blocks: list[str]) -> Callable[..., tuple]:
    """A function that gives an option's values for the stages, and defaults where it may lack."""

    def values(name: str, letters: str, *, unused: Any = None, absent: Any = None) -> tuple:
        """Values of stages with one of the ``letters``; ``unused`` for the others."""
        used = [bool(set(letters) & set(stage)) for stage in blocks]
        if name not in options and any(used) and absent is None:
            raise UserError(f"option '{name}' is missing: blocks {', '.join(letters)} need it")
        default = absent if isinstance(absent, tuple) else (absent,) * len(blocks)
        given = options.get(name, default)
        return tuple(given[stage] if is_used else unused for stage, is_used in enumerate(used))

    return values


def _position_biases(values: Callable[..., tuple]) -> tuple[str, ...]:
    """In the published order of precedence."""
    switches = [
        values(name, 'D', unused=False, absent=False)
        for name in ('no_offs', 'use_pes', 'dwc_pes', 'fixed_pes', 'log_cpb')
    ]
    biases = []
    for pooled, biased, depthwise, fixed, log in zip(*switches, strict=True):
        if pooled and depthwise:
            raise UserError(
                "options 'no_offs' and 'dwc_pes' exclude each other in a stage: unset one of them"
            )
        if pooled or not biased:
            biases.append('none')
        else:
            biases.append(
                'depthwise' if depthwise else 'fixed' if fixed else 'log' if log else 'table'
            )
    return tuple(biases)


def _check_names(
    options: Mapping[str, Any],
    known: Collection[str],
    ignored: Collection[str],
    required: Iterable[str],
) -> None:
    valid = {*known, *ignored, *_COMMON, *_OURS}
    for name in options:
        if name not in valid:
            raise UserError(f"the published models have no option '{name}': {suggest(name, valid)}")
    for name in required:
        if name not in options:
            raise UserError(f"option '{name}' is missing: give a value for each stage")
    if options.get('patch_size', 4) != 4:
        raise UserError(f"option 'patch_size' must be 4, got {options['patch_size']}")
    for name in ('drop_rate', 'attn_drop_rate'):
        if options.get(name, 0) != 0:
            raise UserError(
                f"option '{name}' must be 0, got {options[name]}: the backbones drop paths alone"
            )


def _check_lengths(options: Mapping[str, Any], stages: int, scalars: Collection[str]) -> None:
    for name in (_DAT_OPTIONS | _SCALABLEVIT_OPTIONS) & set(options):
        value = options[name]
        if name not in scalars and (not isinstance(value, (list, tuple)) or len(value) != stages):
            raise UserError(
                f"option '{name}' needs a value for each of the {stages} stages, got {value!r}"
            )
