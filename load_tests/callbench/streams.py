"""Which transcription stream belonged to which call: found by time, so that no system has to tell.

A stream's turns end a few milliseconds after the phone's frames made them due, and calls start staggered: the fit of a
whole call's turns is unambiguous until a system is late by more than the stagger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from load_tests.callbench.records import Call, Due, SttTurn
from load_tests.callbench.turns import EARLY_S, MATCH_S

_NO_TURN_COST_S = MATCH_S
"""What a turn without a fitting end costs a pair."""


def match_streams(
    calls: Sequence[Call],
    streams: Sequence[Sequence[SttTurn]],
    due: Mapping[str, Due],
) -> dict[str, Sequence[SttTurn]]:
    """Call id -> its stream's turns, best fits first; a call without a fitting stream is left out."""
    pairs: list[tuple[float, int, int]] = []
    for c, call in enumerate(calls):
        ended = [turn.last_sound_sent_at + due[turn.text].end_after_sound_s for turn in call.turns]
        if not ended:
            continue
        for s, stream in enumerate(streams):
            ends = [turn.ended_at for turn in stream if turn.ended_at is not None]
            # Most pairs lie far apart in time: not worth a closer look.
            if not ends or ends[-1] < ended[0] - EARLY_S or ends[0] > ended[-1] + MATCH_S:
                continue
            cost = sum(_distance(moment, ends) for moment in ended) / len(ended)
            if cost < _NO_TURN_COST_S:
                pairs.append((cost, c, s))
    matched: dict[str, Sequence[SttTurn]] = {}
    taken: set[int] = set()
    for _, c, s in sorted(pairs):
        if calls[c].id not in matched and s not in taken:
            matched[calls[c].id] = streams[s]
            taken.add(s)
    return matched


def _distance(due: float, ends: Sequence[float]) -> float:
    fitting = [abs(end - due) for end in ends if due - EARLY_S <= end <= due + MATCH_S]
    return min(fitting, default=_NO_TURN_COST_S)
