"""The unmodified Cartesia SDK against its stand-in: contexts, pauses, cancels, lost sockets, odd bytes."""

from __future__ import annotations

import asyncio
import base64
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.audio import g711
from serve_app.errors import ProviderError
from serve_app.providers import cartesia_utterance
from serve_app.providers.base import (
    AudioChunk,
    AudioFormat,
    SynthesisConnection,
    SynthesisEvent,
    SynthesisRequest,
    Utterance,
    WordTimings,
)
from serve_app.providers.tts_cartesia import CartesiaSynthesizer
from serve_app.simulators.cartesia import CARTESIA, CartesiaState
from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.latency import Constant
from serve_app.simulators.speech import speak
from tests.unit.providers_fixtures import LINEAR16, MULAW8, QUICK, Bed, eventually, running

FIRST, SECOND = "Hello there, this is Ava. ", "How are you today? "


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    async with running(SimulatorConfig(latency=QUICK, tts_realtime_factor=40)) as running_bed:
        yield running_bed


@pytest.fixture
async def tts(bed: Bed) -> AsyncIterator[CartesiaSynthesizer]:
    synthesizer = CartesiaSynthesizer(bed.cartesia(audio_timeout_s=0.5, connect_timeout_s=1), "k")
    yield synthesizer
    await synthesizer.aclose()


@pytest.fixture
async def connection(tts: CartesiaSynthesizer) -> AsyncIterator[SynthesisConnection]:
    opened = await tts.open(SynthesisRequest("call-1", LINEAR16))
    yield opened
    await opened.close()


def state(bed: Bed) -> CartesiaState:
    return bed.app[CARTESIA]


async def say(connection: SynthesisConnection, *texts: str) -> list[SynthesisEvent]:
    utterance = connection.utterance()
    for text in texts:
        await utterance.push(text)
    await utterance.finish()
    return await collect(utterance)


async def collect(utterance: Utterance) -> list[SynthesisEvent]:
    async with asyncio.timeout(30):
        return [event async for event in utterance.events()]


def audio_of(events: list[SynthesisEvent]) -> bytes:
    return b"".join(event.audio for event in events if isinstance(event, AudioChunk))


def words_of(events: list[SynthesisEvent]) -> list[tuple[str, float, float]]:
    found = []
    for event in events:
        if isinstance(event, WordTimings):
            for word in event.words:
                assert word.start_s is not None and word.end_s is not None
                found.append((word.text, word.start_s, word.end_s))
    return found


def spoken(*texts: str, rate_hz: int = 16000) -> bytes:
    return b"".join(speak(text, voice="agent-en", rate_hz=rate_hz).pcm.tobytes() for text in texts)


async def failure(connection: SynthesisConnection) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await say(connection, FIRST)
    assert (caught.value.stage, caught.value.provider) == ("tts", "cartesia")
    return caught.value


async def test_sentences_are_spoken_in_order_with_timings(bed: Bed, connection: SynthesisConnection) -> None:
    events = await say(connection, FIRST, SECOND)
    assert audio_of(events) == spoken(FIRST, SECOND)
    words = words_of(events)
    assert [word for word, _, _ in words] == (FIRST + SECOND).split()
    starts = [start for _, start, _ in words]
    assert starts == sorted(starts)
    assert words[-1][2] == pytest.approx(len(audio_of(events)) / 32000, abs=0.02)


async def test_one_socket_serves_all_turns_of_a_call(bed: Bed, connection: SynthesisConnection) -> None:
    for _ in range(3):
        assert audio_of(await say(connection, SECOND)) == spoken(SECOND)
    assert state(bed).sockets_opened == 1
    await eventually(lambda: state(bed).active_contexts == 0)


async def test_mulaw_comes_natively(tts: CartesiaSynthesizer) -> None:
    connection = await tts.open(SynthesisRequest("call-2", MULAW8))
    audio = audio_of(await say(connection, FIRST))
    await connection.close()
    assert audio == g711.mulaw_encode(spoken(FIRST, rate_hz=8000))


