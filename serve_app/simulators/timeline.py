"""What one leg saw and when: the figures of a measurement. Sans-I/O: the leg brings the times.

All times are CLOCK_MONOTONIC seconds (`time.monotonic()`), which every process of a machine shares.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FRAME_MS = 20
GAP_S = 0.5
"""Sound that follows this much without sound is another utterance of the agent."""
PRIMED_FRAMES = 150 // FRAME_MS + 1
"""The far buffer's depth counts from here on: before, the agent had no time yet to build a lead."""


@dataclass(slots=True)
class AgentUtterance:
    """One utterance of the agent as it arrived (not as it was played).

    `after_turns`: how many utterances the callee had finished before; 0: the greeting. `min_depth_ms`: the shallowest
    far buffer from its first 150 ms until the last sounding frame arrived; None where it never held as much.
    `max_late_ms`: the latest frame, against playing from the first frame's arrival without any buffer.
    """

    first_sound_at: float
    after_turns: int
    last_sound_at: float = 0.0
    frames: int = 0
    cleared_at: float | None = None
    min_depth_ms: float | None = None
    max_late_ms: float = 0.0
    underruns: int = 0


@dataclass(slots=True)
class CalleeTurn:
    """One utterance of the callee: when its first frame and its last sounding frame were sent."""

    began_at: float
    last_sound_sent_at: float | None = None


@dataclass(slots=True)
class Timeline:
    """`stale_frames`: sounding frames that arrived after a clear, while the callee was still speaking.

    `clears`: arrival times. A clear ends the agent's utterance.
    """

    opened_at: float | None = None
    closed_at: float | None = None
    """When the socket was open, and gone."""
    utterances: list[AgentUtterance] = field(default_factory=list)
    turns: list[CalleeTurn] = field(default_factory=list)
    clears: list[float] = field(default_factory=list)
    stale_frames: int = 0
    _current: AgentUtterance | None = None
    _stale: bool = False
    _finished: int = 0
    _primed: bool = False
    _shallowest: int | None = None

    def frame_arrived(self, now: float, sounds: bool, depth: int) -> None:
        """`depth`: frames that the far buffer held before this one."""
        current = self._current
        if current is not None and (not sounds or now - current.last_sound_at <= GAP_S):
            late_ms = (now - current.first_sound_at) * 1000 - current.frames * FRAME_MS
            current.frames += 1
            if self._primed:
                if self._shallowest is None or depth < self._shallowest:
                    self._shallowest = depth
            elif depth + 1 >= PRIMED_FRAMES:
                self._primed = True
            if not sounds:
                return
            current.last_sound_at = now
            if late_ms > current.max_late_ms:
                current.max_late_ms = late_ms
            # Only now: what followed the last sounding frame was no part of the utterance.
            if self._shallowest is not None:
                depth_ms = float(self._shallowest * FRAME_MS)
                if current.min_depth_ms is None or depth_ms < current.min_depth_ms:
                    current.min_depth_ms = depth_ms
                self._shallowest = None
        elif sounds:
            if self._stale:
                self.stale_frames += 1
                return
            self._current = AgentUtterance(now, self._finished, now, 1)
            self._primed, self._shallowest = depth + 1 >= PRIMED_FRAMES, None
            self.utterances.append(self._current)

    def clear_arrived(self, now: float) -> None:
        self.clears.append(now)
        if self._current is not None:
            self._current.cleared_at = now
            self._current = None
        self._stale = self.speaking

    def turn_began(self, now: float) -> None:
        """The callee's first frame was sent."""
        self.turns.append(CalleeTurn(now))

    def turn_ended(self, now: float) -> None:
        """The callee's last sounding frame was sent."""
        self.turns[-1].last_sound_sent_at = now
        self._finished += 1
        self._stale = False

    def underrun(self) -> None:
        """The far buffer ran empty inside an utterance: of the latest one."""
        if self.utterances:
            self.utterances[-1].underruns += 1

    @property
    def speaking(self) -> bool:
        return bool(self.turns) and self.turns[-1].last_sound_sent_at is None
