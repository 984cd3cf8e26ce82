"""The figures of a call, from the leg's own notes, as they leave the worker. Times: CLOCK_MONOTONIC seconds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from load_tests.legs.documents import Script
from serve_app.simulators.leg import MediaLeg

MATCH_S = 10.0
"""A clear that comes later after a turn's beginning does not belong to it."""


def turn_figures(leg: MediaLeg, script: Script, index: int) -> dict[str, Any] | None:
    """Turn `index` of the callee, from 0; None while its words are not all out.

    `clear_at`: the first clear after the turn began; `answered_at`: the arrival of the answer's first sounding frame.
    """
    timeline = leg.timeline
    if timeline is None or index >= len(timeline.turns):
        return None
    turn = timeline.turns[index]
    if turn.last_sound_sent_at is None:
        return None
    following = timeline.turns[index + 1].began_at if index + 1 < len(timeline.turns) else float("inf")
    bound = min(following, turn.began_at + MATCH_S)
    spoken = script.turns[index] if index < len(script.turns) else None
    return {
        "number": index + 1,
        "text": leg.utterances[index].text,
        "barge_in": spoken is not None and spoken.barge_in_after_ms is not None,
        "began_at": turn.began_at,
        "last_sound_sent_at": turn.last_sound_sent_at,
        "clear_at": next((at for at in timeline.clears if turn.began_at <= at < bound), None),
        "answered_at": next(
            (said.first_sound_at for said in timeline.utterances if said.after_turns == index + 1), None
        ),
    }


def leg_figures(leg: MediaLeg, script: Script) -> dict[str, Any]:
    """Everything that the leg saw: turns, the agent's utterances, and the sums of the call."""
    timeline, stats, buffer = leg.timeline, leg.stats, leg.buffer
    assert timeline is not None
    turns = [figures for index in range(len(timeline.turns)) if (figures := turn_figures(leg, script, index))]
    depths = [said.min_depth_ms for said in timeline.utterances if said.min_depth_ms is not None]
    return {
        "connected_at": timeline.opened_at,
        "ended_at": timeline.closed_at,
        "end": stats.end,
        "close_code": stats.close_code,
        "turns": turns,
        "utterances": [asdict(said) for said in timeline.utterances],
        "clears": timeline.clears,
        "stale_frames": timeline.stale_frames,
        "frames_sent": stats.frames_sent,
        "frames_received": stats.frames_received,
        "wrong_size": stats.wrong_size,
        "overflowed": buffer.overflowed,
        "underruns": buffer.gaps,
        "underruns_excused_by_notify": buffer.gaps - buffer.underruns,
        "min_depth_ms": min(depths, default=None),
        "max_late_ms": max((said.max_late_ms for said in timeline.utterances), default=0.0),
        "max_tick_late_ms": stats.max_tick_late_ms,
    }
