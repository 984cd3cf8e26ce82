"""For which times the network is asked for its list of calls: it cannot be asked for a number. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

T = TypeVar("T")

# The network's clock against ours, and how long a request may have been on its way.
WINDOW_BEFORE = timedelta(seconds=5)
WINDOW_AFTER = timedelta(seconds=90)
# Attempts that were placed this close to each other are looked for in one list: at 30 calls a second it has 38 pages,
# and no list has more than 50.
TOGETHER = timedelta(seconds=30)


def together(found: Iterable[T], at: Callable[[T], datetime]) -> Iterator[Sequence[T]]:
    """In the order of their times, those of one time together."""
    some: list[T] = []
    for one in sorted(found, key=at):
        if some and at(one) - at(some[0]) > TOGETHER:
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def window_of(first: datetime, last: datetime) -> tuple[datetime, datetime]:
    """The span in which the network has the calls of requests that were sent from `first` to `last`."""
    return first - WINDOW_BEFORE, last + WINDOW_AFTER
