"""A clock for demonstrations: rules and retries go by it, everything that is stored is real time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from serve_app.dialing.batch_choice import BatchChooser, Conditions
from serve_app.dialing.campaign_clock import REAL_TIME, CampaignClock, campaign_clock
from serve_app.dialing.plans import shipped_plans
from serve_app.dialing.rules import shipped
from serve_app.dialing.settling import go_by
from serve_app.errors import SettingsError
from serve_app.settings import DialingSettings, Settings, SimulatedClockSettings, load_settings
from serve_app.store.attempts import Attempts
from serve_app.store.campaign_rows import CampaignRow
from serve_app.store.db import Database
from tests.unit.campaign_support import OWN, TENANT, claim, end, lead_of, send
from tests.unit.test_rules_claims import running

pytest_plugins = ("tests.unit.store_fixtures",)

MONDAY = datetime(2026, 10, 19, 9, tzinfo=ZoneInfo("America/New_York"))
CLOCK = CampaignClock(MONDAY.astimezone(UTC), 60)
NEW_YORK, CHICAGO, HONOLULU, SYDNEY = "+12125550100", "+12145550100", "+18085550100", "+61255500000"
RULES = {
    "countries": ["US", "AU"],
    "purpose": "informational",
    "consent": {"required": "none", "reason": "customers who asked to be called back"},
}
CONDITIONS = Conditions(
    law=shipped(),
    plans=shipped_plans(),
    ringing_s=43,
    simulated_network=True,
    queue_timeout_s=30,
    own_number=OWN,
    clock=CLOCK,
)


@pytest.fixture
def settled_by_it() -> Iterator[None]:
    go_by(CLOCK)
    yield
    go_by(REAL_TIME)


def started(row: CampaignRow) -> datetime:
    assert row.started_at is not None
    return row.started_at


async def feed(db: Database, row: CampaignRow, now: datetime, conditions: Conditions = CONDITIONS) -> Any:
    return await claim(db, row, BatchChooser(conditions, 9, now), now=now)


def test_it_shows_its_beginning_at_the_start_and_runs_on_from_there() -> None:
    start = datetime(2027, 5, 4, 3, 2, 1, tzinfo=UTC)
    time = CLOCK.of(start)
    assert time.shows(start) == MONDAY
    assert time.shows(start + timedelta(seconds=90)) == MONDAY + timedelta(minutes=90)
    assert time.when(MONDAY + timedelta(hours=6)) == start + timedelta(minutes=6)
    assert time.lasts(1.5) == 90


def test_real_time_changes_nothing() -> None:
    now = datetime(2027, 5, 4, 3, 2, 1, 987_654, tzinfo=UTC)
    for time in (REAL_TIME.of(now), CLOCK.of(None)):
        assert time.shows(now) == time.when(now) == now
        assert time.lasts(1.25) == 1.25


async def test_windows_open_by_it_and_are_kept_in_real_time(db: Database) -> None:
    row = await running(db, NEW_YORK, CHICAGO, HONOLULU, SYDNEY, rules=RULES)
    start = started(row)
    claimed = await feed(db, row, start)
    assert [held.lead.number for held in claimed.leads] == [NEW_YORK]
    assert claimed.put_off == {"outside_window": 3}
    # Nine in Chicago is an hour away, in Honolulu six; Tuesday has begun in Sydney and opens nine hours from now. The
    # first ten minutes of an opening are spread.
    for number, hours in ((CHICAGO, 1), (HONOLULU, 6), (SYDNEY, 9)):
        lead = await lead_of(db, row, number)
        assert timedelta() <= lead.next_at - (start + timedelta(minutes=hours)) <= timedelta(seconds=10), number
    attempt = await Attempts(db, TENANT).get(claimed.leads[0].attempt_id)
    assert attempt is not None and attempt.give_up_at == start + timedelta(seconds=30)


async def test_no_phone_rings_beyond_the_end_of_a_window_however_long_it_may_ring(db: Database) -> None:
    """43 s of ringing are 43 minutes by the clock."""
    row = await running(db, NEW_YORK, "+12125550101", rules=RULES | {"hours": {"mon": ["09:00-12:00"]}})
    last = started(row) + timedelta(hours=3) / 60 - timedelta(seconds=43)
    too_late = await feed(db, row, last + timedelta(seconds=1))
    assert too_late.leads == [] and too_late.put_off == {"outside_window": 2}
    other = await running(db, "+12125550102", rules=RULES | {"hours": {"mon": ["09:00-12:00"]}}, name="other")
    last = started(other) + timedelta(hours=3) / 60 - timedelta(seconds=43)
    (held,) = (await feed(db, other, last - timedelta(seconds=5))).leads
    attempt = await Attempts(db, TENANT).get(held.attempt_id)
    assert attempt is not None and attempt.give_up_at == last


async def test_retries_come_by_it(db: Database, settled_by_it: None) -> None:
    row = await running(db, NEW_YORK, rules=RULES)
    start = started(row)
    (held,) = (await feed(db, row, start)).leads
    assert await send(db, held.attempt_id, now=start)
    ended = start + timedelta(seconds=2)
    assert await end(db, held.call_id, "busy", at=ended)
    lead = await lead_of(db, row, NEW_YORK)
    # 20 minutes, a fifth more or less.
    assert (lead.state, lead.last_reason) == ("deferred", "retry_busy")
    assert timedelta(seconds=16) <= lead.next_at - ended <= timedelta(seconds=24)


async def test_a_call_that_was_shrunk_is_taken_for_as_long_as_it_stands_for(db: Database, settled_by_it: None) -> None:
    row = await running(db, NEW_YORK, CHICAGO, rules=RULES)
    at = started(row) + timedelta(minutes=1)
    results = {}
    for held in (await feed(db, row, at)).leads:
        assert await send(db, held.attempt_id, now=at)
        talked_s = 1.5 if held.lead.number == NEW_YORK else 0.05
        await end(db, held.call_id, "callee_hung_up", at=at, talked_s=talked_s)
        results[held.lead.number] = (await lead_of(db, row, held.lead.number)).last_result
    assert results == {NEW_YORK: "reached_incomplete", CHICAGO: "human_short"}


async def test_hours_between_calls_are_counted_by_it(db: Database) -> None:
    row = await running(db, NEW_YORK, rules=RULES)
    start = started(row)
    (held,) = (await feed(db, row, start)).leads
    assert await send(db, held.attempt_id, now=start)
    placed = await Attempts(db, TENANT).get(held.attempt_id)
    assert placed is not None and placed.placing_at is not None
    await end(db, held.call_id, "busy", at=placed.placing_at)
    soon = placed.placing_at + timedelta(seconds=100)
    again = await running(db, NEW_YORK, rules=RULES, name="again")
    claimed = await feed(db, again, soon)
    assert claimed.put_off == {"too_soon": 1}
    # Two hours are two minutes.
    assert abs((await lead_of(db, again, NEW_YORK)).next_at - placed.placing_at - timedelta(minutes=2)) < timedelta(
        seconds=1
    )


def test_only_a_simulated_network_may_be_called_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_DIALING__SIMULATED_CLOCK__BEGINS", MONDAY.isoformat())
    settings = load_settings()
    assert campaign_clock(settings) == CLOCK
    with pytest.raises(SettingsError, match=r"dialing\.simulated_clock: only a simulated phone network"):
        campaign_clock(settings, simulated_network=False)
    for name in ("APPLICATION_ID", "PRIVATE_KEY", "SIGNATURE_SECRET"):
        monkeypatch.setenv(f"VONAGE_{name}", "x")
    monkeypatch.setenv("VONAGE_FROM_NUMBER", NEW_YORK)
    for name in ("DEEPGRAM", "GROQ", "CARTESIA"):
        monkeypatch.setenv(f"{name}_API_KEY", "x")
    with pytest.raises(SettingsError, match=r"dialing\.simulated_clock: .*real people"):
        load_settings()
    monkeypatch.setenv("PARLEY_TELEPHONY__VONAGE__BASE_URL", "http://127.0.0.1:9")
    assert campaign_clock(load_settings()) == CLOCK


def test_without_the_setting_time_is_real() -> None:
    assert campaign_clock(Settings()) is REAL_TIME
    assert replace(CONDITIONS, clock=REAL_TIME).clock.speed == 1


def test_a_clock_without_its_offset_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_DIALING__SIMULATED_CLOCK__BEGINS", "2026-10-19T09:00:00")
    with pytest.raises(SettingsError, match=r"dialing\.simulated_clock\.begins"):
        load_settings()
    assert DialingSettings(simulated_clock=SimulatedClockSettings(begins=MONDAY)).simulated_clock is not None
