"""Opt-outs on their way to SQL: tried until they are written, beyond the call's end, while the process lives.

While SQL is away nothing is dialed either. So that the wish also outlives this process, it is parked in Redis until SQL
has it, and the workers write what is left there.
"""

from __future__ import annotations

import asyncio

import structlog

from serve_app.errors import UnavailableError
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.parked_opt_outs import HeardOptOut, ParkedOptOuts

WRITE_TIMEOUT_S = 12.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 10.0

log = structlog.get_logger(__name__)


class OptOutKeeper:
    """Shared by the calls of a process."""

    def __init__(self, db: Database, live: LiveState) -> None:
        self._db = db
        self._parked = ParkedOptOuts(live)
        self._tasks: set[asyncio.Task[None]] = set()

    async def write(self, heard: HeardOptOut) -> None:
        """Return once it is committed. Whoever stops waiting does not stop the writing."""
        task = asyncio.create_task(self._write(heard), name=f"opt-out {heard.call_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _write(self, heard: HeardOptOut) -> None:
        parked, told, retry_s = False, False, FIRST_RETRY_S
        try:
            while not await self._in_sql(heard):
                parked = parked or await self._park(heard)
                if not told:
                    told = True
                    log.error("opt_out_waits_for_sql", call_id=heard.call_id, tenant_id=heard.tenant_id, parked=parked)
                await asyncio.sleep(retry_s)
                retry_s = min(LONGEST_RETRY_S, retry_s * 2)
        except asyncio.CancelledError:
            if not parked:
                # The process ends. The log line is all that is left: the call and its tenant say whose number it is.
                log.critical(
                    "opt_out_is_lost",
                    call_id=heard.call_id,
                    tenant_id=heard.tenant_id,
                    source=heard.source,
                    at=heard.at,
                )
            raise
        if parked:
            await self._unpark(heard)

    async def _in_sql(self, heard: HeardOptOut) -> bool:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await heard.write(self._db)
        except (UnavailableError, TimeoutError):
            return False
        except Exception:  # whatever it is: a wish like this is not given up for an odd error
            log.exception("opt_out_not_written", call_id=heard.call_id)
            return False
        return True

    async def _park(self, heard: HeardOptOut) -> bool:
        try:
            await self._parked.put(heard)
        except UnavailableError:
            return False
        return True

    async def _unpark(self, heard: HeardOptOut) -> None:
        try:
            await self._parked.drop(heard.call_id)
        except UnavailableError:
            return  # the workers write it again, which changes nothing
