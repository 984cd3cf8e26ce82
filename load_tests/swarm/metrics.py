"""A call's figures as entries of Locust's own statistics, so that its tables, charts and reports show them.

All values are milliseconds, except those whose name says otherwise: Locust has one kind of number.
"""

from __future__ import annotations

from typing import Any

from load_tests.legs.results import LegResult, Load, TurnFigures

CALL, TURN, FRAMES, LEGS = "CALL", "TURN", "FRAMES", "LEGS"


class CallMetrics:
    """Fires into one Locust environment. `fixed_wait_ms`: what the providers take of every answer, if it is fixed."""

    def __init__(self, environment: Any, fixed_wait_ms: float | None) -> None:
        self._environment = environment
        self._fixed_wait_ms = fixed_wait_ms

    def turn(self, turn: TurnFigures) -> None:
        """A turn of the callee that is over. One without an answer is a failure; a barge-in without a clear, too."""
        answer_ms = turn.answer_ms
        unanswered = None if answer_ms is not None else f"no answer to {turn.text!r}"
        self._fire(TURN, "first agent audio after callee's last sound", answer_ms or 0.0, unanswered)
        if answer_ms is not None and self._fixed_wait_ms is not None:
            self._fire(TURN, "added latency (providers' fixed wait subtracted)", answer_ms - self._fixed_wait_ms)
        if turn.barge_in:
            missing = None if turn.clear_ms is not None else "no clear after a barge-in"
            self._fire(TURN, "barge-in: callee's first frame to clear", turn.clear_ms or 0.0, missing)

    def call(self, result: LegResult) -> None:
        """A whole call: refused, failed, or well."""
        if result.refused:
            status = result.refused_status or "by voice"
            self._fire(CALL, "call", _ms(result.over_at - result.asked_at), f"refused ({status})")
            return
        end = result.ended_at or result.over_at
        self._fire(CALL, "call", _ms(end - result.asked_at), result.error, result.frames_received)
        if result.connected_at is None:
            return
        self._fire(CALL, "set-up: asked to socket open", _ms(result.connected_at - result.asked_at))
        if result.utterances:
            greeting = result.utterances[0]
            self._fire(CALL, "greeting: socket open to first audio", _ms(greeting.first_sound_at - result.connected_at))
        for said in result.utterances:
            underrun = f"{said.underruns} underruns" if said.underruns else None
            self._fire(FRAMES, "utterance: latest frame late by", said.max_late_ms, underrun)
            if said.min_depth_ms is not None:
                self._fire(FRAMES, "utterance: shallowest network buffer", said.min_depth_ms)
        for name, count in (("stale frames after a clear", result.stale_frames), ("wrong frame", result.wrong_size)):
            if count:
                self._fire(FRAMES, name, 0.0, f"{count} in a call")

    def load(self, load: Load) -> None:
        """The load side's own lateness: above some 5 ms the other figures say little."""
        if load.legs:
            self._fire(LEGS, "leg engine late (p99 of a second)", load.lateness_p99_ms)

    def _fire(self, kind: str, name: str, ms: float, failure: str | None = None, length: int = 0) -> None:
        self._environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=ms,
            response_length=length,
            exception=None if failure is None else CallFailure(failure),
            context={},
        )


class CallFailure(Exception):  # noqa: N818 - an entry of the failure table
    """What the callee would complain about."""

    def __repr__(self) -> str:
        return str(self)


def _ms(seconds: float) -> float:
    return seconds * 1000
