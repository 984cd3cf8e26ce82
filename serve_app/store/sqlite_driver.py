"""SQLite without a thread switch for every step of a statement.

aiosqlite runs SQLite in a thread of each connection, and asks that thread for the cursor, the statement, the rows and
the cursor's end one by one: four round trips between two threads for one SELECT, which cost far more than the SELECT.
Here one round trip does all of it. What SQLAlchemy asks of an aiosqlite connection and its cursor is unchanged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite

_NO_ROWS: list[Any] = []


def open_connection(database: str, *, timeout: float, **_options: Any) -> JoinedConnection:
    """An unopened connection, for SQLAlchemy's `async_creator_fn`. `timeout`: SQLite's busy wait in seconds.

    The driver opens no transactions by itself (`isolation_level` None): a deferred one that turns into a writer gets
    SQLITE_BUSY whatever the timeout is.
    """
    connector = partial(
        sqlite3.connect, str(Path(database)), timeout=timeout, isolation_level=None, check_same_thread=False
    )
    connection = JoinedConnection(connector, iter_chunk_size=64)
    # A process must be able to end while a statement waits.
    connection._thread.daemon = True
    return connection


class JoinedConnection(aiosqlite.Connection):
    """One round trip per statement, commit and rollback; a BEGIN goes with the statement after it.

    Whether a transaction is open is kept on the loop's side and not asked of SQLite: after a cancellation SQLite may
    still be at work on a statement of this connection, and its answer of that moment would be worth nothing.
    """

    opening: str | None = None
    """The BEGIN that is still to be sent."""
    began = False

    def cursor(self) -> _JoinedCursor:  # type: ignore[override]  # SQLAlchemy enters it, and asks for no more
        return _JoinedCursor(self)

    async def commit(self) -> None:
        self.opening = None
        if self.began:
            await super().commit()
            self.began = False

    async def rollback(self) -> None:
        self.opening = None
        if self.began:
            await super().rollback()
            self.began = False


class _JoinedCursor:
    """The result of one statement, fetched with it."""

    arraysize = 1

    def __init__(self, connection: JoinedConnection) -> None:
        self._connection = connection
        self._rows = _NO_ROWS
        self.description: Any = None
        self.lastrowid: int | None = None
        self.rowcount = -1

    async def __aenter__(self) -> _JoinedCursor:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        if sql.startswith("BEGIN"):
            self._connection.opening = sql
            return
        await self._run(sqlite3.Cursor.execute, sql, parameters)

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        await self._run(sqlite3.Cursor.executemany, sql, parameters)

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def close(self) -> None:
        self._rows = _NO_ROWS

    async def _run(self, method: Any, sql: str, parameters: Any) -> None:
        connection = self._connection
        opening, connection.opening = connection.opening, None
        connection.began = connection.began or opening is not None
        run: Any = connection._execute  # untyped in aiosqlite
        found = await run(_joined, connection._conn, opening, method, sql, parameters)
        self.description, self._rows, self.lastrowid, self.rowcount = found


def _joined(
    connection: sqlite3.Connection, opening: str | None, method: Any, sql: str, parameters: Any
) -> tuple[Any, ...]:
    """In the connection's thread: the transaction's beginning, the statement and all of its rows."""
    cursor = connection.cursor()
    try:
        if opening is not None:
            cursor.execute(opening)
        method(cursor, sql, parameters)
        rows = cursor.fetchall() if cursor.description else _NO_ROWS
        return cursor.description, rows, cursor.lastrowid, cursor.rowcount
    finally:
        cursor.close()
