"""Feeder and dialer die at every point at which they wait for something: no lead is lost, nothing is dialed twice.

On both databases, whose locks a process leaves behind differently. `test_crash_points.py` is the same with the whole
dialer, on simulated time.
"""

from __future__ import annotations

import asyncio
import types
from collections import Counter
from collections.abc import Coroutine, Generator
from datetime import timedelta
from itertools import count
from typing import Any

from serve_app.dialing.feeder import Feeder
from serve_app.dialing.pacing import Backpressure
from serve_app.store.attempts import Attempts
from serve_app.store.campaign_models import CLOSED_LEAD
from serve_app.store.campaign_rows import CampaignRow
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.leads import Leads, NewLead
from serve_app.store.live import LiveState
from serve_app.store.rows import AttemptRow
from tests.unit.api_support import StoppedClock, make_settings
from tests.unit.campaign_support import START, campaign, end, number
from tests.unit.test_feeder import RULES, UNLIMITED

pytest_plugins = ("tests.unit.store_fixtures",)

LEADS = 30
DEATHS = 30
"""At the first, second, ... wait of each process: more than the steps that any of them has."""
ATTEMPT_LEASE_S = 20.0


@types.coroutine
def dies_at(wait: int, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await `work`, and cancel the task when it waits for the `wait`-th time: what it asked for may happen or not."""
    error: BaseException | None = None
    for waits in count(1):
        try:
            waited = work.send(None) if error is None else work.throw(error)
        except StopIteration as over:
            return over.value
        if waits == wait:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        error = None
        try:
            yield waited
        except BaseException as raised:
            error = raised
    raise AssertionError("waits are counted without end")


class World:
    """The processes of a platform, each of them new every time, and a network that remembers what it was asked."""

    def __init__(self, db: Database, live: LiveState, row: CampaignRow) -> None:
        self.db, self.live, self.row = db, live, row
        self.campaigns = Campaigns(db, row.tenant_id)
        self.clock = StoppedClock(START)
        self.posts: Counter[str] = Counter()
        self.to: Counter[str] = Counter()
        """Calls on the line, by number."""
        self.deaths = 0

    async def feed(self) -> None:
        feeder = Feeder(
            self.db,
            self.live,
            make_settings(vonage={"calls_per_second": 2}),
            self.clock,
            f"feeder-{self.deaths}",
            fed=lambda: None,
            pressure=Backpressure(),
            simulated_network=True,
            plans=UNLIMITED,
        )
        await feeder.step()

    async def dial(self) -> None:
        attempts = Attempts(self.db, self.row.tenant_id, clock=self.clock)
        held = await attempts.claim_intended(
            f"dialer-{self.deaths}", limit=10, lease_s=ATTEMPT_LEASE_S, now=self.clock.now()
        )
        for attempt in held:
            if await attempts.fence_placing(attempt.id, attempt.epoch):
                self.posts[attempt.id] += 1
                self.to[attempt.to_number] += 1
                assert self.to[attempt.to_number] == 1, "two live calls to one number"
                await attempts.placed(attempt.id, f"carrier-{attempt.id}", None)

    async def hear(self) -> None:
        """The network says how calls ended; the reconciler finds those that it never saw."""
        for attempt in await self.live_attempts():
            if attempt.status != "intended":
                asked = self.posts[attempt.id] > 0
                self.to.pop(attempt.to_number, None)
                await end(
                    self.db,
                    attempt.call_id,
                    "completed" if asked else "failed",
                    tenant=self.row.tenant_id,
                    at=self.clock.now(),
                    talked_s=60 if asked else None,
                )

    async def die_often(self) -> None:
        done = 0
        for wait in range(1, DEATHS + 1):
            for work in (self.feed, self.dial, self.hear):
                done += not await self.until_death(wait, work())
            self.clock.time += timedelta(seconds=7)
        assert self.deaths >= DEATHS and done > 0, "some died, and some came to their end"

    async def come_to_an_end(self) -> None:
        for _ in range(40):
            for work in (self.feed, self.dial, self.hear):
                await work()
            self.clock.time += timedelta(hours=3, minutes=10)

    async def check(self) -> None:
        leads, _ = await Leads(self.db, self.row.tenant_id).list(self.row.id, limit=1000)
        assert len(leads) == LEADS and {lead.state for lead in leads} <= set(CLOSED_LEAD)
        assert max(self.posts.values()) == 1
        assert await self.live_attempts() == []
        attempts, _ = await self.campaigns.attempts(self.row.id, limit=1000)
        asked = Counter(attempt.lead_id for attempt in attempts if self.posts[attempt.id])
        # Each lead counts the calls that were asked for; one that may have been counts too.
        assert all(lead.attempts >= asked[lead.id] >= 1 for lead in leads)
        finished = await self.campaigns.get(self.row.id)
        assert finished is not None and finished.status == "completed"

    async def live_attempts(self) -> list[AttemptRow]:
        return (await self.campaigns.attempts(self.row.id, limit=1000, live=True))[0]

    async def until_death(self, wait: int, work: Coroutine[Any, Any, None]) -> bool:
        """True if it died before it was done."""
        (ended,) = await asyncio.gather(asyncio.ensure_future(_task(dies_at(wait, work))), return_exceptions=True)
        if ended is None:
            return False
        if not isinstance(ended, asyncio.CancelledError):
            raise ended
        self.deaths += 1
        return True


async def _task(work: Any) -> None:
    await work


async def test_whenever_a_process_dies_no_lead_is_lost_and_none_called_twice(db: Database, live: LiveState) -> None:
    await live.beat("replica-1", 50, ttl_s=3600)
    rules = {**RULES, "min_hours_between_calls": 0}
    row = await campaign(db, leads=[NewLead(number(n)) for n in range(LEADS)])
    await Campaigns(db, row.tenant_id).update(row.id, calling_rules=rules)
    world = World(db, live, row)
    await world.die_often()
    await world.come_to_an_end()
    await world.check()
