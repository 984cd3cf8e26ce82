"""Counts by cause: SQL statements, Redis round trips, CPU time."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.connection import AbstractConnection
from sqlalchemy import event

from serve_app.store.db import Database

origin: ContextVar[str] = ContextVar("origin", default="other")
"""What the present task works for: it labels the statements and round trips."""


@dataclass
class Tally:
    """Per origin: statements by first word, commits included; Redis round trips; CPU seconds."""

    statements: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    round_trips: Counter[str] = field(default_factory=Counter)
    cpu_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextlib.contextmanager
    def watching(self, db: Database) -> Iterator[None]:
        """Count what goes to `db` and to any Redis meanwhile."""
        engine = db.engine.sync_engine

        def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            word = statement.split(maxsplit=1)[0].upper()
            # SQLite is told where a transaction begins, together with its first statement; PostgreSQL by its driver.
            if word != "BEGIN":
                self.statements[origin.get()][word] += 1

        def committed(_connection: Any) -> None:
            self.statements[origin.get()]["COMMIT"] += 1

        send = AbstractConnection.send_packed_command

        async def counted(connection: Any, command: Any, check_health: bool = True) -> None:
            self.round_trips[origin.get()] += 1
            await send(connection, command, check_health)

        event.listen(engine, "before_cursor_execute", executed)
        event.listen(engine, "commit", committed)
        AbstractConnection.send_packed_command = counted  # type: ignore[assignment]
        try:
            yield
        finally:
            AbstractConnection.send_packed_command = send  # type: ignore[method-assign]
            event.remove(engine, "before_cursor_execute", executed)
            event.remove(engine, "commit", committed)

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Everything inside is done for `name`."""
        token = origin.set(name)
        began = time.process_time()
        try:
            yield
        finally:
            self.cpu_s[name] += time.process_time() - began
            origin.reset(token)


@contextlib.contextmanager
def acting_for(name: str) -> Iterator[None]:
    """Statements and round trips inside are caused by `name`; CPU time is not counted."""
    token = origin.set(name)
    try:
        yield
    finally:
        origin.reset(token)


def report(tally: Tally, calls: int) -> str:
    """One line per origin, per call."""
    lines = [f"{'':26} {'SQL':>6} {'of it commits':>14} {'Redis':>6} {'CPU ms':>7}"]
    names = sorted({*tally.statements, *tally.round_trips, *tally.cpu_s} - {"measurement", "other"})
    sql = redis = cpu_s = 0.0
    for name in names:
        counts = tally.statements[name]
        lines.append(
            f"{name:26} {counts.total() / calls:6.1f} {counts['COMMIT'] / calls:14.1f} "
            f"{tally.round_trips[name] / calls:6.1f} {tally.cpu_s[name] / calls * 1000:7.2f}"
        )
        sql += counts.total()
        redis += tally.round_trips[name]
        cpu_s += tally.cpu_s[name]
    lines.append(f"{'all':26} {sql / calls:6.1f} {'':14} {redis / calls:6.1f} {cpu_s / calls * 1000:7.2f}")
    return "\n".join(lines)
