"""Which implementation of an operator runs, and why another cannot."""

import contextlib
from collections.abc import Collection, Iterator, Mapping

from .tracing import is_exporting

# Union over all operators; each supports a subset.
IMPLEMENTATIONS = 'dense', 'tiled', 'fused', 'traced', 'compiled', 'product'

# What 'auto' stands for inside prefer_implementation. A global variable rather than a context
# variable, because torch.compile recompiles when a global changes.
_preferred: str | None = None


@contextlib.contextmanager
def prefer_implementation(name: str) -> Iterator[None]:
    """Let ``implementation='auto'`` mean this implementation, wherever an operator can run it.

    For comparisons and to find faults, in all threads of the process. The backward pass of blocks
    that recompute their activations belongs inside, too.

    Raises:
        ValueError: If no operator has such an implementation.

    Example:
        >>> from mmdat.ops import neighborhood_attention
        >>> query, key, value = torch.rand(3, 1, 2, 9, 12, 16)
        >>> with prefer_implementation('dense'):
        ...     neighborhood_attention(query, key, value, torch.zeros(2, 13, 13)).shape
        torch.Size([1, 2, 9, 12, 16])
    """
    names = 'auto', *IMPLEMENTATIONS
    if name not in names:
        raise ValueError(
            f"no operator has an implementation '{name}': choose from {', '.join(names)}"
        )
    global _preferred
    before, _preferred = _preferred, name
    try:
        yield
    finally:
        _preferred = before


def is_compiled(operator: str, requested: str, reason: str | None) -> bool:
    """Decide between the equation, ``'dense'``, and kernels in C++, ``'compiled'``.

    Args:
        operator: Name of the operator, for messages.
        requested: What the caller asked for.
        reason: Why there are no kernels for these inputs; None if there are.

    Raises:
        ValueError: If the requested implementation does not exist or cannot take the inputs.
    """
    default, unsupported = ('dense', {'compiled': reason}) if reason else ('compiled', {})
    implementations = 'dense', 'compiled'
    chosen = choose_implementation(operator, requested, default, implementations, unsupported)
    return chosen == 'compiled'


def choose_implementation(
    operator: str,
    requested: str,
    default: str,
    implementations: Collection[str],
    unsupported: Mapping[str, str] | None = None,
) -> str:
    """Decide which implementation of an operator runs.

    Args:
        operator: Name of the operator, for messages.
        requested: What the caller asked for: ``'auto'`` or one of ``implementations``.
        default: What ``'auto'`` means for these inputs.
        implementations: All that the operator has.
        unsupported: Those that cannot take these inputs, each with the reason.

    Returns:
        One of ``implementations``.

    Raises:
        ValueError: If the requested implementation does not exist or cannot take the inputs.
    """
    names = 'auto', *implementations
    if requested not in names:
        raise ValueError(
            f"{operator} has no implementation '{requested}': choose from {', '.join(names)}"
        )
    unsupported = unsupported or {}
    if requested in unsupported:
        raise ValueError(
            f"{operator} cannot run its implementation '{requested}': {unsupported[requested]}"
        )
    if requested != 'auto':
        return requested
    if is_exporting() and 'traced' in implementations:
        return 'traced'
    if _preferred is None or _preferred not in implementations or _preferred in unsupported:
        return default
    return _preferred
