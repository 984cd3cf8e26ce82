"""What a tenant may use, it may use in all its campaigns together: also when two feeders claim at the same moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from serve_app.dialing.batch_choice import BatchChooser, Conditions
from serve_app.dialing.plans import Plans
from serve_app.dialing.rules import shipped
from serve_app.store.base import new_id
from serve_app.store.campaign_rows import CampaignRow, NumberState
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.lead_claims import Claimed, LeadClaims
from serve_app.store.leads import Leads, NewLead
from serve_app.store.models import Attempt
from serve_app.store.numbers import DEFAULT_POOL, Numbers
from serve_app.store.tenants import Tenants
from tests.unit.campaign_support import OWN, START, TENANT, campaign, end, number, send
from tests.unit.store_fixtures import call_entity
from tests.unit.test_rules_claims import SERVICE

pytest_plugins = ("tests.unit.store_fixtures",)

MOST = 4
LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # of the plan, of the tenant
    "calls at once, by the plan": ({"concurrent_calls": MOST}, {}),
    "calls at once, by the tenant": ({}, {"max_concurrent": MOST}),
    "minutes": ({"minutes": MOST * 5}, {}),
    "calls a day": ({}, {"daily_calls": MOST}),
    "money": ({}, {"spend_cap_minor": MOST * 60}),
}


@pytest.mark.parametrize(("plan", "tenant"), LIMITS.values(), ids=LIMITS.keys())
async def test_two_claims_at_once_keep_to_the_limits_of_their_tenant(
    db: Database, plan: dict[str, Any], tenant: dict[str, Any]
) -> None:
    await Tenants(db, TENANT).put("Acme", "only", **tenant)
    first = await running(db, "spring", range(10))
    second = await running(db, "autumn", range(100, 110))
    plans = Plans.model_validate({"plans": {"only": plan}, "minute_minor": 12, "reserve_minutes": 5})
    async with held(db, number(0)):
        claims = [asyncio.create_task(claim(db, first, plans))]
        await at_rest(db, claims)  # it has decided, and waits for the number
        claims.append(asyncio.create_task(claim(db, second, plans)))
        await at_rest(db, claims)
    placed = [len(claimed.leads) for claimed in await asyncio.gather(*claims)]
    assert sum(placed) == MOST, placed


async def test_two_claims_at_once_keep_to_the_daily_caps_of_their_numbers(db: Database) -> None:
    numbers = Numbers(db, TENANT)
    for e164, cap in (("+12015550001", MOST - 1), ("+12015550002", 1)):
        await numbers.put(e164, daily_cap=cap)
    await numbers.put("+12015550003", pool="other", daily_cap=50)
    rows = [await running(db, name, range(first, first + 10)) for name, first in (("spring", 0), ("autumn", 100))]
    for row in rows:
        assert await Campaigns(db, TENANT).update(row.id, number_pool=DEFAULT_POOL) is not None
    plans = Plans.model_validate({"plans": {"only": {}}, "minute_minor": 12, "reserve_minutes": 5})
    async with held(db, number(0)):
        claims = [asyncio.create_task(claim(db, rows[0], plans))]
        await at_rest(db, claims)
        claims.append(asyncio.create_task(claim(db, rows[1], plans)))
        await at_rest(db, claims)
    placed = [len(claimed.leads) for claimed in await asyncio.gather(*claims)]
    assert sum(placed) == MOST, placed
    shown = [a.from_number for row in rows for a in (await Campaigns(db, TENANT).attempts(row.id, limit=99))[0]]
    assert Counter(shown) == {"+12015550001": MOST - 1, "+12015550002": 1}


async def test_what_was_never_asked_of_the_network_is_no_call_from_a_number(db: Database) -> None:
    await Numbers(db, TENANT).put("+12015550001", daily_cap=1)
    row = await running(db, "spring", range(2))
    plans = Plans.model_validate({"plans": {"only": {}}, "minute_minor": 12, "reserve_minutes": 5})
    for outcome, placed in (("not_placed", 1), ("busy", 1), ("busy", 0)):
        leads = (await claim(db, row, plans)).leads
        assert len(leads) == placed, outcome
        for lead in leads:
            assert await send(db, lead.attempt_id, now=START)
            await end(db, lead.call_id, outcome, at=START)
        await Leads(db, TENANT).add(row.id, [NewLead(number(50 + len(outcome)))])


@pytest.mark.parametrize(
    ("own", "pool", "shown"),
    [
        ({}, None, OWN),
        ({}, "slaes", None),
        ({"sales": "retired"}, None, None),
        ({"sales": "retired", "other": "active"}, "sales", None),
        ({"sales": "active"}, "slaes", None),
        ({"sales": "retired", "other": "active"}, None, "+12015550002"),
    ],
    ids=["no numbers", "no numbers, but a pool", "retired", "pool retired", "mistyped", "of any pool"],
)
async def test_only_who_has_no_numbers_and_names_no_pool_calls_from_the_account_s(
    sqlite_db: Database, own: dict[str, NumberState], pool: str | None, shown: str | None
) -> None:
    db = sqlite_db
    for index, (name, state) in enumerate(own.items(), 1):
        await Numbers(db, TENANT).put(f"+1201555000{index}", pool=name)
        await Numbers(db, TENANT).set_state(f"+1201555000{index}", state, reason="test")
    row = await running(db, "spring", range(10, 12))
    assert await Campaigns(db, TENANT).update(row.id, number_pool=pool) is not None
    plans = Plans.model_validate({"plans": {"only": {}}, "minute_minor": 12, "reserve_minutes": 5})
    halted = (await claim(db, row, plans)).halted
    placed = {attempt.from_number for attempt in (await Campaigns(db, TENANT).attempts(row.id, limit=9))[0]}
    assert (placed, halted) == (({shown}, None) if shown else (set(), "no_caller_number"))


async def test_claims_of_two_tenants_do_not_wait_for_each_other(db: Database) -> None:
    if db.dialect == "sqlite":
        return  # one writer at a time
    mine, theirs = await running(db, "spring", range(3)), await running(db, "spring", range(3), tenant="other")
    plans = Plans.model_validate({"plans": {"only": {}}, "minute_minor": 12, "reserve_minutes": 5})
    async with held(db, number(0)):
        waits = asyncio.create_task(claim(db, mine, plans))
        await at_rest(db, [waits])
        assert len((await claim(db, theirs, plans)).leads) == 3
        assert not waits.done()
    assert len((await waits).leads) == 3


async def running(db: Database, name: str, leads: range, tenant: str = TENANT) -> CampaignRow:
    row = await campaign(db, tenant=tenant, name=name, leads=[NewLead(number(n)) for n in leads])
    changed = await Campaigns(db, tenant).update(row.id, calling_rules=dict(SERVICE))
    assert changed is not None
    return changed


async def claim(db: Database, row: CampaignRow, plans: Plans) -> Claimed:
    conditions = Conditions(
        law=shipped(), plans=plans, ringing_s=30, simulated_network=True, queue_timeout_s=30, own_number=OWN
    )
    choose = BatchChooser(conditions, 10, START)
    return await LeadClaims(db, row.tenant_id).claim(row.id, choose, owner="feeder", limit=10, lease_s=300, now=START)


@asynccontextmanager
async def held(db: Database, to: str) -> AsyncIterator[None]:
    """A call to this number is about to become live, and then does not: whoever calls it too waits until then."""
    session = db.transaction()
    entered = await session.__aenter__()
    call = call_entity(TENANT)
    entered.add(call)
    await entered.flush()
    entered.add(
        Attempt(
            id=new_id(),
            tenant_id=TENANT,
            call_id=call.id,
            to_number=to,
            from_number=OWN,
            status="intended",
            epoch=0,
            next_at=START,
            give_up_at=START + timedelta(seconds=60),
            created_at=START,
        )
    )
    await entered.flush()
    try:
        yield
    finally:
        await entered.rollback()
        await session.__aexit__(None, None, None)


async def at_rest(db: Database, claims: list[asyncio.Task[Claimed]]) -> None:
    """Until each of the claims is done or waits for a lock. On SQLite they wait for the writer from the beginning."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(30):
        while db.dialect == "postgresql":
            async with db.session() as session:
                found = await session.scalar(waiting)
            if found == sum(not claim.done() for claim in claims):
                return
            await asyncio.sleep(0.01)
