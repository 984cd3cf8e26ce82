"""An agent's first words are to be ready before anybody is called; a call waits a moment for them, and not longer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from serve_app.clock import Clock

WAIT_S = 1.0
"""From when it was first asked. Ringing takes longer, and a line that is missing is synthesized live."""
ASK_AGAIN_S = 30.0
KNOWN = 4096


class AgentVersion(NamedTuple):
    tenant_id: str
    name: str
    version: int


Prepare = Callable[[AgentVersion], Awaitable[bool]]
"""Makes an opening that is not there. Bounded in time, never raises; True: it is ready."""


class Openings:
    """Which agent versions are ready: a question once per version and process, not once per call."""

    def __init__(self, prepare: Prepare | None, clock: Clock) -> None:
        self._prepare = prepare
        self._clock = clock
        self._ready: OrderedDict[AgentVersion, None] = OrderedDict()
        self._asking: dict[AgentVersion, tuple[asyncio.Task[None], float]] = {}
        self._refused_at: dict[AgentVersion, float] = {}

    def ask(self, agent: AgentVersion) -> None:
        """Have it made, unless it is ready, is being made, or could not be made just now. Returns at once."""
        refused_at = self._refused_at.get(agent)
        lately = refused_at is not None and self._clock.monotonic() - refused_at < ASK_AGAIN_S
        if self._prepare is None or agent in self._ready or agent in self._asking or lately:
            return
        task = asyncio.create_task(self._make(self._prepare, agent), name="opening")
        self._asking[agent] = task, self._clock.monotonic()

    async def wait(self, agent: AgentVersion) -> None:
        """Until it is ready, or the wait is over."""
        if (asked := self._asking.get(agent)) is not None:
            task, since = asked
            await asyncio.wait({task}, timeout=max(0.0, WAIT_S - (self._clock.monotonic() - since)))

    async def _make(self, prepare: Prepare, agent: AgentVersion) -> None:
        try:
            if await prepare(agent):
                self._refused_at.pop(agent, None)
                self._ready[agent] = None
                if len(self._ready) > KNOWN:
                    self._ready.popitem(last=False)
            else:
                self._refused_at[agent] = self._clock.monotonic()
        finally:
            del self._asking[agent]
