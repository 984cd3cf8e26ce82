"""Alembic from inside the package: no ini file, and the same migrations from a source tree or a wheel."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, text

from serve_app.errors import UnavailableError
from serve_app.store.engine import AWAY, async_url, make_engine, shown, writing

MIGRATIONS = Path(__file__).resolve().parent / "migrations"
LOCK_TIMEOUT_S = 60.0
# Alembic keeps its environment in module globals: one migration at a time in a process, whatever the database.
_ONE_AT_A_TIME = threading.Lock()
_ADVISORY_LOCK = 0x7061726C6579  # "parley"
T = TypeVar("T")


def upgrade(url: str) -> None:
    """Bring the database to the newest schema. Safe under concurrent callers: one migrates, the others wait.

    Blocking; call it from a thread inside an event loop. Raises UnavailableError.
    """
    target = async_url(url)
    with _ONE_AT_A_TIME, _file_lock(target):
        _blocking(_with_connection(target, _upgrade))


def current_revision(url: str) -> str | None:
    """The schema's revision, None for an empty database. Blocking. Raises UnavailableError."""
    return _blocking(_with_connection(async_url(url), _current))


def head_revision() -> str:
    """The newest revision that this version of the program knows."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if head is None:
        raise RuntimeError(f"no migrations in {MIGRATIONS}")
    return head


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    command.upgrade(alembic_config(connection), "head")


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def _with_connection(target: URL, work: Callable[[Connection], T]) -> T:
    # Foreign keys are off: SQLite rebuilds a table by dropping the old one, which would cascade.
    engine = make_engine(target, foreign_keys=False)
    if work is _upgrade:
        engine = writing(engine)
    try:
        async with asyncio.timeout(LOCK_TIMEOUT_S), engine.begin() as connection:
            return await connection.run_sync(work)
    except AWAY as error:
        raise UnavailableError(f"SQL at {shown(target)} does not answer: {error}") from error
    finally:
        await engine.dispose()


@contextmanager
def _file_lock(target: URL) -> Iterator[None]:
    """Serialise the first start on SQLite, where even the switch to WAL fails under a concurrent one.

    A second SQLite file is the lock: portable, and freed by the system when its holder dies.
    """
    if target.get_backend_name() != "sqlite":
        yield
        return
    path = Path(str(target.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = sqlite3.connect(f"{path}.migration-lock", timeout=LOCK_TIMEOUT_S, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"SQL at {shown(target)} cannot be opened: {error}") from error
    try:
        lock.execute("BEGIN EXCLUSIVE")
        yield
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"another process migrates {shown(target)} for over {LOCK_TIMEOUT_S:g} s") from error
    finally:
        lock.close()


def _blocking(work: Coroutine[Any, Any, T]) -> T:
    # An own thread, since the caller's may already run an event loop; asyncpg is the only PostgreSQL driver here.
    with ThreadPoolExecutor(1, thread_name_prefix="migrate") as pool:
        return pool.submit(asyncio.run, work).result()
