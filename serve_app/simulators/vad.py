"""Energy-based speech detection, shared by the speech-to-text stand-in and the callee.

One streaming detector serves both, so that the callee's segments are the segments that the stand-in finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import mul

import numpy as np
import numpy.typing as npt

FRAME_MS = 20
# int16 RMS. espeak-ng and recorded speech lie above 500 when voiced; a telephone line's idle noise below 100.
SPEECH_RMS = 150.0
# Shorter sounds are clicks, shorter pauses belong to the words around them.
MIN_SPEECH_MS = 60
MIN_PAUSE_MS = 300
_PROBES = 20


@dataclass(frozen=True, slots=True)
class SpeechBegan:
    """`at_sample`: the first voiced frame's first sample."""

    at_sample: int


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """`at_sample`: the end of the last voiced frame (exclusive)."""

    at_sample: int


class SpeechDetector:
    """Fed one 20 ms frame at a time; tells when speech began and when it paused.

    A beginning is told after MIN_SPEECH_MS of voice, a pause after MIN_PAUSE_MS without.
    """

    def __init__(self, rate_hz: int) -> None:
        self.frame_samples = rate_hz * FRAME_MS // 1000
        self.position = 0
        self.speaking = False
        self.last_voice_end = 0
        self._run_start = 0
        self._voiced_run = 0

    @property
    def idle(self) -> bool:
        """Whether silence changes nothing but the position."""
        return not self.speaking and self._voiced_run == 0

    def skip(self, samples: int) -> None:
        """Silence while `idle`: costs nothing."""
        self.position += samples

    def feed(self, frame: npt.NDArray[np.int16]) -> SpeechBegan | SpeechPaused | None:
        """One frame of `frame_samples` samples (the last one of a recording may be shorter)."""
        return self.advance(len(frame), _voiced(frame))

    def advance(self, samples: int, voiced: bool) -> SpeechBegan | SpeechPaused | None:
        """`feed` for a frame of which it is known whether it is voiced."""
        start, self.position = self.position, self.position + samples
        if voiced:
            if self._voiced_run == 0:
                self._run_start = start
            self._voiced_run += 1
            self.last_voice_end = self.position
            if not self.speaking and self._voiced_run * FRAME_MS >= MIN_SPEECH_MS:
                self.speaking = True
                return SpeechBegan(self._run_start)
            return None
        self._voiced_run = 0
        pause = self.position - self.last_voice_end
        if self.speaking and pause >= self.frame_samples * MIN_PAUSE_MS // FRAME_MS:
            self.speaking = False
            return SpeechPaused(self.last_voice_end)
        return None

    @property
    def silence_samples(self) -> int:
        """Samples since the last voiced frame ended."""
        return self.position - self.last_voice_end


class SoundProbe:
    """Tells sound from silence by twenty samples of a 20 ms frame: a tenth of the price of all of them.

    For a phone's view of what it plays; turns are detected by SpeechDetector.
    """

    def __init__(self, frame_samples: int) -> None:
        self._step = max(1, frame_samples // _PROBES)
        self._energy = SPEECH_RMS**2 * len(range(0, frame_samples, self._step))

    def __call__(self, frame: bytes) -> bool:
        """`frame`: linear16 in the machine's byte order, which is the wire's on every machine that runs this."""
        probes = memoryview(frame).cast("h")[:: self._step].tolist()
        return bool(sum(map(mul, probes, probes)) >= self._energy)


def _voiced(frame: npt.NDArray[np.int16]) -> bool:
    samples = frame.astype(np.float64)
    return float(samples.dot(samples)) >= SPEECH_RMS**2 * max(1, len(frame))


def segment_speech(pcm: npt.NDArray[np.int16], rate_hz: int) -> list[tuple[int, int]]:
    """The speech segments of a mono recording as (first, end) sample positions, end exclusive."""
    detector = SpeechDetector(rate_hz)
    segments: list[tuple[int, int]] = []
    began: int | None = None
    for offset in range(0, len(pcm), detector.frame_samples):
        event = detector.feed(pcm[offset : offset + detector.frame_samples])
        if isinstance(event, SpeechBegan):
            began = event.at_sample
        elif isinstance(event, SpeechPaused) and began is not None:
            segments.append((began, event.at_sample))
            began = None
    if began is not None:
        segments.append((began, detector.last_voice_end))
    return segments
