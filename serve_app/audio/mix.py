"""Recording parts -> one stereo file: callee left, agent right, on the call's one clock.

A part is raw mono linear16. Its place is in its key, so that the recording of a call whose process died can be mixed
from a listing. What no part covers is silence; nothing is stretched, so nothing drifts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.resample import resample_whole
from serve_app.audio.wavfile import FileFormat, encode_sound

Direction = Literal["callee", "agent"]
CHANNELS: tuple[Direction, Direction] = ("callee", "agent")
"""Left, right."""

PEAK_BUCKETS = 800
_KEY = re.compile(r"(?:^|/)(callee|agent)-(\d{12,})-(\d+)\.pcm$")


def parts_prefix(tenant_id: str, call_id: str) -> str:
    """The folder of one call's parts, with a trailing slash."""
    return f"recordings/{tenant_id}/{call_id}/parts/"


@dataclass(frozen=True, slots=True, order=True)
class PartPlace:
    """Where a part belongs: direction, first sample on the call's clock (at `rate_hz`)."""

    direction: Direction
    offset_samples: int
    rate_hz: int

    def key(self, prefix: str) -> str:
        return f"{prefix}{self.direction}-{self.offset_samples:012d}-{self.rate_hz}.pcm"

    @classmethod
    def parse(cls, key: str) -> PartPlace:
        """Raises ValueError for a key that is not a part's."""
        match = _KEY.search(key)
        if match is None:
            raise ValueError(f"not the key of a recording part: {key!r}")
        direction: Direction = "callee" if match.group(1) == "callee" else "agent"
        rate_hz = int(match.group(3))
        if rate_hz <= 0:
            raise ValueError(f"a recording part needs a sample rate: {key!r}")
        return cls(direction, int(match.group(2)), rate_hz)


@dataclass(frozen=True, slots=True)
class MixedRecording:
    """A finished recording. `peaks`: per channel, PEAK_BUCKETS or fewer values 0..1 for drawing a waveform."""

    audio: bytes
    file_format: FileFormat
    channels: int
    sample_rate_hz: int
    duration_s: float
    peaks: list[list[float]]


def mix_parts(parts: Iterable[tuple[str, bytes]], rate_hz: int, total_duration_s: float | None) -> NDArray[np.int16]:
    """Lay (key, linear16) parts on one timeline; int16, shape (n, 2).

    With `total_duration_s` the result has exactly that length (rounded to a sample); without, it ends with the last
    part. Parts at another rate are resampled. A repeated key, or a later part that overlaps, replaces what is there.
    """
    placed: list[tuple[int, int, NDArray[np.int16]]] = []
    for key, audio in sorted(parts, key=lambda part: PartPlace.parse(part[0])):
        place = PartPlace.parse(key)
        # A part cut short by a dying process may end in half a sample.
        samples = np.frombuffer(audio, dtype="<i2", count=len(audio) // 2)
        start = round(place.offset_samples * rate_hz / place.rate_hz)
        placed.append((CHANNELS.index(place.direction), start, resample_whole(samples, place.rate_hz, rate_hz)))
    length = (
        max((start + len(samples) for _, start, samples in placed), default=0)
        if total_duration_s is None
        else round(total_duration_s * rate_hz)
    )
    timeline = np.zeros((length, len(CHANNELS)), dtype=np.int16)
    for channel, start, samples in placed:
        fitting = samples[: max(0, length - start)]
        timeline[start : start + len(fitting), channel] = fitting
    return timeline


def peaks(timeline: NDArray[np.int16], buckets: int = PEAK_BUCKETS) -> list[list[float]]:
    """Per channel the largest magnitude of each of at most `buckets` equal spans, as a fraction of full scale."""
    length = timeline.shape[0]
    if length == 0:
        return [[] for _ in range(timeline.shape[1])]
    starts = np.unique(np.linspace(0, length, min(buckets, length), endpoint=False).astype(np.int64))
    # -32768 has no positive int16: widen before taking the magnitude.
    highest = np.maximum.reduceat(timeline, starts, axis=0).astype(np.int32)
    lowest = np.minimum.reduceat(timeline, starts, axis=0).astype(np.int32)
    magnitude = np.maximum(highest, -lowest) / 32768.0
    return [[round(float(value), 4) for value in magnitude[:, channel]] for channel in range(timeline.shape[1])]


def mix_recording(
    parts: Iterable[tuple[str, bytes]], rate_hz: int, total_duration_s: float | None, file_format: FileFormat
) -> MixedRecording:
    """Mix, draw and encode. Raises ValueError for a key that is not a part's."""
    timeline = mix_parts(parts, rate_hz, total_duration_s)
    return MixedRecording(
        audio=encode_sound(timeline, rate_hz, file_format),
        file_format=file_format,
        channels=timeline.shape[1],
        sample_rate_hz=rate_hz,
        duration_s=timeline.shape[0] / rate_hz,
        peaks=peaks(timeline),
    )
