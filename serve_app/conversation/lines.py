"""Fixed lines as speech made beforehand: in memory, in front of the object store."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

import structlog

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.phrases import Language, LineName
from serve_app.conversation.speakable import Speakable, speakable
from serve_app.conversation.voice import cancel_utterance
from serve_app.errors import ProviderError, UnavailableError
from serve_app.providers.base import AudioChunk, AudioFormat, SynthesisConnection, SynthesisRequest, Synthesizer, Word

MEMORY_BYTES = 64 << 20
"""About fifty agents: ten lines of three seconds at 16 kHz take a megabyte."""
STORE_TIMEOUT_S = 2.0
SYNTHESIS_TIMEOUT_S = 30.0
_NEEDED_FIRST: tuple[LineName, ...] = ("apology", "failure_farewell")
_NEEDED_LATER: tuple[LineName, ...] = ("still_there", "opted_out", "farewell", "duration_warning")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PreparedLine:
    """Speech made beforehand, in the leg's format."""

    audio: bytes
    words: tuple[Word, ...]

    def to_bytes(self) -> bytes:
        """A line of JSON, then the audio."""
        words = [[word.text, word.start_s, word.end_s] for word in self.words]
        return json.dumps({"version": 1, "words": words}).encode() + b"\n" + self.audio

    @classmethod
    def from_bytes(cls, data: bytes) -> PreparedLine:
        """Raises ValueError for what `to_bytes` did not make."""
        head, mark, audio = data.partition(b"\n")
        document = json.loads(head)
        if not (mark and audio and isinstance(document, dict) and document.get("version") == 1):
            raise ValueError("not a prepared line")
        return cls(audio, tuple(Word(text, start_s, end_s) for text, start_s, end_s in document["words"]))


class LineKey(NamedTuple):
    """All that shapes the audio of a line."""

    sound: str
    """`Synthesizer.identify`"""
    spoken: str

    def object_key(self, tenant_id: str) -> str:
        digest = hashlib.sha256("\0".join(self).encode()).hexdigest()
        return f"lines/{tenant_id}/{digest}"


@lru_cache(maxsize=1024)
def speakable_line(text: str, language: Language) -> Speakable:
    """Fixed texts are few and come with every call."""
    return speakable(text, language)


def request_in(language: Language, agent: AgentDefinition, audio: AudioFormat, call_id: str) -> SynthesisRequest:
    """How a call of the agent speaks in one of its languages."""
    return SynthesisRequest(call_id, audio, agent.voice_in(language), language)


def line_texts(agent: AgentDefinition, language: Language) -> list[str]:
    """Every fixed line of the agent in a language, without repetition: those that are needed first come first."""
    opening = agent.prepared_openings() if language == agent.language else ()
    first, later = ([agent.line(name, language) for name in names] for names in (_NEEDED_FIRST, _NEEDED_LATER))
    return list(dict.fromkeys([*opening, *first, *agent.fillers(language), *later]))


def line_keys(agent: AgentDefinition, synthesizer: Synthesizer, request: SynthesisRequest) -> dict[LineKey, str]:
    """The keys of the lines in the request's language, and their texts."""
    language: Language = request.language  # type: ignore[assignment]  # providers know it as a string
    sound = synthesizer.identify(request)
    return {LineKey(sound, speakable_line(text, language).spoken): text for text in line_texts(agent, language)}


async def synthesize(connection: SynthesisConnection, spoken: str, *, provider: str) -> PreparedLine:
    """Raises ProviderError."""
    utterance = connection.utterance()
    audio, words = bytearray(), list[Word]()
    try:
        async with asyncio.timeout(SYNTHESIS_TIMEOUT_S):
            await utterance.push(spoken)
            await utterance.finish()
            async for event in utterance.events():
                if isinstance(event, AudioChunk):
                    audio += event.audio
                else:
                    words += event.words
    except TimeoutError as error:
        raise ProviderError("tts", provider, "the speech did not end in time", retryable=True) from error
    finally:
        await cancel_utterance(utterance)
    if not audio:
        raise ProviderError("tts", provider, "no audio for the text", retryable=True)
    return PreparedLine(bytes(audio), tuple(words))


class LineStore(Protocol):
    """The part of `ObjectStore` that lines need."""

    async def put(self, key: str, data: bytes) -> None: ...

    async def get(self, key: str) -> bytes: ...


