"""The audio side of a Flux stream: a bounded queue of bytes, and the two positions of the stream."""

from __future__ import annotations

import asyncio
from bisect import bisect_right

from serve_app.providers.base import AudioFormat

# G.711 mu-law silence is 0xFF; linear16 silence is zero.
_SILENCE_BYTE = {"linear16": b"\x00", "mulaw": b"\xff"}


class AudioQueue:
    """Bytes in any pieces in, joined pieces out, in order. One producer, one consumer, one event loop.

    What may wait is joined up to `join_ms`, so that a silent callee costs a quarter of the messages.
    """

    def __init__(self, audio: AudioFormat, *, limit_s: float, join_ms: float) -> None:
        self._limit = audio.bytes_for_ms(limit_s * 1000)
        self._join = audio.bytes_for_ms(join_ms)
        self._buffer = bytearray()
        self._filled = asyncio.Event()

    def put(self, audio: bytes, *, may_wait: bool = False) -> bool:
        """False, and nothing is kept, when the limit would be passed."""
        if len(self._buffer) + len(audio) > self._limit:
            return False
        self._buffer += audio
        if not may_wait or len(self._buffer) >= self._join:
            self._filled.set()
        return True

    async def get(self, max_bytes: int, *, timeout_s: float) -> bytes:
        """What is due, at most `max_bytes`, as soon as there is any; after `timeout_s` whatever there is."""
        if not self._filled.is_set():
            await self.wait_empty(timeout_s)
        taken = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        if not self._buffer:
            self._filled.clear()
        return taken

    async def wait_empty(self, timeout_s: float) -> bool:
        """True when nothing was due for `timeout_s`; False as soon as something is."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._filled.wait()
        except TimeoutError:
            return True
        return False


class StreamClock:
    """Converts the provider's stream position to the position in the caller's own audio.

    The provider counts the silence that we insert; the caller does not know of it. A position inside such silence is
    the position at which it was inserted.
    """

    def __init__(self, audio: AudioFormat) -> None:
        self._audio = audio
        self._bytes_per_s = audio.sample_rate_hz * audio.bytes_per_sample
        self._stream_bytes = 0
        # Where silence was inserted: stream position of its begin, and all silence inserted before it.
        self._begins: list[int] = []
        self._lengths: list[int] = []
        self._before: list[int] = []

    @property
    def stream_s(self) -> float:
        """Everything sent, inserted silence included: the provider's time."""
        return self._stream_bytes / self._bytes_per_s

    def silence(self, ms: float) -> bytes:
        return _SILENCE_BYTE[self._audio.encoding] * self._audio.bytes_for_ms(ms)

    def sent(self, size: int) -> None:
        self._stream_bytes += size

    def inserted(self, size: int) -> None:
        """`size` bytes of silence went out that the caller did not give."""
        if self._begins and self._begins[-1] + self._lengths[-1] == self._stream_bytes:
            self._lengths[-1] += size
        else:
            before = self._before[-1] + self._lengths[-1] if self._begins else 0
            self._begins.append(self._stream_bytes)
            self._lengths.append(size)
            self._before.append(before)
        self._stream_bytes += size

    def caller_s(self, stream_s: float) -> float:
        """Seconds of the caller's audio at the provider's position `stream_s`."""
        position = stream_s * self._bytes_per_s
        index = bisect_right(self._begins, position) - 1
        if index < 0:
            return stream_s
        into = min(position - self._begins[index], self._lengths[index])
        return (position - self._before[index] - into) / self._bytes_per_s
