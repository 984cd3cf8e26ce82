"""`make bench-imports`: files of leads with 5 % faults into SQLite: how fast, in how much memory, is every row there.

Each size is imported twice, into a database of its own: undisturbed, and by a process that is killed (SIGKILL) half way
and another one that goes on. The undisturbed import is timed, from the file as it was sent to the last commit; memory
is that of its process and the ones that it starts, together. The disk's own speed is printed beside, since every chunk
is synchronised to it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from sqlalchemy import func, select

from load_tests.micro.figures import Figure, print_figures
from serve_app.dialing.imports.intake import ImportOptions, create_import, make_ready
from serve_app.dialing.imports.runner import run_import
from serve_app.store.base import new_id
from serve_app.store.campaign_models import Campaign, Lead
from serve_app.store.campaign_rows import ImportRow
from serve_app.store.db import Database
from serve_app.store.imports import Imports
from serve_app.store.migrate import upgrade
from serve_app.store.objects import ObjectStore

TENANT = "bench"
AIMS_S = {100_000: 5.0, 1_000_000: 60.0}
AIM_MB = 300.0
FAULTS = 0.05
WATCH_S = 0.05
SYNCS = 200

# A number of a real area and exchange each, so that phonenumbers knows it.
AREAS = (201, 202, 203, 206, 212, 213, 303, 305, 312, 404, 415, 480, 503, 512, 602, 614, 617, 702, 713, 816)


@dataclass(frozen=True)
class Made:
    """A generated file, and what must become of its rows."""

    path: Path
    rows: int
    expected: Counter[str]


@dataclass(frozen=True)
class Run:
    seconds: float
    peak_mb: float
    counts: Counter[str]
    leads: int


def make_file(path: Path, rows: int, seed: int = 7) -> Made:
    """Leads with 5 % faults of four kinds. Every number that is meant to be new is."""
    rng = random.Random(seed)
    expected: Counter[str] = Counter()
    order = list(range(rows))
    rng.shuffle(order)
    earlier = ""
    with path.open("w", encoding="utf-8") as file:
        file.write("Phone,First Name,Last Name,Email,Company,City,Plan,Priority\n")
        for n in range(rows):
            index = order[n]
            area, line = AREAS[index % len(AREAS)], index // len(AREAS)
            number = f"({area}) {200 + line // 10_000 % 800:03d}-{line % 10_000:04d}"
            priority, code = str(rng.randrange(1, 11)), "accepted"
            if rng.random() < FAULTS and earlier:
                code = rng.choice(("number_scientific", "number_wrong_length", "priority_invalid", "duplicate_in_file"))
                if code == "number_scientific":
                    number = "2.02556E+09"
                elif code == "number_wrong_length":
                    number = number[:-1]
                elif code == "priority_invalid":
                    priority = "urgent"
                else:
                    number = earlier
            else:
                earlier = number
            expected[code] += 1
            file.write(f"{number},Ada,Lovelace {n},ada{n}@example.com,ACME {n},Springfield,gold,{priority}\n")
    return Made(path, rows, expected)


@dataclass(frozen=True)
class Prepared:
    """An import that is queued, in a database of its own."""

    folder: Path
    db: Database
    row: ImportRow
    seconds: float
    """What the checks of the file took, before it was queued."""


async def prepare(made: Made, folder: Path) -> Prepared:
    url = f"sqlite:///{folder}/parley.db"
    await asyncio.to_thread(upgrade, url)
    db, now = await Database.connect(url), datetime.now(UTC)
    campaign = Campaign(
        id=new_id(),
        tenant_id=TENANT,
        name="bench",
        description="",
        goal="",
        status="draft",
        agent_name="bench",
        calling_rules={},
        retry_policy={},
        weight=1,
        created_at=now,
        updated_at=now,
        epoch=0,
    )
    async with db.transaction() as session:
        session.add(campaign)
    imports, objects = Imports(db, TENANT), ObjectStore.open(None, folder)
    start = time.perf_counter()
    ready = await make_ready(made.path, "leads", ImportOptions(region="US"))
    row, _ = await create_import(imports, objects, ready, campaign_id=campaign.id, filename="bench.csv")
    return Prepared(folder, db, row, time.perf_counter() - start)


async def finish(folder: Path, import_id: str) -> float:
    """Do what is left of an import; the seconds that it took."""
    db = await Database.connect(f"sqlite:///{folder}/parley.db")
    imports, start = Imports(db, TENANT), time.perf_counter()
    row = await imports.begin(import_id)
    assert row is not None
    done = await run_import(imports, ObjectStore.open(None, folder), row, budget_s=1e9)
    assert done is not None
    seconds = time.perf_counter() - start
    await db.aclose()
    return seconds


async def start_worker(prepared: Prepared) -> Process:
    """A process that does the import and prints its seconds."""
    command = ["-m", "load_tests.imports", "--finish", str(prepared.folder), prepared.row.id]
    return await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE)


async def undisturbed(made: Made, folder: Path) -> Run:
    prepared = await prepare(made, folder)
    worker = await start_worker(prepared)
    assert worker.stdout is not None
    reading = asyncio.create_task(worker.stdout.read())
    peak_mb = 0.0
    while not reading.done():
        peak_mb = max(peak_mb, memory_mb(worker.pid))
        await asyncio.wait({reading}, timeout=WATCH_S)
    seconds = float(await reading)
    assert await worker.wait() == 0
    return await _run(prepared, prepared.seconds + seconds, peak_mb)


async def killed(made: Made, folder: Path) -> Run:
    prepared = await prepare(made, folder)
    imports, start = Imports(prepared.db, TENANT), time.perf_counter()
    worker = await start_worker(prepared)
    half = prepared.row
    while half.counts["rows"] < made.rows // 2 and worker.returncode is None:
        await asyncio.sleep(WATCH_S)
        half = await imports.get(half.id) or half
    worker.send_signal(signal.SIGKILL)
    assert await worker.wait() == -signal.SIGKILL, "it was done before it could be killed"
    half = await imports.get(half.id) or half
    assert half.counts["rows"] < made.rows
    assert await leads_of(prepared.db) == half.counts["accepted"], "a chunk is there whole, or not at all"
    await finish(folder, half.id)
    return await _run(prepared, time.perf_counter() - start, 0.0)


async def _run(prepared: Prepared, seconds: float, peak_mb: float) -> Run:
    done = await Imports(prepared.db, TENANT).get(prepared.row.id)
    assert done is not None
    assert done.status == "completed"
    leads = await leads_of(prepared.db)
    await prepared.db.aclose()
    return Run(seconds, peak_mb, told(done), leads)


def memory_mb(pid: int) -> float:
    """Resident memory of a process and all that it started."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0
    for member in family:
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total / 2**20


