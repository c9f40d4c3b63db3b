"""Which implementation of an operator runs."""
import functools
import warnings
from collections.abc import Collection


def choose_implementation(operator: str, implementation: str, auto: str,
                          implementations: Collection[str], dropout_p: float) -> str:
    """The implementation that a caller's choice comes to.

    Args:
        operator: Its name, for messages.
        implementation: What the caller chose: ``'auto'`` or one of ``implementations``.
        auto: What ``'auto'`` stands for with these inputs.
        implementations: Their names.
        dropout_p: Probability to drop a weight; above 0, ``'dense'`` runs, with one warning.

    Raises:
        ValueError: If there is no such implementation, or if ``dropout_p`` is no probability.
    """
    if implementation not in ('auto', *implementations):
        raise ValueError(f"{operator} has no implementation '{implementation}': choose from "
                         f"{', '.join(('auto', *implementations))}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f'dropout_p must be at least 0 and below 1, got {dropout_p}')
    chosen = auto if implementation == 'auto' else implementation
    if dropout_p > 0 and chosen != 'dense':
        _warn_of_dropout(operator)
        return 'dense'
    return chosen


@functools.cache
def _warn_of_dropout(operator: str) -> None:
    warnings.warn(f'{operator} with dropout holds all weights in memory, as only the dense '
                  'implementation has dropout', stacklevel=4)
