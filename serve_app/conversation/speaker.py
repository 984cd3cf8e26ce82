"""The agent's voice: model -> sentences -> synthesizer -> playout, and fixed lines, some of them made beforehand.

One task per generation. Whatever goes wrong in it becomes one `ReplyFailed`; cancelling it stops model and synthesizer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import cast

import structlog

from serve_app.clock import Clock
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.playout import Playout
from serve_app.conversation.sentences import SentenceSplitter
from serve_app.conversation.transcript import Transcript
from serve_app.conversation.turn_types import LineKind, ReplyFailed, ReplyFinished, ReplySentence, SpeakLine, TurnEvent
from serve_app.errors import ProviderError
from serve_app.providers.base import (
    AudioChunk,
    ChatEvent,
    ChatFinished,
    ChatRequest,
    Providers,
    SynthesisConnection,
    SynthesisRequest,
    TextDelta,
    Utterance,
    Word,
)

OPEN_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
LINE_TIMEOUT_S = 15.0
LINE_TRIES = 3
PREPARED_KINDS: tuple[LineKind, ...] = ("apology", "failure_farewell")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PreparedLine:
    """Speech made beforehand, in the leg's format."""

    audio: bytes
    words: tuple[Word, ...]


class LineCache:
    """Prepared lines by everything that shapes them. A process may share one over its calls."""

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._lines: OrderedDict[tuple[object, ...], PreparedLine] = OrderedDict()

    def get(self, key: tuple[object, ...]) -> PreparedLine | None:
        return self._lines.get(key)

    def put(self, key: tuple[object, ...], line: PreparedLine) -> None:
        self._lines[key] = line
        while len(self._lines) > self._limit:
            self._lines.popitem(last=False)


