"""Flux's TurnInfo messages, plain JSON, as turn events. Nothing is validated: any field may be missing, or null."""

from __future__ import annotations

from collections.abc import Mapping
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
        self.reports = 0
        """Messages read, those among them that are no event: Flux tells that it hears, also where nobody speaks."""

    def read(self, message: Mapping[str, Any]) -> SttEvent | None:
        """The event of one TurnInfo; None for an event that is not known or says nothing."""
        self.reports += 1
        event = message.get("event")
        index = message.get("turn_index") or 0
        audio_s = self._clock.caller_s(message.get("audio_window_end") or 0.0)
        text = (message.get("transcript") or "").strip()
        if event == "StartOfTurn":
            self.in_turn = True
            return SpeechStarted(index, audio_s, text)
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
            return TurnEnded(index, text, audio_s, words, max(ends, default=None), message.get("trigger"))
        return None

    def _words(self, message: Mapping[str, Any]) -> tuple[Word, ...]:
        return tuple(
            Word(
                text=word.get("word") or "",
                start_s=self._position(word.get("start")),
                end_s=self._position(word.get("end")),
                confidence=word.get("confidence"),
            )
            for word in message.get("words") or ()
        )

    def _position(self, stream_s: float | None) -> float | None:
        return None if stream_s is None else self._clock.caller_s(stream_s)
