"""The turns of a process' calls go to SQL together: one transaction every so often, whatever the number of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import DataError, IntegrityError

from serve_app.store.db import Database
from serve_app.store.records import put_turns
from serve_app.store.rows import TurnRow

GROUP_S = 0.2
"""How long a turn may wait for others. It is lost if the process dies meanwhile, as is the speech of that moment."""
WRITE_TIMEOUT_S = 10.0

log = structlog.get_logger(__name__)


class TurnBatch:
    """Group commit. Each caller learns of its own turn, and a turn that cannot be stored spoils no other."""

    def __init__(self, db: Database, *, group_s: float = GROUP_S) -> None:
        self._db = db
        self._group_s = group_s
        self._waiting: list[tuple[tuple[str, TurnRow], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def put(self, tenant_id: str, turn: TurnRow) -> None:
        """Return once the turn is committed. Raises what the store raises, or TimeoutError."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((tenant_id, turn), stored))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_while_any())
        await stored

    async def _write_while_any(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._group_s)
                group, self._waiting = self._waiting, []
                await self._write(group)
        finally:
            self._writing = None

    async def _write(self, group: Sequence[tuple[tuple[str, TurnRow], asyncio.Future[None]]]) -> None:
        group = [(turn, stored) for turn, stored in group if not stored.done()]
        if not group:
            return
        fault: Exception | None = None
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await put_turns(self._db, [turn for turn, _ in group])
        except (IntegrityError, DataError) as error:
            if len(group) > 1:
                # One of them is odd: the others must not suffer for it.
                for one in group:
                    await self._write([one])
                return
            fault = error
        except Exception as error:  # noqa: BLE001  whatever it is, it is told to whoever waits for it
            fault = error
        for _, stored in group:
            if stored.done():
                continue
            if fault is None:
                stored.set_result(None)
            else:
                stored.set_exception(fault)
