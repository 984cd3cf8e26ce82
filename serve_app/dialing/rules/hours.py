"""Hours of the week as people write them, `mon-fri: ["09:00-13:00", "14:00-20:00"]`, and as minutes of a day.

A window that ends at or before its start runs past midnight and belongs to the day on which it opens. What is malformed
is an error that names the field: nothing is ever read as "always open".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60

Window = tuple[int, int]
"""Minutes after local midnight of the day on which it opens; the end is after the start, maybe on the next day."""

Week = tuple[tuple[Window, ...], ...]
"""Seven days from Monday on, each with its windows in order, apart from each other."""

_DAYS = re.compile(rf"({'|'.join(DAYS)})(?:-({'|'.join(DAYS)}))?")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:(24):(00)|([01]\d|2[0-3]):([0-5]\d))", re.ASCII)


def parse_week(hours: Mapping[str, Sequence[str]]) -> Week:
    """Read the hours of a week. A day that is not named is closed. Raises ValueError, which names the entry."""
    week: list[tuple[Window, ...] | None] = [None] * len(DAYS)
    for days, windows in hours.items():
        for day in _days(days):
            if week[day] is not None:
                raise ValueError(f"{days}: {DAYS[day]} is named twice; give each day once")
            week[day] = _joined([parse_window(window) for window in windows])
    return tuple(windows or () for windows in week)


def parse_window(text: str) -> Window:
    """`09:00-17:30`, `21:00-02:00` (past midnight), `00:00-24:00` (the whole day). Raises ValueError."""
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no span of time; write it as 09:00-17:30, with 24 hours and two digits")
    digits = [int(group) for group in found.groups() if group is not None]
    start, end = digits[0] * 60 + digits[1], digits[2] * 60 + digits[3]
    if start == end:
        raise ValueError(f"{text!r} begins when it ends; write 00:00-24:00 for a whole day, or leave the day out")
    return start, end if end > start else end + DAY_MINUTES


def _days(text: str) -> range:
    found = _DAYS.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no day of the week; write mon, tue, wed, thu, fri, sat or sun, or a range, mon-fri"
        )
    first = DAYS.index(found[1])
    last = DAYS.index(found[2]) if found[2] else first
    if last < first:
        raise ValueError(f"{text!r} runs backwards; write the days from Monday to Sunday, for example sat-sun")
    return range(first, last + 1)


def _joined(windows: list[Window]) -> tuple[Window, ...]:
    """In order, with those that touch or overlap made one."""
    joined: list[Window] = []
    for start, end in sorted(windows):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)