class Speaker:
    """One call's voice."""

    def __init__(
        self,
        *,
        agent: AgentDefinition,
        providers: Providers,
        request: SynthesisRequest,
        playout: Playout,
        transcript: Transcript,
        clock: Clock,
        lines: LineCache,
        emit: Callable[[TurnEvent], None],
        kick: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._llm = providers.llm
        self._tts = providers.tts
        self._request = request
        self._playout = playout
        self._transcript = transcript
        self._clock = clock
        self._lines = lines
        self._emit = emit
        self._kick = kick
        self._log = log.bind(call_id=request.call_id)
        self._connection: SynthesisConnection | None = None
        self._connecting = asyncio.Lock()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._first_line_done = asyncio.Event()

    # --- what the turn machine orders ---

    def start_reply(self, group: asyncio.TaskGroup, generation: int, request: ChatRequest) -> None:
        self._playout.begin(generation)
        self._start(group, generation, self._reply(generation, request))

    def start_line(self, group: asyncio.TaskGroup, line: SpeakLine) -> None:
        self._playout.begin(line.generation)
        prepared = self._lines.get(self._line_key(line.text))
        if prepared is not None:
            self._play_prepared(line, prepared)
        elif line.prepared_only:
            self._fail(line.generation, ProviderError("tts", self._tts.name, "no line was prepared", retryable=False))
        else:
            self._start(group, line.generation, self._line(line))

    def cancel(self, generation: int) -> None:
        """Stop the generation's task. What it has in the playout stays there, and is its end."""
        if (task := self._tasks.pop(generation, None)) is not None:
            task.cancel()
        self._playout.finish(generation, failed=True)
        self._kick()

    def _start(self, group: asyncio.TaskGroup, generation: int, work: Coroutine[None, None, None]) -> None:
        task = group.create_task(work, name=f"reply-{generation}")
        self._tasks[generation] = task
        task.add_done_callback(lambda _: self._tasks.pop(generation, None))

    # --- replies ---

    async def _reply(self, generation: int, request: ChatRequest) -> None:
        try:
            utterance = (await self._connected()).utterance()
            try:
                await self._converse(generation, request, utterance)
            finally:
                await _cancel(utterance)
        except ProviderError as error:
            self._fail(generation, error)
        else:
            self._finish(generation)

    async def _converse(self, generation: int, request: ChatRequest, utterance: Utterance) -> None:
        model_error: ProviderError | None = None
        with _one_provider_error():
            async with asyncio.TaskGroup() as group:
                reader: asyncio.Task[None] | None = None
                try:
                    async with aclosing(self._pieces(generation, request)) as pieces:
                        async for piece in pieces:
                            await self._push(generation, utterance, piece)
                            # The synthesizer's deadlines begin with the first text, not with the model's thinking.
                            reader = reader or group.create_task(self._hear(generation, utterance))
                except ProviderError as error:
                    if error.stage != "llm":
                        raise
                    # What the model said so far is still spoken.
                    model_error = error
                if reader is not None:
                    await utterance.finish()
        if model_error is not None:
            raise model_error

    async def _pieces(self, generation: int, request: ChatRequest) -> AsyncGenerator[str, None]:
        """The model's text as pieces to speak. Raises ProviderError(stage='llm'), also for an answer without text."""
        splitter = SentenceSplitter()
        probe = self._transcript.probe(generation)
        spoken = finished = False
        # The interface promises that leaving early closes the HTTP stream.
        stream = cast("AsyncGenerator[ChatEvent, None]", self._llm.stream(request))
        async with aclosing(stream):
            async for event in stream:
                if isinstance(event, TextDelta):
                    if probe.first_token_at is None:
                        probe.first_token_at = self._clock.monotonic()
                    for piece in splitter.feed(event.text):
                        spoken = True
                        yield piece
                elif isinstance(event, ChatFinished):
                    finished = True
        if not finished:
            raise ProviderError("llm", self._llm.name, "the answer ended without its end mark", retryable=True)
        for piece in splitter.flush():
            spoken = True
            yield piece
        if not spoken:
            raise ProviderError("llm", self._llm.name, "the answer has no text", retryable=True)

    async def _push(self, generation: int, utterance: Utterance, text: str) -> None:
        probe = self._transcript.probe(generation)
        if probe.first_sentence_at is None:
            probe.first_sentence_at = self._clock.monotonic()
        self._playout.push_text(generation, text)
        self._transcript.agent_text(generation, text)
        self._emit(ReplySentence(generation, text))
        await utterance.push(text)

    async def _hear(self, generation: int, utterance: Utterance) -> None:
        """The synthesizer's audio into the playout."""
        probe = self._transcript.probe(generation)
        async for event in utterance.events():
            if isinstance(event, AudioChunk):
                if probe.first_audio_at is None:
                    probe.first_audio_at = self._clock.monotonic()
                if self._playout.push_audio(generation, event.audio):
                    self._kick()
            else:
                self._playout.push_words(generation, event.words)
        if probe.first_audio_at is None:
            raise ProviderError("tts", self._tts.name, "no audio for the text", retryable=True)

    # --- fixed lines ---

    async def _line(self, line: SpeakLine) -> None:
        try:
            utterance = (await self._connected()).utterance()
            try:
                await self._push(line.generation, utterance, line.text)
                await utterance.finish()
                await self._hear(line.generation, utterance)
            finally:
                await _cancel(utterance)
        except ProviderError as error:
            self._fail(line.generation, error)
        else:
            self._finish(line.generation)
        finally:
            self._first_line_done.set()

    def _play_prepared(self, line: SpeakLine, prepared: PreparedLine) -> None:
        self._first_line_done.set()
        generation, now = line.generation, self._clock.monotonic()
        probe = self._transcript.probe(generation)
        probe.first_sentence_at = probe.first_audio_at = now
        self._playout.push_text(generation, line.text)
        self._transcript.agent_text(generation, line.text)
        self._playout.push_words(generation, prepared.words)
        self._playout.push_audio(generation, prepared.audio)
        self._finish(generation)

    async def prepare(self) -> None:
        """Make the lines that are needed when the synthesizer is down. After the opening, which must not wait."""
        await self._first_line_done.wait()
        texts = {"apology": self._agent.policies.apology, "failure_farewell": self._agent.policies.failure_farewell}
        for kind in PREPARED_KINDS:
            key = self._line_key(texts[kind])
            for attempt in range(LINE_TRIES):
                if self._lines.get(key) is not None:
                    break
                try:
                    async with asyncio.timeout(LINE_TIMEOUT_S):
                        self._lines.put(key, await self._synthesize(texts[kind]))
                except (ProviderError, TimeoutError) as error:
                    self._log.info("a line is not prepared yet", kind=kind, attempt=attempt + 1, error=str(error))
                    await self._clock.sleep(2.0**attempt)

    async def _synthesize(self, text: str) -> PreparedLine:
        utterance = (await self._connected()).utterance()
        audio, words = bytearray(), list[Word]()
        try:
            await utterance.push(text)
            await utterance.finish()
            async for event in utterance.events():
                if isinstance(event, AudioChunk):
                    audio += event.audio
                else:
                    words += event.words
        finally:
            await _cancel(utterance)
        if not audio:
            raise ProviderError("tts", self._tts.name, "no audio for the text", retryable=True)
        return PreparedLine(bytes(audio), tuple(words))

    def _line_key(self, text: str) -> tuple[object, ...]:
        return (self._tts.name, self._request.voice, self._request.language, self._request.audio, text)

    # --- the end of a generation ---

    def _finish(self, generation: int) -> None:
        self._playout.finish(generation)
        self._emit(ReplyFinished(generation))
        self._kick()

    def _fail(self, generation: int, error: ProviderError) -> None:
        self._log.warning("a reply failed", generation=generation, stage=error.stage, error=str(error))
        self._playout.finish(generation, failed=True)
        self._emit(ReplyFailed(generation, error.stage, error.retryable, str(error)))
        self._kick()

    # --- the connection ---

    async def _connected(self) -> SynthesisConnection:
        """The call's connection; opened on first use, and again if that failed."""
        async with self._connecting:
            if self._connection is None:
                try:
                    async with asyncio.timeout(OPEN_TIMEOUT_S):
                        self._connection = await self._tts.open(self._request)
                except TimeoutError as error:
                    raise ProviderError("tts", self._tts.name, "no connection in time", retryable=True) from error
            return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            with suppress(ProviderError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._connection.close()


async def _cancel(utterance: Utterance) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await utterance.cancel()


@contextmanager
def _one_provider_error() -> Iterator[None]:
    """Around a task group: its ProviderError comes out as itself. Anything else in the group wins, as the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        failures, others = group.split(ProviderError)
        if failures is None or others is not None:
            raise
        error: BaseException = failures
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
