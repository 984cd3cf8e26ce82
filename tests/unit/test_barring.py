"""What is forbidden after a lead was claimed stops its attempt at the fence, and its number is not called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from serve_app.dialing.rules import Reason
from serve_app.dialing.tenants import intended_work
from serve_app.store.attempts import Attempts
from serve_app.store.campaign_models import EVERYBODY
from serve_app.store.consents import Consents
from serve_app.store.db import Database
from serve_app.store.registries import Registries
from serve_app.store.tenants import Tenants
from tests.unit.api_support import TO, Plane
from tests.unit.campaign_support import TENANT, campaign, claim, number

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

Forbid = Callable[[Database], Awaitable[object]]


async def consent(db: Database) -> None:
    await Consents(db, TENANT).record(number(1), "written", scope="*", source="a form", given_at=datetime.now(UTC))


FORBIDDEN: dict[str, Forbid] = {
    "consent_revoked": lambda db: Consents(db, TENANT).revoke(number(1)),
    "on_global_do_not_call_list": lambda db: Registries(db, EVERYBODY).replace("national", [number(1)]),
    "tenant_inactive": lambda db: Tenants(db, TENANT).put("Acme", "basic", status="suspended"),
}


@pytest.mark.parametrize("claimed", [False, True])
@pytest.mark.parametrize("reason", FORBIDDEN)
async def test_what_is_forbidden_meanwhile_stops_an_attempt_that_waits(
    db: Database, reason: str, claimed: bool
) -> None:
    await consent(db)
    row = await campaign(db, leads=[number(1), number(2)])
    await claim(db, row)
    attempts = Attempts(db, TENANT)
    lease_s = 60 if claimed else 0
    held = {a.to_number: a for a in await attempts.claim_intended("d", limit=9, lease_s=lease_s, now=datetime.now(UTC))}
    await FORBIDDEN[reason](db)
    (work,) = await intended_work(db, datetime.now(UTC))
    others = 0 if reason == "tenant_inactive" else 1
    assert work.barred == 2 - others
    if not claimed:
        again = await attempts.claim_intended("d", limit=9, lease_s=0, now=datetime.now(UTC))
        assert [attempt.to_number for attempt in again] == [number(2)] * others
        held |= {attempt.to_number: attempt for attempt in again}
    assert not await attempts.fence_placing(held[number(1)].id, held[number(1)].epoch)
    assert await attempts.fence_placing(held[number(2)].id, held[number(2)].epoch) is bool(others)
    stopped = await attempts.barred(limit=9)
    assert {(attempt.rules_reason, Reason(reason).value) for attempt in stopped} == {(reason, reason)}
    assert number(1) in {attempt.to_number for attempt in stopped}


async def test_a_consent_that_is_given_anew_is_one_again(db: Database) -> None:
    await consent(db)
    row = await campaign(db, leads=[number(1)])
    await claim(db, row)
    await Consents(db, TENANT).revoke(number(1))
    attempts = Attempts(db, TENANT)
    assert not await attempts.claim_intended("d", limit=9, lease_s=0, now=datetime.now(UTC))
    await consent(db)
    (held,) = await attempts.claim_intended("d", limit=9, lease_s=60, now=datetime.now(UTC))
    assert await attempts.fence_placing(held.id, held.epoch)


async def test_nobody_else_is_stopped(db: Database) -> None:
    """Another tenant's consents and registries, and other numbers, are nobody's business here."""
    row = await campaign(db, leads=[number(1)])
    await claim(db, row)
    other = Consents(db, "other")
    await other.record(number(1), "written", scope="*", source="a form", given_at=datetime.now(UTC))
    await other.revoke(number(1))
    await Registries(db, "other").replace("national", [number(1)])
    await Registries(db, EVERYBODY).replace("national", [number(2)])
    await Tenants(db, "other").put("Other", "basic", status="suspended")
    (work,) = await intended_work(db, datetime.now(UTC))
    assert work.barred == 0


async def test_taking_a_consent_back_wakes_the_dialer(plane: Plane) -> None:
    given = {"number": TO, "kind": "written", "source": "a form", "given_at": "2026-01-01T00:00:00Z"}
    assert (await plane.http.post("/api/v1/consents", json=given, headers=plane.auth)).status_code == 201
    plane.woken.clear()
    answer = await plane.http.post("/api/v1/consents/revoke", json={"number": TO}, headers=plane.auth)
    assert answer.json() == {"revoked": 1}
    assert plane.woken == [f"dialer: {plane.settings.tenant}"]
