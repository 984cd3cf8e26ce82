"""One timer for all legs of an event loop: a frame per leg every 20 ms, on absolute deadlines.

A timer or a task per leg costs more than the frame itself. The legs are spread over slots inside the 20 ms, so that
the load, and with it what the system under test receives, is even.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol
from weakref import WeakKeyDictionary

FRAME_S = 0.02
SLOTS = 10
_SLOT_S = FRAME_S / SLOTS
# The loop's timers count whole milliseconds: what is due within half a one is due now.
_EARLY_S = 0.0005
_BUCKET_MS = 0.25
_BUCKETS = 400


class Ticked(Protocol):
    """What a ticker drives."""

    def on_tick(self, late_ms: float) -> None:
        """The next 20 ms. `late_ms`: how long after its deadline this tick began (the engine's own lateness)."""


class Lateness:
    """A histogram of lateness up to 100 ms in steps of 0.25 ms, with the exact maximum. Weighted by legs."""

    def __init__(self) -> None:
        self._counts = [0] * (_BUCKETS + 1)
        self.count = 0
        self.max_ms = 0.0

    def add(self, late_ms: float, weight: int = 1) -> None:
        self._counts[min(_BUCKETS, max(0, int(late_ms / _BUCKET_MS)))] += weight
        self.count += weight
        self.max_ms = max(self.max_ms, late_ms)

    def buckets(self) -> dict[int, int]:
        """What was counted, for another process's `add_buckets`."""
        return {index: count for index, count in enumerate(self._counts) if count}

    def add_buckets(self, buckets: Mapping[int, int], max_ms: float) -> None:
        """Count what another one counted."""
        for index, count in buckets.items():
            self._counts[index] += count
            self.count += count
        self.max_ms = max(self.max_ms, max_ms)

    def quantile_ms(self, share: float) -> float:
        """The upper edge of the bucket that holds the quantile, and never more than the maximum."""
        rank, seen = share * self.count, 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(self.max_ms, (index + 1) * _BUCKET_MS) if index < _BUCKETS else self.max_ms
        return 0.0


class _Slot:
    __slots__ = ("members", "next_at")

    def __init__(self) -> None:
        self.members: list[Ticked] = []
        self.next_at = 0.0


class Ticker:
    """Drives its members from one timer of the loop; without members it has none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._origin = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self._lateness = Lateness()

    @classmethod
    def of_running_loop(cls) -> Ticker:
        loop = asyncio.get_running_loop()
        ticker = _TICKERS.get(loop)
        if ticker is None:
            ticker = _TICKERS[loop] = cls(loop)
        return ticker

    def add(self, member: Ticked) -> None:
        """Tick `member` from now on, at the phase that has the fewest members."""
        index = min(range(SLOTS), key=lambda i: len(self._slots[i].members))
        slot = self._slots[index]
        if not slot.members:
            phase = self._origin + index * _SLOT_S
            passed = (time.monotonic() - phase) // FRAME_S
            slot.next_at = phase + (passed + 1) * FRAME_S
        slot.members.append(member)
        if not self._running:
            self._schedule()

    def remove(self, member: Ticked) -> None:
        """No further tick. Does nothing for one that is not a member."""
        for slot in self._slots:
            if member in slot.members:
                slot.members.remove(member)
                return

    def take_lateness(self) -> Lateness:
        """The lateness since the last call: when the last leg of a slot was served, against the slot's deadline."""
        taken, self._lateness = self._lateness, Lateness()
        return taken

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [slot.next_at for slot in self._slots if slot.members]
        if due:
            self._timer = self._loop.call_later(max(0.0, min(due) - time.monotonic()), self._run)

    def _run(self) -> None:
        self._timer, self._running = None, True
        try:
            for slot in self._slots:
                # After a stall the missed ticks follow at once: deadlines are absolute, and no frame is lost.
                while slot.members and slot.next_at <= (now := time.monotonic()) + _EARLY_S:
                    late_ms = max(0.0, (now - slot.next_at) * 1000)
                    members = tuple(slot.members)
                    for member in members:
                        member.on_tick(late_ms)
                    self._lateness.add((time.monotonic() - slot.next_at) * 1000, len(members))
                    slot.next_at += FRAME_S
        finally:
            self._running = False
            self._schedule()


_TICKERS: WeakKeyDictionary[asyncio.AbstractEventLoop, Ticker] = WeakKeyDictionary()
