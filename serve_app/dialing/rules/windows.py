"""When calls are allowed: hours of local days as moments of UTC, intersected over every zone and every rule.

Moments are whole seconds since 1970 (UTC). A local day is walked in stretches of one offset from UTC, so changes of
the clock need no special case: a start inside a skipped hour is the first minute after it, a start inside a repeated
hour is kept both times, and once the clock has reached the end of a window, the window does not open again when the
clock goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache, reduce
from zoneinfo import ZoneInfo

import holidays

from serve_app.dialing.rules.hours import DAY_MINUTES, Week, Window
from serve_app.dialing.rules.jurisdictions import DEFAULT, Jurisdiction, Jurisdictions

Span = tuple[int, int]
"""From the first second to the second after the last."""

PAGE_DAYS = 8
"""Windows are computed for eight days at a time, from the start of a UTC day on, and kept for whoever asks next."""
_DAY_S = 86_400
_STEP_S = 12 * 3600
# Local days that may reach into a page: offsets are up to 14 hours, and a window that opens the day before may last.
_DAYS_BEFORE, _DAYS_AFTER = 2, 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which a zone's offset from UTC is one."""

    start: int
    end: int
    offset_s: int


@dataclass(frozen=True, eq=False)
class Schedule:
    """The hours of a campaign, or the dated ones of the law, and the calendars whose holidays close them.

    Compared and hashed by identity: `schedules` makes one for each meaning.
    """

    hours: Week | Jurisdiction
    calendars: frozenset[str]
    """ISO 3166-1 or -2; of the law only where its rules close on holidays."""

    def windows(self, day: date) -> Sequence[Window]:
        """Those that open on this day; none where no rules are in force yet."""
        week = self.hours.week(day) if isinstance(self.hours, Jurisdiction) else self.hours
        return week[day.weekday()] if week is not None else ()

    def closed(self, day: date) -> bool:
        if isinstance(self.hours, Jurisdiction):
            rules = self.hours.rules(day)
            if rules is None or rules.holidays == "open":
                return False
        return any(is_holiday(calendar, day) for calendar in self.calendars)


@lru_cache(maxsize=4096)
def schedules(
    law: Jurisdictions, regions: frozenset[str], week: Week, *, observe_holidays: bool, with_holidays: bool
) -> tuple[Schedule, ...]:
    """The campaign's schedule, and that of every place where the callee may be.

    `with_holidays` False: as if there were none, to tell why a time is not allowed.
    """
    places = law.regions(regions)
    own = Schedule(week, places if observe_holidays and with_holidays else frozenset())
    legal = []
    for jurisdiction in law.of(regions):
        calendars = law.lawless(regions) if jurisdiction.region == DEFAULT else frozenset({jurisdiction.region})
        legal.append(Schedule(jurisdiction, calendars if with_holidays else frozenset()))
    return (own, *legal)


