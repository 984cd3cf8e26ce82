"""Whether the records of a call tell what the callee heard: word by word, from the sound itself."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.phrases import normalise_words
from serve_app.scenarios.virtual_network import HeardWord

OFF_WORDS = 1
"""Words by which a turn that was cut may be off."""


def lies(turns: Sequence[TurnRecord], heard: Sequence[HeardWord]) -> list[str]:
    """Agent turns that tell more or less than was heard. A word of which a part was heard may count either way."""
    found = []
    for turn in turns:
        if turn.role != "agent":
            continue
        texts = _between(heard, turn)
        told = len(normalise_words(turn.heard_text))
        most = sum(len(normalise_words(word.word.text)) for word in texts)
        least = sum(len(normalise_words(word.word.text)) for word in texts if word.whole)
        off = OFF_WORDS if turn.interrupted else 0
        if not least - off <= told <= most + off:
            words = " ".join(word.word.text for word in texts)
            found.append(f"the record tells {turn.heard_text!r}, but the callee heard {words!r}")
    return found


def _between(heard: Sequence[HeardWord], turn: TurnRecord) -> list[HeardWord]:
    return []
