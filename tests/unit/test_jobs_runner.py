"""Background jobs: leased once, tried again, dead in the end, and never the end of the runner."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from serve_app.errors import UnavailableError
from serve_app.jobs.runner import JobFailed, JobHandler, JobRunner
from serve_app.store.db import Database
from serve_app.store.repositories import JobRow, Jobs

pytest_plugins = ("tests.unit.store_fixtures",)


class MovableClock:
    """Wall time that a test moves."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def monotonic(self) -> float:
        return self.now().timestamp()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def statuses(db: Database) -> Counter[str]:
    async with db.session() as session:
        return Counter(await session.scalars(text("SELECT status FROM jobs")))


@asynccontextmanager
async def running(runner: JobRunner) -> AsyncIterator[None]:
    task = asyncio.create_task(runner.run())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(db: Database, **expected: int) -> None:
    async with asyncio.timeout(20):
        while await statuses(db) != Counter(expected):  # noqa: ASYNC110  (another task changes the database)
            await asyncio.sleep(0.02)


def one_job(handler: JobHandler) -> dict[str, JobHandler]:
    return {"work": handler}


# --- the queue


async def test_a_job_with_a_key_exists_once(db: Database) -> None:
    jobs = Jobs(db)
    assert await jobs.add("acme", "work", {"n": 1}, key="k")
    assert not await jobs.add("acme", "work", {"n": 2}, key="k")
    assert await jobs.add("globex", "work", {"n": 3}, key="k")
    assert await jobs.add("acme", "work", {"n": 4}) and await jobs.add("acme", "work", {"n": 5})
    assert await statuses(db) == Counter(ready=4)


async def test_concurrent_workers_never_share_a_job(db: Database) -> None:
    jobs = Jobs(db)
    for n in range(20):
        await jobs.add("acme", "work", {"n": n})
    leases = await asyncio.gather(*(jobs.lease(f"w{n}", kinds=["work"], limit=6, lease_s=60) for n in range(6)))
    ids = [job.id for lease in leases for job in lease]
    assert len(ids) == len(set(ids))
    rest = await jobs.lease("last", kinds=["work"], limit=20, lease_s=60)
    assert len(ids) + len(rest) == 20
    assert await jobs.lease("w", kinds=["other"], limit=9, lease_s=60) == []


async def test_a_lost_lease_is_taken_over_and_cannot_be_settled(db: Database) -> None:
    clock = MovableClock()
    jobs = Jobs(db, clock=clock)
    await jobs.add("acme", "work", {}, max_attempts=2)
    (first,) = await jobs.lease("dead", kinds=["work"], limit=1, lease_s=10)
    assert await jobs.next_due() == first.due_at
    clock.offset += timedelta(seconds=11)
    (second,) = await jobs.lease("alive", kinds=["work"], limit=1, lease_s=10)
    assert (second.id, second.attempts) == (first.id, 2)
    assert not await jobs.done(first.id, "dead")
    assert await jobs.retry(first.id, "dead", "x", 0) is None
    clock.offset += timedelta(seconds=11)
    # It killed its worker at the last attempt too: dead, not a third try.
    assert await jobs.lease("third", kinds=["work"], limit=1, lease_s=10) == []
    row = await jobs.get(first.id)
    assert row is not None and row.status == "dead" and row.last_error


async def test_what_is_due_and_when_the_next_will_be(db: Database) -> None:
    jobs = Jobs(db)
    assert await jobs.next_due() is None and await jobs.work(["work"]) == (0, None)
    soon = datetime.now(UTC) + timedelta(seconds=30)
    await jobs.add("acme", "work", {}, due_at=soon + timedelta(days=1))
    await jobs.add("acme", "work", {}, due_at=soon)
    await jobs.add("acme", "other", {})
    assert await jobs.work(["work"]) == (0, soon)
    assert (await jobs.work(["work", "other"]))[0] == 1
    assert await jobs.lease("w", kinds=["work"], limit=9, lease_s=1) == []


# --- the runner


async def test_all_jobs_are_done_within_the_concurrency(db: Database) -> None:
    running_now = highest = 0
    done: list[int] = []

    async def handler(job: JobRow) -> None:
        nonlocal running_now, highest
        running_now += 1
        highest = max(highest, running_now)
        await asyncio.sleep(0.01)
        running_now -= 1
        done.append(job.payload["n"])

    for n in range(15):
        await Jobs(db).add("acme", "work", {"n": n})
    async with running(JobRunner(db, one_job(handler), concurrency=3)):
        await until(db, done=15)
    assert sorted(done) == list(range(15)) and highest == 3


