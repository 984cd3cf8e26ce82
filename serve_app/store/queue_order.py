"""Which of the leads that are due is called first.

A lead's place is a moment: the time from which it is due, earlier by what it is worth. So who matters more goes first,
who waited long enough goes before everybody, and the order is an index that never has to be recomputed. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

NORMAL_PRIORITY = 5
HIGHEST_PRIORITY = 10

PER_PRIORITY = timedelta(hours=2)
HIGH_VALUE_POINTS = 2
URGENT_POINTS = 1
URGENT_TAGS = frozenset({"urgent", "appointment", "reminder"})
FRESH = timedelta(hours=12)
"""A lead that was never called goes before a retry, for half a day."""
HOT_TAGS = frozenset({"hot", "inbound", "web"})
HOT = timedelta(days=3)
"""Someone who has just asked to be called."""
CALLBACK = timedelta(days=30)
"""An appointment to call back at a time: before all others once that time has come."""


def queue_at(
    next_at: datetime,
    *,
    priority: int = NORMAL_PRIORITY,
    high_value: bool = False,
    tags: Collection[str] = (),
    fresh: bool = True,
    callback: bool = False,
) -> datetime:
    """The place of a lead that is due at `next_at`: smaller goes first. `fresh`: it was never called."""
    words = {tag.lower() for tag in tags}
    points = priority + HIGH_VALUE_POINTS * high_value + URGENT_POINTS * bool(words & URGENT_TAGS)
    place = next_at - PER_PRIORITY * min(points, HIGHEST_PRIORITY)
    if callback:
        return place - CALLBACK
    if words & HOT_TAGS:
        place -= HOT
    return place - FRESH if fresh else place
