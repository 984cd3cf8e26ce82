"""The dialer: at most one request per attempt under every fault, none without a session, and every attempt ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from serve_app.api.deps import ApiDeps
from serve_app.clock import SystemClock
from serve_app.dialing.dialer import Claim, Dialer
from serve_app.dialing.reconcile import ABSENT_ONCE, AttemptReconciler
from serve_app.dialing.rules import Allow, Decision
from serve_app.dialing.single_calls import SingleCalls
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.models import Attempt
from serve_app.store.reports import DEMAND, Reports
from serve_app.store.repositories import AttemptRow, Attempts, CallRow, Calls
from serve_app.store.slots import Scope
from serve_app.telephony.vonage.rest import VonageClient
from tests.unit.api_support import FROM, PUBLIC_URL, TO, FakeVonage, Plane, make_settings, send
from tests.unit.campaign_support import campaign, claim

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")


class ShiftedClock(SystemClock):
    """The machine's clock, some seconds ahead: what must wait for minutes is due at once."""

    def __init__(self, ahead_s: float = 0) -> None:
        self.ahead_s = ahead_s

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead_s)


class Bench:
    """SQL, Redis and a fake network, with any number of dialers on them."""

    def __init__(self, db: Database, live: LiveState, vonage: FakeVonage) -> None:
        self.db, self.live, self.vonage = db, live, vonage
        self.settings = make_settings(vonage.url)
        self.clock = ShiftedClock()
        self.calls = Calls(db, "default")
        self.attempts = Attempts(db, "default")

    def configure(self, **overrides: Any) -> None:
        self.settings = make_settings(self.vonage.url, **overrides)

    async def call(self, to: str = TO, *, wait_s: float = 30, tenant: str = "default") -> tuple[CallRow, AttemptRow]:
        return await Calls(self.db, tenant).create_outbound(
            to_number=to,
            from_number=FROM,
            agent_name="riverside-dental",
            agent_version=1,
            metadata={},
            give_up_at=datetime.now(UTC) + timedelta(seconds=wait_s),
        )

    @asynccontextmanager
    async def dialing(self, dialers: int = 1, **options: Any) -> Any:
        clients = [VonageClient(self.settings.telephony.vonage) for _ in range(dialers)]
        made = [
            Dialer(self.db, self.live, client, self.settings, self.clock, f"dialer-{n}", **options)
            for n, client in enumerate(clients)
        ]
        tasks = [asyncio.create_task(dialer.run()) for dialer in made]
        try:
            yield made
            assert not any(task.done() for task in tasks), "a dialer ended"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for client in clients:
                await client.aclose()

    async def attempt(self, attempt_id: str) -> AttemptRow:
        found = await self.attempts.get(attempt_id)
        assert found is not None
        return found

    async def until(self, condition: Callable[[], Awaitable[bool]], timeout_s: float = 30) -> None:
        async with asyncio.timeout(timeout_s):
            while True:
                if await condition():
                    return
                await asyncio.sleep(0.02)

    async def until_status(self, attempt_id: str, *statuses: str) -> AttemptRow:
        async def reached() -> bool:
            return (await self.attempt(attempt_id)).status in statuses

        await self.until(reached)
        return await self.attempt(attempt_id)

    async def sweep(self) -> None:
        client = VonageClient(self.settings.telephony.vonage)
        await AttemptReconciler(self.db, self.live, client, self.settings, self.clock).sweep()
        await client.aclose()


@pytest.fixture(name="bench")
async def fixture_bench(db: Database, live: LiveState, vonage: FakeVonage) -> Bench:
    await live.beat("replica-1", 50, ttl_s=600)
    return Bench(db, live, vonage)


