"""Errors that the user can mend, and how they name what was meant."""

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from traceback import extract_tb

Warn = Callable[[str], object]  # is told what may be wrong
MOST_ALLOWED = 24  # names that a sentence lists
# What PyTorch, on CPUs and GPUs, OpenCV and the system say where they get no memory.
NO_MEMORY = re.compile(
    "[Cc]an(no|')t allocate memory|out of memory|ALLOC_FAILED|bad_alloc|Insufficient memory"
)
MOST_LETTERS = 400  # of another package's sentence, which may hold all of a data set's classes


class UserError(ValueError):
    """A mistake in what the user gave, told in one sentence.

    Command-line tools print the sentence and end with status 1, without a traceback.
    """


def suggest(name: str, valid: Iterable[str]) -> str:
    """End of a sentence that refuses ``name``: the nearest valid name, or what is allowed.

    Example:
        >>> suggest('drop_path_rat', ['drop_path_rate', 'arch'])
        "did you mean 'drop_path_rate'?"
        >>> suggest('adamw', ['AdamW', 'SGD'])
        "did you mean 'AdamW'?"
        >>> suggest('depth', ['arch', 'out_indices'])
        "allowed are 'arch' and 'out_indices'"
        >>> suggest('depth', map(str, range(99)))[-12:]
        ' and 75 more'
    """
    names = sorted(valid)
    if close := nearest(name, names):
        return f'did you mean {close!r}?'
    return f'allowed are {enumerate_names(names, most=MOST_ALLOWED)}'


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The valid name that is spelled most like ``name``, or None if none is.

    Args:
        cutoff: How alike they must be, as ``difflib`` has it.

    Example:
        >>> nearest('adamw', ['AdamW', 'SGD']), nearest('Lion', ['AdamW', 'SGD'])
        ('AdamW', None)
    """
    lowercase = {each.lower(): each for each in valid}
    close = get_close_matches(name.lower(), lowercase, n=1, cutoff=cutoff)
    return lowercase[close[0]] if close else None


def enumerate_names(names: Iterable[str], most: int = 8) -> str:
    """Enumerate names in a sentence, at most so many of them.

    Example:
        >>> enumerate_names(['a', 'b', 'c'])
        "'a', 'b' and 'c'"
    """
    quoted = [f"'{name}'" for name in names]
    if len(quoted) > most:
        quoted[most:] = [f'{len(quoted) - most} more']
    return ' and '.join(filter(None, [', '.join(quoted[:-1]), *quoted[-1:]])) or 'none'


def list_first(names: Iterable[str], most: int = 3) -> str:
    """List the first of many names, and how many more there are.

    Example:
        >>> list_first(['norm.weight', 'norm.bias', 'head.weight', 'head.bias'])
        'norm.weight, norm.bias, head.weight and 1 more'
    """
    names = list(names)
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def reason(error: BaseException) -> str:
    r"""What an exception of another package says, in one line that is not long.

    Of one that says nothing, the line of code that raised it.

    Example:
        >>> reason(ValueError('too high\nsee the manual')), reason(KeyError('model'))
        ('too high', "KeyError: 'model'")
        >>> len(reason(ValueError(list(range(1000)))))
        403
        >>> len(reason(KeyError('k' * 1000)))
        413
    """
    said = next(iter(str(error).strip().splitlines()), '')
    line = said
    if not said and (raised := extract_tb(error.__traceback__, limit=-1)):
        line = raised[0].line or ''  # as of an assertion, whose condition then says it
    line = line if len(line) <= MOST_LETTERS else f'{line[:MOST_LETTERS]}...'
    if said and not isinstance(error, KeyError):  # which holds a name alone
        return line
    return ': '.join(filter(None, [type(error).__name__, line]))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, whatever its type, says that there is too little memory."""
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))