@lru_cache(maxsize=1024)
def is_zone(name: str) -> bool:
    """True if `name` is a time zone that is known here."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found, not a name, not a file
        return False
    return True


def is_holiday(region: str, day: date) -> bool:
    """True on a public holiday of the country, or of that part of it; every day where these are not known."""
    calendar = _calendar(region)
    return calendar is None or day in calendar


@cache
def _calendar(region: str) -> holidays.HolidayBase | None:
    country, _, part = region.partition("-")
    known = holidays.list_supported_countries()
    if country not in known:
        return None
    return holidays.country_holidays(country, subdiv=part if part in known[country] else None)


def page_of(moment: int) -> int:
    """The page to begin with for a moment: its day, counted from 1970 on."""
    return moment // _DAY_S


@lru_cache(maxsize=4096)
def open_spans(
    lead_zones: frozenset[str], number_zones: frozenset[str], schedules: tuple[Schedule, ...], page: int
) -> tuple[Span, ...]:
    """When calls may go on in every zone and by every schedule, from UTC day `page` on, for `PAGE_DAYS` days.

    Not reduced by the time that a call rings. Empty where no zone is known.
    """
    first, last = page * _DAY_S, (page + PAGE_DAYS) * _DAY_S
    start_day = datetime.fromtimestamp(first, UTC).date() - timedelta(days=_DAYS_BEFORE)
    days = [start_day + timedelta(days=n) for n in range(PAGE_DAYS + _DAYS_BEFORE + _DAYS_AFTER)]
    # Zones with one clock in this time are one.
    clocks = _clocks(lead_zones, number_zones, page)
    if not clocks:
        return ()
    allowed: list[Span] = [(first, last)]
    for schedule in schedules:
        for clock in clocks:
            allowed = intersection(allowed, _spans(clock, schedule, days))
            if not allowed:
                return ()
    return tuple(allowed)


def _clocks(lead_zones: frozenset[str], number_zones: frozenset[str], page: int) -> frozenset[tuple[Stretch, ...]]:
    """The clocks that may hang where the callee is.

    A lead's zone that is among the number's picks it out of them. One that is not contradicts the number: then the
    callee may be in either, because neither a wrong column nor a number that moved may cost anybody's sleep.
    """
    told = {stretches(zone, page) for zone in lead_zones}
    possible = {stretches(zone, page) for zone in number_zones}
    return frozenset(told if told and told <= possible else told | possible)


@lru_cache(maxsize=4096)
def stretches(zone: str, page: int) -> tuple[Stretch, ...]:
    """The offsets of a zone around a page, in order and without gaps. Raises ZoneInfoNotFoundError."""
    info = ZoneInfo(zone)
    at, end = (page - _DAYS_BEFORE - 1) * _DAY_S, (page + PAGE_DAYS + _DAYS_AFTER + 2) * _DAY_S
    offset, start = _offset(info, at), at
    found: list[Stretch] = []
    while at < end:
        following = min(at + _STEP_S, end)
        if (changed := _offset(info, following)) != offset:
            switch = _first_with(info, changed, at, following)
            found.append(Stretch(start, switch, offset))
            start, offset = switch, changed
        at = following
    return (*found, Stretch(start, end, offset))


def _offset(info: ZoneInfo, moment: int) -> int:
    offset = datetime.fromtimestamp(moment, info).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _first_with(info: ZoneInfo, offset: int, before: int, after: int) -> int:
    """The second at which the offset changes, between one with the old and one with the new."""
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (before, middle) if _offset(info, middle) == offset else (middle, after)
    return after


def _spans(clock: Sequence[Stretch], schedule: Schedule, days: Iterable[date]) -> list[Span]:
    opened: list[Span] = []
    closed: list[Span] = []
    for day in days:
        midnight = (day.toordinal() - date(1970, 1, 1).toordinal()) * _DAY_S
        if schedule.closed(day):
            closed += _walk(clock, midnight, midnight + DAY_MINUTES * 60)
            continue
        for start, end in schedule.windows(day):
            opened += _until_reached(clock, midnight + start * 60, midnight + end * 60)
    return without(union(opened), union(closed))


def _walk(clock: Sequence[Stretch], start: int, end: int) -> list[Span]:
    """Every moment at which the clock shows a time from `start` to before `end` (seconds of local time)."""
    shown = ((max(s.start, start - s.offset_s), min(s.end, end - s.offset_s)) for s in clock)
    return [(first, last) for first, last in shown if first < last]


def _until_reached(clock: Sequence[Stretch], start: int, end: int) -> list[Span]:
    """`_walk`, but over for good once the clock has reached `end`."""
    for count, stretch in enumerate(clock, 1):
        if stretch.end + stretch.offset_s >= end:
            return _walk(clock[:count], start, end)
    return _walk(clock, start, end)


def union(spans: Iterable[Span]) -> list[Span]:
    """In order, with those that touch or overlap made one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def intersection(some: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """Of two ordered lists."""
    common: list[Span] = []
    i = j = 0
    while i < len(some) and j < len(others):
        start, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if start < end:
            common.append((start, end))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return common


def without(spans: Sequence[Span], holes: Sequence[Span]) -> list[Span]:
    """An ordered list less another one."""
    return reduce(_less, holes, list(spans))


def _less(spans: list[Span], hole: Span) -> list[Span]:
    left = [part for start, end in spans for part in ((start, min(end, hole[0])), (max(start, hole[1]), end))]
    return [(start, end) for start, end in left if start < end]
