"""The audio side of a Flux stream: what waits to be sent, its frames, and the two positions of the stream."""

from __future__ import annotations

import os
from bisect import bisect_right

from serve_app.providers.base import AudioFormat

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiled extension on this platform
    from websockets.utils import apply_mask

# G.711 mu-law silence is 0xFF; linear16 silence is zero.
_SILENCE_BYTE = {"linear16": b"\x00", "mulaw": b"\xff"}


class AudioQueue:
    """Bytes in any pieces in, messages of at most `message_ms` out, in order."""

    def __init__(self, audio: AudioFormat, *, limit_s: float, message_ms: float) -> None:
        self._limit = audio.bytes_for_ms(limit_s * 1000)
        self._message = audio.bytes_for_ms(message_ms)
        self._buffer = bytearray()
        self.due = False
        """Whether `take` has something that should not wait any longer."""

    def put(self, audio: bytes, *, join_bytes: int = 0) -> bool:
        """Due as soon as `join_bytes` wait. False, and nothing is kept, when the limit would be passed."""
        buffer = self._buffer
        if len(buffer) + len(audio) > self._limit:
            return False
        buffer += audio
        if len(buffer) >= join_bytes:
            self.due = True
        return True

    def hasten(self) -> None:
        """What waits is due now."""
        self.due = bool(self._buffer)

    def take(self) -> bytes:
        """The next message."""
        if len(self._buffer) <= self._message:
            taken = bytes(self._buffer)
            self._buffer.clear()
        else:
            taken = bytes(self._buffer[: self._message])
            del self._buffer[: self._message]
        self.due = self.due and bool(self._buffer)
        return taken


def binary_frame(payload: bytes) -> bytes:
    """One whole WebSocket message of a client, without extensions (RFC 6455, 5.2), for payloads below 64 KiB.

    The library builds two objects and a stream for it, at four times the cost, nearly twenty times a second in a call.
    """
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    mask = os.urandom(4)
    return b"\x82" + length + mask + apply_mask(payload, mask)


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