async def test_a_queued_call_is_placed_by_one_request_with_signed_links(bench: Bench) -> None:
    answered: list[float] = []
    call, attempt = await bench.call()
    async with bench.dialing() as (dialer,):
        dialer.pressure.answered = lambda seconds, now_s: answered.append(seconds)
        placed = await bench.until_status(attempt.id, "placed")
    (post,) = bench.vonage.posts
    assert len(answered) == 1, "how long it took tells whether the network is in trouble"
    assert post["to"] == [{"type": "phone", "number": TO[1:]}]
    assert post["from"] == {"type": "phone", "number": FROM[1:]}
    assert post["answer_url"][0].startswith(f"{PUBLIC_URL}/webhooks/vonage/answer?tenant=default&attempt={attempt.id}&")
    assert post["event_url"][0].startswith(f"{PUBLIC_URL}/webhooks/vonage/event?tenant=default&attempt={attempt.id}&")
    assert (post["ringing_timer"], post["length_timer"]) == (30, 3600)
    assert placed.carrier_call_id in bench.vonage.calls
    row = await bench.calls.get(call.id)
    assert row is not None
    assert (row.status, row.carrier_call_id) == ("dialing", placed.carrier_call_id)
    assert await bench.live.capacity() == (50, 1)


async def test_a_wake_up_places_a_call_that_came_after_the_start(bench: Bench) -> None:
    async with bench.dialing() as (dialer,):
        await asyncio.sleep(0.1)
        _, attempt = await bench.call()
        dialer.wake()
        await bench.until_status(attempt.id, "placed")


@pytest.mark.parametrize(
    ("behaviour", "status", "call_status"),
    [
        ("400", "ended", "failed"),
        ("401", "ended", "failed"),
        ("500", "unknown", "dialing"),
        ("502", "unknown", "dialing"),
        ("hang", "unknown", "dialing"),
        ("disconnect", "unknown", "dialing"),
        ("lost_response", "unknown", "dialing"),
    ],
)
async def test_every_fault_leads_to_one_request_and_a_recorded_state(
    bench: Bench, behaviour: str, status: str, call_status: str
) -> None:
    bench.vonage.behaviour = behaviour
    call, attempt = await bench.call()
    async with bench.dialing(2) as dialers:
        await bench.until_status(attempt.id, status)
        for dialer in dialers:
            dialer.wake()
        await asyncio.sleep(0.3)
    assert len(bench.vonage.posts) == 1
    row = await bench.calls.get(call.id)
    assert row is not None
    assert row.status == call_status
    used = (await bench.live.capacity())[1]
    assert used == (0 if status == "ended" else 1)


async def test_a_throttled_request_is_not_an_attempt_and_is_sent_later(bench: Bench) -> None:
    bench.vonage.behaviour = "throttle_once"
    _, attempt = await bench.call()
    async with bench.dialing():
        await bench.until_status(attempt.id, "placed")
    assert len(bench.vonage.posts) == 2
    assert len(bench.vonage.calls) == 1


async def test_a_network_that_keeps_throttling_ends_the_call_at_its_deadline(bench: Bench) -> None:
    bench.vonage.behaviour = "429"
    call, attempt = await bench.call(wait_s=1)
    async with bench.dialing():
        ended = await bench.until_status(attempt.id, "ended")
    assert ended.disposition == "not_placed"
    assert len(bench.vonage.posts) <= 2
    row = await bench.calls.get(call.id)
    assert row is not None
    assert (row.status, row.outcome) == ("failed", "not_placed")


async def test_no_connection_is_tried_again_until_the_deadline(bench: Bench) -> None:
    url = bench.vonage.url
    bench.vonage.url = "http://127.0.0.1:9"
    bench.configure()
    _, attempt = await bench.call(wait_s=1)
    async with bench.dialing():
        ended = await bench.until_status(attempt.id, "ended")
    assert ended.disposition == "not_placed"
    assert bench.vonage.posts == []
    bench.vonage.url = url


