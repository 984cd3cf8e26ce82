"""How late the event loop wakes a timer: the delay that any frame may meet."""

from __future__ import annotations

import asyncio
from collections import deque

PERIOD_S = 0.05
"""20 timers a second: some 0.05 % of a core."""
KEEP = 20 * 600


class LoopLag:
    """Samples the running loop. `take` hands over what was collected and forgets it."""

    def __init__(self) -> None:
        self._late_ms: deque[float] = deque(maxlen=KEEP)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self._late_ms.append((loop.time() - due) * 1000)

    def take(self) -> list[float]:
        """Milliseconds, oldest first."""
        taken = [round(late, 3) for late in self._late_ms]
        self._late_ms.clear()
        return taken