async def test_a_pause_of_the_language_model_longer_than_a_context_lives(
    bed: Bed, connection: SynthesisConnection
) -> None:
    utterance = connection.utterance()

    async def write() -> None:
        await utterance.push(FIRST)
        # The context would expire one second after its last audio.
        await asyncio.sleep(1.6)
        await utterance.push(SECOND)
        await utterance.finish()

    writer = asyncio.create_task(write())
    events = await collect(utterance)
    await writer
    assert audio_of(events) == spoken(FIRST, SECOND)
    words = words_of(events)
    assert [word for word, _, _ in words] == (FIRST + SECOND).split()
    assert words[len(FIRST.split())][1] == pytest.approx(len(spoken(FIRST)) / 32000, abs=0.02)
    assert state(bed).sockets_opened == 1


async def test_chunks_of_odd_length_become_whole_samples(bed: Bed, connection: SynthesisConnection) -> None:
    bed.fault("cartesia", "odd_chunks")
    events = await say(connection, FIRST)
    chunks = [event.audio for event in events if isinstance(event, AudioChunk)]
    assert all(len(chunk) % 2 == 0 for chunk in chunks)
    assert audio_of(events) == spoken(FIRST)


async def test_after_a_cancel_nothing_of_the_utterance_is_heard(bed: Bed, connection: SynthesisConnection) -> None:
    slow = bed.app[CARTESIA]
    slow.config = slow.config.model_copy(update={"tts_realtime_factor": 1.0})
    utterance = connection.utterance()
    await utterance.push(FIRST)
    events = utterance.events()
    assert isinstance(await anext(events), AudioChunk)
    await utterance.cancel()
    await utterance.cancel()
    assert [event async for event in events] == []
    # Late chunks of the cancelled context are still on their way; the next turn must not contain them.
    slow.config = slow.config.model_copy(update={"tts_realtime_factor": 40.0})
    assert audio_of(await say(connection, SECOND)) == spoken(SECOND)
    await eventually(lambda: state(bed).active_contexts == 0)
    assert state(bed).cancelled_contexts == 1


async def test_leaving_the_events_stops_the_speech(bed: Bed, connection: SynthesisConnection) -> None:
    bed.app[CARTESIA].config = bed.app[CARTESIA].config.model_copy(update={"tts_realtime_factor": 1.0})
    utterance = connection.utterance()
    await utterance.push(FIRST)
    events = utterance.events()
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: state(bed).active_contexts == 0, timeout_s=2)


async def test_cancel_before_any_text_and_an_empty_utterance(connection: SynthesisConnection) -> None:
    assert await say(connection) == []
    utterance = connection.utterance()
    await utterance.cancel()
    await utterance.push(FIRST)
    assert await collect(utterance) == []


@pytest.mark.parametrize("kind", ["cut", "close"])
async def test_a_socket_that_breaks_fails_the_turn_at_once_and_the_next_one_speaks(
    bed: Bed, connection: SynthesisConnection, kind: str
) -> None:
    bed.fault("cartesia", kind, after=2)
    async with asyncio.timeout(0.45):  # less than audio_timeout_s: not found out by waiting
        error = await failure(connection)
    assert error.retryable
    assert audio_of(await say(connection, SECOND)) == spoken(SECOND)
    assert state(bed).sockets_opened == 2


@pytest.mark.parametrize("kind", ["silent", "hang_mid_stream"])
async def test_audio_that_stops_coming_is_noticed(bed: Bed, connection: SynthesisConnection, kind: str) -> None:
    bed.fault("cartesia", kind, after=2)
    async with asyncio.timeout(3):
        error = await failure(connection)
    assert error.retryable and "no audio within" in str(error)


async def test_audio_that_stops_while_text_may_still_come_is_noticed(bed: Bed, connection: SynthesisConnection) -> None:
    bed.fault("cartesia", "silent", after=2)
    utterance = connection.utterance()
    await utterance.push(FIRST)
    with pytest.raises(ProviderError, match="no audio within"):
        await collect(utterance)


async def test_an_error_of_the_context(bed: Bed, connection: SynthesisConnection) -> None:
    bed.fault("cartesia", "error_event", after=1)
    error = await failure(connection)
    assert (error.status, error.retryable) == (500, True)
    assert audio_of(await say(connection, SECOND)) == spoken(SECOND)


