"""One attempt through the dialer on a clock of the test's own: its slot of the rate, its hours, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.clock import SystemClock
from serve_app.dialing.dialer import AFTER_SLOT_S, FENCED_S, MOST_LATE_S, Claim, Dialer
from serve_app.store.attempts import Attempts
from serve_app.store.campaign_rows import CampaignRow, LeadRow
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.rows import AttemptRow
from serve_app.telephony.vonage.rest import VonageClient
from tests.unit.api_support import FakeVonage, make_settings
from tests.unit.campaign_support import TENANT, campaign, claim, lead_of, number

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")


class SteppedClock(SystemClock):
    """Moves only by what is slept, and by `ahead`."""

    def __init__(self) -> None:
        self.begun = datetime.now(UTC)
        self.passed_s = 0.0

    def now(self) -> datetime:
        return self.begun + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return self.passed_s

    async def sleep(self, seconds: float) -> None:
        self.passed_s += max(0.0, seconds)
        await asyncio.sleep(0)


class Desk:
    """One campaign with one lead, and a dialer that is given its attempt by hand."""

    def __init__(self, db: Database, live: LiveState, vonage: FakeVonage, row: CampaignRow, attempt_id: str) -> None:
        self.db, self.live, self.vonage, self.row, self.attempt_id = db, live, vonage, row, attempt_id
        self.clock = SteppedClock()
        self.attempts = Attempts(db, TENANT)
        self.fence_s: list[float] = []
        """What the next fences take."""

    @asynccontextmanager
    async def dialer(self, **options: Any) -> AsyncIterator[Dialer]:
        settings = make_settings(self.vonage.url, vonage={"request_timeout_s": 10})
        client = VonageClient(settings.telephony.vonage)
        yield Dialer(self.db, self.live, client, settings, self.clock, "d", **options)
        await client.aclose()

    async def dial(self, dialer: Dialer) -> str:
        """Claim the one attempt that is due, and work on it."""
        (held,) = await self.attempts.claim_intended("d", limit=9, lease_s=60, now=self.clock.now() + timedelta(days=1))
        self.clock.passed_s += 0.001
        return await dialer._dial(Claim(held, self.clock.monotonic()))

    async def attempt(self) -> AttemptRow:
        found = await self.attempts.get(self.attempt_id)
        assert found is not None
        return found

    async def lead(self) -> LeadRow:
        return await lead_of(self.db, self.row, number(1))


@pytest.fixture(name="desk")
async def fixture_desk(db: Database, live: LiveState, vonage: FakeVonage, monkeypatch: pytest.MonkeyPatch) -> Desk:
    await live.beat("replica-1", 5, ttl_s=600)
    row = await campaign(db, leads=[number(1)])
    (claimed,) = (await claim(db, row)).leads
    desk = Desk(db, live, vonage, row, claimed.attempt_id)
    fence = Attempts.fence_placing

    async def slow(attempts: Attempts, attempt_id: str, epoch: int) -> bool:
        passed = await fence(attempts, attempt_id, epoch)
        desk.clock.passed_s += desk.fence_s.pop(0) if desk.fence_s else 0.0
        return passed

    async def at_once(*_: object, **__: object) -> float:
        return 0.0

    monkeypatch.setattr(Attempts, "fence_placing", slow)
    monkeypatch.setattr(LiveState, "throttle", at_once)
    return desk


def rate(monkeypatch: pytest.MonkeyPatch, *waits_s: float) -> list[float]:
    """The waits until the slots that are asked for, in turn; what is left of them."""
    left = list(waits_s)

    async def throttle(*_: object, **__: object) -> float:
        return left.pop(0)

    monkeypatch.setattr(LiveState, "throttle", throttle)
    return left


async def test_a_request_that_missed_its_slot_takes_the_next_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    left = rate(monkeypatch, 0.0, FENCED_S / 2)
    desk.fence_s = [AFTER_SLOT_S + 2 * MOST_LATE_S]
    async with desk.dialer() as dialer:
        assert await desk.dial(dialer) == "placed"
    assert (left, len(desk.vonage.posts)) == ([], 1)


async def test_where_the_next_slot_is_far_off_it_goes_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forbidden meanwhile would not be seen any more."""
    left = rate(monkeypatch, 0.0, FENCED_S * 1.1, 0.0)
    desk.fence_s = [AFTER_SLOT_S + 2 * MOST_LATE_S, AFTER_SLOT_S + MOST_LATE_S / 2]
    async with desk.dialer() as dialer:
        assert await desk.dial(dialer) == "waiting"
        back = await desk.attempt()
        assert (back.status, back.placing_at, desk.vonage.posts) == ("intended", None, [])
        # It begins its fence earlier now, so one that takes as long as its time does not make it late.
        assert await desk.dial(dialer) == "placed"
    assert (left, len(desk.vonage.posts)) == ([], 1)


