"""Which implementation of an operator runs."""

import contextlib
import functools
import warnings
from collections.abc import Collection, Iterator, Mapping

# Of any operator.
IMPLEMENTATIONS = 'dense', 'tiled', 'fused'

# What 'auto' stands for, if a caller said so. A module's attribute, as torch.compile guards those.
_preferred: str | None = None


@contextlib.contextmanager
def prefer_implementation(name: str) -> Iterator[None]:
    """Let ``implementation='auto'`` stand for this one inside, where an operator can run it.

    For comparisons and to find faults, in all threads of the process. The backward pass of blocks
    that recompute their activations belongs inside, too.

    Raises:
        ValueError: If no operator has such an implementation.

    Example:
        >>> with prefer_implementation('dense'):
        ...     features = backbone(images)  # doctest: +SKIP
    """
    if name not in ('auto', *IMPLEMENTATIONS):
        raise ValueError(
            f"no operator has an implementation '{name}': choose from "
            f'{", ".join(("auto", *IMPLEMENTATIONS))}'
        )
    global _preferred
    before, _preferred = _preferred, name
    try:
        yield
    finally:
        _preferred = before


def choose_implementation(
    operator: str,
    implementation: str,
    auto: str,
    implementations: Collection[str],
    dropout_p: float,
    hindrances: Mapping[str, str] | None = None,
) -> str:
    """The implementation that a caller's choice comes to.

    Args:
        operator: Its name, for messages.
        implementation: What the caller chose: ``'auto'`` or one of ``implementations``.
        auto: What ``'auto'`` stands for with these inputs.
        implementations: Their names.
        dropout_p: Probability to drop a weight; above 0, ``'dense'`` runs, with one warning.
        hindrances: Why one of them cannot take these inputs.

    Raises:
        ValueError: If there is no such implementation, if it cannot take the inputs, or if
            ``dropout_p`` is no probability.
    """
    if implementation not in ('auto', *implementations):
        raise ValueError(
            f"{operator} has no implementation '{implementation}': choose from "
            f'{", ".join(("auto", *implementations))}'
        )
    hindrances = hindrances or {}
    if implementation in hindrances:
        raise ValueError(
            f"{operator} cannot run its implementation '{implementation}': "
            f'{hindrances[implementation]}'
        )
    if not 0 <= dropout_p < 1:
        raise ValueError(f'dropout_p must be at least 0 and below 1, got {dropout_p}')
    if implementation == 'auto':
        implementation = auto
        if (
            _preferred is not None
            and _preferred in implementations
            and _preferred not in hindrances
        ):
            implementation = _preferred
    if dropout_p > 0 and implementation != 'dense':
        _warn_of_dropout(operator)
        return 'dense'
    return implementation


@functools.cache
def _warn_of_dropout(operator: str) -> None:
    warnings.warn(
        f'{operator} with dropout holds all weights in memory, as only the dense '
        'implementation has dropout',
        stacklevel=4,
    )
