"""Opt-outs that SQL did not take yet, in Redis: whatever becomes of the process that heard them, they are written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog
from pydantic import TypeAdapter, ValidationError

from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall
from serve_app.store.live import LiveState
from serve_app.store.rows import DoNotCallSource

KEY = "parley:opt_outs"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HeardOptOut:
    """What one callee asked for, and when."""

    tenant_id: str
    call_id: str
    number: str
    source: DoNotCallSource
    text: str
    at: datetime

    async def write(self, db: Database) -> None:
        """Raises UnavailableError."""
        listing = DoNotCall(db, self.tenant_id)
        await listing.opt_out(self.call_id, self.number, self.source, self.text, at=self.at)


_DOCUMENT = TypeAdapter(HeardOptOut)


class ParkedOptOuts:
    """One per call. Every method raises UnavailableError."""

    def __init__(self, live: LiveState) -> None:
        self._live = live

    async def put(self, heard: HeardOptOut) -> None:
        with self._live.reachable():
            await self._live.client.hset(KEY, heard.call_id, _DOCUMENT.dump_json(heard).decode())

    async def drop(self, call_id: str) -> None:
        with self._live.reachable():
            await self._live.client.hdel(KEY, call_id)

    async def all(self) -> list[HeardOptOut]:
        with self._live.reachable():
            parked = await self._live.client.hgetall(KEY)
        found = []
        for call_id, document in parked.items():
            try:
                found.append(_DOCUMENT.validate_json(document))
            except ValidationError:
                # Left where it is, and told again and again: a person must look at it.
                log.error("parked_opt_out_is_unreadable", call_id=call_id)
        return found


async def write_parked(db: Database, live: LiveState) -> int:
    """Bring what is parked into SQL; how many. Idempotent, by any number of workers. Raises UnavailableError."""
    parked = ParkedOptOuts(live)
    heard = await parked.all()
    for one in heard:
        await one.write(db)
        await parked.drop(one.call_id)
        log.info("parked_opt_out_written", call_id=one.call_id)
    return len(heard)
