"""Checks of the options of the authors' configs, and the arguments that all backbones take."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmdat.errors import UserError, suggest

# Arguments of our backbones that may stand beside the authors' options.
ARGUMENTS = frozenset(
    {'out_indices', 'drop_path_rate', 'frozen_stages', 'with_cp', 'in_channels', 'init_cfg'}
)
# Options for the classifier alone, and switches of dropout that our backbones do not have.
COMMON_OPTIONS = frozenset({'img_size', 'patch_size', 'num_classes', 'drop_rate', 'attn_drop_rate'})


def make_arguments(arch: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a backbone for an architecture and what stands beside it in the options."""
    beside = {name: value for name, value in options.items() if name in ARGUMENTS}
    return dict(arch=arch, pretrain_img_size=options.get('img_size', 224), **beside)


def check_names(
    options: Mapping[str, Any], known: Collection[str], required: Iterable[str]
) -> None:
    """Refuse options that are unknown, missing or of no use here."""
    valid = {*known, *COMMON_OPTIONS, *ARGUMENTS}
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


def check_lengths(options: Mapping[str, Any], per_stage: Collection[str], dims: str) -> None:
    """Refuse an option that does not have a value for each stage."""
    if not _is_sequence(options[dims]):
        raise UserError(
            f"option '{dims}' must be a list with the channels of each stage, got {options[dims]!r}"
        )
    stages = len(options[dims])
    for name, value in options.items():
        if name in per_stage and not (_is_sequence(value) and len(value) == stages):
            raise UserError(
                f"option '{name}' needs a value for each of the {stages} stages, got {value!r}"
            )


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple)
