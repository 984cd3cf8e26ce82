"""How fast webhooks are acknowledged, each stored and folded before that; and how fast an opt-out holds meanwhile.

`python -m load_tests.webhooks [--rate 300] [--seconds 10] [--sql URL]`. The real API in a process of its own, behind
uvicorn on loopback, on a fresh SQLite file (`synchronous=FULL`) or the server given, and the redis-server that comes
with Parley. The network's side is this process: signed as Vonage signs, sent at its times whether or not the last one
was acknowledged, and timed from when each was due. Calls of a campaign ring, are busy or ring out, in turns; every
tenth event comes twice, some come out of order. In the end each is on record, and each call has its outcome.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import jwt
from pydantic import SecretStr
from sqlalchemy import func, select

from load_tests.claims import NOON, RULES, number
from load_tests.control_cost.__main__ import a_redis
from load_tests.micro.figures import Figure, print_figures
from serve_app.api.app import create_app
from serve_app.api.deps import ApiDeps
from serve_app.conversation.opt_out_keeper import OptOutKeeper
from serve_app.dialing.links import AttemptLinks, AttemptRef
from serve_app.log import configure_logging
from serve_app.settings import LogSettings, Settings
from serve_app.store.agents import Agents
from serve_app.store.campaign_models import Lead
from serve_app.store.campaigns import Campaigns
from serve_app.store.claim_facts import CampaignFacts, NumberFacts
from serve_app.store.db import Database
from serve_app.store.lead_claims import LeadClaims, PlaceCall
from serve_app.store.leads import Leads, NewLead
from serve_app.store.live import LiveState
from serve_app.store.migrate import upgrade
from serve_app.store.models import Call, CallEvent
from serve_app.store.objects import ObjectStore
from serve_app.store.parked_opt_outs import HeardOptOut
from serve_app.store.repositories import ApiKeys, Attempts

SECRET = "signature-secret-of-the-webhook-bench"
TENANT = "default"
FROM = "+12025550100"
ACK_MS, OPT_OUT_MS = 50.0, 1000.0
STORIES = (("started", "ringing", "busy", "completed"), ("started", "ringing", "timeout"), ("ringing", "completed"))
OPT_OUTS = 20
WAITING_LEADS = 5_000
START_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook, ready to be sent."""

    url: str
    body: bytes
    headers: dict[str, str]


class NoNetwork:
    """Nothing is to be hung up here."""

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        raise AssertionError(f"{carrier_call_id}: a call of this benchmark was hung up")


def settings(port: int) -> Settings:
    vonage = {"signature_secret": SecretStr(SECRET), "from_number": FROM, "require_payload_hash": True}
    document: dict[str, Any] = {
        "server": {"public_url": f"http://127.0.0.1:{port}"},
        "telephony": {"vonage": vonage},
    }
    return Settings(**document)


def serve(sql: str, redis: str, folder: str, port: int) -> None:
    """The API, as a process of its own runs it."""
    import uvicorn

    async def run() -> None:
        db, live = await Database.connect(sql), await LiveState.connect(redis)
        deps = ApiDeps(
            settings=settings(port),
            db=db,
            live=live,
            objects=ObjectStore.open(None, Path(folder)),
            control=NoNetwork(),
            simulated_network=True,
        )
        config = uvicorn.Config(create_app(deps), host="127.0.0.1", port=port, log_level="warning", access_log=False)
        await uvicorn.Server(config).serve()

    configure_logging(LogSettings(level="INFO"))
    import uvloop

    uvloop.run(run())


async def placed_calls(db: Database, count: int) -> list[AttemptRef]:
    """Calls of a running campaign that were asked of the network."""
    await Agents(db, TENANT).apply("front-desk", {"a": 1})
    campaigns = Campaigns(db, TENANT)
    row = await campaigns.create("webhooks", "front-desk", calling_rules=RULES)
    await campaigns.start(row.id)
    for start in range(0, count, 1000):
        leads = [NewLead(number(i)) for i in range(start, min(start + 1000, count))]
        await Leads(db, TENANT).add(row.id, leads)

    def call(lead: object, facts: CampaignFacts, known: NumberFacts) -> PlaceCall:
        return PlaceCall(FROM, facts.agent_version or 1, NOON, "allowed")

    now = datetime.now(UTC)
    claims, attempts = LeadClaims(db, TENANT), Attempts(db, TENANT)
    while (await claims.claim(row.id, call, owner="bench", limit=500, lease_s=3600, now=now)).leads:
        pass
    held = await attempts.claim_intended("bench", limit=count, lease_s=3600, now=datetime.now(UTC))
    for attempt in held:
        if not await attempts.fence_placing(attempt.id, attempt.epoch):
            raise RuntimeError("an attempt did not pass its fence")
    return [AttemptRef(TENANT, attempt.id) for attempt in held]