class LineCache:
    """Prepared lines of a process, shared by its calls. Without a store they last as long as the process."""

    def __init__(self, store: LineStore | None = None, *, limit_bytes: int = MEMORY_BYTES) -> None:
        self._store = store
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._lines: OrderedDict[LineKey, PreparedLine] = OrderedDict()
        self._loading: dict[LineKey, asyncio.Task[PreparedLine | None]] = {}
        self._claimed: set[LineKey] = set()

    def get(self, key: LineKey) -> PreparedLine | None:
        """What is in memory."""
        line = self._lines.get(key)
        if line is not None:
            self._lines.move_to_end(key)
        return line

    def begin_loading(self, tenant_id: str, keys: Iterable[LineKey]) -> None:
        """Fetch from the store what is not in memory. Returns at once."""
        for key in keys:
            if self._store is not None and key not in self._lines and key not in self._loading:
                task = asyncio.create_task(self._load(self._store, tenant_id, key), name="load-line")
                self._loading[key] = task
                task.add_done_callback(partial(self._loading.pop, key))

    def is_loading(self, key: LineKey) -> bool:
        return key in self._loading

    async def loaded(self, key: LineKey) -> PreparedLine | None:
        """What is in memory once the loading that goes on is over; the store's timeout bounds the wait."""
        if (task := self._loading.get(key)) is not None:
            # One call that leaves must not take the line from the others.
            return await asyncio.shield(task)
        return self.get(key)

    async def _load(self, store: LineStore, tenant_id: str, key: LineKey) -> PreparedLine | None:
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                line = PreparedLine.from_bytes(await store.get(key.object_key(tenant_id)))
        except FileNotFoundError:
            return None
        except (UnavailableError, TimeoutError, ValueError, TypeError, KeyError) as error:
            log.warning("a prepared line was not loaded", error=repr(error))
            return None
        self._keep(key, line)
        return line

    async def put(self, tenant_id: str, key: LineKey, line: PreparedLine) -> None:
        """Keep it, and store it. A store that is away costs a log line: the next process makes the line again."""
        self._keep(key, line)
        if self._store is not None:
            try:
                async with asyncio.timeout(STORE_TIMEOUT_S):
                    await self._store.put(key.object_key(tenant_id), line.to_bytes())
            except (UnavailableError, TimeoutError) as error:
                log.warning("a prepared line was not stored", error=repr(error))

    def _keep(self, key: LineKey, line: PreparedLine) -> None:
        if (old := self._lines.pop(key, None)) is not None:
            self._held_bytes -= len(old.audio)
        self._lines[key] = line
        self._held_bytes += len(line.audio)
        while self._held_bytes > self._limit_bytes:
            _, dropped = self._lines.popitem(last=False)
            self._held_bytes -= len(dropped.audio)

    # --- making: one call makes a line, the others do without it meanwhile ---

    def claim(self, key: LineKey) -> bool:
        """False: another call is making this line."""
        if key in self._claimed:
            return False
        self._claimed.add(key)
        return True

    def unclaim(self, key: LineKey) -> None:
        self._claimed.discard(key)


def languages_of(agent: AgentDefinition) -> Iterator[Language]:
    yield agent.language
    yield from agent.languages


async def make_lines(
    lines: LineCache,
    synthesizer: Synthesizer,
    tenant_id: str,
    agent: AgentDefinition,
    audio: AudioFormat,
    *,
    opening_only: bool = False,
) -> int:
    """Synthesize and store what the store lacks, in every language of the agent, the opening first.

    Returns how many were made. Raises ProviderError.
    """
    made = 0
    for language in languages_of(agent):
        request = request_in(language, agent, audio, "prepared-lines")
        keys = line_keys(agent, synthesizer, request)
        wanted = list(keys)[:1] if opening_only else list(keys)
        lines.begin_loading(tenant_id, wanted)
        missing = [key for key in wanted if await lines.loaded(key) is None]
        if missing:
            connection = await synthesizer.open(request)
            try:
                for key in missing:
                    await lines.put(tenant_id, key, await synthesize(connection, key.spoken, provider=synthesizer.name))
                    made += 1
            finally:
                await connection.close()
        if opening_only:
            break
    return made