async def test_an_error_that_names_no_context_is_not_lost(bed: Bed, connection: SynthesisConnection) -> None:
    bed.fault("cartesia", "error_without_context", after=1)
    async with asyncio.timeout(0.45):
        assert (await failure(connection)).status == 500


async def test_an_unknown_message_changes_nothing(bed: Bed, connection: SynthesisConnection) -> None:
    bed.fault("cartesia", "unknown_message", after=1)
    assert audio_of(await say(connection, FIRST)) == spoken(FIRST)


async def test_a_model_that_was_stopped_is_named_with_the_remedy(bed: Bed) -> None:
    tts = CartesiaSynthesizer(bed.cartesia(model="sonic-english"), "k")
    connection = await tts.open(SynthesisRequest("c", LINEAR16))
    error = await failure(connection)
    await connection.close()
    await tts.aclose()
    assert not error.retryable and "providers.cartesia.model" in str(error)


async def test_beyond_the_concurrency_of_the_account() -> None:
    config = SimulatorConfig(latency=QUICK, tts_concurrency=1, tts_realtime_factor=1)
    async with running(config) as bed:
        tts = CartesiaSynthesizer(bed.cartesia(), "k")
        one, other = [await tts.open(SynthesisRequest(name, LINEAR16)) for name in ("a", "b")]
        utterance = one.utterance()
        await utterance.push(FIRST)
        events = utterance.events()
        await anext(events)
        error = await failure(other)
        assert (error.status, error.retryable) == (429, True)
        await utterance.cancel()
        for connection in (one, other):
            await connection.close()
        await tts.aclose()


@pytest.mark.parametrize(
    ("fault", "status", "retryable"),
    [("unauthorized", 401, False), ("rate_limited", 429, True), ("server_error", 500, True)],
)
async def test_a_refused_handshake(
    bed: Bed, tts: CartesiaSynthesizer, fault: str, status: int, retryable: bool
) -> None:
    bed.fault("cartesia", fault)
    with pytest.raises(ProviderError) as caught:
        await tts.open(SynthesisRequest("c", LINEAR16))
    assert (caught.value.status, caught.value.retryable) == (status, retryable)


@pytest.mark.parametrize("kind", ["hang", "disconnect"])
async def test_a_handshake_without_an_answer(bed: Bed, kind: str) -> None:
    bed.fault("cartesia", kind)
    tts = CartesiaSynthesizer(bed.cartesia(connect_timeout_s=0.3), "k")
    with pytest.raises(ProviderError) as caught:
        async with asyncio.timeout(30):
            await tts.open(SynthesisRequest("c", LINEAR16))
    await tts.aclose()
    assert caught.value.retryable


async def test_a_socket_closed_as_idle_is_replaced_before_the_next_turn() -> None:
    config = SimulatorConfig(latency=QUICK, tts_idle_close_s=0.3, tts_realtime_factor=40)
    async with running(config) as bed:
        tts = CartesiaSynthesizer(bed.cartesia(), "k")
        connection = await tts.open(SynthesisRequest("c", LINEAR16))
        await eventually(lambda: state(bed).sockets == 0)
        await asyncio.sleep(0.05)
        assert audio_of(await say(connection, SECOND)) == spoken(SECOND)
        assert state(bed).sockets_opened == 2
        await connection.close()
        await tts.aclose()


async def test_closing_ends_everything(bed: Bed, tts: CartesiaSynthesizer) -> None:
    connection = await tts.open(SynthesisRequest("c", AudioFormat("linear16", 24000)))
    utterance = connection.utterance()
    await utterance.push(FIRST)
    await connection.close()
    await connection.close()
    with pytest.raises(ProviderError):
        await collect(utterance)
    with pytest.raises(ProviderError):
        await connection.utterance().push(FIRST)
    await eventually(lambda: state(bed).sockets == 0 and state(bed).active_contexts == 0)
    assert not [task for task in asyncio.all_tasks() if (task.get_name() or "").startswith("tts-")]


