"""A platform of processes that die, its network, its Redis, and a campaign that has to come to its end all the same.

The code is that of the platform: dialer, feeder and reconciler of two dialer processes, the webhooks of the API, and
the reconciler of the workers. Simulated are time, Redis and the phone network, and SQLite runs without its thread.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

from load_tests.crash_points.carrier import Carrier, ContractBroken, Line
from load_tests.crash_points.processes import Process, outside
from load_tests.crash_points.redis import SimulatedRedis
from load_tests.crash_points.session import TENANT, converse
from load_tests.crash_points.webhooks import SECRET, WebhookServer
from serve_app.api.deps import ApiDeps
from serve_app.clock import SystemClock
from serve_app.dialing.dialer import Dialer
from serve_app.dialing.feeder import Feeder
from serve_app.dialing.plans import Plans
from serve_app.errors import UnavailableError
from serve_app.jobs.finalize import RECONCILE_EVERY_S, reconcile
from serve_app.settings import Settings
from serve_app.store.agents import Agents
from serve_app.store.campaign_models import CLOSED_LEAD
from serve_app.store.campaigns import Campaigns, CampaignStateConflict
from serve_app.store.db import Database
from serve_app.store.leads import Leads, NewLead

START = datetime(2026, 11, 23, 15, tzinfo=UTC)  # a Monday, ten in the morning where the leads are
SESSIONS = 8
DIALERS = 2
MOST_POINTS = 250
"""A process lives for at most so many points. Most live for far fewer: each order of magnitude is as likely."""
AT_THE_REQUEST = 0.1
"""Of the lives: those that end at the request of a call, if they come to one."""
LONGEST_ROUND_S = 8 * 3600.0
SETTLE_S = 120.0
AGENT = {
    "name": "front-desk",
    "business": "Riverside Dental",
    "opening": "Hello, this is Ava.",
    "system_prompt": "You are Ava.",
}
RULES = {
    "countries": ["US"],
    "hours": {"mon-sun": ["00:00-24:00"]},
    "purpose": "informational",
    "consent": {"required": "none", "reason": "nobody is called by a simulation"},
    "min_hours_between_calls": 0,
    "max_per_24h": None,
    "max_per_7d": None,
}
POLICY = {
    "rules": {
        "busy": {"after_minutes": [1], "most": 2},
        "no_answer": {"after_minutes": [2], "most": 2},
        "rejected": {"after_minutes": [2], "most": 1},
        "network_fail": {"after_minutes": [1], "most": 2},
        "reached_incomplete": {"after_minutes": [2], "most": 1},
        "human_short": {"after_minutes": [2], "most": 1},
        "unknown": {"after_minutes": [3], "most": 2},
    }
}
PLANS = Plans.model_validate({"plans": {"all": {}}, "minute_minor": 12, "reserve_minutes": 5})


@dataclass(slots=True)
class Tally:
    """What was tried, and what came of it."""

    deaths: Counter[str] = field(default_factory=Counter)
    """By what the process was about to do, or had just done."""
    leads: int = 0
    calls: int = 0
    """Requests that the network took, or may have."""
    strays: int = 0
    """Calls of the network that came into being when their attempt had been given up, and were hung up."""
    ends: Counter[str] = field(default_factory=Counter)
    """What became of the leads."""

    def add(self, other: Tally) -> None:
        self.deaths += other.deaths
        self.ends += other.ends
        self.leads += other.leads
        self.calls += other.calls
        self.strays += other.strays


class SimulatedClock(SystemClock):
    """The time of the running loop, which jumps."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic())


