"""Calls outside a campaign: who is allowed by name, at which hours, how often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.dialing.plans import Plans
from serve_app.dialing.rules import Allow, Decision, Defer, Deny, Reason
from serve_app.dialing.single_calls import SingleCalls
from serve_app.store.campaign_models import EVERYBODY
from serve_app.store.db import Database
from serve_app.store.repositories import Attempts, Calls, Registries, Tenants
from serve_app.store.usage import count_call
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


PLANS = Plans.model_validate(
    {"plans": {"small": {"minutes": 100}, "large": {}}, "minute_minor": 12, "reserve_minutes": 5}
)


async def talked(db: Database, minutes: float, at: datetime = NOON) -> None:
    async with db.transaction() as session:
        await count_call(session, "default", None, at=at, answered=True, talk_s=minutes * 60)


@pytest.mark.parametrize("url", ["https://api.nexmo.com", "http://127.0.0.1:4001"])
async def test_a_suspended_tenant_and_a_registered_number_are_not_called(db: Database, url: str) -> None:
    rules = SingleCalls(make_settings(url, dialing={"allowed_numbers": [NEW_YORK]}))
    await Registries(db, "globex").replace("national", [NEW_YORK])
    assert isinstance(await rules.decide(db, "default", NEW_YORK, NOON), Allow), "the list of another tenant"
    for whose in ("default", EVERYBODY):
        await Registries(db, whose).replace("national", [NEW_YORK])
        assert refused(await rules.decide(db, "default", NEW_YORK, NOON)) == Reason.ON_GLOBAL_DO_NOT_CALL_LIST
        await Registries(db, whose).replace("national", [])
    await Tenants(db, "default").put("Acme", "basic", status="suspended")
    assert refused(await rules.decide(db, "default", NEW_YORK, NOON)) == Reason.TENANT_INACTIVE


async def test_a_call_by_itself_keeps_to_the_plan_and_to_the_limits_of_its_tenant(db: Database) -> None:
    settings = make_settings("https://api.nexmo.com", dialing={"allowed_numbers": [NEW_YORK, FLORIDA]})
    rules = SingleCalls(settings, plans=PLANS)

    async def decide(*, queued: bool = False) -> Decision:
        return await rules.decide(db, "default", NEW_YORK, NOON, queued=queued)

    await talked(db, 94)
    await talked(db, 50, NOON - timedelta(days=40))
    assert isinstance(await decide(), Allow)
    await placed(db, FLORIDA, NOON, disposition=None)
    assert isinstance(await decide(), Allow), "94 minutes and the reserve of a call that lives"
    await talked(db, 1)
    assert refused(await decide()) == Reason.PLAN_MINUTES_EXHAUSTED
    assert isinstance(await decide(queued=True), Allow), "its own reserve does not count against it"
    await Tenants(db, "default").put("Acme", "large", spend_cap_minor=95 * 12 + 60 + 60)
    assert isinstance(await decide(), Allow)
    await Tenants(db, "default").put("Acme", "large", spend_cap_minor=95 * 12 + 60 + 59)
    assert refused(await decide()) == Reason.SPEND_EXHAUSTED
    await Tenants(db, "default").put("Acme", "large", daily_calls=3)
    assert refused(await decide()) == Reason.DAILY_CALLS_EXHAUSTED
    await Tenants(db, "default").put("Acme", "large", daily_calls=4)
    assert isinstance(await decide(), Allow)
    await Tenants(db, "default").put("Acme", "gone")
    assert refused(await decide()) == Reason.PLAN_MINUTES_EXHAUSTED, "a plan that is not known allows nothing"
    simulated = SingleCalls(make_settings("http://127.0.0.1:4001"), plans=PLANS)
    assert isinstance(await simulated.decide(db, "default", NEW_YORK, NOON), Allow), (
        "nobody is reached, nothing is used"
    )
