"""Between the talk and the journal: the talk never waits for SQL or Redis, and their failures never stop it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog

from serve_app.conversation.journal import CallJournal, TurnRecord
from serve_app.conversation.lease import CallLease
from serve_app.conversation.results import Report
from serve_app.conversation.turn_types import OptOutSource

WRITE_TIMEOUT_S = 12.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 10.0
QUEUE_ENTRIES = 512
QUEUE_LIVE = 64
"""Live events are worth nothing later: beyond so many waiting entries they are dropped."""

log = structlog.get_logger()


class JournalWriter:
    """Hands the entries on in their order, all that wait at once: turns are committed in groups, and a call that ends
    must not wait for one group per turn."""

    def __init__(self, journal: CallJournal, lease: CallLease) -> None:
        self._journal = journal
        self._lease = lease
        self._log = log.bind(call_id=lease.call_id)
        self._queue: deque[Callable[[], Awaitable[None]]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._opting_out: asyncio.Task[None] | None = None
        self._reported: Report | None = None
        self._stored: Report | None = None
        self.dropped = 0

    def started(self, at: datetime) -> None:
        self._add(lambda: self._journal.started(self._lease, at))

    def turn(self, record: TurnRecord) -> None:
        self._add(lambda: self._journal.turn(self._lease, record))

    def live(self, event: dict[str, object]) -> None:
        if len(self._queue) < QUEUE_LIVE:
            self._add(lambda: self._journal.live(self._lease, event))

    def report(self, report: Report) -> None:
        """What came of the conversation. Entries that wait are written at once, so each writes the newest report."""
        self._reported = report
        self._add(self._write_report)

    @property
    def unwritten_report(self) -> Report | None:
        """The newest report, if it could not be written."""
        return None if self._reported is self._stored else self._reported

    def opt_out(self, source: OptOutSource, text: str) -> None:
        """Ahead of everything that waits, and tried until it is written. A second wish of a call adds nothing."""
        if self._opting_out is None:
            self._opting_out = asyncio.create_task(self._write_opt_out(source, text), name="opt-out")

    async def opted_out(self, within_s: float) -> None:
        """Return once the opt-out is written, or when so long has passed."""
        if self._opting_out is not None:
            await asyncio.wait({self._opting_out}, timeout=within_s)

    def _add(self, write: Callable[[], Awaitable[None]]) -> None:
        if len(self._queue) >= QUEUE_ENTRIES:
            self.dropped += 1
            return
        self._queue.append(write)
        self._wake.set()

    def close(self) -> None:
        """Nothing follows; `run` ends when everything is written."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        try:
            while True:
                while self._queue:
                    waiting, self._queue = self._queue, deque()
                    await asyncio.gather(*map(self._write, waiting))
                if self._closing:
                    break
                self._wake.clear()
                await self._wake.wait()
            if self._opting_out is not None:
                await self._opting_out
        finally:
            if self._opting_out is not None:
                self._opting_out.cancel()
        if self.dropped:
            self._log.error("journal entries are lost", entries=self.dropped)

    async def _write(self, write: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await write()
        except Exception as error:  # noqa: BLE001  root of the writer's loop: any store, any fault
            self.dropped += 1
            self._log.warning("a journal entry was not written", error=repr(error))

    async def _write_report(self) -> None:
        if (report := self._reported) is not None:
            await self._journal.report(self._lease, report)
            self._stored = report

    async def _write_opt_out(self, source: OptOutSource, text: str) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                await self._journal.opt_out(self._lease, source, text)
            except Exception as error:  # noqa: BLE001  any store, any fault: this one entry is never given up
                self._log.error("an opt-out is not written yet", error=repr(error))
            else:
                return
            await asyncio.sleep(retry_s)
            retry_s = min(LONGEST_RETRY_S, retry_s * 2)
