"""The latency of one reply: the moments that are noted while it is made, and the record that is made of them.

The names of the record are used everywhere: SQL, API, CLI, logs, metrics, traces. docs/latency.md explains them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.latency_budgets import Excess, LatencyBudgets

STAGE_ENDS = {
    "stt_ms": "turn_ended",
    "llm_ms": "first_token",
    "sentence_ms": "first_sentence",
    "tts_ms": "first_audio",
    "frame_ms": "first_frame",
}
"""The stages of the caller's wait, one after the other, and the moment at which each is over."""
STAGES = tuple(STAGE_ENDS)
MEASURES = (*STAGES, "confirm_ms", "total_ms")


@dataclass(frozen=True, slots=True)
class TurnLatency:
    """Milliseconds of one agent reply, on the monotonic clock. None where a stage did not happen.

    The stages before `confirm_ms` add up to `total_ms`: the time of one that did not happen belongs to the next that
    did, and one that was over before it was due (a draft's first token) is 0.
    """

    stt_ms: float | None = None
    """The callee's last sound -> end of turn."""
    llm_ms: float | None = None
    """End of turn -> first token."""
    sentence_ms: float | None = None
    """First token -> first sentence given to the synthesizer."""
    tts_ms: float | None = None
    """First sentence -> first audio."""
    frame_ms: float | None = None
    """First audio -> first frame on the wire."""
    confirm_ms: float | None = None
    """First frame on the wire -> the network told that it was played."""
    total_ms: float | None = None
    """The callee's last sound -> first frame on the wire."""
    within_target: bool | None = None
    """Whether `total_ms` is within its target; None where there is no total."""
    over: dict[str, Excess] = field(default_factory=dict)
    """Stage -> "target" or "limit": what of its budget it is above."""
    causes: tuple[str, ...] = ()
    """Why the callee waited, or heard something else than the reply: a word, or "word: detail"."""
    speculative: bool = False
    """The reply began as a draft, before the end of the turn was certain."""


@dataclass(slots=True)
class LatencyProbe:
    """Monotonic times of one agent reply, each None until it happened; a line that answers nobody has the last ones."""

    speech_ended_at: float | None = None
    """The callee's last sound."""
    turn_ended_at: float | None = None
    """The transcriber's end of turn."""
    first_token_at: float | None = None
    first_sentence_at: float | None = None
    """The first piece of text was given to the synthesizer."""
    first_audio_at: float | None = None
    first_frame_at: float | None = None
    """On the wire."""
    first_confirmed_at: float | None = None
    """The network told that it was played."""
    causes: list[str] = field(default_factory=list)
    """In the order in which they were noted."""
    speculative: bool = False

    def stages(self) -> list[tuple[str, float]]:
        """(stage, time of its end), in order, after ("", time at which the first one began).

        What did not happen is left out, and nothing ends before it began. Empty as long as nothing happened.
        """
        found = [] if self.speech_ended_at is None else [("", self.speech_ended_at)]
        for stage, moment in STAGE_ENDS.items():
            at: float | None = getattr(self, f"{moment}_at")
            if at is not None:
                found.append((stage, max(at, found[-1][1])) if found else ("", at))
        return found

    def latency(self, budgets: LatencyBudgets) -> TurnLatency:
        measured: dict[str, float | None] = dict.fromkeys(MEASURES)
        stages = self.stages()
        offsets_ms = [_ms(stages[0][1], at) for _, at in stages]
        # Differences of rounded offsets add up; rounded differences would not.
        for (stage, _), before_ms, at_ms in zip(stages[1:], offsets_ms, offsets_ms[1:], strict=False):
            measured[stage] = round(at_ms - before_ms, 1)
        if self.first_frame_at is not None and self.speech_ended_at is not None:
            measured["total_ms"] = offsets_ms[-1]
        if self.first_frame_at is not None and self.first_confirmed_at is not None:
            measured["confirm_ms"] = max(0.0, _ms(self.first_frame_at, self.first_confirmed_at))
        total_ms = measured["total_ms"]
        return TurnLatency(
            **measured,
            within_target=None if total_ms is None else budgets.total_ms.excess(total_ms) is None,
            over=budgets.excesses(measured),
            causes=tuple(self.causes),
            speculative=self.speculative,
        )

    def carry_over(self, abandoned: LatencyProbe) -> None:
        """This reply is what the callee hears after one that made no sound: the wait and its causes are the same."""
        self.causes[:0] = abandoned.causes
        if self.speech_ended_at is None:
            self.speech_ended_at, self.turn_ended_at = abandoned.speech_ended_at, abandoned.turn_ended_at


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 1)
