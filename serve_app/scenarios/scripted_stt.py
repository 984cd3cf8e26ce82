"""Speech to text on virtual time: it recognises the words that are in the sound, with the delays it is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from serve_app.errors import ProviderError
from serve_app.providers.base import (
    EagerTurnEnded,
    PartialTranscript,
    SpeechStarted,
    SttEvent,
    TranscriptionRequest,
    TurnEnded,
    TurnResumed,
    Word,
)
from serve_app.scenarios.vocabulary import FRAME_BYTES, FRAME_S, RATE_HZ, SoundingWord, Vocabulary

SttPlan = Literal[
    "ok",
    "401",  # the key is refused
    "refuse",  # no connection
    "cut",  # the connection is lost when the callee next speaks
    "end",  # the stream ends by itself when the callee next speaks
    "silent",  # it takes audio and tells nothing
    "lost",  # it tells that the callee speaks, and breaks before the end of the turn
]
_PARTIAL_S = 0.25
_END_TIMEOUT_S = 5.0
"""A pause inside an utterance does not end the turn before this."""
_EPSILON_S = 1e-6


@dataclass
class ScriptedTranscriber:
    """`plans`: what becomes of the streams that are opened next; "ok" when there is none."""

    words: Vocabulary
    plans: list[SttPlan] = field(default_factory=list)
    open_after_s: float = 0.1
    start_s: float = 0.0
    """Sound of a turn before its beginning is told."""
    eager_s: float = 0.25
    end_s: float = 0.5
    """Silence after the last word before the turn may be, and is, over."""
    tells_eager: bool = True
    name: str = "scripted"
    streams: list[ScriptedStream] = field(default_factory=list)
    opened: int = 0
    turn_ends: list[float] = field(default_factory=list)

    async def open(self, request: TranscriptionRequest) -> ScriptedStream:
        plan = self.plans.pop(0) if self.plans else "ok"
        self.opened += 1
        await asyncio.sleep(self.open_after_s)
        if plan in ("401", "refuse"):
            raise ProviderError("stt", self.name, plan, retryable=plan == "refuse")
        self.streams.append(ScriptedStream(self, plan))
        return self.streams[-1]

    def fail(self, plan: SttPlan, times: int) -> None:
        """The stream that is open, and `times - 1` after it, break as planned."""
        live = [stream for stream in self.streams if not stream.closed]
        if live and plan not in ("401", "refuse"):
            live[-1].plan = plan
            times -= 1
        elif live:
            # What cannot be opened again must be lost first.
            live[-1].plan = "cut"
        self.plans += [plan] * times

    async def aclose(self) -> None: ...


class ScriptedStream:
    """Implements `TranscriptionStream`."""

    def __init__(self, owner: ScriptedTranscriber, plan: SttPlan) -> None:
        self._owner = owner
        self.plan = plan
        self._events: asyncio.Queue[SttEvent | ProviderError | None] = asyncio.Queue()
        self.audio = bytearray()
        self.reports = 0
        """A real one reports on the audio all the time, whether or not it holds speech."""
        self.closed = False
        self._turn = 0
        self._words: list[tuple[SoundingWord, float]] = []
        """The turn's words, and where each began."""
        self._heard: dict[int, int] = {}
        """Samples of each word."""
        self._began: float | None = None
        self._told = self._eager = False
        self._speech_end = 0.0
        self._partials = 0

    def send(self, audio: bytes) -> None:
        for start in range(0, len(audio), FRAME_BYTES):
            self._frame(audio[start : start + FRAME_BYTES])

    def _frame(self, frame: bytes) -> None:
        self.audio += frame
        position = len(self.audio) / 2 / RATE_HZ
        if self.plan == "silent":
            return
        self.reports = max(self.reports, int(position / _PARTIAL_S))
        spoken = False
        for word, samples in self._owner.words.hear(frame):
            if word is not None:
                spoken = True
                self._hear(word, samples, position)
        if spoken:
            self._voice(position)
        elif self._began is not None:
            self._quiet(position)
        if self._told and self._began is not None and int(position / _PARTIAL_S) > self._partials:
            self._partials = int(position / _PARTIAL_S)
            self._tell(PartialTranscript(self._turn, self._text(), position))

    def _hear(self, word: SoundingWord, samples: int, position: float) -> None:
        if word.number not in self._heard:
            self._words.append((word, position - FRAME_S))
        self._heard[word.number] = self._heard.get(word.number, 0) + samples

    def _voice(self, position: float) -> None:
        self._speech_end = position
        if self._began is None:
            self._began = position - FRAME_S
            if self.plan == "cut":
                self._events.put_nowait(ProviderError("stt", self._owner.name, "connection lost", retryable=True))
                return
            if self.plan == "end":
                self._events.put_nowait(None)
                return
        if self._eager:
            self._eager = False
            self._tell(TurnResumed(self._turn, position))
        self._start(position)

    def _start(self, position: float) -> None:
        if not self._told and self._began is not None and position - self._began >= self._owner.start_s - _EPSILON_S:
            self._told = True
            self._tell(SpeechStarted(self._turn, position, self._text()))

    def _quiet(self, position: float) -> None:
        assert self._began is not None
        # A word that is shorter than the delay is told all the same.
        self._start(max(position, self._began + self._owner.start_s))
        silence = position - self._speech_end + _EPSILON_S
        if self.plan == "lost" and silence >= self._owner.end_s:
            error = ProviderError("stt", self._owner.name, "silent in the middle of a turn", retryable=True)
            self._events.put_nowait(error)
            return
        unfinished = bool(self._words) and self._words[-1][0].more_follows
        if silence >= (_END_TIMEOUT_S if unfinished else self._owner.end_s):
            self._end(position)
        elif silence >= self._owner.eager_s and self._owner.tells_eager and not self._eager and self._text():
            self._eager = True
            self._tell(EagerTurnEnded(self._turn, self._text(), position))

    def _end(self, position: float) -> None:
        words = tuple(
            Word(word.text, began, min(began + word.samples / RATE_HZ, self._speech_end), word.confidence)
            for word, began in self._words
            if word.text
        )
        self._owner.turn_ends.append(asyncio.get_running_loop().time())
        self._tell(TurnEnded(self._turn, " ".join(w.text for w in words), position, words, self._speech_end))
        self._turn += 1
        self._words, self._heard = [], {}
        self._began, self._told, self._eager = None, False, False

    def _text(self) -> str:
        """The words that were said to their end; at least the first."""
        texts = [w.text for i, (w, _) in enumerate(self._words) if not i or self._heard[w.number] >= w.samples]
        return " ".join(filter(None, texts))

    def _tell(self, event: SttEvent) -> None:
        self._events.put_nowait(event)

    async def events(self) -> AsyncIterator[SttEvent]:
        while True:
            event = await self._events.get()
            if event is None:
                return
            if isinstance(event, ProviderError):
                raise event
            yield event

    def configure(self, language: str) -> None:
        """Words are what they are in any language."""

    async def close(self) -> None:
        self.closed = True
