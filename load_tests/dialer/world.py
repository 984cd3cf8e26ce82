"""A platform without Ray: SQL, Redis, a phone network, the API with sessions, and any number of dialers.

One tenant with one campaign. Everything is on loopback and ends with it.
"""

from __future__ import annotations

import asyncio
import math
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import func, select, update

from load_tests.dialer import control, network
from load_tests.dialer.checks import is_quiet
from load_tests.dialer.child import CONNECT_S, Child, prepare
from load_tests.dialer.control import with_addresses
from load_tests.dialer.network import Post, Seen, SeenCall
from load_tests.dialer.process import DialerOptions, dial
from serve_app.clock import SystemClock
from serve_app.dialing.reconcile import AttemptReconciler
from serve_app.settings import Settings
from serve_app.store.agents import Agents
from serve_app.store.campaign_models import Lead
from serve_app.store.campaign_rows import CampaignRow
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.leads import Leads, NewLead
from serve_app.store.live import LiveState
from serve_app.store.models import ONE_LIVE, Attempt
from serve_app.store.tenants import Tenants
from serve_app.telephony.vonage.rest import VonageClient

TENANT = "riverside"
OWN = "+12025550100"
SECRET = "signature-secret-of-the-dialer-runs-0123"
AGENT = {
    "name": "riverside-dental",
    "business": "Riverside Dental",
    "opening": "Hello, this is Ava.",
    "system_prompt": "You are Ava.",
}
RULES = {
    "countries": ["US"],
    "hours": {"mon-sun": ["00:00-24:00"]},
    "observe_holidays": False,
    "min_hours_between_calls": 0,
    "max_per_24h": None,
    "max_per_7d": None,
    "purpose": "informational",
    "consent": {"required": "none", "reason": "nobody is called by these runs"},
}
# Who was busy is called once more within the run.
RETRIES = {"rules": {"busy": {"after_minutes": [0.2], "most": 1}}}
ADDED_AT_ONCE = 1000
POLL_S = 0.25
MOST_LOOKS = 20
"""Of the reconciler. Three close an attempt that the network does not know: one notes the doubt, two ask."""

MIXED: Sequence[Mapping[str, Any]] = (
    {"outcome": "answer"},
    {"outcome": "busy"},
    {"outcome": "answer"},
    {"outcome": "rejected"},
    {"outcome": "unanswered"},
    {"outcome": "busy"},
    {"outcome": "failed"},
)
"""What callees do, in turns; each rings up to two seconds."""
AT_ONCE: Sequence[Mapping[str, Any]] = ({"outcome": "rejected", "answer_after_ms": 0},)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a run is about."""

    leads: int
    calls_per_second: float
    network_limit: int
    """Requests in any rolling second that the network takes."""
    callees: Sequence[Mapping[str, Any]] = MIXED
    sessions: int = 400
    seed: int = 1


class World:
    """Made by `open_world`."""

    def __init__(
        self, db: Database, live: LiveState, campaign: CampaignRow, document: Mapping[str, Any], http: httpx.AsyncClient
    ) -> None:
        self.db, self.live, self.campaign = db, live, campaign
        self._document = document
        self._http = http
        self._dialers: list[Child] = []

    def start_dialer(self) -> Child:
        child = Child(dial, DialerOptions(dict(self._document), f"dialer-{len(self._dialers)}"))
        self._dialers.append(child)
        return child

    def wake_dialers(self) -> None:
        """As the API does when a person changed something."""
        for dialer in self._dialers:
            if dialer.alive:
                dialer.signal(signal.SIGUSR1)

    async def stop_dialers(self) -> None:
        """Kill those that live. Raises RuntimeError if one had ended by itself."""
        await asyncio.gather(*(dialer.kill() for dialer in self._dialers if dialer.alive))
        if not all(dialer.killed for dialer in self._dialers):
            raise RuntimeError("a dialer ended by itself; its error is above")

    async def shoot(self, dialer: Child, *, posts: int, delay_s: float) -> None:
        """Have the network kill it `delay_s` after the `posts`-th request from now."""
        await self._http.post("/shot", json={"pid": dialer.pid, "posts": posts, "delay_s": delay_s})

    async def lower(self) -> None:
        await self._http.delete("/shot")

    async def end_leases(self) -> None:
        """What the attempts of dead dialers wait for is over now, and not after some seconds or a minute."""
        held = update(Attempt).where(Attempt.tenant_id == TENANT, ONE_LIVE, Attempt.lease_until > datetime.now(UTC))
        async with self.db.transaction() as session:
            await session.execute(held.values(lease_until=datetime.now(UTC)))

    async def close_doubts(self) -> None:
        """What the reconciler of a dialer does in the two minutes after a death, at once. No dialer may live."""
        settings = Settings(**self._document)
        vonage = VonageClient(settings.telephony.vonage)
        reconciler = AttemptReconciler(self.db, self.live, vonage, settings, SystemClock())
        try:
            for _ in range(MOST_LOOKS):
                await self.end_leases()
                await reconciler.sweep()
                if not await self._doubts():
                    break
        finally:
            await vonage.aclose()

    async def seen(self) -> Seen:
        found = (await self._http.get("/record", timeout=60)).json()
        return Seen([Post(**post) for post in found["posts"]], [SeenCall(**call) for call in found["calls"]])

    async def more_posts(self, count: int, timeout_s: float) -> None:
        """Wait until so many more requests have arrived. Raises TimeoutError."""
        target = await self._posts() + count
        async with asyncio.timeout(timeout_s):
            while await self._posts() < target:  # noqa: ASYNC110  they arrive in another process
                await asyncio.sleep(POLL_S)

    async def until_called(self, rest: int | None, timeout_s: float) -> bool:
        """Wait until no lead waits to be called, or so many more were. False: it took longer."""
        target = math.inf if rest is None else await self._posts() + rest
        deadline = time.monotonic() + timeout_s
        while await self.waiting_leads() and await self._posts() < target:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def _posts(self) -> int:
        return int((await self._http.get("/count")).json())

    async def waiting_leads(self) -> int:
        """Leads that are ready, or have a call that was not placed yet."""
        ready = select(func.count()).where(Lead.tenant_id == TENANT, Lead.state == "ready")
        intended = select(func.count()).where(Attempt.tenant_id == TENANT, Attempt.status == "intended", ONE_LIVE)
        async with self.db.session() as session:
            return (await session.scalar(ready) or 0) + (await session.scalar(intended) or 0)

    async def pause(self) -> None:
        await Campaigns(self.db, TENANT).pause(self.campaign.id)

    async def _doubts(self) -> int:
        doubtful = select(func.count()).where(Attempt.tenant_id == TENANT, Attempt.status.in_(("placing", "unknown")))
        async with self.db.session() as session:
            return await session.scalar(doubtful) or 0

    async def until_quiet(self, timeout_s: float) -> bool:
        """Wait until the campaign is at rest. False: it took longer."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if await is_quiet(self.db, self.campaign.id):
                return True
            await asyncio.sleep(POLL_S)
        return False