async def leads_of(db: Database) -> int:
    async with db.session() as session:
        return int((await session.scalars(select(func.count(Lead.id)))).one())


def told(row: ImportRow) -> Counter[str]:
    counts = row.counts
    assert counts["rows"] == counts["accepted"] + counts["blank"] + sum(counts["refused"].values())
    return +Counter({"accepted": counts["accepted"], "blank": counts["blank"], **counts["refused"]})


def syncs_per_second(folder: Path) -> float:
    """How often this disk can promise that a page is kept."""
    with (folder / "sync").open("wb") as file:
        start = time.perf_counter()
        for _ in range(SYNCS):
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        return SYNCS / (time.perf_counter() - start)


def bench(sizes: list[int], folder: Path, console: Console) -> bool:
    """Print the figures; whether every row was accounted for (times depend on the machine)."""
    figures: list[Figure] = []
    right = True
    for rows in sizes:
        made = make_file(folder / f"{rows}.csv", rows)
        folders = [folder / f"{rows}-{name}" for name in ("undisturbed", "killed")]
        for made_for in folders:
            made_for.mkdir()
        run = asyncio.run(undisturbed(made, folders[0]))
        again = asyncio.run(killed(made, folders[1]))
        aim = AIMS_S.get(rows, AIMS_S[1_000_000] * rows / 1_000_000)
        figures.append(Figure(f"import of {rows:,} rows", aim, "s", [run.seconds]))
        figures.append(Figure(f"memory, {rows:,} rows, all processes", AIM_MB, "MB", [run.peak_mb]))
        for name, counted in (("undisturbed", run), ("killed half way and resumed", again)):
            missing = sum(((made.expected - counted.counts) + (counted.counts - made.expected)).values())
            missing += abs(counted.leads - made.expected["accepted"])
            figures.append(Figure(f"rows unaccounted for, {rows:,}, {name}", 0, "rows", [float(missing)]))
            right = right and missing == 0
        console.print(
            f"{rows:,} rows: {rows / run.seconds:,.0f} rows/s; killed and resumed: {again.seconds:.1f} s in all"
        )
    print_figures("Imports into SQLite", figures)
    console.print(f"the disk: {syncs_per_second(folder):,.0f} synchronised writes of a page per second")
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=list(AIMS_S), help="sizes of the files")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the databases are made, on the disk in question"
    )
    parser.add_argument("--finish", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.finish:
        print(asyncio.run(finish(Path(given.finish[0]), given.finish[1])))
        return 0
    with tempfile.TemporaryDirectory(prefix="parley-bench-", dir=given.folder) as folder:
        return 0 if bench(given.rows, Path(folder), Console()) else 1


if __name__ == "__main__":
    sys.exit(main())
