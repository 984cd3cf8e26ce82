"""Imports from the file to the tables: every row accounted for, however often the import is killed or repeated."""

from __future__ import annotations

import asyncio
import csv
import io
import random
import signal
import sys
from collections import Counter
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select

from serve_app.dialing.imports.config import import_config
from serve_app.dialing.imports.intake import ImportOptions, create_import, make_ready
from serve_app.dialing.imports.runner import run_import
from serve_app.errors import UnavailableError
from serve_app.jobs.import_file import ImportFile
from serve_app.jobs.runner import JobFailed
from serve_app.store.base import new_id
from serve_app.store.campaign_models import Campaign, Consent, Import, Lead
from serve_app.store.campaign_rows import ImportRow, LeadRow
from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall
from serve_app.store.imports import IMPORT_FILE, Imports, ImportStopped
from serve_app.store.leads import Leads, NewLead
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import Jobs

pytest_plugins = ("tests.unit.store_fixtures",)

TENANT = "acme"
HEADER = ["phone", "first name", "company", "priority", "consent", "consent date"]
CHUNK_ROWS = 20


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    config = import_config()
    small = config.model_copy(update={"limits": config.limits.model_copy(update={"chunk_rows": CHUNK_ROWS})})
    monkeypatch.setattr("serve_app.dialing.imports.intake.import_config", lambda: small)


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(None, tmp_path)


async def add_campaign(db: Database, name: str = "spring", tenant: str = TENANT) -> str:
    now = datetime.now(UTC)
    campaign = Campaign(
        id=new_id(),
        tenant_id=tenant,
        name=name,
        description="",
        goal="",
        status="draft",
        agent_name="front-desk",
        calling_rules={},
        retry_policy={},
        weight=1,
        created_at=now,
        updated_at=now,
        epoch=0,
    )
    async with db.transaction() as session:
        session.add(campaign)
    return campaign.id


def rows_with_faults(count: int, seed: int = 1) -> tuple[list[list[str]], Counter[str]]:
    """Rows of a file, and what must become of them: built from the faults, not from the code that finds them."""
    rng = random.Random(seed)
    rows: list[list[str]] = []
    expected: Counter[str] = Counter()
    taken: list[str] = []
    for n in range(count):
        number = f"(202) 555-{n:04d}"
        fault = rng.choice(["", "", "", "", "number_scientific", "priority_invalid", "duplicate_in_file", "blank"])
        row = [number, f"Ada {n}", "ACME", str(rng.randrange(1, 11)), "yes" if n % 5 == 0 else "", "2026-01-31"]
        if fault == "number_scientific":
            row[0] = "2.02556E+09"
        elif fault == "priority_invalid":
            row[3] = "eleven"
        elif fault == "duplicate_in_file" and taken:
            row[0] = rng.choice(taken)
        elif fault == "blank":
            row = [""] * len(HEADER)
        else:
            fault = "accepted"
            taken.append(number)
        expected[fault] += 1
        rows.append(row)
    return rows, expected


async def send(
    db: Database,
    objects: ObjectStore,
    folder: Path,
    rows: list[list[str]],
    campaign_id: str | None,
    *,
    header: list[str] | None = None,
    **options: Any,
) -> tuple[ImportRow, bool]:
    text = io.StringIO()
    csv.writer(text).writerows([header or HEADER, *rows])
    path = folder / f"{new_id()}.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    options.setdefault("region", "US")
    ready = await make_ready(path, "leads" if campaign_id else "do_not_call", ImportOptions(**options))
    return await create_import(Imports(db, TENANT), objects, ready, campaign_id=campaign_id, filename="list.csv")


async def run(db: Database, objects: ObjectStore, import_id: str, **options: Any) -> ImportRow:
    imports = Imports(db, TENANT)
    row = await imports.begin(import_id)
    assert row is not None
    done = await run_import(imports, objects, row, processes=1, **options)
    assert done is not None
    return done


