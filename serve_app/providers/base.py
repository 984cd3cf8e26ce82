"""The three provider interfaces: what a call needs from speech-to-text, a language model and text-to-speech.

Every implementation raises only `ProviderError` (and `asyncio.CancelledError`), never hangs (each wait inside has a
deadline from the settings), and never retries on its own: the turn machine decides what a failure means to the caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.providers.ranking import Ranking

Encoding = Literal["linear16", "mulaw"]


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Mono audio. linear16 is signed 16-bit little-endian; mulaw is 8-bit G.711."""

    encoding: Encoding
    sample_rate_hz: int

    @property
    def bytes_per_sample(self) -> int:
        return 2 if self.encoding == "linear16" else 1

    def bytes_for_ms(self, ms: float) -> int:
        return round(self.sample_rate_hz * ms / 1000) * self.bytes_per_sample


# --- speech to text -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised or spoken word; times are seconds of audio since the stream (or utterance) began."""

    text: str
    start_s: float | None = None
    end_s: float | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The callee began to speak: the barge-in signal. `audio_s`: the stream position that the provider had reached.

    `text`: the first words, where the provider tells them.
    """

    turn_index: int
    audio_s: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class PartialTranscript:
    """The text of the turn so far (cumulative)."""

    turn_index: int
    text: str
    audio_s: float


@dataclass(frozen=True, slots=True)
class EagerTurnEnded:
    """The provider thinks that the turn may be over; `TurnEnded` with equal text or `TurnResumed` follows."""

    turn_index: int
    text: str
    audio_s: float


@dataclass(frozen=True, slots=True)
class TurnResumed:
    turn_index: int
    audio_s: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The callee's turn is over. `speech_end_s`: end of the last word in the stream, where the provider tells it."""

    turn_index: int
    text: str
    audio_s: float
    words: tuple[Word, ...] = ()
    speech_end_s: float | None = None
    trigger: str | None = None

    @property
    def confidence(self) -> float | None:
        """Mean word confidence, or None where the provider gave none."""
        known = [w.confidence for w in self.words if w.confidence is not None]
        return sum(known) / len(known) if known else None


SttEvent = SpeechStarted | PartialTranscript | EagerTurnEnded | TurnResumed | TurnEnded


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    call_id: str
    audio: AudioFormat
    language: str = "en"
    keyterms: tuple[str, ...] = ()
    eager: bool = False
    """Tell also when a turn may be over (`EagerTurnEnded`, `TurnResumed`), where the provider can."""
    languages: tuple[str, ...] = ()
    """All that may be spoken, `language` among them; empty: `language` alone."""


class TranscriptionStream(Protocol):
    """One callee's audio in, turn events out."""

    @property
    def reports(self) -> int:
        """How often the provider told anything of the audio, events or not: a sign of life. Cheap, never smaller."""
        ...

    def send(self, audio: bytes) -> None:
        """Queue audio of any length for sending; on the media path. Raises ProviderError when the stream is dead."""
        ...

    def events(self) -> AsyncIterator[SttEvent]:
        """Turn events until `close`. Raises ProviderError when the provider ends the stream, or goes silent.

        Positions are seconds of the audio that was given to `send`: silence that a client adds does not count.
        """
        ...

    def configure(self, language: str) -> None:
        """Expect this language from now on, one of the request's. Raises ProviderError when the stream cannot."""
        ...

    async def close(self) -> None:
        """Release the socket; idempotent; bounded in time."""
        ...


class Transcriber(Protocol):
    name: str

    async def open(self, request: TranscriptionRequest) -> TranscriptionStream: ...

    async def aclose(self) -> None: ...


# --- language model -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete tool call (deltas are accumulated by the client)."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Message:
    """`tool_calls`: of an assistant that called tools; for each of them a `tool` message with its id must follow."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_call_id: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    call_id: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, object], ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ChatFinished:
    """The terminal marker that a stream must carry; a stream that ends without one raises ProviderError."""

    reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


ChatEvent = TextDelta | ToolCall | ChatFinished


class LanguageModel(Protocol):
    name: str

    def stream(self, request: ChatRequest) -> AsyncIterator[ChatEvent]:
        """Events ending in exactly one ChatFinished. Leaving the iterator early (aclose) closes the HTTP stream."""
        ...

    async def warm(self) -> None:
        """Have a connection ready for the next `stream`: the first reply must not wait for one. Never raises."""
        ...

    async def aclose(self) -> None: ...


# --- text to speech -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Audio in the requested format; any length, always whole samples."""

    audio: bytes


@dataclass(frozen=True, slots=True)
class WordTimings:
    """Spoken words with seconds from the utterance's first sample."""

    words: tuple[Word, ...]


SynthesisEvent = AudioChunk | WordTimings


@dataclass(frozen=True, slots=True)
class SynthesisRequest:
    call_id: str
    audio: AudioFormat
    voice: str | None = None
    language: str = "en"


class Utterance(Protocol):
    """One agent turn's speech: text pushed piece by piece, audio out in order."""

    async def push(self, text: str) -> None:
        """Speak `text` (a sentence or clause, with its own trailing space) after what was pushed before."""
        ...

    async def finish(self) -> None:
        """No more text follows."""
        ...

    def events(self) -> AsyncIterator[SynthesisEvent]:
        """Audio and timings until the speech is complete. Raises ProviderError on failure, timeout or a lost socket."""
        ...

    async def cancel(self) -> None:
        """Stop; nothing of this utterance is delivered afterwards. Idempotent, never raises."""
        ...


class SynthesisConnection(Protocol):
    """One call's connection, kept open over its turns; reconnects by itself between utterances."""

    def utterance(self) -> Utterance: ...

    async def close(self) -> None: ...


class Synthesizer(Protocol):
    name: str

    def identify(self, request: SynthesisRequest) -> str:
        """All that shapes the sound of a text: two requests with the same answer sound the same, to the byte's format.

        In an object store it outlives the process: it tells a stand-in from the real provider.
        """
        ...

    async def open(self, request: SynthesisRequest) -> SynthesisConnection: ...

    async def aclose(self) -> None: ...


class Providers:
    """The clients of a process, shared by its calls: for each stage a list, mostly of one."""

    def __init__(
        self,
        stt: Transcriber | Ranking[Transcriber],
        llm: LanguageModel | Ranking[LanguageModel],
        tts: Synthesizer | Ranking[Synthesizer],
    ) -> None:
        self.stt: Ranking[Transcriber] = stt if isinstance(stt, Ranking) else Ranking(stt)
        self.llm: Ranking[LanguageModel] = llm if isinstance(llm, Ranking) else Ranking(llm)
        self.tts: Ranking[Synthesizer] = tts if isinstance(tts, Ranking) else Ranking(tts)
        self._closed = False

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            for ranking in (self.stt, self.llm, self.tts):
                for client in ranking.clients:
                    await client.aclose()
