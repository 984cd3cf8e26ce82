"""Calls that wait for a slot: first come, first served, and one question to Redis for all of them.

At capacity every waiting call would otherwise ask for itself several times a second, and whoever asks first after a
slot returns would get it, however long the others have waited. A call that its own tenant or campaign leaves no room
for waits in a lane beside the others, behind those that wait for the same: it holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from serve_app.clock import Clock
from serve_app.dialing.call_limits import SHARED
from serve_app.errors import UnavailableError
from serve_app.store.live import LiveState
from serve_app.store.reports import DEMAND, Reports
from serve_app.store.slots import SESSIONS, Scope

FIRST_POLL_S = 0.1
LONGEST_POLL_S = 0.5
DEMAND_INTERVAL_S = 1.0

log = structlog.get_logger(__name__)


MAIN = ""
"""The lane of those that wait for what all calls need."""


@dataclass(slots=True)
class _Lane:
    full: str
    """What its first was refused for last."""
    waiting: int = 0
    # asyncio's lock wakes its waiters in the order in which they came.
    head: asyncio.Lock = field(default_factory=asyncio.Lock)


class SlotQueue:
    """The queue of one dialer. `owner` names it where session replicas read how many calls wait.

    `parted`: told when a call has left the main lane.
    """

    def __init__(self, live: LiveState, clock: Clock, owner: str, parted: Callable[[], None]) -> None:
        self._live = live
        self._clock = clock
        self._owner = owner
        self._parted = parted
        self._demand = Reports(live, DEMAND)
        self._lanes: dict[str, _Lane] = {}

    @property
    def aside(self) -> int:
        """Calls that wait for nothing but room in their own tenant or campaign."""
        return sum(lane.waiting for name, lane in self._lanes.items() if name != MAIN)

    def is_awaited(self, scope: str) -> bool:
        """Whether calls wait for room in this scope of a tenant or a campaign."""
        return scope in self._lanes

    async def take(self, scopes: Sequence[Scope], slot_id: str, *, ttl_s: float, longest_s: float) -> str | None:
        """Wait for a slot and a place in each scope, at most `longest_s`. None: it has them; else what was full.

        With no time left the first in a lane still asks once. Raises UnavailableError.
        """
        until = self._clock.monotonic() + longest_s
        name = next((scope.name for scope in scopes if scope.name in self._lanes), MAIN)
        while True:
            full = await self._wait_in(name, scopes, slot_id, ttl_s, until)
            if full is None or self._clock.monotonic() >= until:
                return full
            name = _lane_of(full)

    async def _wait_in(
        self, name: str, scopes: Sequence[Scope], slot_id: str, ttl_s: float, until: float
    ) -> str | None:
        """As `take`, but in one lane; also returns when the call has to wait in another one."""
        lane = self._lanes.setdefault(name, _Lane(name or SESSIONS))
        lane.waiting += 1
        if name != MAIN:
            self._parted()
        try:
            async with asyncio.timeout(max(0.0, until - self._clock.monotonic())):
                await lane.head.acquire()
        except TimeoutError:
            return lane.full
        else:
            try:
                return await self._ask(lane, name, scopes, slot_id, ttl_s, until)
            finally:
                lane.head.release()
        finally:
            lane.waiting -= 1
            if not lane.waiting:
                del self._lanes[name]

    async def _ask(
        self, lane: _Lane, name: str, scopes: Sequence[Scope], slot_id: str, ttl_s: float, until: float
    ) -> str | None:
        """Poll for whoever is first, more slowly the longer it is in vain. The next in the lane asks at once again."""
        poll_s = FIRST_POLL_S
        while (full := await self._live.reserve_in(scopes, slot_id, ttl_s)) is not None:
            left_s = until - self._clock.monotonic()
            if left_s <= 0 or _lane_of(full) != name:
                return full
            if poll_s == FIRST_POLL_S or full != lane.full:
                log.info("call_waits", full=full)
            lane.full = full
            await self._clock.sleep(min(poll_s, left_s))
            poll_s = min(2 * poll_s, LONGEST_POLL_S)
        return None

    async def report_demand(self) -> None:
        """Tell the session replicas how many calls wait, so that more of them are started. Until cancelled."""
        while True:
            await self._clock.sleep(DEMAND_INTERVAL_S)
            lane = self._lanes.get(MAIN)
            if lane is None or lane.full != SESSIONS:
                continue  # the last report runs out by itself; more sessions bring no line
            try:
                await self._demand.put(self._owner, {"waiting": lane.waiting})
            except UnavailableError as error:
                log.warning("demand_not_reported", error=str(error))
            except Exception:  # the root of the loop: were it to end, the dialer would
                log.exception("demand_not_reported")


def _lane_of(full: str) -> str:
    return MAIN if full in SHARED else full
