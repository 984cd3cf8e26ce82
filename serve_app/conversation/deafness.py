"""Notices that the callee spoke and the transcriber told nothing: a provider may hang with its socket alive.

It does not decide what is speech. It only asks for a second of sound, then quiet, and no sign of life in the meantime:
a transcriber that reports on noise that it rightly ignores is well.
"""

from __future__ import annotations

from serve_app.audio.level import may_sound, mean_magnitude
from serve_app.providers.base import AudioFormat

LOUD = 600
"""Mean magnitude on the 16-bit scale (about -35 dBFS); telephone speech lies well above, line noise below."""
SPOKE_S = 1.0
QUIET_S = 2.5
_FORGET_S = 1.0
_LOOK_S = 0.08
"""One frame in so much audio is looked at, and stands for all of it."""


class DeafnessWatch:
    """Fed with the callee's audio and told of every sign of life of the transcriber."""

    def __init__(self, audio: AudioFormat) -> None:
        self._bytes_per_s = audio.sample_rate_hz * audio.bytes_per_sample
        self._encoding = audio.encoding
        self._unseen_bytes = 0
        self._loud_s = 0.0
        self._quiet_s = 0.0

    def heard_event(self) -> None:
        """The transcriber is alive."""
        self._loud_s = self._quiet_s = 0.0

    def feed(self, audio: bytes) -> bool:
        """True when the callee has spoken, been quiet, and nothing was told. Starts over then."""
        self._unseen_bytes += len(audio)
        seconds = self._unseen_bytes / self._bytes_per_s
        if seconds < _LOOK_S:
            return False
        self._unseen_bytes = 0
        # Most frames are quiet, and need no arithmetic.
        if may_sound(audio, self._encoding) and mean_magnitude(audio, self._encoding) >= LOUD:
            self._loud_s += seconds
            self._quiet_s = 0.0
            return False
        self._quiet_s += seconds
        if self._loud_s < SPOKE_S:
            if self._quiet_s > _FORGET_S:
                self._loud_s = 0.0
            return False
        if self._quiet_s < QUIET_S:
            return False
        self.heard_event()
        return True
