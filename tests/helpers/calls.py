"""Counting calls of functions, of which a loop over all pairs makes too many on any machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(calls: int) -> Iterator[None]:
    """Fail if more functions are called inside, and returned from, than so many."""
    events = 0

    def count(*_: object) -> None:
        nonlocal events
        events += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
    assert events <= 2 * calls, f'{events // 2} calls'
