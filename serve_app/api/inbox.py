"""Events of the network that come faster than they are folded: stored together, acknowledged, then folded one by one.

An event that comes alone is folded in the transaction that keeps it. While one is being folded, the others are kept as
they came, all that arrived meanwhile in one transaction, and acknowledged with its commit: the network waits for
neither the judgement of its event nor that of others. What was kept and is not folded yet is marked so in SQL
(`call_events.unfolded_since`), and whoever runs next does it. Order does not matter, so nothing waits for its turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

import structlog

from serve_app.api.deps import ApiDeps
from serve_app.api.folding import fold, tenant_of
from serve_app.dialing.links import AttemptRef
from serve_app.errors import UnavailableError
from serve_app.metrics import WEBHOOKS
from serve_app.store.call_events import keep_all, mark_folded, unfolded
from serve_app.store.repositories import RawEvent
from serve_app.telephony.vonage.webhooks import MalformedEvent, VonageEvent, read_event

FOLD_TIMEOUT_S = 30.0
MOST_AT_ONCE = 100
"""In one transaction."""
MOST_WAITING = 20_000
"""In memory; what is beyond is found in SQL."""
SWEEP_EVERY_S = 15.0
LEFT_BEHIND_AFTER = timedelta(seconds=30)
"""Longer than an event waits in a process that lives; one that is folded twice changes nothing."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Arrived:
    tenant_id: str
    event: VonageEvent
    ref: AttemptRef | None
    raw: RawEvent


class Inbox:
    """One per API process."""

    def __init__(self, deps: ApiDeps) -> None:
        self._deps = deps
        self._folding = False
        self._storing: list[tuple[_Arrived, asyncio.Future[bool]]] = []
        self._waiting: deque[_Arrived] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._folder: asyncio.Task[None] | None = None

    async def take(self, event: VonageEvent, ref: AttemptRef | None, raw: RawEvent) -> str:
        """Return once the event is on record: a word for the metrics. Raises UnavailableError if it is not."""
        if not self._folding and not self._waiting:
            self._folding = True
            try:
                return await fold(self._deps, event, ref, raw)
            finally:
                self._folding = False
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        tenant_id = await tenant_of(self._deps, event, ref)
        self._storing.append((_Arrived(tenant_id, event, ref, raw), stored))
        if self._writer is None:
            self._writer = asyncio.create_task(self._store(), name="webhook-writer")
        return "waiting" if await stored else "repeated"

    async def settled(self) -> None:
        """Wait until everything that was acknowledged is folded."""
        while self._writer is not None or self._folder is not None:
            await asyncio.gather(*(task for task in (self._writer, self._folder) if task is not None))

    async def run(self) -> None:
        """Look for what a process left behind, until cancelled."""
        while True:
            try:
                await self.sweep()
            except UnavailableError as error:
                log.warning("left_events_wait", error=str(error))
            except Exception:  # the root of the loop: one odd event must not keep the others from being folded
                log.exception("sweep_failed")
            await self._deps.clock.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> int:
        """Fold what has been waiting for long; how many. Raises UnavailableError."""
        before = self._deps.clock.now() - LEFT_BEHIND_AFTER
        left = await unfolded(self._deps.db, before=before, limit=MOST_AT_ONCE)
        for tenant_id, raw in left:
            ref = AttemptRef(tenant_id, raw.attempt_id) if raw.attempt_id is not None else None
            try:
                event = read_event(raw.body)
            except MalformedEvent:
                event = VonageEvent()
            await fold(self._deps, event, ref, raw, tenant_id=tenant_id, kept=True)
        await mark_folded(self._deps.db, [(tenant_id, raw.dedupe_key) for tenant_id, raw in left])
        if left:
            log.warning("left_events_folded", count=len(left))
        return len(left)

    async def _store(self) -> None:
        try:
            while self._storing:
                some, self._storing = self._storing[:MOST_AT_ONCE], self._storing[MOST_AT_ONCE:]
                try:
                    rows = [(one.tenant_id, one.raw) for one, _ in some]
                    new = await keep_all(self._deps.db, rows, since=self._deps.clock.now())
                except Exception as error:  # noqa: BLE001  (each of the requests raises it)
                    for _, stored in some:
                        if not stored.done():
                            stored.set_exception(error)
                    continue
                for one, stored in some:
                    first = (one.tenant_id, one.raw.dedupe_key) in new
                    new.discard((one.tenant_id, one.raw.dedupe_key))
                    if first and len(self._waiting) < MOST_WAITING:
                        self._waiting.append(one)
                    if not stored.done():
                        stored.set_result(first)
                if self._folder is None and self._waiting:
                    self._folder = asyncio.create_task(self._fold(), name="webhook-folder")
        finally:
            self._writer = None

    async def _fold(self) -> None:
        done: list[tuple[str, str]] = []
        try:
            while self._waiting:
                one = self._waiting.popleft()
                async with asyncio.timeout(FOLD_TIMEOUT_S):
                    result = await fold(self._deps, one.event, one.ref, one.raw, tenant_id=one.tenant_id, kept=True)
                WEBHOOKS.labels("event", f"waited_{result}").inc()
                done.append((one.tenant_id, one.raw.dedupe_key))
                if len(done) >= MOST_AT_ONCE or not self._waiting:
                    await mark_folded(self._deps.db, done)
                    done = []
        except Exception as error:  # the root of the loop: what is left stays marked in SQL, and is swept
            log.exception("events_not_folded", waiting=len(self._waiting) + 1, error=str(error) or "timeout")
        finally:
            self._folder = None
            if self._waiting:
                self._folder = asyncio.create_task(self._fold(), name="webhook-folder")