async def test_two_runners_do_each_job_once(db: Database) -> None:
    done: list[int] = []

    async def handler(job: JobRow) -> None:
        await asyncio.sleep(0.005)
        done.append(job.payload["n"])

    for n in range(20):
        await Jobs(db).add("acme", "work", {"n": n})
    async with running(JobRunner(db, one_job(handler))), running(JobRunner(db, one_job(handler))):
        await until(db, done=20)
    assert sorted(done) == list(range(20))


async def test_a_wake_starts_a_job_that_came_while_it_slept(sqlite_db: Database) -> None:
    async def handler(job: JobRow) -> None:
        return None

    runner = JobRunner(sqlite_db, one_job(handler))
    async with running(runner):
        await asyncio.sleep(0.1)
        await Jobs(sqlite_db).add("acme", "work", {})
        runner.wake()
        async with asyncio.timeout(5):  # less than its longest sleep
            await until(sqlite_db, done=1)


async def test_a_failing_job_is_tried_again_and_the_others_go_on(sqlite_db: Database) -> None:
    tries: Counter[str] = Counter()

    async def handler(job: JobRow) -> None:
        name = job.payload["name"]
        tries[name] += 1
        if name == "always" or (name == "twice" and tries[name] <= 2):
            raise RuntimeError(f"{name} fails")
        if name == "hopeless":
            raise JobFailed("no such thing")

    for name in ("always", "twice", "hopeless", "fine"):
        await Jobs(sqlite_db).add("acme", "work", {"name": name}, max_attempts=4)
    async with running(JobRunner(sqlite_db, one_job(handler), retry_s=0.01)):
        await until(sqlite_db, done=2, dead=2)
    assert tries == Counter(always=4, twice=3, hopeless=1, fine=1)
    async with sqlite_db.session() as session:
        errors = set(await session.scalars(text("SELECT last_error FROM jobs WHERE status = 'dead'")))
    assert errors == {"always fails", "no such thing"}


async def test_an_outage_of_a_service_uses_up_no_try(sqlite_db: Database) -> None:
    tries = 0

    async def handler(job: JobRow) -> None:
        nonlocal tries
        tries += 1
        if tries <= 5:
            raise UnavailableError("the codec pool is away")

    await Jobs(sqlite_db).add("acme", "work", {}, max_attempts=2)
    async with running(JobRunner(sqlite_db, one_job(handler), away_s=0.01)):
        await until(sqlite_db, done=1)
    assert tries == 6


async def test_a_job_that_hangs_is_stopped_before_its_lease_ends(sqlite_db: Database) -> None:
    async def handler(job: JobRow) -> None:
        await asyncio.sleep(60)

    await Jobs(sqlite_db).add("acme", "work", {}, max_attempts=1)
    async with running(JobRunner(sqlite_db, one_job(handler), lease_s=0.2)):
        await until(sqlite_db, dead=1)


async def test_a_stopped_runner_gives_its_jobs_back(sqlite_db: Database) -> None:
    began = asyncio.Event()

    async def handler(job: JobRow) -> None:
        began.set()
        await asyncio.sleep(60)

    await Jobs(sqlite_db).add("acme", "work", {})
    async with running(JobRunner(sqlite_db, one_job(handler))):
        await asyncio.wait_for(began.wait(), 5)
    (again,) = await Jobs(sqlite_db).lease("next", kinds=["work"], limit=1, lease_s=9)
    assert again.attempts == 1


@pytest.mark.parametrize("seconds", [0.3])
async def test_the_runner_waits_out_a_database_that_is_away(
    sqlite_db: Database, tmp_path: Path, seconds: float
) -> None:
    done = asyncio.Event()

    async def handler(job: JobRow) -> None:
        done.set()

    async with sqlite_db.transaction() as session:
        await session.execute(text("ALTER TABLE jobs RENAME TO away"))  # every query fails with OperationalError
    async with running(JobRunner(sqlite_db, one_job(handler), retry_s=0.05)):
        await asyncio.sleep(seconds)
        async with sqlite_db.transaction() as session:
            await session.execute(text("ALTER TABLE away RENAME TO jobs"))
        await Jobs(sqlite_db).add("acme", "work", {})
        await asyncio.wait_for(done.wait(), 10)
