"""Architectures: named ones in tables, and the settings of each stage from an architecture."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from mmdat.errors import UserError, suggest


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Base of what a family builds a stage from; checks each field against its type."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not fits(value, field.type):
                wanted = getattr(field.type, '__name__', str(field.type))
                raise UserError(
                    f"arch field '{field.name}' must be {wanted}, in each stage, got {value!r}"
                )
            if field.type is int and value < 1:
                raise UserError(f"arch field '{field.name}' must be at least 1, got {value}")
            if field.name.endswith('_ratio') and value <= 0:
                raise UserError(f"arch field '{field.name}' must be positive, got {value}")


Settings = TypeVar('Settings', bound=StageSettings)


def tabulate(*fields: str, **rows: Sequence) -> dict[str, dict[str, Any]]:
    """Named architectures from a table with a row of values for each.

    Example:
        >>> tabulate('embed_dims', 'depth', tiny=((32, 64), 2), small=((64, 128), 4))['small']
        {'embed_dims': (64, 128), 'depth': 4}
    """
    return {name: dict(zip(fields, row, strict=True)) for name, row in rows.items()}


def stage_settings(
    kind: type[Settings], arch: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> tuple[Settings, ...]:
    """The settings of each stage.

    Args:
        kind: The family's settings.
        arch: Values of their fields: a sequence with one for each stage, or one for all stages.
            ``embed_dims`` is a sequence, its length the number of stages.
        defaults: Values of fields that ``arch`` does not have, for at least as many stages.

    Raises:
        UserError: If a field is unknown or missing, or if values do not fit.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Width(StageSettings):
        ...     embed_dims: int
        ...     num_heads: int
        >>> stage_settings(Width, dict(embed_dims=(32, 64), num_heads=2))[1]
        Width(embed_dims=64, num_heads=2)
    """
    valid = {field.name: field.default for field in fields(kind)}
    for name in arch:
        if name not in valid:
            raise UserError(f"unknown field '{name}' in arch: {suggest(name, valid)}")
    missing = [name for name, default in valid.items() if default is MISSING and name not in arch]
    if missing:
        raise UserError(f"arch has no '{missing[0]}': give a value for each stage")
    if not _is_sequence(arch['embed_dims']) or not arch['embed_dims']:
        raise UserError(
            "arch field 'embed_dims' must be a list with the channels of each stage, "
            f'got {arch["embed_dims"]!r}'
        )
    stages = len(arch['embed_dims'])
    given = {
        name: value[:stages] if _is_sequence(value) else value
        for name, value in (defaults or {}).items()
    } | dict(arch)
    for name, value in given.items():
        if _is_sequence(value) and len(value) != stages:
            raise UserError(
                f"arch field '{name}' needs a value for each of the {stages} stages, got {value!r}"
            )
    return tuple(
        kind(
            **{
                name: value[stage] if _is_sequence(value) else value
                for name, value in given.items()
            }
        )
        for stage in range(stages)
    )


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type: a number is no bool, and an int will do for a float.

    Example:
        >>> fits(2, float), fits(True, int), fits(None, float | None)
        (True, False, True)
    """
    if isinstance(value, bool):
        return kind is bool
    if kind is float or kind == float | None:
        return isinstance(value, kind | int)
    return isinstance(value, kind)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
