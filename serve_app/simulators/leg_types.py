"""What a media leg is given and what it tells: endpoint, options, utterances, counters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from serve_app.simulators.far_buffer import CAPACITY_FRAMES
from serve_app.simulators.vad import SPEECH_RMS

FRAME_MS = 20


class LegConnectFailed(Exception):  # noqa: N818 - an event of the call, not a bug
    """The media socket did not open. `status`: the HTTP status where the server answered with one."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class MediaEndpoint:
    """The websocket endpoint of an NCCO `connect`. `authorization`: the handshake header's value."""

    uri: str
    sample_rate_hz: int
    headers: Mapping[str, Any] = field(default_factory=dict)
    authorization: str | None = None

    @property
    def frame_bytes(self) -> int:
        return self.sample_rate_hz * FRAME_MS // 1000 * 2


@dataclass(frozen=True, slots=True)
class LegOptions:
    """`keep_audio`: keep what was played, silence included (32 kB per second at 16 kHz). `timeline`: note times."""

    keep_audio: bool = True
    timeline: bool = False
    buffer_frames: int = CAPACITY_FRAMES
    fire_dropped_notifies: bool = False


@dataclass(frozen=True, slots=True)
class Utterance:
    """What the callee said. `pcm`: whole frames; it went out without a gap, from the leg's frame `first_frame` on.

    `sounding_frames`: how many frames there are up to the last one that sounds.
    """

    text: str | None
    pcm: bytes
    sha256: str
    first_frame: int
    sounding_frames: int = 0

    @classmethod
    def of(cls, pcm: bytes, text: str | None, frame_bytes: int) -> Utterance:
        """Pad the tail with silence to whole frames and hash the result. `first_frame` is not known yet."""
        padded = pcm + bytes(-len(pcm) % frame_bytes)
        frames = np.frombuffer(padded, dtype="<i2").reshape(-1, frame_bytes // 2).astype(np.float64)
        sounding = np.flatnonzero(np.square(frames).sum(axis=1) >= SPEECH_RMS**2 * (frame_bytes // 2))
        last = int(sounding[-1]) + 1 if len(sounding) else len(frames)
        return cls(text, padded, hashlib.sha256(padded).hexdigest(), -1, last)


EndReason = Literal["far_closed", "near_closed", "wrong_frame_size", "stalled"]


@dataclass(slots=True)
class LegStatistics:
    """Counters of one leg; times are ms since the socket opened."""

    frames_sent: int = 0
    frames_received: int = 0
    wrong_size: int = 0
    unknown_texts: int = 0
    notifies_fired: int = 0
    first_agent_frame_ms: float | None = None
    clears_ms: list[float] = field(default_factory=list)
    max_tick_late_ms: float = 0.0
    """How late this engine itself was at worst: above some 100 ms its other figures say little."""
    end: EndReason | None = None
    close_code: int | None = None