class World:
    """One campaign from its start to its end."""

    def __init__(self, db: Database, rng: Random, leads: int) -> None:
        self.db = db
        self.rng = rng
        self.tally = Tally(leads=leads)
        self.clock = SimulatedClock()
        self.redis: Any = SimulatedRedis(self.clock, SESSIONS)
        self.carrier: Any = Carrier(rng, self.clock, self._deliver, self._converse)
        self.settings = Settings.model_validate(
            {
                "server": {"public_url": "https://parley.example"},
                "telephony": {
                    "vonage": {
                        "application_id": "11111111-2222-3333-4444-555555555555",
                        "private_key": "not used",
                        "signature_secret": SECRET,
                        "from_number": "+12025550100",
                        "calls_per_second": 3,
                    }
                },
            }
        )
        self._api = WebhookServer(
            ApiDeps(
                settings=self.settings,
                db=db,
                live=self.redis,
                objects=SimpleNamespace(),  # type: ignore[arg-type]  # no webhook stores an object
                control=self.carrier,
                simulated_network=True,
                clock=self.clock,
            )
        )
        self._lives = 0
        self._mortal = True
        asyncio.get_running_loop().set_exception_handler(self._fault)

    async def run(self) -> None:
        """Raises ContractBroken."""
        campaigns = Campaigns(self.db, TENANT, clock=self.clock)
        await Agents(self.db, TENANT).apply("front-desk", AGENT)
        row = await campaigns.create("spring", "front-desk", calling_rules=RULES, retry_policy=POLICY)
        numbers = [NewLead(f"+1201555{n:04d}") for n in range(self.tally.leads)]
        await Leads(self.db, TENANT, clock=self.clock).add(row.id, numbers)
        await campaigns.start(row.id)
        platform = [
            *(outside(self._supervise(self._dialer)) for _ in range(DIALERS)),
            outside(self._supervise(self._api.serve)),
            outside(self._supervise(self._workers)),
            outside(self._meddle(row.id)),
        ]
        try:
            await self._until_completed(row.id)
            self._mortal = False
            await self.clock.sleep(SETTLE_S)
        finally:
            for task in platform:
                task.cancel()
            await asyncio.gather(*platform, return_exceptions=True)
        await self._check(row.id)

    async def _until_completed(self, campaign_id: str) -> None:
        until = self.clock.monotonic() + LONGEST_ROUND_S
        while True:
            row = await Campaigns(self.db, TENANT).get(campaign_id)
            if row is not None and row.status == "completed":
                return
            if self.carrier.broken is not None:
                raise self.carrier.broken
            if self.clock.monotonic() > until:
                stats = await Campaigns(self.db, TENANT).stats(campaign_id)
                raise ContractBroken(f"the campaign does not come to its end: {stats}")
            await self.clock.sleep(5)

    async def _check(self, campaign_id: str) -> None:
        if self.carrier.broken is not None:
            raise self.carrier.broken
        leads, _ = await Leads(self.db, TENANT).list(campaign_id, limit=10_000)
        attempts, _ = await Campaigns(self.db, TENANT).attempts(campaign_id, limit=100_000)
        if len(leads) != self.tally.leads or not {lead.state for lead in leads} <= set(CLOSED_LEAD):
            raise ContractBroken(f"leads are lost: {Counter(lead.state for lead in leads)}")
        if self.carrier.live:
            raise ContractBroken(f"{self.carrier.live} calls are on the line, and the campaign is over")
        known = {attempt.id: attempt for attempt in attempts}
        if not all(attempt.status == "ended" and attempt.settled_at for attempt in attempts):
            raise ContractBroken("an attempt has not ended, or its lead was not told")
        if not self.carrier.sent.keys() <= known.keys():
            raise ContractBroken("a call is on no record")
        sent = Counter(known[attempt_id].lead_id for attempt_id, times in self.carrier.sent.items() if times)
        for lead in leads:
            if lead.attempts < sent[lead.id]:
                raise ContractBroken(f"{lead.number}: {sent[lead.id]} calls, and {lead.attempts} counted")
        for line in self.carrier.lines.values():
            self.tally.strays += known[line.attempt_id].carrier_call_id != line.id
        self.tally.calls = sum(self.carrier.sent.values())
        self.tally.ends = Counter(f"{lead.state}: {lead.last_result or lead.last_reason}" for lead in leads)

    async def _deliver(self, url: str, document: dict[str, Any]) -> str | None:
        return await self._api.deliver(url, document)

    async def _converse(self, line: Line, call_id: str) -> None:
        await converse(self.db, self.redis, self.rng, self.clock, line, call_id)

    def _fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A task failed that nobody waits for."""
        if self.carrier.broken is None:
            self.carrier.broken = ContractBroken(context["message"])
            self.carrier.broken.__cause__ = context.get("exception")

    # --- the processes

    async def _supervise(self, life: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        """Start a process, and another one whenever it has died."""
        while True:
            process = self._process()
            self._lives += 1
            main = process.start(life(process))
            try:
                await asyncio.wait([main])
                died_at = process.died_at
            finally:
                await process.end()
            if died_at is None:
                # Not even a fault may end a loop of the platform.
                raise ContractBroken(f"a process came to its end by itself: {main!r}") from main.exception()
            self.tally.deaths[died_at] += 1
            await self.clock.sleep(self.rng.uniform(0, 2))

    def _process(self) -> Process:
        if not self._mortal:
            return Process(self.rng, None)
        if self.rng.random() < AT_THE_REQUEST:
            return Process(self.rng, MOST_POINTS, self.rng.choice(["before POST", "after POST"]))
        return Process(self.rng, math.ceil(MOST_POINTS ** self.rng.random()))

    async def _dialer(self, _process: Process) -> None:
        owner = f"dialer-{self._lives}"

        def moved() -> None:
            feeder.wake()

        dialer = Dialer(
            self.db,
            self.redis,
            self.carrier,
            self.settings,
            self.clock,
            owner,
            simulated_network=True,
            plans=PLANS,
            moved=moved,
        )
        feeder = Feeder(
            self.db,
            self.redis,
            self.settings,
            self.clock,
            owner,
            fed=dialer.wake,
            pressure=dialer.pressure,
            simulated_network=True,
            plans=PLANS,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(dialer.run())
            group.create_task(feeder.run())

    async def _workers(self, _process: Process) -> None:
        token_life_s = self.settings.telephony.vonage.ringing_timer_s + 30
        while True:
            with suppress(UnavailableError):  # as `run_reconciler` does
                await reconcile(self.db, self.redis, self.carrier, self.clock.now(), token_life_s=token_life_s)
            await self.clock.sleep(RECONCILE_EVERY_S)

    async def _meddle(self, campaign_id: str) -> None:
        """Redis forgets everything now and then; people pause the campaign."""
        campaigns = Campaigns(self.db, TENANT, clock=self.clock)
        while True:
            await self.clock.sleep(self.rng.uniform(20, 120))
            if self.rng.random() < 0.5:
                self.redis.flush()
                continue
            with suppress(CampaignStateConflict):  # it is over
                await campaigns.pause(campaign_id)
                await self.clock.sleep(self.rng.uniform(1, 15))
                await campaigns.resume(campaign_id)
