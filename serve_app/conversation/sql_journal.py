"""The journal of real calls: turns and the end in SQL, live events in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import get_args

from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.lease import CallLease, CallResult, Outcome
from serve_app.errors import UnavailableError
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.repositories import Calls, Turns

COMPLETED: frozenset[str] = frozenset(
    {"completed", "callee_hung_up", "agent_hung_up", "silence", "max_duration", "max_turns"}
)
"""Outcomes of a conversation that took place. Every other outcome is a failed call."""
assert set(get_args(Outcome)) >= COMPLETED

WRITE_TIMEOUT_S = 10.0
FINISH_TIMEOUT_S = 40.0
"""Longer than SQLite's busy wait: the end of a call is worth waiting for."""


class SqlJournal:
    """Implements `conversation.journal.CallJournal`. Shared by the calls of a process; raises UnavailableError."""

    def __init__(self, db: Database, live: LiveState) -> None:
        self._db = db
        self._live = live

    async def started(self, lease: CallLease, at: datetime) -> None:
        async with _deadline(WRITE_TIMEOUT_S):
            await Calls(self._db, lease.tenant_id).in_progress(lease.call_id, at)

    async def turn(self, lease: CallLease, record: TurnRecord) -> None:
        async with _deadline(WRITE_TIMEOUT_S):
            await Turns(self._db, lease.tenant_id).put(
                lease.call_id,
                record.index,
                record.role,
                record.text,
                record.heard_text,
                record.started_ms,
                record.ended_ms,
                record.approximate,
                record.interrupted,
                asdict(record.latency),
            )

    async def live(self, lease: CallLease, event: dict[str, object]) -> None:
        async with _deadline(WRITE_TIMEOUT_S):
            await self._live.publish(lease.call_id, event)

    async def finished(self, lease: CallLease, result: CallResult) -> None:
        """The first end that is recorded stays; whoever follows the call gets a last event, `finished`."""
        async with _deadline(FINISH_TIMEOUT_S):
            first = await Calls(self._db, lease.tenant_id).finish(
                lease.call_id,
                status="completed" if result.outcome in COMPLETED else "failed",
                outcome=result.outcome,
                detail=result.detail,
                started_at=result.started_at,
                ended_at=result.ended_at,
                duration_s=result.duration_s,
                sample_rate_hz=result.sample_rate_hz,
            )
            if first:
                event = {"type": "finished", "outcome": result.outcome, "detail": result.detail}
                await self._live.publish(lease.call_id, {**event, "duration_s": result.duration_s})


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise UnavailableError(f"the journal was not written within {seconds:g} s") from error
