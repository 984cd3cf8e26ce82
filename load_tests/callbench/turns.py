"""The figures of a callee's turn: how late the answer came, and how fast the agent fell silent.

The wait of a callee has parts that no system can help (the silence that ends a turn, the providers' injected delays).
What remains is the added latency. It counts from the phone's frame that made the end of the turn due, so the time that
audio needs to reach the transcriber counts too; `forwarding_ms` is that part alone, `start_forwarding_ms` the same of
the frame by which the transcriber knows that a turn began. A system that joins frames pays for it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from load_tests.callbench.records import Call, CalleeTurn, Due, SttTurn

MATCH_S = 2.0
"""A transcriber's message that comes later after its cause belongs to another turn."""
EARLY_S = 0.1
"""A message may come this much before its time: a phone that was late itself dates a turn too late."""


@dataclass(frozen=True, slots=True)
class TurnFigures:
    """Milliseconds. None: the event is missing; `added_ms` None: the turn was not answered."""

    due_at: float
    added_ms: float | None
    added_after_eot_ms: float | None
    forwarding_ms: float | None
    start_forwarding_ms: float | None
    barge_in_ms: float | None
    barge_in_missed: bool = False


def turn_figures(
    call: Call,
    stt_turns: Sequence[SttTurn],
    *,
    due: Mapping[str, Due],
    injected_ms: float,
) -> list[TurnFigures]:
    """One per turn of the callee that the phone finished.

    `due`: of each text, which frames make the transcriber's messages due.
    """
    figures = []
    for number, turn in enumerate(call.turns, start=1):
        due_at = turn.last_sound_sent_at + due[turn.text].end_after_sound_s
        started_due_at = turn.began_at + due[turn.text].start_after_began_s
        ended_at = _first_after(due_at - EARLY_S, [heard.ended_at for heard in stt_turns])
        end_heard_at = _first_after(due_at - EARLY_S, [heard.end_heard_at for heard in stt_turns])
        start_heard_at = _first_after(started_due_at - EARLY_S, [heard.start_heard_at for heard in stt_turns])
        # The next turn's beginning bounds the wait: what is said after it answers another turn.
        until = call.turns[number].last_sound_sent_at if number < len(call.turns) else call.ended_at
        answered_at = next(
            (
                utterance.first_sound_at
                for utterance in call.utterances
                if utterance.after_turns == number and turn.last_sound_sent_at < utterance.first_sound_at <= until
            ),
            None,
        )
        clear_ms, missed = _barge_in(call, turn, stt_turns)
        figures.append(
            TurnFigures(
                due_at=due_at,
                added_ms=None if answered_at is None else (answered_at - due_at) * 1000 - injected_ms,
                added_after_eot_ms=(
                    None if answered_at is None or ended_at is None else (answered_at - ended_at) * 1000 - injected_ms
                ),
                forwarding_ms=None if end_heard_at is None else (end_heard_at - due_at) * 1000,
                start_forwarding_ms=None if start_heard_at is None else (start_heard_at - started_due_at) * 1000,
                barge_in_ms=clear_ms,
                barge_in_missed=missed,
            )
        )
    return figures


def _barge_in(call: Call, turn: CalleeTurn, stt_turns: Sequence[SttTurn]) -> tuple[float | None, bool]:
    """(start of turn sent -> clear at the phone in ms, whether the clear is missing)."""
    if not turn.barge_in:
        return None, False
    started_at = _first_after(turn.began_at, [heard.started_at for heard in stt_turns])
    cleared_at = _first_after(turn.began_at, list(call.clears))
    if started_at is None or cleared_at is None:
        return None, cleared_at is None
    return (cleared_at - started_at) * 1000, False


def _first_after(moment: float, times: Sequence[float | None]) -> float | None:
    found = [at for at in times if at is not None and moment <= at <= moment + MATCH_S]
    return min(found) if found else None
