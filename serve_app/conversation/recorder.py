"""The recording as it grows: raw parts of both directions, each placed on the call's clock by its key.

0 is the first media message. The callee's place follows the number of samples, the agent's the time when a frame began
to play at the callee. Silence between is not stored. The media path only appends to a buffer; a task of its own writes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import structlog

from serve_app.audio.g711 import mulaw_decode
from serve_app.audio.mix import Direction, PartPlace, parts_prefix
from serve_app.clock import Clock
from serve_app.providers.base import AudioFormat

LATE_S = 0.2
"""Callee audio that is later than this by the clock may have a gap before it."""
LATE_FOR_S = 0.5
"""How long it must stay late: after a mere delay the missing frames arrive in a bunch."""
QUEUE_PARTS = 64
PUT_TIMEOUT_S = 10.0
PUT_TRIES = 3

log = structlog.get_logger()


class PartStore(Protocol):
    """Where parts go. `put` raises UnavailableError; the recorder tries again, then logs the loss."""

    async def put(self, key: str, data: bytes) -> None: ...


class Recorder:
    """Both directions of one call. `open` once the format is known, `run` beside the talk, `close` at its end."""

    def __init__(self, tenant_id: str, call_id: str, store: PartStore, *, part_s: float, clock: Clock) -> None:
        self._prefix = parts_prefix(tenant_id, call_id)
        self._store = store
        self._part_s = part_s
        self._clock = clock
        self._log = log.bind(call_id=call_id)
        self._queue: deque[tuple[str, bytes]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._callee: _CalleeTrack | None = None
        self._agent: _Track | None = None
        self._mulaw = False
        self.parts_stored = 0
        self.parts_lost = 0

    def open(self, audio: AudioFormat, zero: float) -> None:
        """`zero`: monotonic time of the first media message."""
        self._mulaw = audio.encoding == "mulaw"
        rate = audio.sample_rate_hz
        self._callee = _CalleeTrack(rate, zero, _Track("callee", rate, zero, self._part_s, self._emit))
        self._agent = _Track("agent", rate, zero, self._part_s, self._emit)

    def callee(self, audio: bytes, now: float) -> None:
        """Audio that arrived now."""
        if self._callee is None or self._agent is None or self._closing:
            return
        self._callee.append(mulaw_decode(audio) if self._mulaw else audio, now)
        self._agent.flush_old(now)

    def agent(self, frame: bytes, at: float) -> None:
        """A frame that began to play at `at`."""
        if self._agent is not None and not self._closing:
            self._agent.place(mulaw_decode(frame) if self._mulaw else frame, at)

    def _emit(self, place: PartPlace, pcm: bytes) -> None:
        if len(self._queue) >= QUEUE_PARTS:
            self.parts_lost += 1
            return
        self._queue.append((place.key(self._prefix), pcm))
        self._wake.set()

    async def run(self) -> None:
        """Write parts until `close`. A store that fails costs the part, never the call."""
        while True:
            while self._queue:
                key, pcm = self._queue.popleft()
                await self._put(key, pcm)
            if self._closing:
                break
            self._wake.clear()
            await self._wake.wait()
        if self.parts_lost:
            self._log.error("parts of the recording are lost", parts=self.parts_lost)

    async def _put(self, key: str, pcm: bytes) -> None:
        for attempt in range(PUT_TRIES):
            try:
                async with asyncio.timeout(PUT_TIMEOUT_S):
                    await self._store.put(key, pcm)
            except Exception as error:  # noqa: BLE001  root of the writer's loop: any store, any fault
                self._log.warning("a part of the recording was not stored", attempt=attempt + 1, error=repr(error))
                await self._clock.sleep(0.2 * 2**attempt)
            else:
                self.parts_stored += 1
                return
        self.parts_lost += 1

    def close(self) -> None:
        """Hand over what is left; `run` ends when it is written."""
        if not self._closing:
            if self._callee is not None and self._agent is not None:
                self._callee.flush()
                self._agent.flush()
            self._closing = True
            self._wake.set()


class _Emit(Protocol):
    def __call__(self, place: PartPlace, pcm: bytes) -> None: ...


class _Track:
    """One direction: a growing part and its place."""

    def __init__(self, direction: Direction, rate_hz: int, zero: float, part_s: float, emit: _Emit) -> None:
        self._direction = direction
        self._rate_hz = rate_hz
        self._zero = zero
        self._part_bytes = int(part_s * rate_hz) * 2
        self._part_s = part_s
        self._emit = emit
        self._offset = 0
        self._pcm = bytearray()

    @property
    def end(self) -> int:
        """The sample after the last one."""
        return self._offset + len(self._pcm) // 2

    def place(self, pcm: bytes, at: float) -> None:
        """Append where the clock says; frames that follow each other within 1 ms are one run."""
        position = max(0, round((at - self._zero) * self._rate_hz))
        if abs(position - self.end) > self._rate_hz // 1000:
            self.flush()
            # Never before what is there: two frames cannot play at once.
            self._offset = max(position, self._offset)
        self.append(pcm)

    def move_to(self, position: int) -> None:
        """The place of the next sample, when nothing is buffered."""
        self.flush()
        self._offset = position

    def shift(self, samples: int) -> None:
        """Move what is buffered later in time."""
        self._offset += samples

    def append(self, pcm: bytes) -> None:
        self._pcm += pcm
        while len(self._pcm) >= self._part_bytes:
            self._out(self._part_bytes)

    def flush(self) -> None:
        if self._pcm:
            self._out(len(self._pcm))

    def flush_old(self, now: float) -> None:
        """Nothing waits for longer than a part lasts: a process that dies takes only that much with it."""
        if self._pcm and now - self._zero - self._offset / self._rate_hz > self._part_s:
            self.flush()

    def _out(self, size: int) -> None:
        pcm = bytes(self._pcm[:size])
        del self._pcm[:size]
        self._emit(PartPlace(self._direction, self._offset, self._rate_hz), pcm)
        self._offset += len(pcm) // 2


class _CalleeTrack:
    """Places arriving audio by counting samples, and finds the gaps that the network left."""

    def __init__(self, rate_hz: int, zero: float, track: _Track) -> None:
        self._rate_hz = rate_hz
        self._zero = zero
        self._track = track
        self._started = False
        self._late_since: float | None = None
        self._least_late = 0

    def append(self, pcm: bytes, now: float) -> None:
        samples = len(pcm) // 2
        arrived = round((now - self._zero) * self._rate_hz)
        if not self._started:
            self._started = True
            self._track.move_to(max(0, arrived - samples))
        late = arrived - (self._track.end + samples)
        if late <= LATE_S * self._rate_hz:
            self._late_since = None
        elif self._late_since is None:
            # What came before keeps its place; what comes now may have to move.
            self._track.flush()
            self._late_since, self._least_late = now, late
        else:
            self._least_late = min(self._least_late, late)
            if now - self._late_since >= LATE_FOR_S:
                self._track.shift(self._least_late)
                self._late_since = None
        self._track.append(pcm)

    def flush(self) -> None:
        if self._late_since is not None:
            self._track.shift(self._least_late)
            self._late_since = None
        self._track.flush()
