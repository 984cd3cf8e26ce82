"""Calls outside a campaign: who is allowed by name, at which hours, how often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from serve_app.dialing.rules import Allow, Decision, Defer, Deny, Reason
from serve_app.dialing.single_calls import SingleCalls
from serve_app.store.db import Database
from serve_app.store.repositories import Attempts, Calls
from tests.unit.api_support import StoppedClock, make_settings

pytest_plugins = ("tests.unit.store_fixtures",)

NEW_YORK, FLORIDA = "+12125551234", "+13055551234"
NOON = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def single_calls(**dialing: Any) -> SingleCalls:
    settings = make_settings("https://api.nexmo.com", dialing={"allowed_numbers": [NEW_YORK, FLORIDA]} | dialing)
    return SingleCalls(settings)


async def placed(db: Database, number: str, at: datetime, disposition: str | None = "completed") -> None:
    """A call to the number that passed the fence at a time."""
    clock = StoppedClock(at)
    _, attempt = await Calls(db, "default", clock=clock).create_outbound(
        to_number=number, from_number="+12025550100", agent_name="a", agent_version=1, metadata={},
        give_up_at=at + HOUR,
    )  # fmt: skip
    attempts = Attempts(db, "default", clock=clock)
    assert await attempts.fence_placing(attempt.id, attempt.epoch)
    if disposition is not None:
        assert await attempts.end(attempt.id, disposition)


def refused(decision: Decision) -> Reason:
    assert isinstance(decision, Defer | Deny)
    return decision.reason


async def test_only_a_named_number_within_the_laws_hours(db: Database) -> None:
    rules = single_calls()
    assert isinstance(await rules.decide(db, "default", NEW_YORK, NOON), Allow)
    assert refused(await rules.decide(db, "default", "+12125551235", NOON)) == Reason.NOT_ON_ALLOW_LIST
    assert refused(await rules.decide(db, "default", NEW_YORK, NOON + 9 * HOUR)) == Reason.OUTSIDE_WINDOW
    # Neither a weekend nor a holiday closes what the law leaves open.
    thanksgiving = datetime(2026, 11, 26, 18, 0, tzinfo=UTC)
    assert isinstance(await rules.decide(db, "default", NEW_YORK, thanksgiving), Allow)
    assert refused(await SingleCalls(make_settings("https://api.nexmo.com")).decide(db, "default", NEW_YORK, NOON)) == (
        Reason.NOT_ON_ALLOW_LIST
    )


async def test_the_caps_count_what_was_asked_of_the_network(db: Database) -> None:
    rules = single_calls(max_calls_per_24h=4)
    for number in (NEW_YORK, FLORIDA):
        for hours in (3, 2, 1):
            await placed(db, number, NOON - hours * HOUR)
    assert isinstance(await rules.decide(db, "default", NEW_YORK, NOON), Allow)
    # Florida's law allows three calls in 24 hours; the oldest of them was three hours ago.
    assert await rules.decide(db, "default", FLORIDA, NOON) == Defer(
        NOON + 21 * HOUR, Reason.LEGAL_CAP, "3 in 24 hours"
    )
    await placed(db, NEW_YORK, NOON - 4 * HOUR, disposition="not_allowed")
    await placed(db, NEW_YORK, NOON - 4 * HOUR, disposition="no_capacity")
    await placed(db, NEW_YORK, NOON - 25 * HOUR)
    assert isinstance(await rules.decide(db, "default", NEW_YORK, NOON), Allow)
    # One whose outcome is not known counts.
    await placed(db, NEW_YORK, NOON - HOUR / 2, disposition=None)
    assert refused(await rules.decide(db, "default", NEW_YORK, NOON)) == Reason.ROLLING_CAP
    assert isinstance(await rules.decide(db, "another", NEW_YORK, NOON), Allow)


async def test_a_simulated_network_rings_anybody_at_any_time(db: Database) -> None:
    rules = SingleCalls(make_settings("http://127.0.0.1:4001"))
    assert rules.simulated_network
    assert await rules.decide(db, "default", "+12025550123", NOON + 9 * HOUR) == Allow()
