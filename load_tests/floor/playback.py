"""Audio to the phone, frame by frame, at most `LEAD_S` ahead of what the network plays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FRAME_S = 0.02
FRAME_BYTES = 640
"""20 ms of 16 kHz linear PCM: the only size that the phone network takes."""
LEAD_S = 0.22
"""What the network holds inside an utterance: enough for a late wake-up, little to drop on a barge-in."""
_TIMER_S = 0.001
"""uvloop's timers count whole milliseconds, and fire up to half of one early: a frame that is due then is sent, where
waiting for the rest would spin."""


class Playback:
    """One call's. `send` takes one frame."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        self._ended = False
        self._played_until = 0.0
        """When the network has played all that was sent, by the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, pcm: bytes) -> None:
        self._waiting += pcm
        self._ended = False
        if self._timer is None:
            self._advance()

    def end(self) -> None:
        """The utterance is complete: what does not fill a frame is played too."""
        self._ended = True
        if self._timer is None:
            self._advance()

    def drop(self) -> bool:
        """Forget what was not sent. True: something was not sent, or not played yet, so the network must clear."""
        sounding = bool(self._waiting) or self._played_until > self._loop.time()
        self._waiting.clear()
        self._played_until = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return sounding

    def _advance(self) -> None:
        self._timer = None
        now = self._loop.time()
        # A network that has run empty plays the next frame at once.
        self._played_until = max(self._played_until, now)
        while self._due() <= now + _TIMER_S:
            frame = self._next_frame()
            if frame is None:
                return
            self._send(frame)
            self._played_until += FRAME_S
        if self._waiting:
            self._timer = self._loop.call_at(self._due(), self._advance)

    def _due(self) -> float:
        """When the next frame may leave."""
        return self._played_until + FRAME_S - LEAD_S

    def _next_frame(self) -> bytes | None:
        size = len(self._waiting)
        if size == 0 or (size < FRAME_BYTES and not self._ended):
            return None
        frame = bytes(self._waiting[:FRAME_BYTES])
        del self._waiting[:FRAME_BYTES]
        return frame.ljust(FRAME_BYTES, b"\0")