def deliveries(port: int, refs: list[AttemptRef], rng: random.Random) -> list[Delivery]:
    """The events of all calls, interleaved; a tenth of them twice, neighbours out of order here and there."""
    links = AttemptLinks(settings(port))
    timeline: list[tuple[float, AttemptRef, str]] = []
    for index, ref in enumerate(refs):
        story = STORIES[index % len(STORIES)]
        timeline += [(index + 4.0 * step, ref, status) for step, status in enumerate(story)]
        timeline += [(index + 4.0 * step + 2, ref, status) for step, status in enumerate(story) if rng.random() < 0.1]
    timeline.sort(key=lambda event: event[0] + rng.random() * 6)
    return [_signed(links.event_url(ref), ref, status) for _, ref, status in timeline]


def _signed(url: str, ref: AttemptRef, status: str) -> Delivery:
    document = {
        "uuid": f"uuid-{ref.attempt_id}",
        "status": status,
        "to": "12125550123",
        "from": FROM[1:],
        "timestamp": datetime.now(UTC).isoformat(),
    }
    body = json.dumps(document).encode()
    digest = hashlib.sha256(body).hexdigest()
    claims = {"iat": int(time.time()), "jti": str(uuid.uuid4()), "iss": "Vonage", "payload_hash": digest}
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    return Delivery(url, body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})


async def send_all(session: aiohttp.ClientSession, every: list[Delivery], rate: float) -> list[float]:
    """Milliseconds from when each was due to its acknowledgement. Raises RuntimeError for any but 200."""
    took: list[float] = []
    began = time.perf_counter() + 0.1

    async def one(index: int, delivery: Delivery) -> None:
        due = began + index / rate
        await asyncio.sleep(due - time.perf_counter())
        async with session.post(delivery.url, data=delivery.body, headers=delivery.headers) as response:
            if response.status != 200:
                raise RuntimeError(f"a webhook got {response.status}: {await response.text()}")
        took.append((time.perf_counter() - due) * 1000)

    async with asyncio.TaskGroup() as group:
        for index, delivery in enumerate(every):
            group.create_task(one(index, delivery))
    return took


async def opt_outs(
    db: Database, first: int, seconds: float, list_number: Callable[[str], Awaitable[None]]
) -> list[float]:
    """Milliseconds until a number is seen to be listed, all leads of it closed with it; one after the other."""
    took = []
    for index in range(first, first + OPT_OUTS):
        await asyncio.sleep(seconds / OPT_OUTS)
        listed = number(1_000_000 + index)
        began = time.perf_counter()
        await list_number(listed)
        async with db.session() as reading:
            states = list(await reading.scalars(select(Lead.state).where(Lead.number == listed)))
        took.append((time.perf_counter() - began) * 1000)
        if states != ["barred", "barred"]:
            raise RuntimeError(f"the leads of a listed number are {states}")
    return took


async def _by_api(session: aiohttp.ClientSession, base: str, key: str, listed: str) -> None:
    document = {"number": listed, "text": "by the benchmark"}
    headers = {"Authorization": f"Bearer {key}"}
    async with session.post(f"{base}/api/v1/do-not-call", json=document, headers=headers) as response:
        response.raise_for_status()


async def _by_words(db: Database, live: LiveState, listed: str) -> None:
    """What a session does once it has understood the words."""
    heard = HeardOptOut(TENANT, "no call of this benchmark", listed, "phrase", "stop calling me", datetime.now(UTC))
    await OptOutKeeper(db, live).write(heard)


async def waiting_leads(db: Database) -> None:
    """Two campaigns with the same numbers, which wait in their queues while the webhooks come."""
    for name in ("spring", "autumn"):
        row = await Campaigns(db, TENANT).create(name, "front-desk", calling_rules=RULES)
        for start in range(0, WAITING_LEADS, 1000):
            await Leads(db, TENANT).add(row.id, [NewLead(number(1_000_000 + start + i)) for i in range(1000)])


