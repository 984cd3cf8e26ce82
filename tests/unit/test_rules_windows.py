"""Calling windows against the wall clock: a sample of what `make bench-windows` walks in full."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from load_tests.calling_windows import FIRST, LAST, compare, facts_of, scenarios
from serve_app.dialing.rules import Allow, Candidate, Defer, decide, shipped
from serve_app.dialing.rules.hours import parse_week
from serve_app.dialing.rules.windows import (
    PAGE_DAYS,
    Schedule,
    intersection,
    open_spans,
    schedules,
    stretches,
    union,
    without,
)

SCENARIOS = {scenario.name: scenario for scenario in scenarios()}


def changes_of_the_clock(zone: str) -> list[datetime]:
    info, found, day = ZoneInfo(zone), [], FIRST
    while day < LAST:
        if day.astimezone(info).utcoffset() != (day + timedelta(days=1)).astimezone(info).utcoffset():
            found.append(day)
        day += timedelta(days=1)
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_minute_is_illegal_and_none_is_lost(name: str) -> None:
    """Around two changes of the clock, where there are any, and around the turn of a year with its holidays."""
    scenario = SCENARIOS[name]
    changes = changes_of_the_clock(scenario.walked_zones[0])
    days = [*changes[1:3], datetime(2027, 12, 28, tzinfo=UTC)]
    for day in days:
        found = compare(scenario, day - timedelta(days=2), day + timedelta(days=3))
        assert found.legal > 0
        assert (found.illegal, found.lost) == (0, 0), f"around {day:%Y-%m-%d}"


def test_the_specified_zones_are_all_walked() -> None:
    walked = {zone for scenario in SCENARIOS.values() for zone in scenario.walked_zones}
    assert walked >= {
        "America/New_York",
        "America/Phoenix",
        "America/St_Johns",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Australia/Adelaide",
        "Australia/Lord_Howe",
        "Pacific/Chatham",
        "Europe/London",
        "Europe/Dublin",
    }


def test_the_comparison_tells_a_window_that_is_too_long() -> None:
    """It can fail: the engine is given an hour more than the walk, on the five nights that end in the first week."""
    right = SCENARIOS["by night, New York"]
    wrong = replace(right, hours={"mon-fri": ("21:00-03:00",)})
    found = compare(wrong, FIRST, FIRST + timedelta(days=7))
    assert (found.illegal, found.lost) == (5 * 60, 0)
    found = compare(replace(right, hours={"mon-fri": ("21:00-01:00",)}), FIRST, FIRST + timedelta(days=7))
    assert (found.illegal, found.lost) == (0, 5 * 60)


@settings(max_examples=60)
@given(st.integers(0, 3 * 365 * 86_400 * 10), st.sampled_from(sorted(SCENARIOS)))
def test_any_answer_holds_until_the_moment_it_names(tenths: int, name: str) -> None:
    scenario, now = SCENARIOS[name], FIRST + timedelta(seconds=tenths / 10)
    candidate, facts = Candidate(scenario.number, scenario.zones, scenario.region), facts_of(scenario)
    decision = decide(candidate, facts, now)
    second = timedelta(seconds=1)
    if isinstance(decision, Allow):
        assert decision.until is not None and decision.until > now
        assert isinstance(decide(candidate, facts, decision.until - second), Allow)
        # A page of eight days may cut an endless permission; the scenarios all close sooner.
        assert isinstance(decide(candidate, facts, decision.until), Defer)
    else:
        assert isinstance(decision, Defer) and decision.until > now
        assert isinstance(decide(candidate, facts, decision.until), Allow)
        # The reason may be another one by then: first a holiday, then the hours of the next day.
        still = decide(candidate, facts, decision.until - second)
        assert isinstance(still, Defer) and still.until == decision.until


@pytest.mark.parametrize(
    ("hours", "opens", "closes"),
    [
        # 2026-03-08: 02:00 to 03:00 does not exist in New York, and 07:00 UTC is 03:00 there.
        ("02:30-05:00", "2026-03-08T07:00", "2026-03-08T09:00"),
        ("01:00-02:30", "2026-03-08T06:00", "2026-03-08T07:00"),
        # 2026-11-01: 01:00 to 02:00 comes twice, first at 05:00 UTC.
        ("00:00-01:30", "2026-11-01T04:00", "2026-11-01T05:30"),
        ("02:00-04:00", "2026-11-01T07:00", "2026-11-01T09:00"),
    ],
)
def test_windows_at_a_change_of_the_clock(hours: str, opens: str, closes: str) -> None:
    start, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (opens, closes))
    week = parse_week({"sun": [hours]})
    page = int(start.timestamp()) // 86_400
    zone = frozenset({"America/New_York"})
    spans = open_spans(zone, frozenset(), (Schedule(week, frozenset()),), page)
    assert spans[0] == (int(start.timestamp()), int(end.timestamp()))


def test_a_zone_has_one_offset_in_each_stretch_and_no_gaps() -> None:
    for zone in ("America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "America/Havana", "Asia/Kathmandu"):
        for page in range(20_454, 21_550, PAGE_DAYS):
            found = stretches(zone, page)
            assert all(one.end == following.start for one, following in pairwise(found))
            for one in found:
                for second in (one.start, one.end - 1):
                    offset = datetime.fromtimestamp(second, ZoneInfo(zone)).utcoffset()
                    assert offset == timedelta(seconds=one.offset_s)


def test_a_state_that_closes_on_holidays_closes_on_its_own() -> None:
    """Mardi Gras 2026 is a holiday in Louisiana, not in Texas."""
    louisiana = schedules(shipped(), frozenset({"US-LA"}), parse_week({"mon-sun": ["00:00-24:00"]}),
                          observe_holidays=False, with_holidays=True)  # fmt: skip
    texas = schedules(shipped(), frozenset({"US-TX"}), parse_week({"mon-sun": ["00:00-24:00"]}),
                      observe_holidays=False, with_holidays=True)  # fmt: skip
    mardi_gras = date(2026, 2, 17)
    assert any(schedule.closed(mardi_gras) for schedule in louisiana)
    assert not any(schedule.closed(mardi_gras) for schedule in texas)


def test_before_its_rules_are_in_force_a_place_is_closed() -> None:
    italy = next(law for law in shipped().of(frozenset({"IT"})) if law.region == "IT")
    assert Schedule(italy, frozenset()).windows(date(2024, 9, 27)) == ()
    assert Schedule(italy, frozenset()).windows(date(2024, 9, 30)) != ()


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1])), max_size=6)


@given(SPANS, SPANS)
def test_spans_are_sets_of_moments(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    def moments(spans: list[tuple[int, int]]) -> set[int]:
        return {moment for start, end in spans for moment in range(start, end)}

    a, b = union(some), union(others)
    assert moments(a) == moments(some)
    assert moments(intersection(a, b)) == moments(a) & moments(b)
    assert moments(without(a, b)) == moments(a) - moments(b)
    assert all(one[1] < following[0] for one, following in pairwise(a))