async def test_closing_a_socket_that_hangs_is_bounded(bed: Bed, tts: CartesiaSynthesizer) -> None:
    connection = await tts.open(SynthesisRequest("c", LINEAR16))
    bed.fault("cartesia", "hang_mid_stream")
    await failure(connection)
    async with asyncio.timeout(3):
        await connection.close()
    gc.collect()


async def test_slow_first_audio_within_the_limit_is_no_failure() -> None:
    late = QUICK.model_copy(update={"tts_first_audio": Constant(ms=cartesia_utterance._PAUSE_S * 1000 + 300)})
    async with running(SimulatorConfig(latency=late, tts_realtime_factor=40)) as bed:
        tts = CartesiaSynthesizer(bed.cartesia(audio_timeout_s=2), "k")
        connection = await tts.open(SynthesisRequest("c", LINEAR16))
        assert audio_of(await say(connection, FIRST)) == spoken(FIRST)
        await connection.close()
        await tts.aclose()


@pytest.mark.parametrize("loops", range(4))
async def test_a_close_that_is_given_up_leaves_no_socket(tts: CartesiaSynthesizer, loops: int) -> None:
    """Whoever closes may be cancelled in the middle, after any number of passes of the event loop."""
    before = asyncio.all_tasks()
    connection = await tts.open(SynthesisRequest("call-1", LINEAR16))
    closing = asyncio.create_task(connection.close())
    for _ in range(loops):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    if loops:  # before the first pass nothing was closed at all
        await eventually(lambda: not _of_sockets(asyncio.all_tasks() - before))
    else:
        await connection.close()


def _of_sockets(tasks: set[asyncio.Task[object]]) -> list[str]:
    """The tasks that a client's socket keeps for as long as it lives."""
    names = [task.get_coro().__qualname__ for task in tasks]  # type: ignore[union-attr]
    return [name for name in names if "keepalive" in name or "CartesiaConnection" in name]


# --- messages, without a server ---------------------------------------------------------------------------------------


class ScriptedSpeaker:
    """What an utterance needs of its connection; it answers the first text with the given messages."""

    audio = LINEAR16
    audio_timeout_s = 0.5

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = list(messages)

    async def ensure_open(self) -> None: ...

    async def speak(self, context: cartesia_utterance.Context, text: str, *, more: bool) -> None:
        while self._messages:
            context.receive(self._messages.pop(0))

    async def cancel(self, context: cartesia_utterance.Context) -> None: ...

    def forget(self, context: cartesia_utterance.Context) -> None: ...

    def error(self, message: str, *, retryable: bool = True, status: int | None = None) -> ProviderError:
        return ProviderError("tts", "cartesia", message, retryable=retryable, status=status)


async def hear(*messages: dict[str, Any]) -> list[SynthesisEvent]:
    utterance = cartesia_utterance.CartesiaUtterance(ScriptedSpeaker(*messages))
    await utterance.push(FIRST)
    await utterance.finish()
    return await collect(utterance)


async def test_a_message_of_an_unexpected_shape_says_nothing() -> None:
    strays: list[dict[str, Any]] = [
        {},
        {"type": None},
        {"type": "chunk", "data": None},
        {"type": "chunk"},
        {"type": "timestamps", "word_timestamps": None},
        {"type": "timestamps", "word_timestamps": {"words": ["a"], "start": None}},
    ]
    chunk = {"type": "chunk", "data": base64.b64encode(b"\x01\x02").decode()}
    events = await hear(*strays, chunk, *strays, {"type": "done"})
    assert audio_of(events) == b"\x01\x02" and words_of(events) == []


async def test_audio_that_is_not_base64_is_a_retryable_failure() -> None:
    with pytest.raises(ProviderError, match="base64") as caught:
        await hear({"type": "chunk", "data": "x"})
    assert caught.value.retryable


@pytest.mark.parametrize(
    "fields", [{"title": "Bad", "message": "no such voice"}, {"error": "no such voice"}, {"message": "no such voice"}]
)
async def test_the_text_of_an_error_wherever_it_is(fields: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match="no such voice") as caught:
        await hear({"type": "error", "status_code": 400, **fields})
    assert caught.value.status == 400 and not caught.value.retryable
