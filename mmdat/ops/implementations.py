"""Which implementation of an operator runs."""
import functools
import warnings
from collections.abc import Mapping


def choose_implementation(operator: str, implementation: str, auto: str,
                          hindrances: Mapping[str, str | None], dropout_p: float) -> str:
    """The implementation that a caller's choice comes to.

    Args:
        operator: Its name, for messages.
        implementation: What the caller chose: ``'auto'`` or a key of ``hindrances``.
        auto: What ``'auto'`` stands for with these inputs.
        hindrances: For each implementation why it cannot run with these inputs, or None.
        dropout_p: Probability to drop a weight; above 0, ``'dense'`` runs, with one warning.

    Raises:
        ValueError: If there is no such implementation, if it cannot run, or if ``dropout_p`` is no
            probability.
    """
    if implementation not in ('auto', *hindrances):
        raise ValueError(f"{operator} has no implementation '{implementation}': choose from "
                         f"{', '.join(('auto', *hindrances))}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f'dropout_p must be at least 0 and below 1, got {dropout_p}')
    chosen = auto if implementation == 'auto' else implementation
    hindrance = hindrances[chosen]
    if hindrance is not None:
        raise ValueError(f"{operator} cannot run as '{chosen}': {hindrance}")
    if dropout_p > 0 and chosen != 'dense':
        _warn_of_dropout(operator)
        return 'dense'
    return chosen


@functools.cache
def _warn_of_dropout(operator: str) -> None:
    warnings.warn(f'{operator} with dropout holds all weights in memory, as only the dense '
                  'implementation has dropout', stacklevel=4)
