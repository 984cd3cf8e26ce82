"""The schema: one set of migrations, two databases, and models that agree with them."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from serve_app.errors import SettingsError, UnavailableError
from serve_app.store.base import Base
from serve_app.store.db import Database
from serve_app.store.engine import async_url, make_engine
from serve_app.store.migrate import current_revision, head_revision, upgrade
from serve_app.store.models import SCHEMA_REVISION

pytest_plugins = ("tests.unit.store_fixtures",)


async def test_models_and_migrations_agree(database_url: str) -> None:
    def difference(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, Base.metadata))

    engine = make_engine(async_url(database_url))
    async with engine.connect() as connection:
        assert await connection.run_sync(difference) == []
        indexes = await connection.run_sync(lambda c: inspect(c).get_indexes("attempts"))
    await engine.dispose()
    # Neither autogenerate nor the inspector compares the predicate of a partial index: it is tested by behaviour.
    assert any(index["name"] == "one_live" and index["unique"] for index in indexes)


async def test_every_table_has_a_tenant() -> None:
    assert len(Base.metadata.tables) == 23
    for table in Base.metadata.tables.values():
        assert "tenant_id" in table.columns, table.name
        assert not table.columns["tenant_id"].nullable, table.name


async def test_upgrade_with_concurrent_callers_runs_once(empty_database_url: str) -> None:
    assert await asyncio.to_thread(current_revision, empty_database_url) is None
    db = await Database.connect(empty_database_url)
    with pytest.raises(SettingsError, match=r"revision none.*parley db upgrade"):
        await db.check_schema()
    code = f"from serve_app.store.migrate import upgrade; upgrade({empty_database_url!r})"
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", code) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(upgrade, [empty_database_url] * 3))
    assert [await process.wait() for process in processes] == [0, 0, 0]
    assert await asyncio.to_thread(current_revision, empty_database_url) == head_revision() == SCHEMA_REVISION
    await db.check_schema()
    await db.aclose()
    upgrade(empty_database_url)  # also from inside an event loop, and again


async def test_sqlite_is_durable_and_checks_references(sqlite_db: Database) -> None:
    async with sqlite_db.session() as session:
        assert await session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await session.scalar(text("PRAGMA synchronous")) == 2
        assert await session.scalar(text("PRAGMA foreign_keys")) == 1


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite:///relative.db", "sqlite://", "no url at all"])
async def test_a_url_that_cannot_work_is_explained(url: str) -> None:
    with pytest.raises(SettingsError, match=r"database\.url"):
        await Database.connect(url)


async def test_a_database_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(UnavailableError) as caught:
        await Database.connect("postgresql://user:hunter2@127.0.0.1:1/parley", connect_timeout_s=2)
    assert "127.0.0.1:1/parley" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "DATABASE_URL" in str(caught.value)


async def test_a_sqlite_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(UnavailableError, match=r"folder\.db"):
        await Database.connect(f"sqlite:///{tmp_path}/folder.db")
    await asyncio.sleep(0.1)  # aiosqlite's thread reports its own end to this loop
