"""Text to speech on virtual time: every word becomes sound that an ear can read, with the faults of real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from serve_app.errors import ProviderError
from serve_app.providers.base import AudioChunk, SynthesisEvent, SynthesisRequest, Word, WordTimings
from serve_app.scenarios.vocabulary import RATE_HZ, Vocabulary

TtsPlan = Literal[
    "ok",
    "429",
    "fail",  # the connection is lost before any sound
    "hang",  # no sound, ever
    "half_open",  # the connection is dead, and the client's own deadline tells so
    "silent",  # it ends properly without any sound
    "slow_drip",  # sound at a quarter of the speed at which it is played
    "stall",  # nothing after the first chunk
    "cut",  # the connection is lost after the first chunk
    "endless",  # sound goes on after the text
    "no_end",  # all the sound comes, and its end is never told
]
CLIENT_TIMEOUT_S = 4.0
"""How long a client waits for audio by default (`audio_timeout_s` of the providers' settings)."""
CHAR_S = 0.06
_CHUNK_BYTES = 3001 * 2
_CHUNK_S = 3001 / RATE_HZ
_FOREVER_S = 3600.0


@dataclass
class ScriptedSynthesizer:
    """`plans`: what becomes of the next utterances."""

    words: Vocabulary
    plans: list[TtsPlan] = field(default_factory=list)
    down: bool = False
    first_audio_s: float = 0.1
    times_words: bool = True
    name: str = "scripted"
    requests: list[SynthesisRequest] = field(default_factory=list)
    """One for each connection."""
    texts: list[str] = field(default_factory=list)
    """What was to be spoken, piece by piece."""
    utterances: int = 0
    utterances_open: int = 0
    connections_open: int = 0

    def identify(self, request: SynthesisRequest) -> str:
        return f"{self.name}/{request.voice}/{request.language}/{request.audio.sample_rate_hz}"

    async def open(self, request: SynthesisRequest) -> ScriptedConnection:
        self.requests.append(request)
        await asyncio.sleep(0.05)
        self.connections_open += 1
        return ScriptedConnection(self)

    def fail(self, plan: TtsPlan, times: int) -> None:
        """The next `times` utterances."""
        self.plans += [plan] * times

    async def aclose(self) -> None: ...


class ScriptedConnection:
    """Implements `SynthesisConnection`."""

    def __init__(self, owner: ScriptedSynthesizer) -> None:
        self._owner = owner

    def utterance(self) -> ScriptedUtterance:
        owner = self._owner
        plan: TtsPlan = owner.plans.pop(0) if owner.plans else "ok"
        owner.utterances += 1
        owner.utterances_open += 1
        return ScriptedUtterance(owner, "fail" if owner.down else plan)

    async def close(self) -> None:
        self._owner.connections_open -= 1


class ScriptedUtterance:
    """60 ms of sound per character, faster than real time."""

    def __init__(self, owner: ScriptedSynthesizer, plan: TtsPlan) -> None:
        self._owner = owner
        self._plan = plan
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()
        self._spoken_s = 0.0
        self.cancelled = False

    async def push(self, text: str) -> None:
        self._owner.texts.append(text)
        self._texts.put_nowait(text)

    async def finish(self) -> None:
        self._texts.put_nowait(None)

    async def events(self) -> AsyncIterator[SynthesisEvent]:
        while (text := await self._texts.get()) is not None:
            await self._before_sound()
            if self._plan == "silent":
                continue
            timings, sound = self._speak(text)
            if self._owner.times_words:
                yield WordTimings(timings)
            for start in range(0, len(sound), _CHUNK_BYTES):
                if start and self._plan == "stall":
                    await asyncio.sleep(_FOREVER_S)
                if start and self._plan == "cut":
                    raise self._error("connection lost")
                yield AudioChunk(sound[start : start + _CHUNK_BYTES])
                await asyncio.sleep(4 * _CHUNK_S if self._plan == "slow_drip" else 0.02)
        if self._plan == "no_end":
            await asyncio.sleep(CLIENT_TIMEOUT_S)
            raise self._error("no audio in time")
        while self._plan == "endless":
            yield AudioChunk(self._owner.words.sound("", _CHUNK_S)[1])
            await asyncio.sleep(_CHUNK_S)

    async def _before_sound(self) -> None:
        await asyncio.sleep(self._owner.first_audio_s)
        if self._plan == "429":
            raise ProviderError("tts", self._owner.name, "429", retryable=True, status=429)
        if self._plan == "fail":
            raise self._error("connection lost")
        if self._plan == "half_open":
            await asyncio.sleep(CLIENT_TIMEOUT_S)
            raise self._error("no audio in time")
        if self._plan == "hang":
            await asyncio.sleep(_FOREVER_S)

    def _speak(self, text: str) -> tuple[tuple[Word, ...], bytes]:
        words, sound = [], bytearray()
        for word in text.split():
            duration_s = (len(word) + 1) * CHAR_S
            words.append(Word(word, self._spoken_s, self._spoken_s + duration_s))
            sound += self._owner.words.sound(word, duration_s)[1]
            self._spoken_s += duration_s
        return tuple(words), bytes(sound)

    def _error(self, message: str) -> ProviderError:
        return ProviderError("tts", self._owner.name, message, retryable=True)

    async def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._owner.utterances_open -= 1
