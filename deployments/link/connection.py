"""What both ends of a link share: joined writes, bounded queues, heartbeat, the end of the line."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from deployments.link.frames import Decoder, Kind, LinkProtocolError, encode

# Enough for a burst of every call of a process; beyond it the kernel's buffer is full and the peer is slow.
HIGH_WATER_BYTES = 1 << 18

JOIN_S = 0.004
"""Audio that follows a write within this time waits for its end: on a busy link a system call and the peer's wake-up
serve many calls' frames. A link that carries one call never waits, and neither does a text."""


class LinkConnection(asyncio.Protocol):
    """One socket. Subclasses handle frames and the loss of the connection.

    Frames sent within one pass of the event loop leave in one write. While the peer does not read, each channel keeps
    at most `queue_messages` messages: the oldest audio is dropped first (counted in `dropped`), text never; a channel
    that is full of text is closed, alone.
    Liveness: something is sent at least every `heartbeat_s`; two intervals without a byte from the peer end the link.
    """

    def __init__(self, *, heartbeat_s: float, queue_messages: int) -> None:
        self._heartbeat_s = heartbeat_s
        self._queue_messages = queue_messages
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._flush_handle: asyncio.TimerHandle | None = None
        self._paused = False
        self._waiting: dict[int, deque[tuple[Kind, bytes]]] = {}
        self._last_received = self._loop.time()
        self._last_sent = self._last_received
        self._beat_due = self._last_received
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self.dropped = 0

    # --- for subclasses ---------------------------------------------------------------------------------------------

    def frame_received(self, channel: int, kind: Kind, payload: bytes) -> None:
        raise NotImplementedError

    def channel_overflowed(self, channel: int, reason: str) -> None:
        """This channel is over; its CLOSE is on the way to the peer."""
        raise NotImplementedError

    def link_lost(self, reason: str) -> None:
        raise NotImplementedError

    # --- sending ----------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._lost

    def send_frame(self, channel: int, kind: Kind, payload: bytes = b"") -> None:
        """Queue one frame for this pass of the loop. Silently ignored when the link is lost: `link_lost` tells."""
        if self._lost:
            return
        if self._paused:
            self._wait(channel, kind, payload)
            return
        self._out.append(encode(channel, kind, payload))
        if kind is not Kind.BINARY:
            self._flush_soon()
        elif self._flush_handle is None:
            wait_s = self._last_sent + JOIN_S - self._loop.time()
            if wait_s <= 0:
                self._flush_soon()
            else:
                self._flush_handle = self._loop.call_later(wait_s, self._flush)

    def _flush_soon(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._last_sent = self._loop.time()
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
        self._out.clear()

    def _wait(self, channel: int, kind: Kind, payload: bytes) -> None:
        queue = self._waiting.setdefault(channel, deque())
        if len(queue) >= self._queue_messages and kind is not Kind.CLOSE and not self._drop_oldest_audio(queue):
            # Text alone fills the queue, and must not be lost in silence. The other calls are not to blame.
            reason = f"{len(queue)} text messages wait for a peer that does not read"
            self._waiting[channel] = deque([(Kind.CLOSE, reason.encode())])
            self.channel_overflowed(channel, reason)
            return
        queue.append((kind, payload))

    def _drop_oldest_audio(self, queue: deque[tuple[Kind, bytes]]) -> bool:
        for index, (queued, _) in enumerate(queue):
            if queued is Kind.BINARY:
                del queue[index]
                self.dropped += 1
                return True
        return False

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        waiting, self._waiting = self._waiting, {}
        for channel, queue in waiting.items():
            for kind, payload in queue:
                self.send_frame(channel, kind, payload)

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._last_received = self._last_sent = self._loop.time()
        self._schedule_beat(self._last_received)

    def data_received(self, data: bytes) -> None:
        self._last_received = self._loop.time()
        try:
            for channel, kind, payload in self._decoder.feed(data):
                if kind is not Kind.PING:
                    self.frame_received(channel, kind, payload)
        except LinkProtocolError as error:
            self.abort(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"link closed: {exc}" if exc else "link closed by the peer")

    def abort(self, reason: str) -> None:
        """Close the socket at once. `link_lost` is called with the reason."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    def close(self) -> None:
        """Send what is queued, then close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _beat(self) -> None:
        now = self._loop.time()
        # A loop that stood still runs its timers before it reads what has come in the meantime: the peer's silence
        # counts only when this beat is on time.
        on_time = now - self._beat_due < self._heartbeat_s / 2
        if on_time and now - self._last_received > 2 * self._heartbeat_s:
            self.abort(f"no sign of life for {now - self._last_received:.1f} s")
            return
        if now - self._last_sent >= self._heartbeat_s * 0.9 and not self._paused:
            self.send_frame(0, Kind.PING)
        self._schedule_beat(now)

    def _schedule_beat(self, now: float) -> None:
        self._beat_due = now + self._heartbeat_s
        self._timer = self._loop.call_at(self._beat_due, self._beat)

    def _end(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        self.link_lost(reason)
