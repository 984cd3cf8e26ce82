"""A platform of processes that die, its network, its Redis, and a campaign that has to come to its end all the same.

The code is that of the platform: dialer, feeder and reconciler of two dialer processes, the webhooks of the API, and
the reconciler of the workers. Simulated are time, Redis and the phone network, and SQLite runs without its thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import jwt
import structlog
import uuid_utils
from starlette.requests import Request

from load_tests.crash_points.carrier import Carrier, ContractBroken, Line
from load_tests.crash_points.processes import Process, outside, sql_engine
from load_tests.crash_points.redis import SimulatedRedis
from serve_app.api.deps import ApiDeps
from serve_app.api.inbox import Inbox
from serve_app.api.problems import ProblemError
from serve_app.api.webhooks import answer_webhook, event_webhook
from serve_app.clock import SystemClock
from serve_app.dialing.dialer import Dialer
from serve_app.dialing.feeder import Feeder
from serve_app.dialing.links import ANSWER_PATH
from serve_app.dialing.plans import Plans
from serve_app.dialing.settling import settle_lead
from serve_app.errors import UnavailableError
from serve_app.jobs.finalize import RECONCILE_EVERY_S, reconcile
from serve_app.scenarios.virtual_time import run_virtual
from serve_app.settings import Settings
from serve_app.store.agents import Agents
from serve_app.store.attempts import Attempts
from serve_app.store.calls import Calls
from serve_app.store.campaign_models import CLOSED_LEAD
from serve_app.store.campaigns import Campaigns, CampaignStateConflict
from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall
from serve_app.store.leads import Leads, NewLead

TENANT = "acme"
START = datetime(2026, 11, 23, 15, tzinfo=UTC)  # a Monday, ten in the morning where the leads are
SESSIONS = 8
DIALERS = 2
MOST_POINTS = 250
"""A process lives for at most so many points. Most live for far fewer: each order of magnitude is as likely."""
LONGEST_ROUND_S = 8 * 3600.0
SETTLE_S = 300.0
SECRET = "signature-secret-of-the-simulation-0123456789"
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


def play(template: Path, folder: Path, seed: int, *, leads: int) -> Tally:
    """One round, on a copy of the migrated database `template`. Raises ContractBroken, which names the seed."""
    database = folder / f"round-{seed}.db"
    database.write_bytes(template.read_bytes())
    try:
        with _one_clock(), _ids_in_order(), _no_fault_unseen():
            return run_virtual(_play(database, seed, leads))
    finally:
        for file in folder.glob(f"{database.name}*"):
            file.unlink()


@contextmanager
def _one_clock() -> Iterator[None]:
    """Also where a clock is not handed in."""
    with (
        patch.object(SystemClock, "now", SimulatedClock.now),
        patch.object(SystemClock, "monotonic", SimulatedClock.monotonic),
    ):
        yield


@contextmanager
def _no_fault_unseen() -> Iterator[None]:
    """What the root of a loop catches and logs is a fault of ours; the other troubles are what this is about."""

    def tell(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:
        if event.get("exc_info") and (error := sys.exc_info()[1]) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{event['event']}: {error!r}", "exception": error}
            )
        raise structlog.DropEvent

    configured = structlog.get_config()
    structlog.configure(processors=[tell], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.configure(**configured)


@contextmanager
def _ids_in_order() -> Iterator[None]:
    """The same ids whenever a round is played again."""
    numbers = count(1)
    with patch.object(uuid_utils, "uuid7", lambda: uuid.UUID(int=next(numbers))):
        yield


async def _play(database: Path, seed: int, leads: int) -> Tally:
    engine = sql_engine(database)
    db = Database(engine.url, engine)
    try:
        world = World(db, Random(seed), leads)
        await world.run()
        return world.tally
    except ContractBroken as error:
        raise ContractBroken(f"seed {seed}, {leads} leads: {error}") from error
    finally:
        await db.aclose()


class World:
    """One campaign from its start to its end."""

    def __init__(self, db: Database, rng: Random, leads: int) -> None:
        self.db = db
        self.rng = rng
        self.tally = Tally(leads=leads)
        self.clock = SimulatedClock()
        self.redis: Any = SimulatedRedis(self.clock, SESSIONS)
        self.carrier: Any = Carrier(rng, self.clock, self._webhook, self._converse)
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
        self._deps = ApiDeps(
            settings=self.settings,
            db=db,
            live=self.redis,
            objects=SimpleNamespace(),  # type: ignore[arg-type]  # no webhook stores an object
            control=self.carrier,
            simulated_network=True,
            clock=self.clock,
        )
        self._app = SimpleNamespace(state=SimpleNamespace(deps=self._deps, links=self._deps.links()))
        self._api: Process | None = None
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
            outside(self._supervise(self._serve_webhooks)),
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

    def _fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A task failed that nobody waits for."""
        if self.carrier.broken is None:
            self.carrier.broken = ContractBroken(context["message"])
            self.carrier.broken.__cause__ = context.get("exception")

    # --- the processes

    async def _supervise(self, life: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        """Start a process, and another one whenever it has died."""
        while True:
            process = Process(self.rng, self._life() if self._mortal else None)
            self._lives += 1
            main = process.start(life(process))
            try:
                await asyncio.wait([main])
                died_at = process.died_at
            finally:
                await process.end()
            if died_at is None:
                # Not even a fault may end a loop of the platform.
                raise ContractBroken("a process came to its end by itself") from main.exception()
            self.tally.deaths[died_at] += 1
            await self.clock.sleep(self.rng.uniform(0, 2))

    def _life(self) -> int:
        return math.ceil(MOST_POINTS ** self.rng.random())

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
            await reconcile(self.db, self.redis, self.carrier, self.clock.now(), token_life_s=token_life_s)
            await self.clock.sleep(RECONCILE_EVERY_S)

    async def _serve_webhooks(self, process: Process) -> None:
        self._app.state.inbox = inbox = Inbox(self._deps)
        self._api = process
        await inbox.run()

    # --- the outside

    async def _webhook(self, url: str, document: dict[str, Any]) -> str | None:
        process = self._api
        if process is None or not process.alive:
            return None
        parts = urlsplit(url)
        body = json.dumps(document).encode()
        claims = {
            "iat": int(self.clock.now().timestamp()),
            "jti": hashlib.sha256(body).hexdigest(),
            "application_id": self.settings.telephony.vonage.application_id,
            "payload_hash": hashlib.sha256(body).hexdigest(),
        }
        token = jwt.encode(claims, SECRET, algorithm="HS256")
        scope = {
            "type": "http",
            "method": "POST",
            "path": parts.path,
            "query_string": parts.query.encode(),
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "app": self._app,
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        handler = answer_webhook if parts.path == ANSWER_PATH else event_webhook
        handled = process.start(handler(Request(scope, receive), self._deps))
        await asyncio.wait([handled])
        if handled.cancelled():
            return None
        try:
            return bytes(handled.result().body).decode()
        except (UnavailableError, TimeoutError):
            return None
        except ProblemError as error:
            if error.status == 404:
                return None
            raise

    async def _converse(self, line: Line, call_id: str) -> None:
        """A session: it does not die here, for that is another story."""
        calls = Calls(self.db, TENANT, clock=self.clock)
        started_at = self.clock.now()
        await calls.in_progress(call_id, started_at)
        talk_s = self.rng.uniform(2, 60)
        while talk_s > 0 and not line.hung_up.is_set():
            self.redis.lease(call_id, 10)
            await self.clock.sleep(min(3.0, talk_s))
            talk_s -= 3
        if self.rng.random() < 0.05:
            await DoNotCall(self.db, TENANT, clock=self.clock).opt_out(call_id, line.to, "phrase", "stop")
        elif self.rng.random() < 0.5:
            await Attempts(self.db, TENANT, clock=self.clock).report(call_id, "success")
        ended_at = self.clock.now()
        await calls.finish(
            call_id,
            status="completed",
            outcome="completed" if self.rng.random() < 0.5 else "callee_hung_up",
            detail=None,
            started_at=started_at,
            ended_at=ended_at,
            duration_s=(ended_at - started_at).total_seconds(),
            sample_rate_hz=16000,
            # Some leave it to the upkeep.
            verdict=settle_lead if self.rng.random() < 0.7 else None,
        )
        await self.redis.release(line.attempt_id)

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