async def measure(sql: str, redis: str, folder: Path, rate: float, seconds: float) -> list[Figure]:
    db, live = await Database.connect(sql), await LiveState.connect(redis)
    await live.beat("replica", 100_000, ttl_s=3600)
    key, _ = await ApiKeys(db, TENANT).create("bench")
    port = 18_000 + os.getpid() % 10_000
    command = [sys.executable, "-m", "load_tests.webhooks", "--serve", sql, redis, str(folder), str(port)]
    server = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            base = f"http://127.0.0.1:{port}"
            refs = await placed_calls(db, round(rate * seconds / 3.3) + 50)
            await waiting_leads(db)
            await _until_up(session, base, server)
            warm, measured = refs[:50], refs[50:]
            await send_all(session, deliveries(port, warm, random.Random(0)), rate / 2)
            every = deliveries(port, measured, random.Random(1))[: round(rate * seconds)]
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(send_all(session, every, rate))
                by_api = group.create_task(opt_outs(db, 0, seconds * 0.9, partial(_by_api, session, base, key)))
                by_words = group.create_task(opt_outs(db, OPT_OUTS, seconds * 0.9, partial(_by_words, db, live)))
            behind_s = await _drained(db)
            await _check(db, every)
    finally:
        server.terminate()
        await server.wait()
    await live.aclose()
    await db.aclose()
    acks = sorted(sending.result())
    tail = statistics.quantiles(acks, n=100)
    print(
        f"{len(acks)} webhooks at {rate:g}/s: p50 {tail[49]:.1f} ms, p99 {tail[98]:.1f} ms, longest {acks[-1]:.1f} ms"
    )
    print(f"the last of them was folded {behind_s:.1f} s after the last was sent")
    seconds_of = [sorted(sending.result()[i : i + round(rate)]) for i in range(0, len(acks), round(rate))]
    return [
        Figure(
            "webhook: acknowledged, p99 of each second",
            ACK_MS,
            "ms",
            [part[-max(1, len(part) // 100)] for part in seconds_of],
        ),
        Figure("opt-out heard in a call: committed, its leads closed", OPT_OUT_MS, "ms", by_words.result()),
        Figure("opt-out by the API: committed, its leads closed", OPT_OUT_MS, "ms", by_api.result()),
    ]


async def _drained(db: Database) -> float:
    """Seconds until everything that was acknowledged is folded."""
    began = time.perf_counter()
    while time.perf_counter() - began < DRAIN_TIMEOUT_S:
        async with db.session() as session:
            waiting = select(func.count()).select_from(CallEvent).where(CallEvent.unfolded_since.is_not(None))
            if not await session.scalar(waiting):
                return time.perf_counter() - began
        await asyncio.sleep(0.1)
    raise RuntimeError(f"acknowledged webhooks were not folded within {DRAIN_TIMEOUT_S:g} s")


async def _check(db: Database, sent: list[Delivery]) -> None:
    """Each webhook is on record, and no call whose end was told is still live."""
    over = {
        json.loads(d.body)["uuid"] for d in sent if json.loads(d.body)["status"] in ("busy", "timeout", "completed")
    }
    async with db.session() as session:
        kept = await session.scalar(select(func.count()).select_from(CallEvent)) or 0
        ended = set(await session.scalars(select(Call.carrier_call_id).where(Call.status == "failed")))
    if kept < len(sent) or not over <= ended:
        raise RuntimeError(f"{kept} of {len(sent)} webhooks are on record; {len(over - ended)} ends were lost")


async def _until_up(session: aiohttp.ClientSession, base: str, server: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.returncode is None:
        try:
            async with session.get(f"{base}/api/v1/agents"):
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)
    raise RuntimeError("the API did not start")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sql", help="a migrated database; default: a fresh SQLite file")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        sql, redis, folder, port = arguments.serve
        serve(sql, redis, folder, int(port))
        return 0
    configure_logging(LogSettings(level="ERROR"))
    with tempfile.TemporaryDirectory(prefix="wh") as name:
        folder = Path(name)
        sql = arguments.sql or f"sqlite:///{folder}/parley.db"
        upgrade(sql)
        with a_redis(folder) as redis:
            figures = asyncio.run(measure(sql, redis, folder, arguments.rate, arguments.seconds))
    print_figures("Webhooks and opt-outs", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
