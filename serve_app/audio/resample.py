"""Sample-rate conversion of mono linear16: soxr where audio arrives in pieces, scipy for whole recordings."""

from __future__ import annotations

import math

import numpy as np
import soxr
from numpy.typing import NDArray

_FULL_SCALE = 32768.0


def to_linear16(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    """Float samples on the 16-bit scale -> int16, rounded and clipped: overshoot must not wrap around."""
    linear: NDArray[np.int16] = np.clip(np.rint(samples), -32768, 32767).astype(np.int16)
    return linear


class StreamResampler:
    """One direction of one stream. It keeps the filter's state, so that chunk borders do not click."""

    def __init__(self, in_rate_hz: int, out_rate_hz: int) -> None:
        if in_rate_hz <= 0 or out_rate_hz <= 0:
            raise ValueError(f"sample rates must be positive, got {in_rate_hz} and {out_rate_hz}")
        self._same = in_rate_hz == out_rate_hz
        self._soxr = None if self._same else soxr.ResampleStream(in_rate_hz, out_rate_hz, 1, dtype="float32")

    def process(self, pcm: bytes) -> bytes:
        """Whole linear16 samples in, linear16 out; the filter holds some milliseconds back until `flush`."""
        return self._run(pcm, last=False)

    def flush(self) -> bytes:
        """The rest. The stream is over afterwards."""
        return self._run(b"", last=True)

    def _run(self, pcm: bytes, *, last: bool) -> bytes:
        if self._soxr is None:
            return pcm
        samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32)
        return to_linear16(self._soxr.resample_chunk(samples, last=last)).astype("<i2", copy=False).tobytes()


def resample_whole(samples: NDArray[np.int16], in_rate_hz: int, out_rate_hz: int) -> NDArray[np.int16]:
    """A whole recording, shape (n,) or (n, channels), resampled along time without a phase shift."""
    # Imported here: scipy.signal costs 1.3 s of CPU, and most processes that mix or stream never resample a file.
    from scipy.signal import resample_poly

    if in_rate_hz == out_rate_hz or samples.shape[0] == 0:
        return samples
    divisor = math.gcd(in_rate_hz, out_rate_hz)
    scaled = samples.astype(np.float64) / _FULL_SCALE
    resampled = resample_poly(scaled, out_rate_hz // divisor, in_rate_hz // divisor, axis=0)
    return to_linear16(resampled * _FULL_SCALE)