async def test_without_a_session_nothing_is_placed_and_the_call_ends_no_capacity(bench: Bench) -> None:
    await bench.live.leave("replica-1")
    call, attempt = await bench.call(wait_s=0.6)
    async with bench.dialing(2):
        ended = await bench.until_status(attempt.id, "ended")
    assert ended.disposition == "no_capacity"
    assert bench.vonage.posts == []
    row = await bench.calls.get(call.id)
    assert row is not None
    assert (row.status, row.outcome) == ("failed", "no_capacity")


async def test_a_session_that_becomes_free_in_time_gets_the_waiting_call(bench: Bench) -> None:
    await bench.live.beat("replica-1", 1, ttl_s=600)
    assert await bench.live.reserve("somebody-else", 60)
    _, attempt = await bench.call(wait_s=20)
    async with bench.dialing():
        await asyncio.sleep(0.4)
        assert bench.vonage.posts == []
        await bench.live.release("somebody-else")
        await bench.until_status(attempt.id, "placed")
    assert len(bench.vonage.posts) == 1


async def test_waiting_longer_than_one_claim_still_places_the_call_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.dialing.dialer.RENEWAL_S", 0.3)
    await bench.live.leave("replica-1")
    _, attempt = await bench.call(wait_s=20)
    async with bench.dialing(2):
        await asyncio.sleep(1)
        await bench.live.beat("replica-1", 1, ttl_s=600)
        placed = await bench.until_status(attempt.id, "placed")
    assert placed.epoch == 1, "its claim was renewed, not taken anew"
    assert len(bench.vonage.posts) == 1


