"""Hearing: which silence of a transcriber is deafness, which failures end a call, and which are forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from serve_app.conversation.hearing import FORGET_FAILURE_S, Hearing
from serve_app.errors import ProviderError
from serve_app.providers.base import (
    AudioFormat,
    PartialTranscript,
    SpeechStarted,
    SttEvent,
    TranscriptionRequest,
    TurnEnded,
)
from serve_app.providers.flux_audio import StreamClock
from serve_app.providers.flux_events import TurnReader
from serve_app.providers.ranking import Ranking
from serve_app.scenarios.virtual_time import run_virtual
from serve_app.scenarios.vocabulary import SoundingWord, Vocabulary
from tests.unit.session_fixtures import Scene, make_agent

AUDIO = AudioFormat("linear16", 16000)
QUIET = bytes(AUDIO.bytes_for_ms(20))
LOUD = b"\x00\x10\x00\xf0" * (len(QUIET) // 4)


class Stream:
    """Tells what the test wants told. `reports`: signs of life."""

    def __init__(self) -> None:
        self.reports = 0
        self.told: asyncio.Queue[SttEvent | ProviderError] = asyncio.Queue()
        self.closed = False

    def send(self, audio: bytes) -> None: ...

    async def events(self) -> AsyncIterator[SttEvent]:
        while True:
            event = await self.told.get()
            if isinstance(event, ProviderError):
                raise event
            yield event

    def configure(self, language: str) -> None: ...

    def cut(self) -> None:
        self.told.put_nowait(ProviderError("stt", "fake", "connection lost", retryable=True))

    async def close(self) -> None:
        self.closed = True


@dataclass
class Ears:
    """`Hearing` with a transcriber of streams that do nothing by themselves. `lively`: they report on all audio."""

    lively: bool = False
    name: str = "fake"
    streams: list[Stream] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    failed: list[ProviderError] = field(default_factory=list)
    events: list[SttEvent] = field(default_factory=list)

    async def open(self, request: TranscriptionRequest) -> Stream:
        self.streams.append(Stream())
        return self.streams[-1]

    async def aclose(self) -> None: ...

    def listen(self, callee: Callable[[Ears], Awaitable[None]]) -> None:
        """Run on virtual time until `callee` is done."""

        async def main() -> None:
            self.hearing = Hearing(
                Ranking(self),
                TranscriptionRequest("c1", AUDIO),
                on_event=self.events.append,
                on_turn_lost=lambda error, quiet_s: self.lost.append(quiet_s),
                on_failed=self.failed.append,
            )
            running = asyncio.create_task(self.hearing.run())
            await asyncio.sleep(0.1)
            await callee(self)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert all(stream.closed for stream in self.streams)

        run_virtual(main())

    async def hear(self, frame: bytes, seconds: float) -> None:
        for i in range(round(seconds / 0.02)):
            if self.lively and i % 12 == 0:
                self.streams[-1].reports += 1
            self.hearing.receive(frame, asyncio.get_running_loop().time())
            await asyncio.sleep(0.02)

    async def noise(self, seconds: float = 1.5, then_quiet_s: float = 4.0) -> None:
        await self.hear(LOUD, seconds)
        await self.hear(QUIET, then_quiet_s)


def test_a_transcriber_that_reports_and_tells_of_no_turn_is_not_deaf() -> None:
    async def callee(ears: Ears) -> None:
        for _ in range(8):
            await ears.noise()

    ears = Ears(lively=True)
    ears.listen(callee)
    assert (len(ears.streams), ears.lost, ears.failed) == (1, [], [])


def test_one_that_tells_nothing_at_all_is_replaced_once_and_then_given_up() -> None:
    async def callee(ears: Ears) -> None:
        await ears.noise()
        assert (len(ears.streams), len(ears.lost), ears.failed) == (2, 1, [])
        await ears.noise()

    ears = Ears()
    ears.listen(callee)
    assert (len(ears.streams), len(ears.lost), len(ears.failed)) == (2, 1, 1)
    assert "told nothing" in str(ears.failed[0])


@pytest.mark.parametrize("sign", ["report", "event"])
def test_noise_that_is_ignored_does_not_end_a_call_where_the_new_stream_has_told_anything(sign: str) -> None:
    async def callee(ears: Ears) -> None:
        for n in range(5):
            if sign == "report":
                ears.streams[-1].reports += 1
            else:
                ears.streams[-1].told.put_nowait(SpeechStarted(n, 0.0, ""))
            await ears.hear(QUIET, 0.5)
            await ears.noise()

    ears = Ears()
    ears.listen(callee)
    assert (len(ears.streams), len(ears.lost), ears.failed) == (6, 5, [])


@pytest.mark.parametrize("alive", [False, True])
def test_a_connection_that_is_lost_after_a_suspicion_counts_by_what_the_new_stream_told(alive: bool) -> None:
    async def callee(ears: Ears) -> None:
        await ears.noise()
        ears.streams[-1].reports += alive
        await ears.hear(QUIET, 1)
        ears.streams[-1].cut()
        await ears.hear(QUIET, 1)

    ears = Ears()
    ears.listen(callee)
    assert (len(ears.streams), len(ears.failed)) == ((3, 0) if alive else (2, 1))


def test_a_suspicion_after_a_lost_connection_does_not_end_the_call_where_the_stream_was_alive() -> None:
    async def callee(ears: Ears) -> None:
        ears.streams[-1].cut()
        await ears.hear(QUIET, 1)
        ears.streams[-1].reports += 1
        await ears.hear(QUIET, 0.5)
        await ears.noise()
        assert (len(ears.streams), ears.failed) == (3, [])
        # And the one after it tells nothing: now it is enough.
        await ears.noise()

    ears = Ears()
    ears.listen(callee)
    assert (len(ears.streams), len(ears.failed)) == (3, 1)


@pytest.mark.parametrize(("apart_s", "fatal"), [(FORGET_FAILURE_S - 5, True), (FORGET_FAILURE_S + 5, False)])
def test_a_failure_is_forgotten_after_a_while(apart_s: float, fatal: bool) -> None:
    async def callee(ears: Ears) -> None:
        ears.streams[-1].cut()
        await ears.hear(QUIET, apart_s)
        ears.streams[-1].cut()
        await ears.hear(QUIET, 1)

    ears = Ears()
    ears.listen(callee)
    assert (len(ears.failed), len(ears.streams)) == ((1, 2) if fatal else (0, 3))


def test_a_whole_turn_forgives_a_failure_at_once() -> None:
    async def callee(ears: Ears) -> None:
        ears.streams[-1].cut()
        await ears.hear(QUIET, 1)
        ears.streams[-1].told.put_nowait(TurnEnded(0, "hello", 0.5))
        await ears.hear(QUIET, 1)
        ears.streams[-1].cut()
        await ears.hear(QUIET, 1)

    ears = Ears()
    ears.listen(callee)
    assert (len(ears.failed), len(ears.streams)) == (0, 3)


# --- what Flux tells --------------------------------------------------------------------------------------------------


def test_every_message_of_flux_on_the_audio_is_a_report_with_an_event_or_without() -> None:
    reader = TurnReader(StreamClock(AUDIO))
    update = {"type": "TurnInfo", "event": "Update", "turn_index": 0, "audio_window_end": 0.25}
    assert reader.read({**update, "transcript": ""}) is None
    assert reader.reports == 1
    assert isinstance(reader.read({**update, "transcript": "hello"}), PartialTranscript)
    assert reader.read({"type": "TurnInfo", "event": "SomethingNew"}) is None
    assert reader.reports == 3


# --- in a call --------------------------------------------------------------------------------------------------------


class _WordsOnly(Vocabulary):
    """An ear for which noise is nothing."""

    def __init__(self, words: Vocabulary) -> None:
        self._ear = words

    def hear(self, pcm: bytes) -> Iterator[tuple[SoundingWord | None, int]]:
        return ((word, samples) for word, samples in self._ear.hear(pcm) if word is not None and word.text)


def test_noise_that_the_transcriber_rightly_ignores_is_no_matter_for_the_call() -> None:
    scene = Scene(make_agent(limits={"silence_timeout_s": 30}))
    scene.stt.words = _WordsOnly(scene.words)

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        for _ in range(3):
            scene.net.noise(1.5)
            await asyncio.sleep(6)
        await scene.say("Where are you")
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    result = scene.play(callee)
    assert result.outcome == "callee_hung_up"
    assert scene.stt.opened == 1
    assert [turn.text for turn in scene.memory.turns] == [
        scene.agent.opening,
        "Where are you",
        "This is answer number 1.",
    ]
    assert scene.nothing_is_left()
