"""Processes that die, and SQL as they see it.

What a process has done is seen from outside only where it exchanges something with the outside: a statement, a commit,
a command to Redis, a request. So those are the points at which it may die: right before such an exchange, and right
after it, before the answer is seen. A death is that of SIGKILL: nothing that the process still does has any effect,
and its open transactions are rolled back.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from serve_app.store.engine import async_url, make_engine
from serve_app.store.sqlite_driver import JoinedConnection

T = TypeVar("T")

# Of an exchange on one machine; the interleavings of the processes come from it.
MEAN_LATENCY_S = 0.003
# Now and then a process stands still: a collection, a host that swaps, a debugger.
PAUSES = 0.0005
LONGEST_PAUSE_S = 60.0

_running: contextvars.ContextVar[Process | None] = contextvars.ContextVar("_running", default=None)


class Process:
    """One life of a process. It dies at its `points`-th point (None: never), or at the first one of name `fatal`."""

    def __init__(self, rng: Random, points: int | None, fatal: str | None = None) -> None:
        self._rng = rng
        self._fatal = fatal
        self._left = points
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.alive = True
        self.died_at: str | None = None
        """What it was about to do, or had just done."""

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as part of this process. Its task is cancelled when the process dies."""
        context = contextvars.copy_context()
        context.run(_running.set, self)
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def end(self) -> None:
        """Die now, unless it did, and wait until nothing of it is left."""
        self._die("idle")
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def point(self, what: str) -> None:
        if not self.alive:
            raise asyncio.CancelledError
        pauses = self._rng.random() < PAUSES
        await asyncio.sleep(
            self._rng.uniform(1, LONGEST_PAUSE_S) if pauses else self._rng.expovariate(1 / MEAN_LATENCY_S)
        )
        if not self.alive:
            raise asyncio.CancelledError
        if self._left is not None:
            self._left -= 1
            if self._left <= 0 or what == self._fatal:
                self._die(what)
                raise asyncio.CancelledError

    def _die(self, what: str) -> None:
        if not self.alive:
            return
        self.alive = False
        self.died_at = what
        for task in list(self._tasks):
            # Soon: this may be one of them, on its way out already.
            asyncio.get_running_loop().call_soon(task.cancel)


async def point(what: str) -> None:
    """The process that runs this may die here. What runs in none of them does not."""
    process = _running.get()
    if process is not None:
        await process.point(what)


async def exchange(what: str, act: Callable[[], T]) -> T:
    """Do something outside of the process, in no time: it may die before, or before it sees the answer."""
    await point(f"before {what}")
    answer = act()
    await point(f"after {what}")
    return answer


def outside(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """What goes on whatever becomes of the process that began it."""
    context = contextvars.copy_context()
    context.run(_running.set, None)
    task = asyncio.get_running_loop().create_task(work, context=context)
    task.add_done_callback(_tell_of_failure)
    return task


def _tell_of_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": f"{task}: {error!r}", "exception": error})


def sql_engine(path: Path) -> AsyncEngine:
    """SQLite in this thread, each statement and commit an exchange."""
    return make_engine(async_url(f"sqlite:///{path}"), opener=_open)


def _open(database: str, *, timeout: float, **_options: Any) -> _Connection:
    connect = partial(sqlite3.connect, database, timeout=timeout, isolation_level=None)
    return _Connection(connect, iter_chunk_size=64)


class _Connection(JoinedConnection):
    """Without a thread: what waits on simulated time must not wait for a real one."""

    async def _connect(self) -> _Connection:
        self._connection = self._connector()
        return self

    def __await__(self) -> Any:
        return self._connect().__await__()

    async def _execute(self, function: Any, *arguments: Any, **named: Any) -> Any:
        return await exchange(_name(arguments), partial(function, *arguments, **named))

    async def rollback(self) -> None:
        # That of a dead process is done by the server.
        self.opening, self.began = None, False
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()

    async def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _name(arguments: tuple[Any, ...]) -> str:
    """The verb of a joined statement; what has no arguments is a commit."""
    return str(arguments[3]).split(None, 1)[0].upper() if len(arguments) > 3 else "COMMIT"