async def leads_of(db: Database, campaign_id: str) -> list[LeadRow]:
    found, following = await Leads(db, TENANT).list(campaign_id, limit=100_000)
    assert following is None
    return found


def told(counts: dict[str, Any]) -> Counter[str]:
    assert counts["rows"] == counts["accepted"] + counts["blank"] + sum(counts["refused"].values())
    return Counter({"accepted": counts["accepted"], "blank": counts["blank"], **counts["refused"]})


async def test_every_row_is_accounted_for(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign = await add_campaign(db)
    rows, expected = rows_with_faults(230)
    row, new = await send(db, objects, tmp_path, rows, campaign)
    assert new and row.status == "queued"
    done = await run(db, objects, row.id)
    assert (done.status, done.rows_total) == ("completed", 230)
    assert told(done.counts) == expected
    leads = await leads_of(db, campaign)
    assert [lead.first_name for lead in leads] == names_taken(rows), "in the order of the file"
    faults = await Imports(db, TENANT).errors(row.id, limit=1000)
    assert (
        Counter(fault.code for fault in faults) + Counter(accepted=len(leads), blank=done.counts["blank"]) == expected
    )
    for fault in faults:
        cell = rows[fault.row_no - 2][HEADER.index(fault.column)]
        assert fault.value == cell or fault.code == "duplicate_in_file"


def names_taken(rows: list[list[str]]) -> list[str]:
    """Of the first row of each number, among the rows that are taken."""
    first: dict[str, str] = {}
    for number, name, _, priority, *_ in rows:
        if number.startswith("(") and priority != "eleven":
            first.setdefault(number, name)
    return list(first.values())


async def test_a_lead_of_a_file_is_like_one_that_is_added_by_itself(
    db: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    campaign = await add_campaign(db)
    header = ["phone", "first name", "email", "priority", "vip", "tags", "time zone", "state", "company"]
    scrubbed_at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    cells = ["+12025550100", "Ada", "ada@example.com", "7", "yes", "urgent,web", "America/New_York", "NY", "ACME"]
    row, _ = await send(db, objects, tmp_path, [cells], campaign, header=header, scrubbed_at=scrubbed_at)
    await run(db, objects, row.id)
    (imported,) = await leads_of(db, campaign)
    other = await add_campaign(db, "other")
    clock = Fixed(imported.created_at)
    added = NewLead(
        number="+12025550100",
        first_name="Ada",
        email="ada@example.com",
        priority=7,
        high_value=True,
        tags=["urgent", "web"],
        zones=["America/New_York"],
        region="US-NY",
        custom_fields={"company": "ACME"},
        scrubbed_at=scrubbed_at,
    )
    await Leads(db, TENANT, clock=clock).add(other, [added])
    (single,) = await leads_of(db, other)
    different = {f.name for f in fields(LeadRow) if getattr(imported, f.name) != getattr(single, f.name)}
    assert different == {"id", "campaign_id", "import_id"}


class Fixed:
    def __init__(self, now: datetime) -> None:
        self._now = now

    def monotonic(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return self._now

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps")


async def test_an_import_that_is_cut_off_anywhere_goes_on_from_there(
    sqlite_db: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    db, rng = sqlite_db, random.Random(5)
    rows, expected = rows_with_faults(150, seed=2)
    whole = await add_campaign(db, "whole")
    row, _ = await send(db, objects, tmp_path, rows, whole)
    reference = await run(db, objects, row.id)
    errors = await Imports(db, TENANT).errors(row.id, limit=1000)
    for turn in range(4):
        campaign = await add_campaign(db, f"cut {turn}")
        row, _ = await send(db, objects, tmp_path, rows, campaign)
        cuts = 0
        while True:
            task = asyncio.create_task(run(db, objects, row.id))
            _, running = await asyncio.wait({task}, timeout=rng.uniform(0.2, 1.0) if cuts < 3 else None)
            if not running:
                break
            cuts += 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        done = task.result()
        assert done.counts == reference.counts
        assert await Imports(db, TENANT).errors(row.id, limit=1000) == errors
        assert len(await leads_of(db, campaign)) == expected["accepted"]


CHILD = """
import asyncio, sys
from pathlib import Path
from serve_app.dialing.imports.runner import run_import
from serve_app.store.db import Database
from serve_app.store.imports import Imports
from serve_app.store.objects import ObjectStore

async def main():
    imports = Imports(await Database.connect(sys.argv[1]), "acme")
    row = await imports.begin(sys.argv[3])
    print("begun", flush=True)
    await run_import(imports, ObjectStore.open(None, Path(sys.argv[2])), row, processes=1)

asyncio.run(main())
"""


async def test_a_killed_process_leaves_no_row_unaccounted(
    sqlite_db: Database, sqlite_url: str, objects: ObjectStore, tmp_path: Path
) -> None:
    campaign = await add_campaign(sqlite_db)
    rows, expected = rows_with_faults(1000, seed=3)
    row, _ = await send(sqlite_db, objects, tmp_path, rows, campaign)
    imports = Imports(sqlite_db, TENANT)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, sqlite_url, str(tmp_path), row.id, stdout=asyncio.subprocess.PIPE
    )
    while await imports.chunks_done(row.id) < 3 and process.returncode is None:  # noqa: ASYNC110  (another process)
        await asyncio.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    half = await imports.get(row.id)
    assert half is not None and half.status == "running"
    assert 0 < half.counts["rows"] < 1000
    assert len(await leads_of(sqlite_db, campaign)) == half.counts["accepted"], "a chunk is there whole, or not at all"
    done = await run(sqlite_db, objects, row.id)
    assert told(done.counts) == expected
    assert len(await leads_of(sqlite_db, campaign)) == expected["accepted"]


async def test_the_same_file_is_imported_once(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign = await add_campaign(db)
    rows, expected = rows_with_faults(60)
    first, _ = await send(db, objects, tmp_path, rows, campaign)
    assert (await send(db, objects, tmp_path, rows, campaign)) == (first, False)
    done = await run(db, objects, first.id)
    again, new = await send(db, objects, tmp_path, rows, campaign)
    assert (again, new) == (done, False)
    # Read in another way it is another import: all its leads are there already.
    other, new = await send(db, objects, tmp_path, rows, campaign, mapping={"company": "ignore"})
    assert new
    counts = told((await run(db, objects, other.id)).counts)
    assert counts["accepted"] == 0
    assert counts["duplicate_existing"] == expected["accepted"] + expected["duplicate_in_file"]
    assert len(await leads_of(db, campaign)) == expected["accepted"]


async def test_a_deleted_lead_does_not_keep_its_number(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign = await add_campaign(db)
    await Leads(db, TENANT).add(campaign, [NewLead("+12025550100"), NewLead("+12025550101")])
    first, second = await leads_of(db, campaign)
    await Leads(db, TENANT).delete(first.id)
    row, _ = await send(db, objects, tmp_path, [["2025550100"], ["2025550101"]], campaign, header=["phone"])
    assert told((await run(db, objects, row.id)).counts) == Counter(accepted=1, duplicate_existing=1, blank=0)
    (fault,) = await Imports(db, TENANT).errors(row.id, limit=9)
    assert (fault.column, fault.value) == ("phone", second.number)


async def test_consents_of_a_file_are_recorded(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign = await add_campaign(db)
    rows = [
        ["2025550100", "Ada", "", "", "written", "2026-01-31"],
        ["2025550101", "Bob", "", "", "yes", ""],
        ["2025550102", "Cyd", "", "", "", "2026-01-31"],
    ]
    row, _ = await send(db, objects, tmp_path, rows, campaign)
    done = await run(db, objects, row.id)
    assert done.counts["notes"] == {"consent_without_date": 1, "without_consent": 2}
    async with db.session() as session:
        (consent,) = list(await session.scalars(select(Consent)))
    given_at = datetime(2026, 1, 31, tzinfo=UTC)
    assert (consent.number, consent.kind, consent.given_at) == ("+12025550100", "written", given_at)
    assert (consent.source, consent.document) == ("list.csv", {"import_id": row.id, "row": 2})
    assert [lead.consent_at for lead in await leads_of(db, campaign)] == [given_at, None, None]


async def test_a_do_not_call_list(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign = await add_campaign(db)
    await DoNotCall(db, TENANT).add("+12025550101", "by letter")
    await Leads(db, TENANT).add(campaign, [NewLead("+12025550100"), NewLead("+12025550199")])
    numbers = [["2025550100"], ["2025550101"], ["202-555-0100"], ["nobody"], [""], ["9005550123"]]
    row, _ = await send(db, objects, tmp_path, numbers, None, header=["phone"])
    done = await run(db, objects, row.id)
    assert told(done.counts) == Counter(
        accepted=2, duplicate_existing=1, duplicate_in_file=1, number_not_a_number=1, blank=1
    )
    listed, _ = await DoNotCall(db, TENANT).list(limit=9)
    assert {(entry.number, entry.source) for entry in listed} == {
        ("+12025550101", "person"),
        ("+12025550100", "import"),
        ("+19005550123", "import"),
    }
    barred, waiting = await leads_of(db, campaign)
    assert (barred.state, barred.last_reason, waiting.state) == ("barred", "on_do_not_call_list", "ready")
    # A file of leads tells how many of them the rules will never call; they are leads all the same.
    leads = [[f"20255501{n:02d}"] for n in range(10)]
    other = await add_campaign(db, "other")
    row, _ = await send(db, objects, tmp_path, leads, other, header=["phone"])
    done = await run(db, objects, row.id)
    assert done.counts["accepted"] == 10
    assert done.counts["notes"] == {"without_consent": 10, "on_do_not_call_list": 2}


async def test_one_import_of_a_tenant_at_a_time(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign = await add_campaign(db)
    first, _ = await send(db, objects, tmp_path, [["2025550100"]], campaign, header=["phone"])
    second, _ = await send(db, objects, tmp_path, [["2025550101"]], campaign, header=["phone"])
    imports = Imports(db, TENANT)
    assert await imports.begin(first.id) is not None
    assert await imports.begin(second.id) is None
    handler = ImportFile(db, objects, processes=1)
    waiting = await Jobs(db).lease("w", kinds=[IMPORT_FILE], limit=9, lease_s=9)
    (job,) = [job for job in waiting if job.payload == {"import_id": second.id}]
    with pytest.raises(UnavailableError, match="another one of this tenant is running"):
        await handler(job)
    # The first one's worker is gone for good: half an hour later it stands in nobody's way.
    later = Imports(db, TENANT, clock=Fixed(datetime.now(UTC) + timedelta(minutes=31)))
    assert await later.begin(second.id) is not None
    gone = await imports.get(first.id)
    assert gone is not None and gone.status == "failed" and "send the file again" in (gone.error or "")


async def test_an_import_is_cancelled_and_goes_on_when_its_file_is_sent_again(
    db: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    campaign = await add_campaign(db)
    rows, expected = rows_with_faults(100)
    row, _ = await send(db, objects, tmp_path, rows, campaign)
    imports = Imports(db, TENANT)
    running = await imports.begin(row.id)
    assert running is not None
    cut_off = await run_import(imports, objects, running, processes=1, budget_s=0)
    assert cut_off is None, "one chunk, and its time is over"
    assert await imports.cancel(row.id) and not await imports.cancel(row.id)
    with pytest.raises(ImportStopped):
        await run_import(imports, objects, running, processes=1)
    assert await imports.begin(row.id) is None
    assert 0 < len(await leads_of(db, campaign)) <= CHUNK_ROWS
    again, new = await send(db, objects, tmp_path, rows, campaign)
    assert (again.id, again.status, new) == (row.id, "queued", False)
    assert told((await run(db, objects, row.id)).counts) == expected


async def test_the_job_goes_on_in_another_job_and_leaves_no_file(
    db: Database, objects: ObjectStore, tmp_path: Path
) -> None:
    campaign = await add_campaign(db)
    rows, expected = rows_with_faults(70)
    row, _ = await send(db, objects, tmp_path, rows, campaign)
    jobs, handler = Jobs(db), ImportFile(db, objects, processes=1, budget_s=0)
    worked = 0
    while leased := await jobs.lease("w", kinds=[IMPORT_FILE], limit=1, lease_s=60):
        await handler(leased[0])
        await jobs.done(leased[0].id, "w")
        worked += 1
    assert worked == 4, "a job for each chunk"
    done = await Imports(db, TENANT).get(row.id)
    assert done is not None and told(done.counts) == expected and done.status == "completed"
    assert await objects.list("imports") == []


async def test_a_file_that_is_gone_fails_the_import(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    row, _ = await send(db, objects, tmp_path, [["2025550100"]], await add_campaign(db), header=["phone"])
    await objects.delete([row.object_key])
    (job,) = await Jobs(db).lease("w", kinds=[IMPORT_FILE], limit=1, lease_s=60)
    with pytest.raises(JobFailed, match="its file is gone"):
        await ImportFile(db, objects, processes=1)(job)
    failed = await Imports(db, TENANT).get(row.id)
    assert failed is not None and failed.status == "failed" and "send it again" in (failed.error or "")


async def test_imports_are_listed_and_forgotten(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign, imports = await add_campaign(db), Imports(db, TENANT)
    made = [(await send(db, objects, tmp_path, [[f"202555010{n}"]], campaign, header=["phone"]))[0] for n in range(3)]
    page, cursor = await imports.list(limit=2)
    assert [row.id for row in page] == [made[2].id, made[1].id]
    assert await imports.list(limit=2, before=cursor, campaign_id=campaign) == ([made[0]], None)
    assert not await imports.forget(made[0].id), "it is not over"
    await run(db, objects, made[0].id)
    assert await imports.forget(made[0].id) and await imports.get(made[0].id) is None
    assert len(await leads_of(db, campaign)) == 1
    async with db.session() as session:
        assert await session.scalar(select(func.count()).select_from(Import)) == 2
        assert await session.scalar(select(func.count()).select_from(Lead)) == 1


async def test_numbers_are_looked_up_in_their_index(sqlite_db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign = await add_campaign(sqlite_db)
    asked: list[tuple[str, Any]] = []

    def remember(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        asked.append((statement, parameters))

    event.listen(sqlite_db.engine.sync_engine, "before_cursor_execute", remember)
    leads, _ = await send(sqlite_db, objects, tmp_path, [["2025550100"]], campaign, header=["phone"])
    await run(sqlite_db, objects, leads.id)
    listed, _ = await send(sqlite_db, objects, tmp_path, [["2025550100"]], None, header=["phone"])
    await run(sqlite_db, objects, listed.id)
    await Leads(sqlite_db, TENANT).of_number("+12025550100")
    await Leads(sqlite_db, TENANT).list(campaign, limit=1, number="+12025550100")
    event.remove(sqlite_db.engine.sync_engine, "before_cursor_execute", remember)
    by_number = [(sql, values) for sql, values in asked if "leads.number IN" in sql or "leads.number =" in sql]
    assert len(by_number) == 4
    async with sqlite_db.session() as session:
        for sql, values in by_number:
            plan = await (await session.connection()).exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", tuple(values))
            told = " ".join(row[-1] for row in plan)
            assert "one_lead (tenant_id=? AND number=?" in told and "SCAN leads" not in told, told
