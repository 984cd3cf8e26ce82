"""The SQL engine: URL forms, SQLite's pragmas, and which failures mean that the database is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from serve_app.errors import SettingsError
from serve_app.store.sqlite_driver import open_connection

_MODE = "parley_mode"
"""Execution option of an engine: "read" or "write"; neither: transactions as SQLAlchemy makes them."""

SQLITE_BUSY_MS = 30_000
STATEMENT_TIMEOUT_S = 30.0
POOL_TIMEOUT_S = 10.0

# asyncpg raises plain OSError and TimeoutError for a server that is not there.
AWAY = (OperationalError, InterfaceError, PoolTimeoutError, OSError)


def async_url(url: str) -> URL:
    """`url` with the async driver of its database, and `sslmode` in asyncpg's spelling.

    Raises SettingsError for a malformed URL, a database other than SQLite and PostgreSQL, or a relative SQLite path.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError("database.url is not a URL; expected postgresql://user:password@host/name") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or not Path(parsed.database).is_absolute():
            raise SettingsError(
                f"database.url {parsed}: a SQLite URL needs an absolute path: sqlite:////path/parley.db"
            )
        return parsed.set(drivername="sqlite+aiosqlite")
    if backend in ("postgresql", "postgres"):
        query = dict(parsed.query)
        if "sslmode" in query:
            query["ssl"] = query.pop("sslmode")
        return parsed.set(drivername="postgresql+asyncpg", query=query)
    raise SettingsError(f"database.url: {backend} is not supported; use postgresql:// or sqlite://")


def shown(url: URL) -> str:
    """The URL without its password, for messages."""
    return url.render_as_string(hide_password=True)


def reading(engine: AsyncEngine) -> AsyncEngine:
    """`engine` for single reads: each statement for itself, without the round trips of BEGIN and ROLLBACK."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_MODE: "read"})
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def writing(engine: AsyncEngine) -> AsyncEngine:
    """`engine` for writing transactions: on SQLite they take the write lock at once."""
    return engine.execution_options(**{_MODE: "write"})


def make_engine(
    url: URL, *, connect_timeout_s: float = 5, foreign_keys: bool = True, opener: Callable[..., Any] = open_connection
) -> AsyncEngine:
    """An engine; `reading` and `writing` say what its transactions are for. `opener`: of a connection to SQLite."""
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        options = {"timeout": SQLITE_BUSY_MS / 1000, "async_creator_fn": opener}
        engine = create_async_engine(url, pool_timeout=POOL_TIMEOUT_S, connect_args=options)
        _prepare_sqlite(engine, foreign_keys=foreign_keys)
        return engine
    return create_async_engine(
        url,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args={"timeout": connect_timeout_s, "command_timeout": STATEMENT_TIMEOUT_S},
    )


def _prepare_sqlite(engine: AsyncEngine, *, foreign_keys: bool) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        # NORMAL may lose the last commits at a power loss: a call that was placed without a record of the intent.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _on_begin(connection: Any) -> None:
        mode = connection.get_execution_options().get(_MODE)
        if mode != "read":
            connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")
