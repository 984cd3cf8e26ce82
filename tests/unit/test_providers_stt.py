"""The unmodified Deepgram SDK against the Flux stand-in, and what the client adds to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from serve_app.audio import g711
from serve_app.errors import ProviderError
from serve_app.providers import stt_deepgram
from serve_app.providers.base import (
    EagerTurnEnded,
    PartialTranscript,
    SpeechStarted,
    SttEvent,
    TranscriptionRequest,
    TranscriptionStream,
    TurnEnded,
    TurnResumed,
)
from serve_app.providers.flux_audio import AudioQueue, StreamClock, binary_frame
from serve_app.providers.stt_deepgram import DeepgramStream, DeepgramTranscriber
from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.flux import FLUX
from tests.unit.providers_fixtures import LINEAR16, MULAW8, QUICK, Bed, eventually, feed, running, spoken

pytest_plugins = ("tests.unit.providers_fixtures",)

TEXT = "Yes that time works for me."
REQUEST = TranscriptionRequest("call-1", LINEAR16)


async def until_turn_end(stream: TranscriptionStream, turns: int = 1) -> list[SttEvent]:
    events: list[SttEvent] = []
    async with asyncio.timeout(30):
        async for event in stream.events():
            events.append(event)
            turns -= isinstance(event, TurnEnded)
            if turns == 0:
                break
    return events


async def failure_of(stream: TranscriptionStream) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        async with asyncio.timeout(30):
            async for _ in stream.events():
                pass
    assert (caught.value.stage, caught.value.provider) == ("stt", "deepgram")
    return caught.value


async def test_a_turn_from_its_start_to_its_end(bed: Bed, stt: DeepgramTranscriber) -> None:
    stream = await stt.open(REQUEST)
    bed.scripts.expect("call-1", TEXT)
    await feed(stream.send, spoken(TEXT))
    events = await until_turn_end(stream)
    await stream.close()

    assert isinstance(events[0], SpeechStarted)
    partials = [event.text for event in events if isinstance(event, PartialTranscript)]
    assert partials and all(TEXT.startswith(text) for text in partials)
    assert partials == sorted(partials, key=len)
    ended = events[-1]
    assert isinstance(ended, TurnEnded)
    assert (ended.text, ended.turn_index, ended.trigger) == (TEXT, 0, "model")
    assert ended.confidence is not None and ended.confidence >= 0.9
    assert [word.text for word in ended.words] == TEXT.split()
    assert ended.speech_end_s is not None and 1.0 < ended.speech_end_s < ended.audio_s


async def test_the_provider_gets_exactly_the_bytes_in_order(bed: Bed, stt: DeepgramTranscriber) -> None:
    stream = await stt.open(REQUEST)
    audio = spoken(TEXT)
    bed.scripts.expect("call-1", TEXT)
    await feed(stream.send, audio, frame_bytes=638)
    await until_turn_end(stream)
    await eventually(lambda: len(bed.app[FLUX].audio.get("call-1") or b"") >= len(audio))
    await stream.close()
    # Whatever silence a gap added comes after the last byte that was given.
    assert (bed.app[FLUX].audio.get("call-1") or b"").startswith(audio)


async def test_mulaw_needs_no_transcoding(bed: Bed, stt: DeepgramTranscriber) -> None:
    stream = await stt.open(TranscriptionRequest("call-2", MULAW8))
    bed.scripts.expect("call-2", TEXT)
    await feed(stream.send, g711.mulaw_encode(spoken(TEXT, rate_hz=8000)), frame_bytes=160)
    ended = (await until_turn_end(stream))[-1]
    await stream.close()
    assert isinstance(ended, TurnEnded) and ended.text == TEXT


async def test_two_turns_are_numbered_and_scripted_in_order(bed: Bed, stt: DeepgramTranscriber) -> None:
    stream = await stt.open(REQUEST)
    bed.scripts.expect("call-1", "First answer")
    bed.scripts.expect("call-1", "Second answer")
    await feed(stream.send, spoken("First answer") + spoken("Second answer"))
    ended = [event for event in await until_turn_end(stream, 2) if isinstance(event, TurnEnded)]
    await stream.close()
    assert [(turn.turn_index, turn.text) for turn in ended] == [(0, "First answer"), (1, "Second answer")]


async def test_a_pause_inside_an_utterance_resumes_the_turn(bed: Bed) -> None:
    stt = DeepgramTranscriber(bed.deepgram(eager_eot_threshold=0.5), "k")
    stream = await stt.open(replace(REQUEST, eager=True))
    bed.scripts.expect_segments("call-1", ["Well let me think", "yes that works"])
    await feed(stream.send, spoken("Well let me think", silence_s=0.8) + spoken("yes that works"))
    events = await until_turn_end(stream)
    await stream.close()
    await stt.aclose()
    kinds = [type(event) for event in events if not isinstance(event, PartialTranscript)]
    assert kinds == [SpeechStarted, EagerTurnEnded, TurnResumed, EagerTurnEnded, TurnEnded]
    eager, ended = events[-2], events[-1]
    assert isinstance(ended, TurnEnded) and ended.text == "Well let me think yes that works"
    assert isinstance(eager, EagerTurnEnded) and eager.text == ended.text


async def test_without_being_asked_it_never_tells_that_a_turn_may_be_over(bed: Bed, stt: DeepgramTranscriber) -> None:
    stream = await stt.open(REQUEST)
    bed.scripts.expect("call-1", "That is all")
    await feed(stream.send, spoken("That is all"))
    events = await until_turn_end(stream)
    await stream.close()
    assert not any(isinstance(event, EagerTurnEnded) for event in events)


async def test_keyterms_that_the_server_refuses_are_left_out(stt: DeepgramTranscriber) -> None:
    stream = await stt.open(TranscriptionRequest("c", LINEAR16, keyterms=("Parley", "  ", "x" * 101, *("t",) * 200)))
    await stream.close()


@pytest.mark.parametrize(
    ("fault", "status", "retryable"),
    [("unauthorized", 401, False), ("rate_limited", 429, True), ("server_error", 500, True)],
)
async def test_a_refused_handshake(
    bed: Bed, stt: DeepgramTranscriber, fault: str, status: int, retryable: bool
) -> None:
    bed.fault("deepgram", fault)
    with pytest.raises(ProviderError) as caught:
        await stt.open(REQUEST)
    assert (caught.value.status, caught.value.retryable) == (status, retryable)


async def test_a_wrong_key_and_a_wrong_model_are_not_retryable(bed: Bed) -> None:
    for settings, key, status in ((bed.deepgram(), "invalid", 401), (bed.deepgram(model="nova-3"), "k", 400)):
        stt = DeepgramTranscriber(settings, key)
        with pytest.raises(ProviderError) as caught:
            await stt.open(REQUEST)
        await stt.aclose()
        assert (caught.value.status, caught.value.retryable) == (status, False)


@pytest.mark.parametrize("kind", ["hang", "disconnect"])
async def test_a_handshake_without_an_answer(bed: Bed, kind: str) -> None:
    bed.fault("deepgram", kind)
    stt = DeepgramTranscriber(bed.deepgram(connect_timeout_s=0.3), "k")
    with pytest.raises(ProviderError) as caught:
        async with asyncio.timeout(30):
            await stt.open(REQUEST)
    await stt.aclose()
    assert caught.value.retryable


async def test_nobody_listens_at_the_address() -> None:
    async with running() as bed:
        settings = bed.deepgram()
    stt = DeepgramTranscriber(settings, "k")
    with pytest.raises(ProviderError) as caught:
        await stt.open(REQUEST)
    await stt.aclose()
    assert caught.value.retryable


@pytest.mark.parametrize("kind", ["cut", "close", "error_event"])
async def test_the_stream_breaks(bed: Bed, stt: DeepgramTranscriber, kind: str) -> None:
    bed.fault("deepgram", kind, after=2, call_id="call-1")
    stream = await stt.open(REQUEST)
    with pytest.raises(ProviderError):
        await feed(stream.send, spoken(TEXT, silence_s=0.0) * 20)
        await failure_of(stream)
        stream.send(bytes(640))
    with pytest.raises(ProviderError):
        stream.send(bytes(640))
    assert (await failure_of(stream)).retryable
    await stream.close()


async def test_an_error_message_is_told_with_its_code(bed: Bed, stt: DeepgramTranscriber) -> None:
    bed.fault("deepgram", "error_event")
    stream = await stt.open(REQUEST)
    stream.send(bytes(6400))
    assert "INTERNAL_SERVER_ERROR" in str(await failure_of(stream))
    await stream.close()


async def test_a_silent_end_of_the_stream_is_a_failure(stt: DeepgramTranscriber) -> None:
    stream = await stt.open(REQUEST)
    # The server closes with 1000, which the SDK reports as a plain end of iteration.
    await stream._connection.send_close_stream()  # type: ignore[attr-defined]
    assert (await failure_of(stream)).retryable
    await stream.close()


async def test_an_unknown_message_changes_nothing(bed: Bed, stt: DeepgramTranscriber) -> None:
    bed.fault("deepgram", "unknown_message")
    stream = await stt.open(REQUEST)
    bed.scripts.expect("call-1", TEXT)
    await feed(stream.send, spoken(TEXT))
    ended = (await until_turn_end(stream))[-1]
    await stream.close()
    assert isinstance(ended, TurnEnded) and ended.text == TEXT


async def test_a_socket_that_hangs_is_noticed_without_audio_or_speech(
    bed: Bed, stt: DeepgramTranscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stt_deepgram, "_PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(stt_deepgram, "_PONG_TIMEOUT_S", 0.3)
    bed.fault("deepgram", "hang_mid_stream")
    stream = await stt.open(REQUEST)
    stream.send(bytes(6400))
    assert "ping" in str(await failure_of(stream))
    async with asyncio.timeout(3):
        await stream.close()


async def test_silence_of_the_callee_is_no_failure(stt: DeepgramTranscriber, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stt_deepgram, "_PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(stt_deepgram, "_MAX_UNREPORTED_S", 0.2)
    stream = await stt.open(REQUEST)
    await feed(stream.send, bytes(32000 * 4))
    await asyncio.sleep(0.3)
    stream.send(bytes(640))
    await stream.close()


async def test_a_recogniser_that_falls_silent_inside_a_turn_is_noticed(
    bed: Bed, stt: DeepgramTranscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stt_deepgram, "_PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(stt_deepgram, "_MAX_UNREPORTED_S", 0.5)
    stream = await stt.open(REQUEST)
    await feed(stream.send, spoken(TEXT, silence_s=0.0)[:32000])
    await asyncio.sleep(0.2)
    # From here on the stand-in answers pings and says nothing.
    bed.app[FLUX].delays.draw_s = lambda name: 60.0  # type: ignore[method-assign]
    await feed(stream.send, spoken(TEXT, silence_s=0.0))
    assert "inside a turn" in str(await failure_of(stream))
    await stream.close()


async def test_a_turn_ends_though_the_audio_stops(
    bed: Bed, stt: DeepgramTranscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stt_deepgram, "_TURN_GAP_S", 0.2)
    stream = await stt.open(REQUEST)
    bed.scripts.expect("call-1", TEXT)
    audio = spoken(TEXT, silence_s=0.0)
    await feed(stream.send, audio)
    ended = (await until_turn_end(stream))[-1]
    await stream.close()
    assert isinstance(ended, TurnEnded) and ended.text == TEXT
    # The silence that was put in does not count as the caller's audio.
    assert ended.audio_s == pytest.approx(len(audio) / 32000, abs=0.03)
    received = bed.app[FLUX].audio.get("call-1") or b""
    assert len(received) > len(audio) and not any(received[len(audio) :])


async def test_silence_keeps_an_idle_stream_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stt_deepgram, "_TURN_GAP_S", 0.1)
    monkeypatch.setattr(stt_deepgram, "_IDLE_GAP_S", 0.2)
    async with running(SimulatorConfig(latency=QUICK, stt_idle_close_s=0.6)) as bed:
        stt = DeepgramTranscriber(bed.deepgram(), "k")
        stream = await stt.open(TranscriptionRequest("idle", MULAW8))
        await asyncio.sleep(1.5)
        stream.send(bytes([0xFF]) * 160)
        await stream.close()
        await stt.aclose()
        assert set(bed.app[FLUX].audio.get("idle") or b"") == {0xFF}


async def test_closing_leaves_no_task_behind(bed: Bed, stt: DeepgramTranscriber) -> None:
    stream = await stt.open(REQUEST)
    reader = asyncio.create_task(until_turn_end(stream))
    await feed(stream.send, bytes(6400))
    await stream.close()
    await stream.close()
    assert await reader == []
    assert not [task for task in asyncio.all_tasks() if (task.get_name() or "").startswith("stt-")]


# --- the audio side, without a socket ---


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400)), max_size=40))
def test_positions_count_only_the_callers_audio(steps: list[tuple[bool, int]]) -> None:
    clock = StreamClock(MULAW8)
    stream = caller = 0
    marks = [(0, 0)]
    for given_by_caller, size in steps:
        if given_by_caller:
            clock.sent(size)
            caller += size
        else:
            clock.inserted(size)
        stream += size
        marks.append((stream, caller))
    for position, expected in marks:
        assert clock.caller_s(position / 8000) == pytest.approx(expected / 8000)
    assert clock.stream_s == pytest.approx(stream / 8000)


def due(queue: AudioQueue) -> list[bytes]:
    taken = []
    while queue.due:
        taken.append(queue.take())
    return taken


@given(st.lists(st.binary(min_size=1, max_size=900), max_size=30), st.integers(1, 30))
def test_the_queue_changes_no_byte(pieces: list[bytes], message_ms: int) -> None:
    queue = AudioQueue(LINEAR16, limit_s=10, message_ms=message_ms)
    for piece in pieces:
        assert queue.put(piece)
    taken = due(queue)
    assert all(0 < len(message) <= LINEAR16.bytes_for_ms(message_ms) for message in taken)
    assert b"".join(taken) == b"".join(pieces)


def test_what_may_wait_is_joined_and_anything_else_takes_it_along() -> None:
    queue = AudioQueue(LINEAR16, limit_s=10, message_ms=80)
    for _ in range(3):
        assert queue.put(bytes(640), join_bytes=2560)
    assert due(queue) == []
    assert queue.put(b"\x01" * 640)
    assert due(queue) == [bytes(1920) + b"\x01" * 640]
    for _ in range(4):
        assert due(queue) == []
        assert queue.put(bytes(640), join_bytes=2560)
    assert due(queue) == [bytes(2560)]
    queue.put(bytes(640), join_bytes=2560)
    assert due(queue) == []
    queue.hasten()
    assert due(queue) == [bytes(640)]
    queue.hasten()
    assert due(queue) == []


class StillSocket:
    """A `websockets` connection that takes frames, and tells nothing."""

    open = True
    extensions = ()

    def __init__(self) -> None:
        self.transport = self
        self.sent: list[int] = []
        self.backlog = 0

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self.backlog

    def write(self, frame: bytes) -> None:
        reader = StreamReader()
        reader.feed_data(frame)
        parsing = Frame.parse(reader.read_exact, mask=True)
        with pytest.raises(StopIteration) as parsed:
            next(parsing)
        self.sent.append(len(parsed.value.value.data))

    async def __aiter__(self) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""


@contextlib.asynccontextmanager
async def still_stream() -> AsyncIterator[tuple[StillSocket, DeepgramStream]]:
    socket = StillSocket()
    connection = SimpleNamespace(_websocket=socket)
    stream = DeepgramStream(connection, contextlib.AsyncExitStack(), TranscriptionRequest("c", LINEAR16, "en"))
    yield socket, stream
    for task in stream._tasks:
        task.cancel()
    await asyncio.gather(*stream._tasks, return_exceptions=True)


@given(st.one_of(st.binary(max_size=200), st.integers(120, 65_535).map(lambda size: b"\x01\x80" * (size // 2))))
def test_a_frame_is_what_the_library_reads(payload: bytes) -> None:
    reader = StreamReader()
    reader.feed_data(binary_frame(payload))
    parsing = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    frame = parsed.value.value
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.BINARY, True, payload)
    assert not any(reader.buffer)


async def test_frames_of_a_silent_callee_are_joined_and_speech_goes_out_frame_by_frame() -> None:
    async with still_stream() as (socket, stream):

        def give(frame: bytes, count: int) -> list[int]:
            socket.sent.clear()
            for _ in range(count):
                stream.send(frame)
            return socket.sent.copy()

        loud = b"\x00\x20" * 320
        give(bytes(640), 60)
        assert give(bytes(640), 16) == [5120, 5120]
        assert give(loud, 3)[1:] == [640] * 2, "the first one takes along what waits"
        assert give(bytes(640), 25) == [640] * 25, "what may be the end of a short word goes out at once"
        assert give(bytes(640), 16) == [5120, 5120], "quiet again"
        stream._reader.in_turn = True
        assert give(loud, 8) == [2560, 2560], "a turn's voice"
        assert give(bytes(640), 3) == [640] * 3, "what may end the turn"


async def test_what_a_full_socket_does_not_take_follows_in_order_once_it_does() -> None:
    async with still_stream() as (socket, stream):
        loud = b"\x00\x20" * 320
        socket.backlog = 1 << 20
        for _ in range(10):
            stream.send(loud)
        assert socket.sent == []
        socket.backlog = 0
        stream.send(loud)
        assert socket.sent == [5120, 1920], "joined, for they are late already"


async def test_sending_never_waits_and_the_backlog_is_bounded() -> None:
    async with still_stream() as (socket, stream):
        socket.backlog = 1 << 20
        for _ in range(500):
            stream.send(bytes(640))
        with pytest.raises(ProviderError, match="behind"):
            stream.send(bytes(640))
        with pytest.raises(ProviderError, match="behind"):
            stream.send(bytes(640))


@pytest.mark.parametrize("loops", range(1, 5))
async def test_a_close_that_is_given_up_leaves_no_socket(stt: DeepgramTranscriber, loops: int) -> None:
    """Whoever closes may be cancelled in the middle, after any number of passes of the event loop."""
    before = asyncio.all_tasks()
    stream = await stt.open(REQUEST)
    closing = asyncio.create_task(stream.close())
    for _ in range(loops):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)

    def of_sockets() -> list[str]:
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks() - before]  # type: ignore[union-attr]
        return [name for name in names if "WebSocketCommonProtocol" in name or "DeepgramStream" in name]

    await eventually(lambda: not of_sockets())