async def test_no_slot_is_taken_for_a_fence_that_is_too_old(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    async def slow(*_: object, longest_s: float, **__: object) -> float:
        asked.append(longest_s)
        desk.clock.passed_s += FENCED_S if len(asked) == 2 else 0.0  # Redis is slow, too
        return 0.0

    monkeypatch.setattr(LiveState, "throttle", slow)
    desk.fence_s = [AFTER_SLOT_S + 2 * MOST_LATE_S]
    async with desk.dialer() as dialer:
        assert await desk.dial(dialer) == "waiting"
    assert (len(asked), (await desk.attempt()).status, desk.vonage.posts) == (2, "intended", [])


async def test_an_opening_is_waited_for_before_the_slot_is_taken(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = asyncio.Event()
    seen: list[bool] = []

    async def prepare(_: object) -> bool:
        await asyncio.sleep(0.05)
        ready.set()
        return True

    async def throttle(*_: object, **__: object) -> float:
        seen.append(ready.is_set())
        return 0.0

    monkeypatch.setattr(LiveState, "throttle", throttle)
    async with desk.dialer(prepare=prepare) as dialer:
        assert await desk.dial(dialer) == "placed"
    assert seen == [True]


async def test_nothing_is_sent_once_the_time_is_over_even_after_the_fence(desk: Desk) -> None:
    attempt = await desk.attempt()
    # The fence begins a moment before the end and is done a moment after it, and still in its slot.
    desk.clock.begun = attempt.give_up_at - timedelta(seconds=AFTER_SLOT_S + MOST_LATE_S / 2)
    desk.fence_s = [MOST_LATE_S * 0.9]
    async with desk.dialer() as dialer:
        assert await desk.dial(dialer) == "no_capacity"
    ended = await desk.attempt()
    assert (ended.status, ended.disposition, desk.vonage.posts) == ("ended", "no_capacity", [])
    assert ended.placing_at is not None and ended.placing_at < attempt.give_up_at, "its fence was in time"


@pytest.mark.parametrize("behaviour", ["400", "400 from", "401", "402", "403", "429", "no connection"])
async def test_what_is_proven_not_placed_costs_the_lead_nothing(desk: Desk, behaviour: str) -> None:
    desk.vonage.behaviour = behaviour
    attempt = await desk.attempt()
    desk.clock.begun = attempt.give_up_at - timedelta(seconds=1)  # what may pass would pass too late
    if behaviour == "no connection":
        desk.vonage.url = "http://127.0.0.1:9"
    async with desk.dialer() as dialer:
        assert await desk.dial(dialer) == "refused"
        assert dialer.pressure.share(desk.clock.monotonic()) < 1
        refusal = dialer.pressure.take_refusal()
        assert (refusal is not None) == (behaviour in ("401", "402", "403"))
        assert dialer.pressure.take_refusal() is None, "an alarm each time, not for ever"
    ended = await desk.attempt()
    assert (ended.disposition, ended.result, ended.placing_at is not None) == ("not_placed", "not_placed", True)
    lead = await desk.lead()
    assert (lead.state, lead.attempts, lead.last_called_at) == ("deferred", 0, None)
    assert ended.ended_at is not None and timedelta(0) < lead.next_at - ended.ended_at < timedelta(minutes=2)
    since = ended.created_at - timedelta(days=1)
    assert await desk.attempts.placed_at(number(1), since=since, limit=9) == [], "in no cap"
    assert (await desk.live.capacity())[1] == 0


async def test_a_number_that_the_network_refuses_closes_its_lead(desk: Desk) -> None:
    desk.vonage.behaviour = "400 to[0].number"
    async with desk.dialer() as dialer:
        assert await desk.dial(dialer) == "refused"
        assert dialer.pressure.share(desk.clock.monotonic()) == 1, "nothing is wrong but the number"
    ended = await desk.attempt()
    assert (ended.disposition, ended.result) == ("not_placed", "invalid_number")
    assert ((await desk.lead()).state, (await desk.lead()).last_reason) == ("barred", "invalid_number")
