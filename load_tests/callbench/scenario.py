"""The conversations of a run, the same for every system: replies are fixed, so that all speak the same audio.

The usual one has four turns of the callee, the third one a barge-in; the agent is heard about two thirds of the time.
The dense one is for a single call, which would give one turn in ten seconds: twelve turns, nine of them barge-ins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

SAMPLE_RATE_HZ = 16000
NOMINAL_CALL_S = 39.0
"""Of the usual conversation, set-up included: the replies' audio and the waits, give or take a second by system."""

LLM_FIRST_TOKEN_MS = 250.0
TTS_FIRST_AUDIO_MS = 150.0
INJECTED_MS = LLM_FIRST_TOKEN_MS + TTS_FIRST_AUDIO_MS
"""What the simulated providers take of every turn; the rest of the wait is the system's."""

END_OF_TURN_MS = 400.0
"""Silence of audio time after which the transcriber ends the turn. It has no part in the added latency."""
START_OF_TURN_MS = 220.0
"""Audio time from the first voice to the start of the turn."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of the callee and the agent's reply. `barge_in_after_ms`: it interrupts the reply before it."""

    text: str
    reply: str
    after_agent_quiet_ms: int = 1000
    barge_in_after_ms: int | None = None


OPENING = "Hello, this is Ava from Riverside Dental. I am calling about your appointment on Tuesday at ten."

TURNS: tuple[Turn, ...] = (
    Turn(
        "What should I bring along?",
        "You should bring your insurance card and a list of your medicines. "
        "If this is your first visit, come ten minutes early for the forms.",
    ),
    Turn(
        "And where can I park?",
        "Our parking is free behind the building, and the entrance is on the left. "
        "If the lot is full there is a garage across the street, next to the public library, "
        "and our front desk will gladly validate your ticket when you leave.",
    ),
    Turn(
        "Sorry, how long will it take?",
        "A cleaning takes about forty five minutes. Doctor Patel will see you afterwards for a short check.",
        barge_in_after_ms=3500,
    ),
    Turn(
        "And do you have an elevator?",
        "Yes, we do. We look forward to seeing you on Tuesday at ten in the morning. Have a lovely day.",
    ),
)

SHORT_TURNS: tuple[Turn, ...] = (
    Turn("Do I have to pay today?", "No, you do not have to.", after_agent_quiet_ms=400),
    Turn("Can I pay by card?", "Yes, of course you can.", after_agent_quiet_ms=400),
)
ALL_TURNS = (*TURNS, *SHORT_TURNS)
"""In the order in which the transcriber's script has them, from its beginning again after the last."""

DENSE_BARGE_IN_AFTER_MS = 700
_DENSE_CYCLE = (
    *(replace(turn, barge_in_after_ms=DENSE_BARGE_IN_AFTER_MS) for turn in (*TURNS, SHORT_TURNS[0])),
    SHORT_TURNS[1],
)
DENSE_TURNS: tuple[Turn, ...] = (
    *_DENSE_CYCLE,
    replace(TURNS[0], after_agent_quiet_ms=400, barge_in_after_ms=None),
    *_DENSE_CYCLE[1:],
)
"""Twice through: into every long reply, and after the short ones."""

DENSE_CALL_S = 36.0
WARM_UP_TURNS = 6
WARM_UP_S = 20.0
"""What dense conversations of twelve and of six turns take, give or take a second by system."""

HANG_UP_AFTER_AGENT_QUIET_MS = 1000

AGENT: dict[str, Any] = {
    "name": "callbench",
    "business": "Riverside Dental",
    "opening": OPENING,
    "system_prompt": "You are Ava. Answer from the facts.",
    "knowledge": ["The practice is next to the public library.", "Parking is free behind the building."],
    "limits": {"silence_timeout_s": 60},
    # The beginning of speech stops the agent, the opening too, as it stops the peers; by default it takes two words,
    # and the opening is heard to its end.
    "policies": {"interruption": {"min_words": 0}, "opening_interruptible": True},
}


def leg_script(turns: Sequence[Turn] = TURNS) -> dict[str, Any]:
    """What a leg is told to say and when to hang up. `turns`: a beginning of `TURNS` or of `DENSE_TURNS`."""
    return {
        "turns": [
            {
                "text": turn.text,
                "after_agent_quiet_ms": turn.after_agent_quiet_ms,
                "barge_in_after_ms": turn.barge_in_after_ms,
            }
            for turn in turns
        ],
        "hang_up_after_agent_quiet_ms": HANG_UP_AFTER_AGENT_QUIET_MS,
    }


def replies() -> dict[str, str]:
    """What the simulated language model answers to each text of the callee."""
    return {turn.text: turn.reply for turn in ALL_TURNS}
