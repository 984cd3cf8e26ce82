"""Flux's TurnInfo messages as turn events. The SDK validates nothing: any field may be missing."""

from __future__ import annotations

from typing import Any

from serve_app.providers.base import (
    EagerTurnEnded,
    PartialTranscript,
    SpeechStarted,
    SttEvent,
    TurnEnded,
    TurnResumed,
    Word,
)
from serve_app.providers.flux_audio import StreamClock


class TurnReader:
    """Reads the messages of one stream and knows whether a turn is open."""

    def __init__(self, clock: StreamClock) -> None:
        self._clock = clock
        self.in_turn = False

    def read(self, message: Any) -> SttEvent | None:
        """The event of one TurnInfo; None for an event that is not known or says nothing."""
        event = getattr(message, "event", None)
        index = getattr(message, "turn_index", None) or 0
        audio_s = self._clock.caller_s(getattr(message, "audio_window_end", None) or 0.0)
        text = (getattr(message, "transcript", None) or "").strip()
        if event == "StartOfTurn":
            self.in_turn = True
            return SpeechStarted(index, audio_s)
        if event == "Update":
            # After EndOfTurn Flux may go on with updates of a turn in which nobody spoke yet.
            return PartialTranscript(index, text, audio_s) if text else None
        if event == "EagerEndOfTurn":
            return EagerTurnEnded(index, text, audio_s)
        if event == "TurnResumed":
            return TurnResumed(index, audio_s)
        if event == "EndOfTurn":
            self.in_turn = False
            words = self._words(message)
            ends = [word.end_s for word in words if word.end_s is not None]
            trigger = getattr(message, "trigger", None)
            return TurnEnded(index, text, audio_s, words, max(ends, default=None), trigger)
        return None

    def _words(self, message: Any) -> tuple[Word, ...]:
        return tuple(
            Word(
                text=getattr(word, "word", None) or "",
                start_s=self._position(getattr(word, "start", None)),
                end_s=self._position(getattr(word, "end", None)),
                confidence=getattr(word, "confidence", None),
            )
            for word in getattr(message, "words", None) or ()
        )

    def _position(self, stream_s: float | None) -> float | None:
        return None if stream_s is None else self._clock.caller_s(stream_s)
