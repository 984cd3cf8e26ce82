"""One agent turn's speech on a Cartesia socket, as one or more contexts.

A context expires one second after its last audio and cannot be used again, while a language model may pause for
longer. So an utterance ends its context itself when the text pauses, and goes on in a new one; word timings go on too.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol

from serve_app.errors import ProviderError
from serve_app.providers.base import AudioChunk, AudioFormat, SynthesisEvent, Word, WordTimings
from serve_app.providers.errors import is_retryable

# Well below the server's one second, which runs from when it sent the audio, not from when it arrived here.
_PAUSE_S = 0.5
# How long an utterance waits for more text before its owner is taken for gone.
_TEXT_TIMEOUT_S = 60.0


class Speaker(Protocol):
    """What an utterance needs of its connection."""

    audio: AudioFormat

    @property
    def audio_timeout_s(self) -> float: ...

    async def ensure_open(self) -> None: ...

    async def speak(self, context: Context, text: str, *, more: bool) -> None: ...

    async def cancel(self, context: Context) -> None: ...

    def forget(self, context: Context) -> None: ...

    def error(self, message: str, *, retryable: bool = True, status: int | None = None) -> ProviderError: ...


class Context:
    """What the socket delivered for one context id."""

    def __init__(self, wake: asyncio.Event) -> None:
        self.id = str(uuid.uuid4())
        self.inbox: deque[Mapping[str, Any] | ProviderError] = deque()
        self.input_ended = False
        self.last_event_s = 0.0
        self.audio_since_text = False
        self._wake = wake

    def text_sent(self) -> None:
        self.last_event_s = asyncio.get_running_loop().time()
        self.audio_since_text = False

    def receive(self, message: Mapping[str, Any]) -> None:
        """A message of the server as it came: any field may be missing, or null."""
        self.last_event_s = asyncio.get_running_loop().time()
        self.audio_since_text = self.audio_since_text or message.get("type") == "chunk"
        self.inbox.append(message)
        self._wake.set()

    def fail(self, error: ProviderError) -> None:
        self.inbox.append(error)
        self._wake.set()


class CartesiaUtterance:
    """See `Utterance`. One task pushes text, another reads events."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._audio = speaker.audio
        self._wake = asyncio.Event()
        # In the order of their text: the audio of one is complete before the next one's is delivered.
        self._contexts: deque[Context] = deque()
        self._finished = False
        self._cancelled = False
        self._spoken_bytes = 0
        self._base_s = 0.0
        self._odd = b""
        self._text_deadline = 0.0

    async def push(self, text: str) -> None:
        """Speak `text` after what was pushed before. Raises ProviderError."""
        if self._cancelled or self._finished:
            return
        if not self._contexts:
            # A socket that was closed as idle is replaced here. Within a turn a lost socket is a failure.
            await self._speaker.ensure_open()
        if not self._contexts or self._contexts[-1].input_ended:
            self._contexts.append(Context(self._wake))
        context = self._contexts[-1]
        context.text_sent()
        await self._speaker.speak(context, text, more=True)
        self._wake.set()

    async def finish(self) -> None:
        """No more text follows. Raises ProviderError."""
        if not self._finished and not self._cancelled:
            self._finished = True
            await self._end_input()
            self._wake.set()

    async def cancel(self) -> None:
        """Stop. Nothing is delivered afterwards."""
        self._cancelled = True
        contexts, self._contexts = list(self._contexts), deque()
        self._wake.set()
        for context in contexts:
            await self._speaker.cancel(context)

    async def events(self) -> AsyncIterator[SynthesisEvent]:
        """Audio and timings until the speech is complete. Raises ProviderError."""
        loop = asyncio.get_running_loop()
        self._text_deadline = loop.time() + _TEXT_TIMEOUT_S
        try:
            while not self._cancelled:
                context = self._contexts[0] if self._contexts else None
                if context is None and self._finished:
                    return
                if context is None or not context.inbox:
                    await self._wait(context)
                    continue
                event = self._read(context, context.inbox.popleft())
                self._text_deadline = loop.time() + _TEXT_TIMEOUT_S
                if event is not None:
                    yield event
        finally:
            # Whoever leaves early, or after a failure, leaves nothing that speaks on.
            if self._contexts:
                await self.cancel()

    async def _wait(self, context: Context | None) -> None:
        """Until something happens, or the deadline of what is due next."""
        self._wake.clear()
        loop = asyncio.get_running_loop()
        # A timer that wakes, too, costs a third of `asyncio.timeout`: this waits for every chunk of audio.
        timer = loop.call_at(self._due(context)[0], self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        if self._cancelled or context is not (self._contexts[0] if self._contexts else None):
            return
        # Asked again: what woke may have put the deadline off.
        deadline, what = self._due(context)
        if loop.time() < deadline or (context is not None and context.inbox) or (context is None and self._finished):
            return
        if what == "pause":
            await self._end_input()
        elif what == "audio":
            raise self._speaker.error(f"no audio within {self._speaker.audio_timeout_s:g} s")
        else:
            raise self._speaker.error(f"no text for {_TEXT_TIMEOUT_S:g} s", retryable=False)

    def _due(self, context: Context | None) -> tuple[float, Literal["text", "audio", "pause"]]:
        """When what must come next, at the latest (loop time)."""
        if context is None:
            return self._text_deadline, "text"
        if context.input_ended or not context.audio_since_text:
            return context.last_event_s + self._speaker.audio_timeout_s, "audio"
        return context.last_event_s + _PAUSE_S, "pause"

    async def _end_input(self) -> None:
        context = self._contexts[-1] if self._contexts else None
        if context is not None and not context.input_ended:
            context.input_ended = True
            context.last_event_s = asyncio.get_running_loop().time()
            await self._speaker.speak(context, "", more=False)

    def _read(self, context: Context, message: Mapping[str, Any] | ProviderError) -> SynthesisEvent | None:
        if isinstance(message, ProviderError):
            raise message
        kind = message.get("type")
        if kind == "chunk":
            return self._chunk(self._decoded(message.get("data")))
        if kind == "timestamps":
            return self._timings(message)
        if kind == "error":
            raise self._error(message)
        if kind == "done":
            # Ended by us, or expired on the server: the next text needs a new context either way.
            context.input_ended = True
            self._speaker.forget(context)
            self._contexts.popleft()
            self._base_s = self._spoken_bytes / (self._audio.sample_rate_hz * self._audio.bytes_per_sample)
        return None

    def _decoded(self, data: object) -> bytes:
        try:
            return base64.b64decode(data) if isinstance(data, str) else b""
        except ValueError as error:
            raise self._speaker.error("a chunk of audio is not base64") from error

    def _chunk(self, audio: bytes) -> AudioChunk | None:
        audio = self._odd + audio
        whole = len(audio) - len(audio) % self._audio.bytes_per_sample
        audio, self._odd = audio[:whole], audio[whole:]
        self._spoken_bytes += len(audio)
        return AudioChunk(audio) if audio else None

    def _timings(self, message: Mapping[str, Any]) -> WordTimings | None:
        timed = message.get("word_timestamps")
        if not isinstance(timed, Mapping) or not timed.get("words"):
            return None
        base = self._base_s
        starts, ends = timed.get("start") or (), timed.get("end") or ()
        return WordTimings(
            tuple(
                Word(word, base + start, base + end)
                for word, start, end in zip(timed["words"], starts, ends, strict=False)
            )
        )

    def _error(self, message: Mapping[str, Any]) -> ProviderError:
        status, code = message.get("status_code"), message.get("error_code")
        # Before version 2026-03-01 of the API the text was in `error`.
        words = (code or message.get("title"), message.get("message") or message.get("error"))
        text = ": ".join(str(part) for part in words if part)
        if code == "model_sunsetted":
            return self._speaker.error(f"{text}; set providers.cartesia.model", retryable=False, status=status)
        return self._speaker.error(text or "error without a text", retryable=is_retryable(status), status=status)