@asynccontextmanager
async def open_world(sql_url: str, redis_url: str, folder: Path, terms: Terms) -> AsyncIterator[World]:
    """A migrated database, a Redis of its own and a folder are given; what it starts, it stops."""
    numbers = [number(index) for index in range(terms.leads)]
    await prepare()
    async with AsyncExitStack() as stack:
        account, public_key = _account()
        callees = _callees(numbers, terms)
        config = {
            "application_id": account["application_id"],
            "public_key": public_key,
            "signature_secret": SECRET,
            "calls_per_second": terms.network_limit,
            "keep_calls": 100 * terms.leads,
        }
        telephone = Child(network.serve, config, callees)
        stack.push_async_callback(telephone.kill)
        port = await telephone.ready()
        document: dict[str, Any] = {
            "database": {"url": sql_url},
            "redis": {"url": redis_url},
            "tenant": TENANT,
            "log": {"level": "ERROR"},
            "dialing": {"queue_timeout_s": 120},
            "telephony": {
                "vonage": {
                    **account,
                    "base_url": f"http://127.0.0.1:{port}",
                    "calls_per_second": terms.calls_per_second,
                    "ringing_timer_s": 15,
                    "request_timeout_s": 2,
                }
            },
        }
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False))
        platform = Child(control.serve, document, terms.sessions, folder)
        stack.push_async_callback(platform.kill)
        db = await Database.connect(sql_url, connect_timeout_s=CONNECT_S)
        stack.push_async_callback(db.aclose)
        live = await LiveState.connect(redis_url, connect_timeout_s=CONNECT_S)
        stack.push_async_callback(live.aclose)
        world = World(db, live, await _campaign(db, numbers), with_addresses(document, await platform.ready()), http)
        stack.push_async_callback(world.stop_dialers)
        yield world


def number(index: int) -> str:
    """Assigned numbers of New York."""
    return f"+1212{2_000_000 + index:07d}"


async def _campaign(db: Database, numbers: Sequence[str]) -> CampaignRow:
    await Agents(db, TENANT).apply(AGENT["name"], AGENT)
    await Tenants(db, TENANT).put("Riverside Dental", "enterprise")
    campaigns = Campaigns(db, TENANT)
    row = await campaigns.create("recall", AGENT["name"], calling_rules=RULES, retry_policy=RETRIES)
    for start in range(0, len(numbers), ADDED_AT_ONCE):
        await Leads(db, TENANT).add(row.id, [NewLead(one) for one in numbers[start : start + ADDED_AT_ONCE]])
    started = await campaigns.start(row.id)
    assert started is not None
    return started[0]


def _callees(numbers: Sequence[str], terms: Terms) -> dict[str, dict[str, Any]]:
    rng = random.Random(terms.seed)
    return {
        one.removeprefix("+"): {"answer_after_ms": rng.randrange(2000), **terms.callees[index % len(terms.callees)]}
        for index, one in enumerate(numbers)
    }


@cache
def _account() -> tuple[dict[str, str], str]:
    """The account as Parley knows it, and the public key that the network knows of it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    account = {
        "application_id": str(uuid.uuid4()),
        "private_key": private.decode(),
        "signature_secret": SECRET,
        "from_number": OWN,
    }
    return account, public.decode()
