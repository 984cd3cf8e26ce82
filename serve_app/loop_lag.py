"""How late the event loop runs its timers: the overload signal of a process that carries calls.

CPU use says little (half a core of one long callback starves every call); the lag of a timer is what a frame suffers.
"""

from __future__ import annotations

import asyncio
from collections import deque

INTERVAL_S = 0.1
WINDOW_S = 5.0


class LoopLag:
    """Samples one event loop: a timer every `interval_s`, the lags of the last `window_s` kept.

    One callback and no allocation to speak of per sample: ten a second cost a process about 0.01 % of a core.
    """

    def __init__(self, *, interval_s: float = INTERVAL_S, window_s: float = WINDOW_S) -> None:
        self._interval_s = interval_s
        self._lags_s: deque[float] = deque(maxlen=max(1, round(window_s / interval_s)))
        self._due_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sample the running loop until `stop`."""
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time() + self._interval_s
        self._timer = self._loop.call_at(self._due_s, self._fired)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def observe(self, now_s: float) -> None:
        """Take the timer's firing at `now_s` into account.

        A loop blocked for two seconds fires one timer late, but would have delayed every one due meanwhile: each of
        them counts, else the longest stalls would weigh least.
        """
        while self._due_s <= now_s:
            self._lags_s.append(now_s - self._due_s)
            self._due_s += self._interval_s

    def forget(self) -> None:
        """Judge by what comes from now on."""
        self._lags_s.clear()

    def percentile_ms(self, q: float) -> float:
        """Nearest rank over the window; 0 before the first sample."""
        if not self._lags_s:
            return 0.0
        ordered = sorted(self._lags_s)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000

    @property
    def max_ms(self) -> float:
        return max(self._lags_s, default=0.0) * 1000

    def _fired(self) -> None:
        assert self._loop is not None
        self.observe(self._loop.time())
        self._timer = self._loop.call_at(self._due_s, self._fired)
