"""Any-length audio bytes -> exact frames: a phone network hangs up on a frame of another size."""

from __future__ import annotations


class Framer:
    """Cuts one stream into frames of `frame_bytes`; the remainder, odd bytes included, waits for more."""

    def __init__(self, frame_bytes: int, silence: int = 0) -> None:
        """`silence` is the byte value that pads the tail: 0 for linear16, 0xFF for mu-law, 0xD5 for A-law."""
        if frame_bytes <= 0:
            raise ValueError(f"frame_bytes must be positive, got {frame_bytes}")
        self._frame_bytes = frame_bytes
        self._silence = bytes([silence])
        self._rest = b""

    @property
    def frame_bytes(self) -> int:
        return self._frame_bytes

    @property
    def pending_bytes(self) -> int:
        return len(self._rest)

    def push(self, audio: bytes) -> list[bytes]:
        """The frames that `audio` completes, in order."""
        size = self._frame_bytes
        data = self._rest + audio if self._rest else audio
        whole = len(data) - len(data) % size
        self._rest = bytes(data[whole:])
        return [bytes(data[start : start + size]) for start in range(0, whole, size)]

    def flush(self) -> bytes | None:
        """The last frame, padded with silence; None when nothing waits."""
        if not self._rest:
            return None
        rest, self._rest = self._rest, b""
        # Half a 16-bit sample is noise, not sound: it gives way to silence.
        if self._frame_bytes % 2 == 0 and self._silence == b"\0" and len(rest) % 2:
            rest = rest[:-1]
        return rest + self._silence * (self._frame_bytes - len(rest))
