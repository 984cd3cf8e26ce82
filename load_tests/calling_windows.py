"""`make bench-windows`: the calling windows against a walk of the wall clock, minute by minute, over 2026-2028.

The walk knows nothing of the engine's arithmetic: it asks for every minute what the clock on the wall shows, and keeps
what a window allows. It prints how many minutes the engine allows that the walk does not (illegal) and the other way
round (lost). Aims: none illegal, none lost.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import holidays
from rich.console import Console
from rich.table import Table

from serve_app.dialing.rules import Allow, CallingRules, Candidate, ConsentRule, Defer, Facts, decide, shipped
from serve_app.dialing.rules.jurisdictions import Jurisdictions, PlaceRules

YEARS = (2026, 2027, 2028)
FIRST, LAST = datetime(2026, 1, 1, tzinfo=UTC), datetime(2029, 1, 1, tzinfo=UTC)
MINUTE_S, DAY_S = 60, 86_400

Week = Mapping[int, Sequence[tuple[str, str]]]
"""Monday is 0; opening and closing time as HH:MM, the latter on the next day if it is not after the former."""

ALWAYS = {day: [("00:00", "24:00")] for day in range(7)}
NO_LAW = Jurisdictions(
    [
        PlaceRules.model_validate(
            {
                "region": "default",
                "name": "no hours but the campaign's",
                "versions": [
                    {
                        "effective_from": "2000-01-01",
                        "source": "this benchmark",
                        "hours": {"mon-sun": ["00:00-24:00"]},
                        "consent": {"marketing": ["written"], "informational": ["written"]},
                    }
                ],
            }
        )
    ]
)


@dataclass(frozen=True)
class Scenario:
    """What the engine is given, and what the walk is told of the same: zones and weeks that all have to be open."""

    name: str
    number: str
    walked_zones: Sequence[str]
    walked_weeks: Sequence[Week]
    hours: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"mon-sun": ("00:00-24:00",)})
    zones: tuple[str, ...] = ()
    region: str | None = None
    law: Jurisdictions = field(default_factory=shipped)
    ringing_s: int = 30
    closed: Collection[date] = ()


def _days(times: tuple[str, str], days: Collection[int] = range(7)) -> dict[int, list[tuple[str, str]]]:
    return {day: [times] for day in days}


WEEKDAYS, SATURDAY = range(5), [5]
FEDERAL = _days(("08:00", "21:00"))
CANADA = _days(("09:00", "21:30"), WEEKDAYS) | _days(("10:00", "18:00"), (5, 6))
AUSTRALIA = _days(("09:00", "20:00"), WEEKDAYS) | _days(("09:00", "17:00"), SATURDAY)
BRITAIN = _days(("09:00", "20:00"), WEEKDAYS) | _days(("10:00", "17:00"), SATURDAY)
ELSEWHERE = _days(("09:00", "18:00"), WEEKDAYS) | _days(("10:00", "16:00"), SATURDAY)
FRANCE = {day: [("10:00", "13:00"), ("14:00", "20:00")] for day in WEEKDAYS}


def _closed(country: str, part: str | None = None) -> frozenset[date]:
    # The first local day after these years begins before they are over in UTC.
    return frozenset(holidays.country_holidays(country, subdiv=part, years=(*YEARS, YEARS[-1] + 1)))


def scenarios() -> list[Scenario]:
    """The zones of the specification under the law of their places, then what is hard about clocks."""
    night = ("21:00", "02:00")
    return [
        Scenario("New York", "+12125551234", ["America/New_York"], [FEDERAL]),
        Scenario("Phoenix", "+16025551234", ["America/Phoenix"], [FEDERAL]),
        Scenario(
            "St. John's, by the lead",
            "+17095551234",
            ["America/St_Johns"],
            [CANADA],
            zones=("America/St_Johns",),
        ),
        Scenario("Kolkata", "+918012345678", ["Asia/Kolkata"], [ELSEWHERE], closed=_closed("IN")),
        Scenario("Kathmandu", "+97714123456", ["Asia/Kathmandu"], [ELSEWHERE], closed=_closed("NP")),
        Scenario(
            "Adelaide, by the lead",
            "+61882345678",
            ["Australia/Adelaide"],
            [AUSTRALIA],
            zones=("Australia/Adelaide",),
            closed=_closed("AU"),
        ),
        Scenario(
            "Lord Howe, by the lead",
            "+61412345678",
            ["Australia/Lord_Howe"],
            [AUSTRALIA],
            zones=("Australia/Lord_Howe",),
            closed=_closed("AU") | _closed("CC") | _closed("CX"),
        ),
        Scenario("Chatham", "+6433055555", ["Pacific/Chatham"], [ELSEWHERE], closed=_closed("NZ"), ringing_s=90),
        Scenario("London", "+442071234567", ["Europe/London"], [BRITAIN], closed=_closed("GB")),
        Scenario("Dublin", "+35312345678", ["Europe/Dublin"], [ELSEWHERE], closed=_closed("IE")),
        Scenario("Paris, with its noon", "+33123456789", ["Europe/Paris"], [FRANCE], closed=_closed("FR")),
        Scenario("+1 709: two zones", "+17095551234", ["America/St_Johns", "America/Halifax"], [CANADA], ringing_s=90),
        Scenario("+1 208: two zones", "+12085551234", ["America/Boise", "America/Los_Angeles"], [FEDERAL]),
        Scenario(
            "area code of New York, address in Alabama",
            "+12125551234",
            ["America/New_York", "America/Chicago"],
            [FEDERAL, _days(("08:00", "20:00"), range(6))],
            zones=("America/Chicago",),
            region="US-AL",
            closed=_closed("US", "AL"),
        ),
        Scenario("by night, New York", "+12125551234", ["America/New_York"], [_days(night, WEEKDAYS)],
                 hours={"mon-fri": ("21:00-02:00",)}, law=NO_LAW),
        Scenario("ends in the hour that is skipped or repeated, New York", "+12125551234", ["America/New_York"],
                 [_days(("20:00", "01:30"))], hours={"mon-sun": ("20:00-01:30",)}, law=NO_LAW),
        Scenario("starts in it, New York", "+12125551234", ["America/New_York"],
                 [_days(("02:15", "06:00"))], hours={"mon-sun": ("02:15-06:00",)}, law=NO_LAW),
        Scenario("starts in the repeated hour, New York", "+12125551234", ["America/New_York"],
                 [_days(("01:30", "05:00"))], hours={"mon-sun": ("01:30-05:00",)}, law=NO_LAW),
        Scenario("lies in it, Lord Howe's half an hour", "+61412345678", ["Australia/Lord_Howe"],
                 [_days(("01:40", "02:20"))], hours={"mon-sun": ("01:40-02:20",)}, zones=("Australia/Lord_Howe",),
                 law=NO_LAW),
        Scenario("round midnight, Chatham", "+6433055555", ["Pacific/Chatham"], [_days(("22:00", "03:00"), (4, 5, 6))],
                 hours={"fri-sun": ("22:00-03:00",)}, law=NO_LAW, ringing_s=90),
        Scenario("clock goes back at midnight, Havana", "+5371234567", ["America/Havana"],
                 [_days(("23:30", "00:30"))], hours={"mon-sun": ("23:30-00:30",)}, law=NO_LAW),
    ]  # fmt: skip


def walk(scenario: Scenario, first: datetime, last: datetime) -> bytearray:
    """For every minute from `first` to before `last`: 1 if a call may begin."""
    # A call that begins rings through this many more minutes, and each of them has to be open.
    ringing = (scenario.ringing_s - 1) // MINUTE_S
    minutes = (last - first) // timedelta(minutes=1)
    open_all = bytearray(b"\x01") * (minutes + ringing)
    closed = {day.toordinal() for day in scenario.closed}
    for zone in scenario.walked_zones:
        for week in scenario.walked_weeks:
            open_here = _walk_one(ZoneInfo(zone), _minutes(week), closed, int(first.timestamp()), len(open_all))
            open_all = bytearray(a & b for a, b in zip(open_all, open_here, strict=True))
    return bytearray(all(open_all[n : n + ringing + 1]) for n in range(minutes))


def _walk_one(
    zone: ZoneInfo, week: list[list[tuple[int, int]]], closed: set[int], first: int, minutes: int
) -> bytearray:
    shown = bytearray(minutes)
    over: set[tuple[int, int]] = set()  # windows whose end the clock has reached
    before = 3 * DAY_S // MINUTE_S  # as the clock may have gone back just before the first minute
    for n in range(-before, minutes):
        wall = datetime.fromtimestamp(first + n * MINUTE_S, zone)
        today, minute = wall.toordinal(), wall.hour * 60 + wall.minute
        for days_ago in (0, 1):
            day, since_midnight = today - days_ago, minute + days_ago * 1440
            for opens, closes in week[(day - 1) % 7]:
                if since_midnight >= closes:
                    over.add((day, opens))
                elif since_midnight >= opens and (day, opens) not in over and not {day, today} & closed and n >= 0:
                    shown[n] = 1
    return shown


def _minutes(week: Week) -> list[list[tuple[int, int]]]:
    found: list[list[tuple[int, int]]] = []
    for day in range(7):
        spans = [(_minute(opens), _minute(closes)) for opens, closes in week.get(day, ())]
        found.append([(opens, closes if closes > opens else closes + 1440) for opens, closes in spans])
    return found


def _minute(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def decided(scenario: Scenario, first: datetime, last: datetime) -> bytearray:
    """The same by `decide`, asked again whenever an answer is over."""
    facts, candidate = facts_of(scenario), Candidate(scenario.number, scenario.zones, scenario.region)
    allowed = bytearray((last - first) // timedelta(minutes=1))
    now = first
    while now < last:
        decision = decide(candidate, facts, now)
        if isinstance(decision, Allow):
            assert decision.until is not None and decision.until > now
            begin, end = (-((first - at) // timedelta(minutes=1)) for at in (now, min(decision.until, last)))
            allowed[begin:end] = b"\x01" * (end - begin)
            now = decision.until
        elif isinstance(decision, Defer):
            assert decision.until > now
            now = decision.until
        else:
            raise AssertionError(f"{scenario.name} at {now}: {decision}")
    return allowed


def facts_of(scenario: Scenario) -> Facts:
    """Everything but the time allows the call."""
    return Facts(
        rules=CallingRules(
            countries=("US", "CA", "IN", "NP", "AU", "NZ", "GB", "IE", "FR", "CU"),
            hours=scenario.hours,
            observe_holidays=False,
            consent=ConsentRule(required="none", reason="nobody is called in this benchmark"),
            purpose="informational",
        ),
        law=scenario.law,
        ringing_s=scenario.ringing_s,
        simulated_network=True,
        allowed_numbers=frozenset(),
        switches=frozenset(),
        tenant_active=True,
        campaign_running=True,
        listed=False,
        listed_globally=False,
        consents=(),
        scrubbed_at=None,
        attempted_at=(),
        campaign_attempts=0,
        minutes_left=None,
        spend_left_minor=None,
        reserve_minor=0,
        calls_left_today=None,
        caller_free_at=FIRST - timedelta(days=1),
    )


@dataclass(frozen=True)
class Finding:
    scenario: str
    legal: int
    illegal: int
    lost: int


def compare(scenario: Scenario, first: datetime, last: datetime) -> Finding:
    """Count minutes: legal by the walk; allowed though they are not legal; legal and not allowed."""
    right, said = walk(scenario, first, last), decided(scenario, first, last)
    illegal = sum(1 for a, b in zip(right, said, strict=True) if b and not a)
    lost = sum(1 for a, b in zip(right, said, strict=True) if a and not b)
    return Finding(scenario.name, sum(right), illegal, lost)


def main() -> int:
    """Run all over three years. The exit code is 1 if a minute is illegal."""
    table = Table(title="Calling windows against the wall clock, minutes of 2026-2028", title_justify="left")
    for column in ("scenario", "legal", "illegal (aim 0)", "lost (aim 0)", ""):
        table.add_column(column, justify="left" if column in ("scenario", "") else "right", no_wrap=True)
    found = [compare(scenario, FIRST, LAST) for scenario in scenarios()]
    for row in found:
        passed = row.illegal == 0 and row.lost == 0
        table.add_row(row.scenario, f"{row.legal:,}", f"{row.illegal}", f"{row.lost}", "PASS" if passed else "MISS")
    Console(width=max(Console().width, 120)).print(table)
    illegal, lost = sum(row.illegal for row in found), sum(row.lost for row in found)
    print(f"{illegal} illegal minutes, {lost} lost minutes in {len(found)} scenarios")
    return 1 if illegal else 0


if __name__ == "__main__":
    sys.exit(main())
