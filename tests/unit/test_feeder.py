"""The feeder: leads that are due become attempts, as many as there is room for, shared fairly, within plans."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from load_tests.crash_points.redis import SimulatedRedis
from load_tests.crash_points.world import SimulatedClock
from serve_app.dialing.feeder import Feeder
from serve_app.dialing.pacing import Backpressure
from serve_app.dialing.plans import Plan, Plans
from serve_app.errors import UnavailableError
from serve_app.latency_counts import LatencyCounts
from serve_app.scenarios.virtual_time import run_virtual
from serve_app.store.agents import Agents
from serve_app.store.attempts import Attempts
from serve_app.store.calls import Calls
from serve_app.store.campaign_models import Lead
from serve_app.store.campaign_rows import CampaignRow, LeadRow
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.kill_switches import KillSwitches
from serve_app.store.lead_upkeep import promote
from serve_app.store.leads import Leads, NewLead
from serve_app.store.live import LiveState
from serve_app.store.numbers import Numbers
from serve_app.store.queue_order import CALLBACK
from serve_app.store.reports import TURNS, Reports
from serve_app.store.rows import AttemptRow
from serve_app.store.tenants import Tenants
from tests.unit.api_support import FROM, StoppedClock, make_settings
from tests.unit.campaign_support import START, TENANT, end, number

pytest_plugins = ("tests.unit.store_fixtures",)

RULES: dict[str, Any] = {
    "countries": ["US"],
    "purpose": "informational",
    "consent": {"required": "none", "reason": "customers who asked to be called back"},
}
UNLIMITED = Plans.model_validate({"plans": {"all": {}}, "minute_minor": 12, "reserve_minutes": 5})


class Floor:
    """SQL, Redis and feeders on a clock that stands still until it is moved."""

    def __init__(self, db: Database, live: LiveState) -> None:
        self.db, self.live = db, live
        self.clock = StoppedClock(START)
        self.pressure = Backpressure()
        self.told = 0
        self.fed = asyncio.Event()

    def feeder(
        self, plans: Plans = UNLIMITED, owner: str = "feeder-1", max_ringing: int | None = None, **network: Any
    ) -> Feeder:
        settings = make_settings(vonage={"calls_per_second": 4, **network}, dialing={"max_ringing": max_ringing})
        return Feeder(
            self.db,
            self.live,
            settings,
            self.clock,
            owner,
            fed=self._tell,
            pressure=self.pressure,
            simulated_network=True,
            plans=plans,
        )

    def _tell(self) -> None:
        self.told += 1
        self.fed.set()

    async def sessions(self, count: int) -> None:
        await self.live.beat("replica-1", count, ttl_s=600)

    async def campaign(
        self,
        name: str,
        leads: Sequence[str | NewLead],
        *,
        tenant: str = TENANT,
        start: bool = True,
        rules: dict[str, Any] = RULES,
        **values: Any,
    ) -> CampaignRow:
        await Agents(self.db, tenant).apply("front-desk", {"a": 1})
        values = {"agent_name": "front-desk", **values}
        campaigns = Campaigns(self.db, tenant, clock=self.clock)
        row = await campaigns.create(name, values.pop("agent_name"), calling_rules=rules, **values)
        new = [lead if isinstance(lead, NewLead) else NewLead(lead) for lead in leads]
        if new:
            await Leads(self.db, tenant, clock=self.clock).add(row.id, new)
        if start:
            started = await campaigns.start(row.id)
            assert started is not None
        return row

    async def single_call(self, to_number: str, *, tenant: str) -> None:
        await Calls(self.db, tenant).create_outbound(
            to_number=to_number,
            from_number=FROM,
            agent_name="front-desk",
            agent_version=1,
            metadata={},
            give_up_at=START + timedelta(seconds=30),
        )

    async def attempts(self, row: CampaignRow, *, live: bool = False) -> list[AttemptRow]:
        return (await Campaigns(self.db, row.tenant_id).attempts(row.id, limit=1000, live=live))[0]

    async def leads(self, row: CampaignRow) -> list[LeadRow]:
        return (await Leads(self.db, row.tenant_id).list(row.id, limit=1000))[0]

    async def states(self, row: CampaignRow) -> Counter[str]:
        return Counter(lead.state for lead in await self.leads(row))

    async def status(self, row: CampaignRow) -> str:
        found = await Campaigns(self.db, row.tenant_id).get(row.id)
        assert found is not None
        return found.status

    async def work_off(self, row: CampaignRow, outcome: str = "busy", talked_s: float | None = None) -> int:
        """Place every waiting attempt of the campaign, and end it."""
        attempts = Attempts(self.db, row.tenant_id, clock=self.clock)
        held = await attempts.claim_intended("dialer-1", limit=1000, lease_s=60, now=self.clock.now())
        mine = [attempt for attempt in held if attempt.campaign_id == row.id]
        for attempt in mine:
            assert await attempts.fence_placing(attempt.id, attempt.epoch)
            await end(self.db, attempt.call_id, outcome, tenant=row.tenant_id, at=self.clock.now(), talked_s=talked_s)
        return len(mine)

    def move(self, **time: float) -> datetime:
        self.clock.time += timedelta(**time)
        return self.clock.time


@pytest.fixture(name="floor")
async def fixture_floor(db: Database, live: LiveState) -> Floor:
    floor = Floor(db, live)
    await floor.sessions(50)
    return floor


def numbers(count: int, first: int = 0) -> list[str]:
    return [number(first + n) for n in range(count)]


async def test_leads_become_attempts_as_many_as_the_rate_passes_soon(floor: Floor) -> None:
    row = await floor.campaign("spring", numbers(30))
    feeder = floor.feeder()
    await feeder.step()
    attempts = await floor.attempts(row)
    assert len(attempts) == 10, "4 calls a second for 2.5 seconds"
    assert {(attempt.status, attempt.from_number) for attempt in attempts} == {("intended", FROM)}
    assert await floor.states(row) == {"leased": 10, "ready": 20}
    assert floor.told == 1
    await feeder.step()
    assert len(await floor.attempts(row)) == 10 and floor.told == 1, "those wait still"
    assert await floor.work_off(row) == 10
    await feeder.step()
    assert len(await floor.attempts(row)) == 20 and floor.told == 2


async def test_no_call_is_decided_on_without_a_session_for_it(floor: Floor) -> None:
    await floor.sessions(6)
    await floor.live.reserve("inbound", 60)
    row = await floor.campaign("spring", numbers(30))
    feeder = floor.feeder()
    assert await feeder.step() <= 1, "a session may become free at any time"
    assert len(await floor.attempts(row)) == 5
    floor.pressure.failed(floor.clock.monotonic())
    await floor.sessions(18)
    await feeder.step()
    assert len(await floor.attempts(row)) == 9, "half of the sessions, while the network is in trouble"


async def test_an_account_that_is_refused_halts_all_feeding_for_a_while(
    floor: Floor, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [await floor.campaign("spring", numbers(5), tenant=tenant) for tenant in (TENANT, "other")]
    feeder = floor.feeder()
    floor.pressure.account_refused("HTTP 402", floor.clock.monotonic())
    await feeder.step()
    feeder.changed(TENANT)  # whatever a person changes here, the account is the network's
    await feeder.step()
    assert [await floor.attempts(row) for row in rows] == [[], []]
    assert "dialing_halted" in capsys.readouterr().out
    floor.move(seconds=31)
    await feeder.step()
    assert [len(await floor.attempts(row)) for row in rows] == [5, 5]


async def test_no_call_is_decided_on_without_a_line_of_the_network(floor: Floor) -> None:
    row = await floor.campaign("spring", numbers(30))
    await floor.feeder(channels=3).step()
    assert len(await floor.attempts(row)) == 3


async def test_no_more_calls_ring_than_may_and_an_answered_one_rings_no_more(floor: Floor) -> None:
    row = await floor.campaign("spring", numbers(30))
    feeder = floor.feeder(max_ringing=3)
    await feeder.step()
    first, *_ = await floor.attempts(row)
    assert len(await floor.attempts(row)) == 3
    await Calls(floor.db, TENANT).answered(first.call_id, floor.clock.now())
    await feeder.step()
    assert len(await floor.attempts(row)) == 4


async def test_single_calls_that_their_tenant_holds_back_hold_up_no_campaign(floor: Floor) -> None:
    row = await floor.campaign("spring", numbers(30))
    await Tenants(floor.db, "other").put("Other", "all", max_concurrent=1)
    for to_number in numbers(12, 100):
        await floor.single_call(to_number, tenant="other")
    await floor.sessions(8)
    await floor.feeder().step()
    assert len(await floor.attempts(row)) == 7, "one of the others may have a session"


async def test_calls_that_their_campaign_holds_back_hold_up_no_other_tenant(floor: Floor) -> None:
    row = await floor.campaign("spring", numbers(30))
    other = await floor.campaign("spring", numbers(5, 100), tenant="other")
    await Campaigns(floor.db, "other").pause(other.id)
    feeder = floor.feeder()
    await feeder.step()
    assert len(await floor.attempts(row)) == 10
    await Campaigns(floor.db, TENANT).update(row.id, max_concurrent=1)
    await Campaigns(floor.db, "other").resume(other.id)
    await feeder.step()
    assert [len(await floor.attempts(row)) for row in (row, other)] == [10, 5]


async def test_single_calls_without_end_leave_half_of_the_rate_to_campaigns_of_others(floor: Floor) -> None:
    mine, theirs = [await floor.campaign("spring", numbers(30), tenant=tenant) for tenant in (TENANT, "other")]
    for to_number in numbers(30, 100):
        await floor.single_call(to_number, tenant="other")
    await floor.feeder().step()
    assert [len(await floor.attempts(row)) for row in (mine, theirs)] == [5, 0]


async def test_sessions_are_shared_by_the_weights_of_tenants_and_campaigns(floor: Floor) -> None:
    await Tenants(floor.db, "big").put("Big", "all", weight=3)
    mine = [
        await floor.campaign("spring", numbers(40), tenant="big", weight=2),
        await floor.campaign("autumn", numbers(40, 100), tenant="big"),
        await floor.campaign("spring", numbers(40), tenant="small"),
    ]
    await floor.sessions(12)
    await floor.feeder(calls_per_second=100).step()
    assert [len(await floor.attempts(row)) for row in mine] == [6, 3, 3]


async def test_leads_that_must_not_be_called_do_not_hold_up_the_others(floor: Floor) -> None:
    abroad = [f"+44207123{n:04d}" for n in range(60)]
    row = await floor.campaign("spring", [NewLead(to, priority=10) for to in abroad] + [NewLead(number(1))])
    feeder = floor.feeder()
    while await feeder.step() == 0:
        pass
    assert [attempt.to_number for attempt in await floor.attempts(row)] == [number(1)]
    assert await floor.states(row) == {"barred": 60, "leased": 1}
    assert {lead.last_reason for lead in await floor.leads(row)} == {"country_not_allowed", "allowed"}


async def test_a_window_s_opening_is_not_a_burst_and_callbacks_do_not_wait(floor: Floor) -> None:
    row = await floor.campaign("spring", [f"+1310555{n:04d}" for n in range(40)])
    feeder = floor.feeder()
    promised = (await floor.leads(row))[0]
    async with floor.db.transaction() as session:
        early = {"next_at": START, "queue_at": START - CALLBACK}
        await session.execute(update(Lead).where(Lead.id == promised.id).values(early))
    while await feeder.step() == 0:
        pass
    opens = START + timedelta(hours=2)  # nine in Los Angeles
    leads = {lead.id: lead for lead in await floor.leads(row)}
    assert leads.pop(promised.id).next_at == opens
    waits = [lead.next_at - opens for lead in leads.values()]
    assert min(waits) >= timedelta(0) and max(waits) <= timedelta(minutes=10)
    assert len({wait // timedelta(minutes=1) for wait in waits}) >= 8
    floor.move(hours=2, minutes=11)
    await feeder.step()
    assert await floor.work_off(row) == 10
    # Who was put off and came too late all the same, waits for the beginning of the next day's window.
    floor.move(hours=15)
    while await feeder.step() == 0:
        pass
    late = [lead for lead in await floor.leads(row) if lead.attempts == 0]
    assert len(late) == 30
    assert {lead.next_at - opens for lead in late} == {timedelta(days=1)}


async def test_a_campaign_starts_on_time_retries_and_is_completed(floor: Floor) -> None:
    policy = {"rules": {"busy": {"after_minutes": [10], "most": 1}}}
    row = await floor.campaign("spring", numbers(3), start=False, retry_policy=policy)
    at = START + timedelta(minutes=5)
    await Campaigns(floor.db, TENANT, clock=floor.clock).schedule(row.id, at)
    feeder = floor.feeder()
    await feeder.step()
    assert await floor.attempts(row) == []
    floor.move(minutes=5)
    await feeder.step()
    assert await floor.work_off(row) == 3
    assert await floor.states(row) == {"deferred": 3}
    floor.move(hours=4)  # more than the least time between calls to one number
    await feeder.step()
    assert await floor.work_off(row) == 3
    assert await floor.states(row) == {"exhausted": 3}
    assert await floor.status(row) == "running"
    floor.move(seconds=6)
    await feeder.step()
    assert await floor.status(row) == "completed"
    assert len(await floor.attempts(row)) == 6


async def test_plans_and_limits_hold_at_the_claim(floor: Floor) -> None:
    def plans(**plan: Any) -> Plans:
        return UNLIMITED.model_copy(update={"plans": {"basic": Plan(**plan)}})

    row = await floor.campaign("spring", numbers(30))
    other = await floor.campaign("autumn", numbers(5, 100), agent_name="back-office")
    await Agents(floor.db, TENANT).apply("back-office", {"a": 1})
    await floor.feeder(plans(agents=1, concurrent_calls=4)).step()
    assert (len(await floor.attempts(row)), len(await floor.attempts(other))) == (4, 0)
    await floor.work_off(row, "completed", talked_s=600)
    # 40 minutes are used; 55 leave room for three calls of five minutes.
    await floor.feeder(plans(minutes=55, agents=1)).step()
    assert len(await floor.attempts(row, live=True)) == 3
    await Tenants(floor.db, TENANT).put("Acme", "gold")
    await floor.feeder(plans()).step()
    assert len(await floor.attempts(row, live=True)) == 3, "a plan that nobody knows allows nothing"
    await Tenants(floor.db, TENANT).put("Acme", "basic", max_concurrent=5)
    await floor.feeder(plans(agents=1)).step()
    assert len(await floor.attempts(row, live=True)) == 5


async def test_a_halted_campaign_is_asked_again_later_and_holds_up_no_other(floor: Floor) -> None:
    off = await floor.campaign("spring", numbers(5))
    on = await floor.campaign("autumn", numbers(5, 100))
    switches = KillSwitches(floor.db, TENANT)
    await switches.on("campaign", off.id, reason="wrong script", by="test")
    feeder = floor.feeder()
    await feeder.step()
    assert (len(await floor.attempts(off)), len(await floor.attempts(on))) == (0, 5)
    assert await floor.states(off) == {"ready": 5}
    await switches.off("campaign", off.id, by="test")
    assert await feeder.step() <= 10
    assert await floor.attempts(off) == []
    floor.move(seconds=10)
    await feeder.step()
    assert len(await floor.attempts(off)) == 5


async def test_what_a_person_changes_is_seen_at_once(floor: Floor) -> None:
    row = await floor.campaign("spring", numbers(5))
    switches = KillSwitches(floor.db, TENANT)
    await switches.on("tenant", TENANT, reason="complaint", by="test")
    feeder = floor.feeder()
    await feeder.step()
    await switches.off("tenant", TENANT, by="test")
    await feeder.step()
    assert await floor.attempts(row) == []
    feeder.changed("other")
    await feeder.step()
    assert await floor.attempts(row) == [], "it was nothing of this tenant"
    feeder.changed(TENANT)
    await feeder.step()
    assert len(await floor.attempts(row)) == 5


async def test_a_number_that_people_do_not_answer_rests_and_begins_anew(floor: Floor) -> None:
    good, bad = "+12015550001", "+13035550001"
    for e164 in (good, bad):
        await Numbers(floor.db, TENANT, clock=floor.clock).put(e164, pool="sales", daily_cap=500)
    row = await floor.campaign("spring", [f"+1{area}555{n:04d}" for area in (201, 212) for n in range(60)])
    attempts = Attempts(floor.db, TENANT, clock=floor.clock)
    await floor.sessions(500)
    feeder = floor.feeder(calls_per_second=200)
    while await feeder.step() == 0:
        pass
    for attempt in await attempts.claim_intended("dialer-1", limit=500, lease_s=60, now=floor.clock.now()):
        assert await attempts.fence_placing(attempt.id, attempt.epoch)
        assert await attempts.placed(attempt.id, f"carrier-{attempt.id}", None)
        answered = attempt.from_number == good
        ended = "completed" if answered else "not_answered"
        await end(floor.db, attempt.call_id, ended, at=floor.clock.now(), talked_s=60 if answered else None)
    assert Counter(attempt.from_number for attempt in await floor.attempts(row))[bad] >= 50
    floor.move(minutes=10)
    await feeder.step()
    states = {one.e164: one.state for one in await Numbers(floor.db, TENANT).list()}
    assert states == {good: "active", bad: "cooling"}
    floor.move(days=61)
    await feeder.step()
    floor.move(minutes=10)
    await feeder.step()
    assert {one.state for one in await Numbers(floor.db, TENANT).list()} == {"active"}


async def test_calls_show_the_tenant_s_own_numbers_within_their_caps(floor: Floor) -> None:
    for e164, cap in (("+12015550001", 2), ("+13035550001", 3)):
        await Numbers(floor.db, TENANT).put(e164, pool="sales", daily_cap=cap)
    row = await floor.campaign("spring", numbers(9), number_pool="sales")
    feeder = floor.feeder()
    while await feeder.step() == 0:
        pass
    shown = Counter(attempt.from_number for attempt in await floor.attempts(row))
    assert shown == {"+12015550001": 2, "+13035550001": 3}
    reasons = Counter(lead.last_reason for lead in await floor.leads(row))
    assert reasons == {"allowed": 5, "no_caller_number": 4}


async def test_a_long_list_that_is_due_holds_up_nobody_s_callback(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.dialing.feeder.MOST_PROMOTED", 20)
    paused, long, short = [
        await floor.campaign(name, numbers(count, first), tenant=tenant)
        for name, count, first, tenant in (
            ("paused", 60, 0, TENANT),
            ("long", 60, 100, TENANT),
            ("short", 15, 200, "other"),
        )
    ]
    promised = {(await floor.leads(row))[-1].id for row in (long, short)}
    async with floor.db.transaction() as session:
        await session.execute(update(Lead).values(state="deferred", next_at=START))
        late = {"next_at": START + timedelta(seconds=1), "last_result": "callback"}
        await session.execute(update(Lead).where(Lead.id.in_(promised)).values(late))
    await Campaigns(floor.db, TENANT).pause(paused.id)
    now = floor.move(seconds=2)
    assert await promote(floor.db, now, limit=20) == 22, "the callbacks, and ten of each campaign that runs"
    assert await floor.states(paused) == {"deferred": 60}
    assert await floor.states(long) == {"deferred": 49, "ready": 11}
    assert await floor.states(short) == {"deferred": 4, "ready": 11}
    ready = {lead.id for row in (long, short) for lead in await floor.leads(row) if lead.state == "ready"}
    assert promised <= ready
    feeder = floor.feeder()
    while await feeder.step() == 0:
        pass
    assert [(await floor.states(row))["deferred"] for row in (paused, long, short)] == [60, 0, 0]


async def test_leads_of_many_campaigns_become_ready_in_bounded_steps(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.store.lead_upkeep.MOST_CAMPAIGNS", 2)
    rows = [await floor.campaign("spring", numbers(12), tenant=tenant) for tenant in ("one", "two", "three")]
    async with floor.db.transaction() as session:
        await session.execute(update(Lead).values(state="deferred", next_at=START))
    now = floor.move(seconds=1)
    assert await promote(floor.db, now, limit=20) == 20, "ten of each of two campaigns"
    while await promote(floor.db, now, limit=20):
        pass
    assert [await floor.states(row) for row in rows] == 3 * [{"ready": 12}]


async def test_a_callback_that_could_not_be_placed_is_still_promised(floor: Floor) -> None:
    row = await floor.campaign("spring", numbers(2))
    promised, other = await floor.leads(row)
    async with floor.db.transaction() as session:
        await session.execute(update(Lead).where(Lead.id == promised.id).values(queue_at=START - CALLBACK))
    await floor.feeder().step()
    assert await floor.work_off(row, "no_capacity") == 2
    leads = {lead.id: lead for lead in await floor.leads(row)}
    assert {lead.last_result for lead in leads.values()} == {"not_placed"}
    assert leads[promised.id].next_at - leads[promised.id].queue_at >= CALLBACK
    assert leads[other.id].next_at - leads[other.id].queue_at < CALLBACK


async def test_two_feeders_at_once_claim_each_lead_once(floor: Floor) -> None:
    row = await floor.campaign("spring", numbers(40))
    feeders = [floor.feeder(owner=f"feeder-{n}", calls_per_second=100) for n in range(2)]
    for _ in range(6):
        await asyncio.gather(*(feeder.step() for feeder in feeders))
    attempts = await floor.attempts(row)
    assert Counter(attempt.to_number for attempt in attempts) == dict.fromkeys(numbers(40), 1)
    assert await floor.states(row) == {"leased": 40}


async def test_replies_that_providers_keep_waiting_leave_room_for_fewer_calls(floor: Floor) -> None:
    row = await floor.campaign("spring", numbers(30))
    turns, counts, feeder = Reports(floor.live, TURNS), LatencyCounts(), floor.feeder(calls_per_second=100)
    await floor.sessions(20)
    for llm_ms, attempts in ((60.0, 20), (1700.0, 30)):
        for _ in range(40):
            counts.reply({"llm_ms": llm_ms, "total_ms": llm_ms + 300}, {}, ())
        await turns.put("replica-1", counts.report(), 600)
        await feeder.step()
        assert len(await floor.attempts(row)) == attempts
        await floor.work_off(row)
        floor.move(seconds=6)
    assert floor.pressure.share(floor.clock.monotonic()) < 0.6
    await turns.put("replica-2", {"stages": "of another version"}, 600)
    floor.move(seconds=6)
    await feeder.step()


def test_what_happens_at_once_is_one_look() -> None:
    async def wake_often() -> int:
        clock, steps = SimulatedClock(), 0
        live: Any = SimulatedRedis(clock, 1)
        nothing: Any = None
        feeder = Feeder(nothing, live, make_settings(), clock, "feeder-1", fed=lambda: None, pressure=Backpressure())

        async def step() -> float:
            nonlocal steps
            steps += 1
            return 5.0

        feeder.step = step  # type: ignore[method-assign]
        running = asyncio.create_task(feeder.run())
        for _ in range(300):
            feeder.wake()
            await clock.sleep(0.01)
        running.cancel()
        return steps

    assert 15 <= run_virtual(wake_often()) <= 21, "in three seconds"


@pytest.mark.parametrize("error", [UnavailableError("the database is away"), KeyError("a fault of ours")])
async def test_it_waits_out_whatever_a_step_meets(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    row = await floor.campaign("spring", numbers(2))
    feeder, tries = floor.feeder(), 0
    step = feeder.step

    async def failing() -> float:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error
        return await step()

    monkeypatch.setattr(feeder, "step", failing)
    monkeypatch.setattr("serve_app.dialing.feeder.FIRST_BACKOFF_S", 0.01)
    running = asyncio.create_task(feeder.run())
    async with asyncio.timeout(20):
        await floor.fed.wait()
    running.cancel()
    assert tries >= 2 and len(await floor.attempts(row)) == 2
