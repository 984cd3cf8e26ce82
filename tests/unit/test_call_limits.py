"""What bounds calls beside the sessions: lines, ringing phones, tenants, campaigns; and who waits for which of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.dialing.call_limits import CallLimits, explained, scopes_of_answered
from serve_app.dialing.dialer import Dialer
from serve_app.dialing.flows import TenantCalls, UnderWay, under_way
from serve_app.dialing.plans import Plans
from serve_app.store.attempts import Attempts
from serve_app.store.db import Database
from serve_app.store.reports import DEMAND, Reports
from serve_app.store.rows import ClaimRow
from serve_app.store.slots import SESSIONS, Scope
from serve_app.store.tenants import Tenants
from tests.unit.api_support import make_settings
from tests.unit.campaign_support import TENANT, campaign, claim, number
from tests.unit.test_dialer import Bench, fixture_bench

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")
__all__ = ["fixture_bench"]

PLANS = Plans.model_validate(
    {"plans": {"small": {"concurrent_calls": 5}, "large": {}}, "minute_minor": 12, "reserve_minutes": 5}
)
TOKEN_LIFE_S = 60


async def claimed(db: Database, tenant: str = TENANT) -> ClaimRow:
    now = datetime.now(UTC) + timedelta(days=1)
    (found,) = await Attempts(db, tenant).claim_intended("d", limit=9, lease_s=60, now=now)
    return found


async def test_the_limits_of_a_campaigns_call_are_read_with_its_claim(db: Database) -> None:
    row = await campaign(db, leads=[number(1)], max_concurrent=7)
    await Tenants(db, TENANT).put("Acme", "small", max_concurrent=3)
    await claim(db, row)
    attempt = await claimed(db)
    assert (attempt.tenant_plan, attempt.tenant_most, attempt.campaign_most) == ("small", 3, 7)
    settings = make_settings(vonage={"channels": 40}, dialing={"max_ringing": 20})
    found = CallLimits(settings, simulated_network=True, plans=PLANS).of(attempt)
    assert found == (
        Scope(f"campaign:{row.id}", 7),
        Scope(f"tenant:{TENANT}", 3),
        Scope("ringing", 20),
        Scope("lines", 40),
    )
    answered = scopes_of_answered(settings.telephony.vonage, TENANT, row.id)
    assert set(answered) == {scope.name for scope in found} - {"ringing"}


async def test_the_limits_of_single_calls(bench: Bench) -> None:
    await bench.call()
    attempt = await claimed(bench.db, "default")
    assert (attempt.tenant_plan, attempt.tenant_most, attempt.campaign_most) == (None, None, None)

    def limit(*, simulated: bool, plan: str | None, own: int | None = None, campaign: str | None = None) -> int | None:
        values: dict[str, Any] = {name: getattr(attempt, name) for name in ClaimRow.__dataclass_fields__}
        values |= {"tenant_plan": plan, "tenant_most": own, "campaign_id": campaign}
        limits = CallLimits(make_settings(), simulated_network=simulated, plans=PLANS)
        return {scope.name: scope.most for scope in limits.of(ClaimRow(**values))}.get("tenant:default")

    assert limit(simulated=False, plan=None) == 5, "of whom nothing is known: the first plan"
    assert limit(simulated=True, plan=None) is None, "nobody is called, and nothing spent"
    assert limit(simulated=True, plan=None, campaign="c") == 5, "as its claim holds it"
    for simulated in (True, False):
        assert limit(simulated=simulated, plan="small") == 5
        assert limit(simulated=simulated, plan="small", own=2) == 2
        assert limit(simulated=simulated, plan="large") is None
        assert limit(simulated=simulated, plan="large", own=2) == 2
        assert limit(simulated=simulated, plan="gone", own=2) == 0


def test_each_limit_is_explained_to_people() -> None:
    texts = {explained(full, 30) for full in (SESSIONS, "lines", "ringing", "tenant:a", "campaign:b")}
    assert len(texts) == 5 and all(text.endswith("within 30 s; the call was not placed") for text in texts)


async def test_two_dialers_share_the_last_line(bench: Bench) -> None:
    bench.configure(vonage={"channels": 1})
    made = [await bench.call(f"+1202555{1000 + n}") for n in range(2)]
    async with bench.dialing(2):
        await bench.until(bench_placed(bench, 1))
        await asyncio.sleep(0.6)  # the other asks several times
        (first,) = bench.vonage.posts
        demand = await Reports(bench.live, DEMAND).all()
        (placed,) = [attempt.id for call, attempt in made if call.to_number[1:] == first["to"][0]["number"]]
        await bench.live.release(placed)
        await bench.until(bench_placed(bench, 2))
    assert demand == {}, "more sessions would bring no line"


def some_wait(dialer: Dialer) -> Any:
    async def waits() -> bool:
        return dialer._slots.aside > 0

    return waits


def bench_placed(bench: Bench, count: int) -> Any:
    async def placed() -> bool:
        assert len(bench.vonage.posts) <= count
        return len(bench.vonage.posts) == count

    return placed


async def test_a_tenant_at_its_limit_waits_by_itself_and_its_calls_end_as_no_capacity(bench: Bench) -> None:
    bench.configure(vonage={"calls_per_second": 1})  # four may wait for the rate
    await Tenants(bench.db, "default").put("Acme", "basic", max_concurrent=0)
    mine = [await bench.call(f"+1202555{1000 + n}", wait_s=5) for n in range(9)]
    async with bench.dialing() as (dialer,):
        await bench.until(some_wait(dialer))
        _, other = await bench.call("+12025552000", tenant="other")
        dialer.wake()
        await bench.until(bench_placed(bench, 1))
        bench.clock.ahead_s = 60  # their deadlines are over
        for _, attempt in mine:
            await bench.until_status(attempt.id, "ended")
    assert bench.vonage.posts[0]["to"][0]["number"] == "12025552000"
    ended = await bench.attempt(mine[0][1].id)
    assert ended.disposition == "no_capacity" and "its plan and its own limit" in (ended.detail or "")
    assert (await Attempts(bench.db, "other").get(other.id) or ended).status == "placed"


async def test_a_tenants_single_calls_come_one_after_the_other_in_their_order(bench: Bench) -> None:
    await Tenants(bench.db, "default").put("Acme", "basic", max_concurrent=1)
    made = [await bench.call(f"+1202555{1000 + n}") for n in range(4)]
    async with bench.dialing():
        for n, (_, attempt) in enumerate(made):
            await bench.until_status(attempt.id, "placed")
            assert len(bench.vonage.posts) == n + 1
            await bench.live.release(attempt.id)


async def test_an_answer_makes_room_for_the_next_call_that_rings(bench: Bench) -> None:
    bench.configure(dialing={"max_ringing": 1})
    _, first = await bench.call("+12025551001")
    _, second = await bench.call("+12025551002")
    async with bench.dialing():
        await bench.until_status(first.id, "placed")
        await asyncio.sleep(0.3)
        assert len(bench.vonage.posts) == 1
        answered = scopes_of_answered(bench.settings.telephony.vonage, "default", None)
        assert await bench.live.reserve(first.id, TOKEN_LIFE_S, answered)
        await bench.until_status(second.id, "placed")
    assert (await bench.live.capacity())[1] == 2


@pytest.mark.parametrize(
    ("plan", "most", "waiting", "placed", "simulated", "back"),
    [
        ("small", None, 9, 2, False, 6),
        ("small", 1, 3, 2, False, 3),
        ("small", None, 3, 2, False, 0),
        ("large", None, 9, 9, False, 0),
        ("gone", None, 4, 0, True, 4),
        (None, None, 9, 0, True, 0),
        (None, None, 9, 0, False, 4),
    ],
)
def test_calls_that_their_tenant_holds_back_wait_for_nobody_else(
    plan: str | None, most: int | None, waiting: int, placed: int, simulated: bool, back: int
) -> None:
    calls = TenantCalls(plan=plan, most=most, waiting=waiting, placed=placed)
    free = TenantCalls(plan="large", waiting=3, placed=1)
    live = UnderWay(Counter(), Counter(), {"acme": calls, "other": free}, inbound=0, unanswered=0)
    assert live.waiting == waiting + 3

    def aside(**single: int) -> int:
        calls.waiting_single = single.get("mine", 0)
        return live.aside(PLANS, simulated_network=simulated, most_single=2)

    assert aside() == back
    calls.held_in_campaigns = back + 1
    assert aside() == back + 1, "not the one and the other"
    calls.held_in_campaigns = 0
    assert aside(mine=waiting) == max(back, waiting - 2), "of single calls no more than two count"
    assert live.crowded(waiting - 1) == {"acme"} and live.crowded(waiting) == set()


async def test_what_is_under_way_tells_ringing_from_answered(bench: Bench) -> None:
    await Tenants(bench.db, "default").put("Acme", "small", max_concurrent=3)
    made = [await bench.call(f"+1202555{1000 + n}") for n in range(3)]
    await bench.call(tenant="other")
    now = datetime.now(UTC)
    await bench.attempts.claim_intended("d", limit=2, lease_s=60, now=now)
    for _, attempt in made[:2]:
        assert await bench.attempts.fence_placing(attempt.id, 1)
    await bench.calls.answered(made[0][0].id, now)
    await bench.calls.create_inbound(
        carrier_call_id="u",
        from_number="+12025551234",
        to_number="+12025550100",
        agent_name="a",
        agent_version=1,
        metadata={},
    )
    live = await under_way(bench.db)
    assert (live.outbound, live.waiting, live.unanswered, live.inbound) == (4, 2, 3, 1)
    assert live.tenants == {
        "other": TenantCalls(waiting=1, waiting_single=1),
        "default": TenantCalls(plan="small", most=3, waiting=1, placed=2, waiting_single=1),
    }
