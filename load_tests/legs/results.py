"""What a worker tells, typed: the same for every client. Times: CLOCK_MONOTONIC seconds, valid in every process."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TurnFigures(_Event):
    """One utterance of the callee. `clear_at`: the first clear after it began; `answered_at`: the first sounding frame
    of the agent's answer arrived."""

    number: int
    text: str | None
    barge_in: bool
    began_at: float
    last_sound_sent_at: float
    clear_at: float | None
    answered_at: float | None

    @property
    def answer_ms(self) -> float | None:
        """From the callee's last sound to the answer's first: the whole wait, providers included."""
        return None if self.answered_at is None else (self.answered_at - self.last_sound_sent_at) * 1000

    @property
    def clear_ms(self) -> float | None:
        """From the callee's first frame to the clear, the transcriber's start of turn included."""
        return None if self.clear_at is None else (self.clear_at - self.began_at) * 1000


class UtteranceFigures(_Event):
    """One utterance of the agent; see `serve_app.simulators.timeline.AgentUtterance`."""

    first_sound_at: float
    last_sound_at: float
    after_turns: int
    frames: int
    cleared_at: float | None
    min_depth_ms: float | None
    max_late_ms: float
    underruns: int


class LegResult(_Event):
    """A whole call.

    `error` None: it went as its script says. `refused`: the platform did not take it, with `refused_status` where it
    said so by HTTP. `underruns`: gaps of up to 400 ms between two frames without a clear in between.
    """

    id: str
    asked_at: float
    over_at: float
    connected_at: float | None
    ended_at: float | None
    error: str | None
    refused: bool
    refused_status: int | None
    end: Literal["far_closed", "near_closed", "wrong_frame_size", "stalled"] | None
    close_code: int | None
    turns: tuple[TurnFigures, ...]
    utterances: tuple[UtteranceFigures, ...]
    clears: tuple[float, ...]
    stale_frames: int
    frames_sent: int
    frames_received: int
    wrong_size: int
    overflowed: int
    underruns: int
    underruns_excused_by_notify: int
    min_depth_ms: float | None
    max_late_ms: float
    max_tick_late_ms: float


class Load(_Event):
    """A worker's own state over the last second. `cpu_s`: since its start. `lateness_buckets`: `ticker.Lateness`."""

    at: float
    lateness_p99_ms: float
    lateness_max_ms: float
    lateness_buckets: dict[int, int] = Field(default_factory=dict)
    cpu_s: float
    legs: int


NO_LEG: dict[str, Any] = {
    "connected_at": None,
    "ended_at": None,
    "end": None,
    "close_code": None,
    "turns": [],
    "utterances": [],
    "clears": [],
    "stale_frames": 0,
    "frames_sent": 0,
    "frames_received": 0,
    "wrong_size": 0,
    "overflowed": 0,
    "underruns": 0,
    "underruns_excused_by_notify": 0,
    "min_depth_ms": None,
    "max_late_ms": 0.0,
    "max_tick_late_ms": 0.0,
}
"""The figures of a call whose media socket never opened."""


def lost(call_id: str, asked_at: float, now: float, error: str) -> LegResult:
    """The result of a call whose worker cannot tell any more."""
    verdict: dict[str, Any] = {"error": error, "refused": False, "refused_status": None}
    return LegResult.model_validate({**NO_LEG, **verdict, "id": call_id, "asked_at": asked_at, "over_at": now})
