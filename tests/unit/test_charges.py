"""What the network charged counts once, whenever and however often it is told, and holds the spend caps."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from serve_app.dialing.plans import Plans
from serve_app.store.campaign_models import Usage
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.repositories import Attempts, Charge, Events
from serve_app.store.rows import Cost, RawEvent
from serve_app.store.standing import standing_of
from serve_app.store.usage import Used
from tests.unit.campaign_support import OWN, START, TENANT, campaign, claim, end, number, send
from tests.unit.test_claim_limits import claim as claim_by_rules
from tests.unit.test_claim_limits import running

pytest_plugins = ("tests.unit.store_fixtures",)

Step = Callable[[], Awaitable[object]]


async def used(db: Database) -> Used:
    columns = (Usage.calls, Usage.answered, Usage.talk_s, Usage.cost_micros, Usage.priced_talk_s)
    async with db.session() as session:
        rows = (await session.execute(select(*columns))).all()
    return Used(*(sum(column) for column in zip(*rows, strict=True)))


async def test_every_order_of_the_end_and_the_charges_counts_the_same(sqlite_db: Database) -> None:
    db = sqlite_db
    orders = list(itertools.permutations(range(4)))
    row = await campaign(db, leads=[number(n) for n in range(len(orders))])
    held = (await claim(db, row, limit=len(orders))).leads
    events = Events(db, TENANT)
    for order, lead in zip(orders, held, strict=True):
        assert await send(db, lead.attempt_id)

        def told(micros: int, key: str, attempt_id: str = lead.attempt_id) -> Step:
            event = RawEvent(f"{attempt_id}-{key}", "vonage", "event", "uuid", {}, START)
            return lambda: events.record(event, Charge(attempt_id, Cost(micros, "EUR")))

        steps: list[Step] = [
            lambda call_id=lead.call_id: end(db, call_id, "completed", talked_s=60),  # type: ignore[misc]
            told(0, "a"),
            told(12_500, "b"),
            told(12_500, "c"),
        ]
        before = await used(db)
        for step in order:
            await steps[step]()
        for step in (1, 2, 3):
            assert await steps[step]() is False, "the same event again"
        now = await used(db)
        assert (now.calls - before.calls, now.talk_s - before.talk_s) == (1, 60), order
        assert (now.cost_micros - before.cost_micros, now.priced_talk_s - before.priced_talk_s) == (12_500, 60), order
        attempt = await Attempts(db, TENANT).get(lead.attempt_id)
        assert attempt is not None and attempt.cost == Cost(12_500, "EUR")
    stats = await Campaigns(db, TENANT).stats(row.id)
    assert stats.cost_micros == {"EUR": 12_500 * len(orders)}


async def test_the_end_and_a_charge_at_once_count_the_talk_as_paid(db: Database) -> None:
    row = await campaign(db, leads=[number(n) for n in range(4)])
    held = (await claim(db, row, limit=4)).leads
    events = Events(db, TENANT)
    for lead in held:
        assert await send(db, lead.attempt_id)
        charge = Charge(lead.attempt_id, Cost(834, "EUR"))
        both = (end(db, lead.call_id, "completed", talked_s=60), events.charged(charge), events.charged(charge))
        await asyncio.gather(*both)
    assert await used(db) == Used(4, 4, 240.0, 4 * 834, 240.0)
    assert (await standing_of(db, TENANT, OWN, datetime.now(UTC))).used == Used(4, 4, 240.0, 4 * 834, 240.0)
    assert (await Campaigns(db, TENANT).stats(row.id)).cost_micros == {"EUR": 4 * 834}


async def test_a_charge_counts_in_the_month_of_the_talk_that_it_pays(db: Database) -> None:
    row = await campaign(db, leads=[number(0)])
    (held,) = (await claim(db, row)).leads
    assert await send(db, held.attempt_id)
    ended = datetime(2026, 1, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    await end(db, held.call_id, "completed", at=ended, talked_s=60)
    for micros in (834, 900):
        await Events(db, TENANT).charged(Charge(held.attempt_id, Cost(micros, "EUR")))
    async with db.session() as session:
        rows = (await session.execute(select(Usage.day, Usage.talk_s, Usage.cost_micros, Usage.priced_talk_s))).all()
    assert [tuple(found) for found in rows] == [("2026-01-31", 60, 900, 60)]


async def test_an_attempt_that_had_been_given_up_is_charged_for_too(db: Database) -> None:
    row = await campaign(db, leads=[number(0)])
    (held,) = (await claim(db, row)).leads
    assert await send(db, held.attempt_id)
    await end(db, held.call_id, "unknown")
    await Events(db, TENANT).charged(Charge(held.attempt_id, Cost(834, "EUR")))
    assert (await used(db)).cost_micros == 834


@pytest.mark.parametrize(
    ("euros", "halted"),
    [(0, None), (1, None), (2, "spend_exhausted")],
    ids=["not told", "within the cap", "beyond it"],
)
async def test_a_spend_cap_counts_what_the_network_charged(db: Database, euros: int, halted: str | None) -> None:
    """A minute of talk is reckoned at 12 cents, a call that lives at 60."""
    plans = Plans.model_validate({"plans": {"only": {}}, "minute_minor": 12, "reserve_minutes": 5})
    row = await running(db, "spring", range(2))
    changed = await Campaigns(db, TENANT).update(row.id, spend_cap_minor=200)
    assert changed is not None
    (held,) = (await claim(db, changed, limit=1)).leads
    assert await send(db, held.attempt_id)
    await end(db, held.call_id, "completed", talked_s=60)
    if euros:
        await Events(db, TENANT).charged(Charge(held.attempt_id, Cost(euros * 10**6, "EUR")))
    claimed = await claim_by_rules(db, changed, plans)
    assert (len(claimed.leads), claimed.halted) == (0 if halted else 1, halted)
