"""The journal of real calls: turns and the end in SQL, live events in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import get_args

import structlog

from serve_app.clock import SystemClock
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.lease import CallLease, CallResult, Outcome
from serve_app.conversation.opt_out_keeper import OptOutKeeper
from serve_app.conversation.results import Report
from serve_app.conversation.turn_batch import WRITE_TIMEOUT_S, TurnBatch
from serve_app.conversation.turn_types import OptOutSource
from serve_app.errors import UnavailableError
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.parked_opt_outs import HeardOptOut
from serve_app.store.repositories import Attempts, Calls
from serve_app.store.rows import TurnRow
from serve_app.store.settlement import Verdict

COMPLETED: frozenset[str] = frozenset(
    {"completed", "callee_hung_up", "agent_hung_up", "opted_out", "silence", "max_duration", "max_turns"}
)
"""Outcomes of a conversation that took place. Every other outcome is a failed call."""
assert set(get_args(Outcome)) >= COMPLETED

log = structlog.get_logger(__name__)

LIVE_EVERY_S = 0.2
FINISH_TIMEOUT_S = 40.0
"""Longer than SQLite's busy wait: the end of a call is worth waiting for."""


class SqlJournal:
    """Implements `conversation.journal.CallJournal`. Shared by the calls of a process; raises UnavailableError.

    The turns of all calls are committed together. Their live events go out together, a few times a second: nobody reads
    faster, and mostly nobody reads at all. `verdict` settles the lead of a campaign with the end of its call.
    """

    def __init__(
        self, db: Database, live: LiveState, *, live_every_s: float = LIVE_EVERY_S, verdict: Verdict | None = None
    ) -> None:
        self._db = db
        self._live = live
        self._live_every_s = live_every_s
        self._verdict = verdict
        self._turns = TurnBatch(db)
        self._opt_outs = OptOutKeeper(db, live)
        self._unsent: dict[str, list[dict[str, object]]] = {}
        self._sending: asyncio.Task[None] | None = None
        self._publishing = asyncio.Lock()

    async def started(self, lease: CallLease, at: datetime) -> None:
        async with _deadline(WRITE_TIMEOUT_S):
            await Calls(self._db, lease.tenant_id).in_progress(lease.call_id, at)

    async def turn(self, lease: CallLease, record: TurnRecord) -> None:
        async with _deadline(WRITE_TIMEOUT_S):
            await self._turns.put(
                lease.tenant_id,
                TurnRow(
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
                ),
            )

    async def opt_out(self, lease: CallLease, source: OptOutSource, text: str) -> None:
        """Returns once it is in SQL, however long that takes; the keeper goes on when nobody waits any more."""
        at = SystemClock().now()
        await self._opt_outs.write(HeardOptOut(lease.tenant_id, lease.call_id, lease.callee_number, source, text, at))

    async def report(self, lease: CallLease, report: Report) -> None:
        async with _deadline(WRITE_TIMEOUT_S):
            attempts = Attempts(self._db, lease.tenant_id)
            await attempts.report(lease.call_id, report.result, callback_at=report.callback_at)

    async def live(self, lease: CallLease, event: dict[str, object]) -> None:
        events = self._unsent.setdefault(lease.call_id, [])
        if event.get("type") == "partial" and events and events[-1].get("type") == "partial":
            # A partial says all that was heard of the turn so far: the one before it is worth nothing any more.
            events[-1] = event
        else:
            events.append(event)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_while_any())

    async def _send_while_any(self) -> None:
        try:
            while self._unsent:
                await asyncio.sleep(self._live_every_s)
                async with self._publishing:
                    unsent, self._unsent = self._unsent, {}
                    if unsent:
                        await self._send(unsent)
        finally:
            self._sending = None

    async def _send(self, unsent: dict[str, list[dict[str, object]]]) -> None:
        try:
            async with _deadline(WRITE_TIMEOUT_S):
                await self._live.publish_all(unsent)
        except UnavailableError as error:
            log.warning("live events are lost", calls=len(unsent), error=str(error))
        except Exception:  # the root of the sending task: an odd event must not silence every later one
            log.exception("live events are lost")

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
                verdict=self._verdict,
            )
            if first:
                event = {"type": "finished", "outcome": result.outcome, "detail": result.detail}
                # After what is on its way, and with what still waits, so that it is the last one.
                async with self._publishing:
                    before = self._unsent.pop(lease.call_id, [])
                    await self._live.publish(lease.call_id, *before, {**event, "duration_s": result.duration_s})


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise UnavailableError(f"the journal was not written within {seconds:g} s") from error
