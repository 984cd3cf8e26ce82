"""Calls that wait for a slot: first come, first served, and one question to Redis for all of them.

At capacity every waiting call would otherwise ask for itself several times a second, and whoever asks first after a
slot returns would get it, however long the others have waited.
"""

from __future__ import annotations

import asyncio

import structlog

from serve_app.clock import Clock
from serve_app.errors import UnavailableError
from serve_app.store.live import LiveState
from serve_app.store.reports import DEMAND, Reports

FIRST_POLL_S = 0.1
LONGEST_POLL_S = 0.5
DEMAND_INTERVAL_S = 1.0

log = structlog.get_logger(__name__)


class SlotQueue:
    """The queue of one dialer. `owner` names it where session replicas read how many calls wait."""

    def __init__(self, live: LiveState, clock: Clock, owner: str) -> None:
        self._live = live
        self._clock = clock
        self._owner = owner
        self._demand = Reports(live, DEMAND)
        # asyncio's lock wakes its waiters in the order in which they came.
        self._head = asyncio.Lock()
        self.waiting = 0

    async def take(self, slot_id: str, *, ttl_s: float, longest_s: float) -> bool:
        """Wait for a slot, at most `longest_s`. False: none became free in time. Raises UnavailableError.

        With no time left the first in the queue still asks once.
        """
        until = self._clock.monotonic() + longest_s
        self.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, longest_s)):
                await self._head.acquire()
        except TimeoutError:
            return False
        else:
            try:
                return await self._ask(slot_id, ttl_s, until)
            finally:
                self._head.release()
        finally:
            self.waiting -= 1

    async def _ask(self, slot_id: str, ttl_s: float, until: float) -> bool:
        """Poll for whoever is first, more slowly the longer no slot comes. The next in the queue asks at once again."""
        poll_s = FIRST_POLL_S
        while not await self._live.reserve(slot_id, ttl_s):
            left_s = until - self._clock.monotonic()
            if left_s <= 0:
                return False
            await self._clock.sleep(min(poll_s, left_s))
            poll_s = min(2 * poll_s, LONGEST_POLL_S)
        return True

    async def report_demand(self) -> None:
        """Tell the session replicas how many calls wait, so that more of them are started. Until cancelled."""
        while True:
            await self._clock.sleep(DEMAND_INTERVAL_S)
            if not self.waiting:
                continue  # the last report runs out by itself
            try:
                await self._demand.put(self._owner, {"waiting": self.waiting})
            except UnavailableError as error:
                log.warning("demand_not_reported", error=str(error))
            except Exception:  # the root of the loop: were it to end, the dialer would
                log.exception("demand_not_reported")
