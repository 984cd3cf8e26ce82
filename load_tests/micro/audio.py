"""Audio work per 20 ms frame, as a session does it when a wire and a provider do not speak the same format.

The aims: a handle call costs milliseconds, so what takes some tens of microseconds belongs into the session's own
process. At 100 calls in one process, 20 us per frame and direction are 10 % of a core.
"""

from __future__ import annotations

import numpy as np

from load_tests.micro.figures import Figure, cpu_us
from serve_app.audio import g711
from serve_app.audio.resample import StreamResampler


def tone(rate_hz: int, ms: int = 20) -> bytes:
    """Linear16 that is not silence."""
    count = rate_hz * ms // 1000
    return (np.sin(np.arange(count) / 5) * 8000).astype("<i2").tobytes()


def mu_law() -> Figure:
    samples = tone(8000)
    rounds = cpu_us(lambda: g711.mulaw_decode(g711.mulaw_encode(samples)), 5_000)
    return Figure("G.711: encode and decode 20 ms at 8 kHz", 20, "us", rounds)


def resampling(in_rate_hz: int, out_rate_hz: int) -> Figure:
    """One stream, frame by frame, the filter's state kept."""
    stream, frame = StreamResampler(in_rate_hz, out_rate_hz), tone(in_rate_hz)
    rounds = cpu_us(lambda: stream.process(frame), 2_000)
    return Figure(f"resampling: 20 ms {in_rate_hz // 1000} -> {out_rate_hz // 1000} kHz", 40, "us", rounds)
