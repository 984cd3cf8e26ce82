"""What the load side saw of one call. All times are CLOCK_MONOTONIC seconds, which all processes of a machine share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of the agent as it arrived at the phone. `after_turns`: callee turns that were over before it.

    `min_depth_ms`: the shallowest buffer of the network inside it, once it had held 150 ms. `late_ms`: its latest
    frame, against playing without any buffer from the first frame on.
    """

    first_sound_at: float
    after_turns: int
    last_sound_at: float
    underruns: int = 0
    min_depth_ms: float | None = None
    late_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class CalleeTurn:
    """One utterance of the callee: its first frame and its last sounding frame left the phone."""

    text: str
    began_at: float
    last_sound_sent_at: float
    barge_in: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `error` None: it went as the script says, and the callee hung up, or the benchmark had it hang up."""

    id: str
    asked_at: float
    connected_at: float | None
    ended_at: float
    error: str | None = None
    refused_status: int | None = None
    turns: Sequence[CalleeTurn] = field(default_factory=tuple)
    utterances: Sequence[Utterance] = field(default_factory=tuple)
    clears: Sequence[float] = field(default_factory=tuple)
    stale_frames: int = 0
    wrong_size_frames: int = 0
    refused: bool = False

    @property
    def set_up_s(self) -> float:
        """From asking until the agent is heard; infinite for a call in which it never was."""
        return self.utterances[0].first_sound_at - self.asked_at if self.utterances else math.inf

    def talk_s(self, start: float, end: float) -> float:
        """Seconds of the call inside [start, end]."""
        if self.connected_at is None:
            return 0.0
        return max(0.0, min(end, self.ended_at) - max(start, self.connected_at))


@dataclass(frozen=True, slots=True)
class SttTurn:
    """The two messages of the simulated transcriber that frame a turn: when each was sent, and when the audio that
    caused it had arrived."""

    started_at: float | None
    ended_at: float | None
    start_heard_at: float | None = None
    end_heard_at: float | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """Which frames of an utterance make the transcriber's two messages due, in seconds of audio.

    `start_after_began_s`: from its first frame. `end_after_sound_s`: from its last sounding frame.
    """

    start_after_began_s: float
    end_after_sound_s: float