async def test_at_capacity_calls_are_placed_in_order_as_slots_return(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More calls than one dialer claims at once, waiting longer than a claim's renewal: first come, first served."""
    monkeypatch.setattr("serve_app.dialing.dialer.RENEWAL_S", 0.4)
    bench.configure(vonage={"calls_per_second": 50})
    await bench.live.beat("replica-1", 1, ttl_s=600)
    await bench.live.reserve("busy", 60)
    made = [await bench.call(f"+1202555{1000 + n}") for n in range(10)]
    numbers = [call.to_number[1:] for call, _ in made]
    served: list[int] = []

    async def one_more() -> bool:
        return len(bench.vonage.posts) > len(served)

    async with bench.dialing():
        await asyncio.sleep(1)
        assert bench.vonage.posts == []
        await bench.live.release("busy")
        while len(served) < len(made):
            await bench.until(one_more)
            served.append(numbers.index(bench.vonage.posts[len(served)]["to"][0]["number"]))
            attempt_id = made[served[-1]][1].id
            await bench.until_status(attempt_id, "placed")
            assert len(bench.vonage.posts) == len(served), "one slot, one call"
            await bench.live.release(attempt_id)
    assert served == list(range(10))


async def test_at_capacity_the_dialer_asks_seldom_and_says_how_many_wait(bench: Bench) -> None:
    await bench.live.beat("replica-1", 0, ttl_s=600)
    asked = 0
    reserve = bench.live.reserve_in

    async def counted(scopes: Sequence[Scope], slot_id: str, ttl_s: float) -> str | None:
        nonlocal asked
        asked += 1
        return await reserve(scopes, slot_id, ttl_s)

    bench.live.reserve_in = counted  # type: ignore[method-assign]
    for n in range(4):
        await bench.call(f"+1202555{1000 + n}")
    async with bench.dialing():
        await asyncio.sleep(2.2)
        demand = await Reports(bench.live, DEMAND).all()
    # 0.1, 0.2, 0.4, then every 0.5 s: one question for all four.
    assert 3 <= asked <= 7
    assert demand == {"dialer-0": {"waiting": 4}}


async def test_never_more_calls_than_slots(bench: Bench) -> None:
    await bench.live.beat("replica-1", 3, ttl_s=600)
    made = [await bench.call(f"+1202555{1000 + n}", wait_s=7) for n in range(8)]
    async with bench.dialing(2):
        for _, attempt in made:
            await bench.until_status(attempt.id, "placed", "ended")
    states = sorted([(await bench.attempt(attempt.id)).status for _, attempt in made])
    assert states == ["ended"] * 5 + ["placed"] * 3
    assert len(bench.vonage.posts) == 3


async def test_two_dialers_place_each_of_many_calls_once(bench: Bench) -> None:
    made = [await bench.call(f"+1202555{1000 + n}") for n in range(30)]
    async with bench.dialing(2) as dialers:
        for _, attempt in made:
            for dialer in dialers:
                dialer.wake()
            await bench.until_status(attempt.id, "placed")
    numbers = sorted(post["to"][0]["number"] for post in bench.vonage.posts)
    assert numbers == sorted(call.to_number[1:] for call, _ in made)


async def test_requests_keep_to_the_accounts_rate(bench: Bench) -> None:
    bench.configure(vonage={"calls_per_second": 4})
    made = [await bench.call(f"+1202555{1000 + n}") for n in range(6)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with bench.dialing(2):
        for _, attempt in made:
            await bench.until_status(attempt.id, "placed")
    # Six requests are five intervals of 1.1 / 4 s apart, however many dialers there are.
    assert loop.time() - began >= 5 * 1.1 / 4
    assert len(bench.vonage.posts) == 6


async def test_a_rate_slower_than_a_claim_waits_places_calls_in_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that will not wait for its slot must not take it from those that do, nor circle past its deadline."""
    monkeypatch.setattr("serve_app.dialing.dialer.LONGEST_PACE_S", 0.5)
    bench.configure(vonage={"calls_per_second": 1.5})  # a slot every 0.73 s
    calls = [await bench.call(f"+1202555{n:04}", wait_s=1) for n in range(130, 136)]
    async with bench.dialing():
        for _, attempt in calls:
            await bench.until_status(attempt.id, "placed", "ended")
    ended = [await bench.attempt(attempt.id) for _, attempt in calls]
    placed = [row for row in ended if row.status == "placed"]
    # Two on time; a machine that is slow in that second places one.
    assert 1 <= len(placed) <= 2
    assert {row.disposition for row in ended if row.status == "ended"} == {"no_capacity"}
    assert len(bench.vonage.posts) == len(placed)
    assert (await bench.live.capacity())[1] == len(placed)


async def test_a_call_whose_deadline_passed_long_ago_is_not_placed(bench: Bench) -> None:
    """The dialer was away for a while: people are not called about what somebody wanted an hour ago."""
    call, attempt = await bench.call(wait_s=-3600)
    async with bench.dialing():
        await bench.until_status(attempt.id, "ended")
    assert not bench.vonage.posts
    row = await bench.calls.get(call.id)
    assert row is not None
    assert row.outcome == "no_capacity"


async def test_every_tenants_calls_are_placed(bench: Bench) -> None:
    _, mine = await bench.call()
    _, theirs = await bench.call(tenant="other")
    async with bench.dialing():
        await bench.until_status(mine.id, "placed")

        async def placed() -> bool:
            row = await Attempts(bench.db, "other").get(theirs.id)
            return row is not None and row.status == "placed"

        await bench.until(placed)
    assert len(bench.vonage.posts) == 2
    assert any("tenant=other" in post["event_url"][0] for post in bench.vonage.posts)


async def test_a_tenant_that_asks_for_many_calls_keeps_no_other_from_its_turn(bench: Bench) -> None:
    bench.configure(vonage={"calls_per_second": 2})
    for n in range(9):
        await bench.call(f"+1202555{1000 + n}", tenant="a-great-one")
    for n in range(2):
        await bench.call(f"+1202555{2000 + n}")
    client = VonageClient(bench.settings.telephony.vonage)
    dialer = Dialer(bench.db, bench.live, client, bench.settings, bench.clock, "d")
    claims, _ = await dialer._claim()
    assert Counter(claim.attempt.tenant_id for claim in claims) == {"a-great-one": 3, "default": 2}
    await client.aclose()


async def test_the_rules_are_asked_again_before_the_request(bench: Bench) -> None:
    call, attempt = await bench.call()
    async with bench.dialing(simulated_network=False):
        ended = await bench.until_status(attempt.id, "ended")
    assert ended.disposition == "not_allowed"
    assert bench.vonage.posts == []
    row = await bench.calls.get(call.id)
    assert row is not None
    assert (row.status, row.outcome) == ("failed", "not_allowed")
    assert row.detail is not None
    assert row.detail.startswith("not_on_allow_list")


async def test_a_call_that_was_cancelled_during_the_request_is_hung_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, _ = await bench.call()
    record = Attempts.placed

    async def cancelled_meanwhile(attempts: Attempts, attempt_id: str, *ids: Any) -> bool:
        assert await attempts.end(attempt_id, "failed")
        return await record(attempts, attempt_id, *ids)

    monkeypatch.setattr(Attempts, "placed", cancelled_meanwhile)

    async def hung_up() -> bool:
        return bool(bench.vonage.hung_up)

    async with bench.dialing():
        await bench.until(hung_up)
    assert bench.vonage.hung_up == list(bench.vonage.calls)
    assert (await bench.live.capacity())[1] == 0
    assert await bench.calls.get(call.id) is not None


async def test_an_orderly_stop_waits_for_the_request_that_left_and_starts_no_other(bench: Bench) -> None:
    bench.vonage.behaviour = "slow"
    _, attempt = await bench.call()
    async with bench.dialing() as (dialer,):
        await bench.until_status(attempt.id, "placing")
        _, later = await bench.call("+12025550177")
        await dialer.stop()
        assert (await bench.attempt(attempt.id)).status == "placed"
        assert (await bench.attempt(later.id)).status == "intended"
    assert len(bench.vonage.posts) == 1


async def test_a_claim_of_a_dead_dialer_is_taken_over(bench: Bench) -> None:
    _, attempt = await bench.call()
    await bench.attempts.claim_intended("dead", limit=5, lease_s=0.5, now=datetime.now(UTC))
    async with bench.dialing():
        placed = await bench.until_status(attempt.id, "placed")
    assert placed.epoch == 2
    assert len(bench.vonage.posts) == 1


async def test_a_dialer_that_lost_its_claim_neither_places_nor_ends_the_call(bench: Bench) -> None:
    """The paused dialer: its lease ran out, another one claimed the attempt and is placing it."""
    _, attempt = await bench.call(wait_s=0)
    (old,) = await bench.attempts.claim_intended("old", limit=1, lease_s=0.0, now=datetime.now(UTC))
    (new,) = await bench.attempts.claim_intended("new", limit=1, lease_s=30, now=datetime.now(UTC))
    assert await bench.attempts.fence_placing(new.id, new.epoch)
    assert await bench.live.reserve(new.id, 60)
    client = VonageClient(bench.settings.telephony.vonage)
    paused = Dialer(bench.db, bench.live, client, bench.settings, bench.clock, "old")
    assert await paused._dial(Claim(old, bench.clock.monotonic())) == "lost_claim"
    await bench.live.leave("replica-1")
    assert await paused._decline(old, "no_capacity", "late") == "lost_claim"
    await client.aclose()
    assert bench.vonage.posts == []
    assert (await bench.attempt(attempt.id)).status == "placing"
    assert (await bench.live.capacity())[1] == 1


async def test_a_lost_response_is_adopted_from_the_networks_list(bench: Bench) -> None:
    bench.vonage.behaviour = "lost_response"
    _, attempt = await bench.call()
    async with bench.dialing():
        await bench.until_status(attempt.id, "unknown")
    await bench.sweep()
    assert (await bench.attempt(attempt.id)).status == "unknown", "the grace for webhooks is not over"
    bench.clock.ahead_s = 20
    await bench.sweep()
    adopted = await bench.attempt(attempt.id)
    assert adopted.status == "placed"
    assert adopted.carrier_call_id in bench.vonage.calls
    assert len(bench.vonage.posts) == 1


async def test_an_adopted_call_that_is_over_ends_ours(bench: Bench) -> None:
    bench.vonage.behaviour = "lost_response"
    call, attempt = await bench.call()
    async with bench.dialing():
        await bench.until_status(attempt.id, "unknown")
    for placed in bench.vonage.calls.values():
        placed["status"] = "busy"
    bench.clock.ahead_s = 20
    await bench.sweep()
    row = await bench.calls.get(call.id)
    assert row is not None
    assert (row.status, row.outcome) == ("failed", "busy")
    assert (await bench.live.capacity())[1] == 0


async def test_a_call_that_the_network_never_shows_is_closed_after_two_looks_and_not_sent_again(
    bench: Bench,
) -> None:
    bench.vonage.behaviour = "disconnect"
    call, attempt = await bench.call()
    async with bench.dialing():
        await bench.until_status(attempt.id, "unknown")
    # A call to the same number that is somebody else's must not be taken for ours.
    foreign = bench.vonage.add_call(TO[1:], "12025559999")
    bench.clock.ahead_s = 20
    await bench.sweep()
    once = await bench.attempt(attempt.id)
    assert (once.status, once.detail) == ("unknown", ABSENT_ONCE)
    await bench.sweep()
    assert (await bench.attempt(attempt.id)).status == "unknown", "the second look is a minute later"
    bench.clock.ahead_s = 90
    await bench.sweep()
    closed = await bench.attempt(attempt.id)
    assert (closed.status, closed.disposition) == ("ended", "unknown")
    row = await bench.calls.get(call.id)
    assert row is not None
    assert (row.status, row.outcome) == ("failed", "failed")
    assert len(bench.vonage.posts) == 1
    assert foreign["uuid"] in bench.vonage.calls


async def test_attempts_in_doubt_that_were_placed_together_are_looked_for_in_one_list(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.vonage.behaviour = "disconnect"
    attempts = [(await bench.call(f"+1202555013{n}"))[1] for n in range(4)]
    async with bench.dialing():
        for attempt in attempts:
            await bench.until_status(attempt.id, "unknown")
    bench.vonage.add_call("12025550133", FROM[1:])
    list_calls, looks = VonageClient.list_calls, []

    async def look(client: VonageClient, since: datetime, until: datetime, *turn: Any) -> Any:
        looks.append((since, until))
        return await list_calls(client, since, until, *turn)

    monkeypatch.setattr(VonageClient, "list_calls", look)
    bench.clock.ahead_s = 20
    await bench.sweep()
    found = [await bench.attempt(attempt.id) for attempt in attempts]
    assert [attempt.status for attempt in found] == ["unknown"] * 3 + ["placed"]
    assert len(looks) == 1
    # Whoever was placed long after the others has a list of its own.
    placed_at = [attempt.placing_at for attempt in found]
    assert all(at is not None and looks[0][0] < at < looks[0][1] for at in placed_at)
    async with bench.db.transaction() as session:
        later = found[0].placing_at
        assert later is not None
        apart = update(Attempt).where(Attempt.id == attempts[0].id).values(placing_at=later + timedelta(seconds=40))
        await session.execute(apart)
    bench.clock.ahead_s = 90
    await bench.sweep()
    # Two lists of the two times, and two for strays of the three that were given up.
    assert len(looks) == 5
    assert [(await bench.attempt(attempt.id)).status for attempt in attempts] == ["ended"] * 3 + ["placed"]


async def test_a_webhook_that_comes_during_the_last_look_keeps_the_call_alive(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.vonage.behaviour = "disconnect"
    call, attempt = await bench.call()
    async with bench.dialing():
        await bench.until_status(attempt.id, "unknown")
    await bench.attempts.unknown(attempt.id, ABSENT_ONCE)
    late = bench.vonage.add_call(TO[1:], FROM[1:])["uuid"]
    bench.clock.ahead_s = 90

    async def look(*_: object) -> list[object]:
        await bench.attempts.bind(attempt.id, late)
        return []

    monkeypatch.setattr(VonageClient, "list_calls", look)
    await bench.sweep()
    assert (await bench.attempt(attempt.id)).status == "placed"
    row = await bench.calls.get(call.id)
    assert row is not None
    assert (row.status, row.carrier_call_id) == ("dialing", late)


async def test_an_attempt_left_in_placing_is_looked_up_not_repeated(bench: Bench) -> None:
    _, attempt = await bench.call()
    (claimed,) = await bench.attempts.claim_intended("dead", limit=1, lease_s=1, now=datetime.now(UTC))
    await bench.attempts.fence_placing(claimed.id, claimed.epoch)
    bench.vonage.add_call(TO[1:], FROM[1:])
    bench.clock.ahead_s = 5
    await bench.sweep()
    assert (await bench.attempt(attempt.id)).status == "unknown"
    bench.clock.ahead_s = 60
    await bench.sweep()
    assert (await bench.attempt(attempt.id)).status == "placed"
    assert bench.vonage.posts == []


async def test_a_placed_call_whose_last_webhook_was_lost_is_closed(bench: Bench) -> None:
    call, attempt = await bench.call()
    async with bench.dialing():
        placed = await bench.until_status(attempt.id, "placed")
    assert placed.carrier_call_id is not None
    bench.vonage.calls[placed.carrier_call_id]["status"] = "timeout"
    await bench.sweep()
    row = await bench.calls.get(call.id)
    assert row is not None
    assert row.status == "dialing"
    bench.clock.ahead_s = 200
    await bench.sweep()
    row = await bench.calls.get(call.id)
    assert row is not None
    assert (row.status, row.outcome) == ("failed", "not_answered")


async def test_api_dialer_and_webhook_make_one_answered_call(plane: Plane) -> None:
    call = await plane.place()
    deps: ApiDeps = plane.deps
    settings: Settings = deps.settings
    client = VonageClient(settings.telephony.vonage)
    dialer = Dialer(plane.db, plane.live, client, settings, SystemClock(), "one")
    task = asyncio.create_task(dialer.run())

    async def placed() -> bool:
        return bool(plane.vonage.calls)

    await Bench(plane.db, plane.live, plane.vonage).until(placed)
    (post,) = plane.vonage.posts
    (uuid,) = plane.vonage.calls
    question = {"to": TO[1:], "from": FROM[1:], "uuid": uuid, "conversation_uuid": "CON-1"}
    response = await send(plane, post["answer_url"][0], question)
    assert response.json()[-1]["endpoint"][0]["headers"] == {"call_id": call["id"]}
    read = (await plane.http.get(f"/api/v1/calls/{call['id']}", headers=plane.auth)).json()
    assert read["status"] == "answered"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client.aclose()


async def test_a_call_whose_time_is_over_before_its_slot_is_not_placed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def until_now(*_: Any, **__: Any) -> Decision:
        return Allow(bench.clock.now())

    monkeypatch.setattr(SingleCalls, "decide", until_now)
    call, attempt = await bench.call()
    async with bench.dialing():
        ended = await bench.until_status(attempt.id, "ended")
    assert ended.disposition == "not_allowed"
    row = await bench.calls.get(call.id)
    assert row is not None and row.detail is not None and row.detail.startswith("outside_window")
    assert bench.vonage.posts == []


async def test_a_campaigns_call_was_decided_on_in_its_claim_and_needs_no_allowed_number(bench: Bench) -> None:
    row = await campaign(bench.db, leads=["+12012345678"], tenant="default")
    (claimed,) = (await claim(bench.db, row)).leads
    async with bench.dialing(simulated_network=False):
        placed = await bench.until_status(claimed.attempt_id, "placed", "ended")
    assert placed.status == "placed"
    assert len(bench.vonage.posts) == 1
