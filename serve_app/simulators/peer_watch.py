"""Whether the other end of a socket still takes what is sent to it, without ever waiting for it. Sans-I/O."""

from __future__ import annotations

WRITE_LIMIT_BYTES = 1 << 20
"""About 30 s of audio: a peer that is so far behind never catches up."""


class PeerWatch:
    """Looked at now and then; between two looks nothing is stored."""

    def __init__(self) -> None:
        self._taken = 0
        self._taken_at: float | None = None

    def is_lost(self, now: float, sent_bytes: int, waiting_bytes: int, stall_s: float) -> bool:
        """`sent_bytes`: given to the socket so far; `waiting_bytes`: of them, not yet taken. Lost: nothing was taken
        for `stall_s`, or too much waits."""
        taken = sent_bytes - waiting_bytes
        if waiting_bytes == 0 or taken > self._taken or self._taken_at is None:
            self._taken, self._taken_at = taken, now
            return waiting_bytes > WRITE_LIMIT_BYTES
        return waiting_bytes > WRITE_LIMIT_BYTES or now - self._taken_at >= stall_s
