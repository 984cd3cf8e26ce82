"""The SQLite driver's short way: what a transaction promises holds, a cancellation in its middle included."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from serve_app.store.db import Database

ROWS = text("SELECT count(*) FROM t")


@pytest.fixture(name="numbers")
async def fixture_numbers(tmp_path: Path) -> Database:
    db = await Database.connect(f"sqlite:///{tmp_path}/t.db")
    async with db.transaction() as session:
        await session.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    return db


async def _count(db: Database) -> int:
    async with db.session() as session:
        return int(await session.scalar(ROWS) or 0)


async def test_a_transaction_is_all_or_nothing(numbers: Database) -> None:
    with pytest.raises(IntegrityError):
        async with numbers.transaction() as session:
            await session.execute(text("INSERT INTO t VALUES (1)"))
            await session.execute(text("INSERT INTO t VALUES (1)"))
    assert await _count(numbers) == 0
    async with numbers.transaction() as session:
        returned = await session.execute(text("INSERT INTO t VALUES (1), (2) RETURNING n"))
        assert sorted(returned.scalars()) == [1, 2]
        assert await _count(numbers) == 0, "not committed yet"
    assert await _count(numbers) == 2
    await numbers.aclose()


async def test_an_empty_transaction_leaves_nothing_behind(numbers: Database) -> None:
    async with numbers.transaction():
        pass
    async with numbers.transaction() as session:
        await session.execute(text("INSERT INTO t VALUES (1)"))
    assert await _count(numbers) == 1
    await numbers.aclose()


async def test_a_writer_holds_the_lock_from_its_first_statement_and_a_reader_holds_none(
    numbers: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.store.engine.SQLITE_BUSY_MS", 50)
    other = await Database.connect(f"sqlite:///{tmp_path}/t.db")
    async with numbers.session() as session:
        await session.execute(ROWS)
        async with other.transaction() as writing:
            await writing.execute(text("INSERT INTO t VALUES (1)"))
    async with numbers.transaction() as session:
        await session.execute(ROWS)  # only a read: the lock is held all the same
        with pytest.raises(Exception, match="does not answer") as refused:
            async with other.transaction() as writing:
                await writing.execute(text("INSERT INTO t VALUES (2)"))
        assert isinstance(refused.value.__cause__, OperationalError)
    await other.aclose()
    await numbers.aclose()


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancelled_transaction_is_all_or_nothing_wherever_it_was_cut(numbers: Database, steps: int) -> None:
    async def write() -> None:
        async with numbers.transaction() as session:
            for n in range(3):
                await session.execute(text("INSERT INTO t VALUES (:n)"), {"n": n})

    task = asyncio.create_task(write())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    written = await _count(numbers)
    # Three: it was cut when the commit was under way, or over.
    assert written in (0, 3)
    async with asyncio.timeout(30), numbers.transaction() as session:
        await session.execute(text("INSERT INTO t VALUES (7)"))
    assert await _count(numbers) == written + 1, "no transaction was left open, and no lock held"
    await numbers.aclose()
