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
from serve_app.store.call_events import keep_all, mark, unfolded
from serve_app.store.repositories import RawEvent
from serve_app.telephony.vonage.webhooks import MalformedEvent, VonageEvent, read_event

FOLD_TIMEOUT_S = 30.0
MOST_AT_ONCE = 100
"""In one transaction."""
MOST_WAITING = 20_000
"""In memory; what is beyond is found in SQL."""
GIVE_WAY_S = 0.1
LOOK_S = 0.005
SWEEP_EVERY_S = 15.0
LEFT_BEHIND_AFTER = timedelta(minutes=2)
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
                while await self.sweep() == MOST_AT_ONCE:
                    pass
            except UnavailableError as error:
                log.warning("left_events_wait", error=str(error))
            except Exception:  # the root of the loop
                log.exception("sweep_failed")
            await self._deps.clock.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> int:
        """Fold what has been waiting for long; how many there were. Raises UnavailableError.

        One that cannot be folded is tried again after all others.
        """
        now = self._deps.clock.now()
        left = await unfolded(self._deps.db, before=now - LEFT_BEHIND_AFTER, limit=MOST_AT_ONCE)
        folded: list[tuple[str, str]] = []
        failed: list[tuple[str, str]] = []
        for tenant_id, raw in left:
            ref = AttemptRef(tenant_id, raw.attempt_id) if raw.attempt_id is not None else None
            done = await self._fold_kept(_Arrived(tenant_id, _read(raw), ref, raw))
            (folded if done else failed).append((tenant_id, raw.dedupe_key))
        await mark(self._deps.db, folded, since=None)
        await mark(self._deps.db, failed, since=now)
        if left:
            log.warning("left_events_folded", folded=len(folded), failed=len(failed))
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
                await self._give_way()
                one = self._waiting.popleft()
                if await self._fold_kept(one):
                    done.append((one.tenant_id, one.raw.dedupe_key))
                if len(done) >= MOST_AT_ONCE or not self._waiting:
                    await mark(self._deps.db, done, since=None)
                    done = []
        except UnavailableError as error:
            # They are marked in SQL, and swept when it is back.
            log.error("events_wait_for_sql", waiting=len(self._waiting), error=str(error))
            self._waiting.clear()
        finally:
            self._folder = None

    async def _give_way(self) -> None:
        """Let those first who wait for an acknowledgement, for a while: then one more is folded all the same."""
        until_s = self._deps.clock.monotonic() + GIVE_WAY_S
        while self._writer is not None and self._deps.clock.monotonic() < until_s:
            await self._deps.clock.sleep(LOOK_S)

    async def _fold_kept(self, one: _Arrived) -> bool:
        """False: it could not be folded, and stays marked. Raises UnavailableError."""
        try:
            async with asyncio.timeout(FOLD_TIMEOUT_S):
                result = await fold(self._deps, one.event, one.ref, one.raw, tenant_id=one.tenant_id, kept=True)
        except UnavailableError:
            raise
        except TimeoutError:
            log.warning("event_not_folded_in_time", kind=one.raw.kind, carrier_call_id=one.raw.carrier_call_id)
            return False
        except Exception:  # the root of an event: it must not keep the others from being folded
            log.exception("event_not_folded", kind=one.raw.kind, carrier_call_id=one.raw.carrier_call_id)
            return False
        WEBHOOKS.labels("event", f"waited_{result}").inc()
        return True


def _read(raw: RawEvent) -> VonageEvent:
    try:
        return read_event(raw.body)
    except MalformedEvent:
        return VonageEvent()
