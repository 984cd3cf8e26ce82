"""The leg engine against a small media server: real sockets, real frames."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from serve_app.simulators.far_buffer import UNDERRUN_TICKS, FarBuffer
from serve_app.simulators.leg import LegConnectFailed, LegOptions, MediaEndpoint, MediaLeg, Utterance

FRAME = 640
TONE = (np.sin(np.arange(320) / 5) * 8000).astype("<i2").tobytes()
Handler = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def media_server(handler: Handler) -> AsyncIterator[str]:
    async def run(ws: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await handler(ws)

    async with serve(run, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/media"


async def run_leg(leg: MediaLeg) -> None:
    async with asyncio.timeout(30):
        await leg.run()


async def test_first_frame_carries_format_and_flattened_headers_then_exact_frames_without_gap() -> None:
    seen: dict[str, object] = {}
    frames: list[bytes] = []

    async def handler(ws: ServerConnection) -> None:
        assert ws.request is not None
        seen["authorization"] = ws.request.headers.get("Authorization")
        seen["first"] = json.loads(await ws.recv())
        async for message in ws:
            assert isinstance(message, bytes)
            frames.append(message)
            if len(frames) == 30:
                await ws.close()

    async with media_server(handler) as uri:
        leg = MediaLeg(MediaEndpoint(uri, 16000, {"call_id": "c1", "n": 3}, "Bearer secret"))
        pcm = bytes(range(256)) * 9 + b"\1\2"  # not a multiple of the frame
        utterance = Utterance.of(pcm, "hello", FRAME)
        leg.say(utterance)
        await run_leg(leg)
    assert seen["authorization"] == "Bearer secret"
    assert seen["first"] == {
        "event": "websocket:connected", "content-type": "audio/l16;rate=16000", "call_id": "c1", "n": 3,
    }  # fmt: skip
    assert {len(f) for f in frames} == {FRAME}
    said = leg.utterances[0]
    stream = b"".join(frames)
    start = said.first_frame * FRAME
    assert said.pcm.startswith(pcm) and len(said.pcm) % FRAME == 0
    assert hashlib.sha256(stream[start : start + len(said.pcm)]).hexdigest() == said.sha256
    assert not any(stream[start + len(said.pcm) :])
    assert leg.stats.end == "far_closed" and leg.stats.close_code == 1000


@pytest.mark.parametrize("size", [0, 1, 320, 639, 641, 1280])
async def test_a_frame_of_another_size_aborts_the_connection(size: int) -> None:
    closed: list[int | None] = []

    async def handler(ws: ServerConnection) -> None:
        await ws.recv()
        await ws.send(TONE)
        await ws.send(bytes(size))
        with contextlib.suppress(ConnectionClosed):
            while True:
                await ws.recv()
        closed.append(ws.close_code)

    async with media_server(handler) as uri:
        leg = MediaLeg(MediaEndpoint(uri, 16000))
        await run_leg(leg)
        await asyncio.sleep(0.05)
    assert leg.stats.end == "wrong_frame_size" and leg.stats.wrong_size == 1
    assert closed == [1006]


async def test_clear_drops_the_queue_and_notify_fires_when_the_audio_before_it_was_played() -> None:
    events: list[tuple[str, int]] = []
    received = 0

    async def handler(ws: ServerConnection) -> None:
        nonlocal received
        await ws.recv()
        for _ in range(10):
            await ws.send(TONE)
        await ws.send(json.dumps({"action": "notify", "payload": {"mark": "a", "n": [1]}}))
        for _ in range(200):
            await ws.send(TONE)
        await ws.send(json.dumps({"action": "notify", "payload": {"mark": "b"}}))
        async for message in ws:
            if isinstance(message, bytes):
                received += 1
                continue
            document = json.loads(message)
            events.append((document["event"], received))
            if document["event"] == "websocket:notify":
                assert document["payload"] == {"mark": "a", "n": [1]}
                await ws.send('{"action":"clear"}')
                await ws.send("not json")
                await ws.send('{"action":"bye"}')
            else:
                await asyncio.sleep(0.1)
                await ws.close()

    async with media_server(handler) as uri:
        leg = MediaLeg(MediaEndpoint(uri, 16000))
        await run_leg(leg)
    assert [name for name, _ in events] == ["websocket:notify", "websocket:cleared"]
    assert 10 <= leg.buffer.played < 60  # the ten frames before the notify and what sounded until the clear came
    assert leg.buffer.played + leg.buffer.cleared_frames == 210 == leg.stats.frames_received
    assert leg.buffer.dropped_notifies == 1 and leg.stats.unknown_texts == 2
    assert leg.buffer.underruns == 0
    assert len(leg.stats.clears_ms) == 1 and leg.stats.first_agent_frame_ms is not None
    assert leg.heard_pcm.count(TONE) == leg.buffer.played and len(leg.heard_pcm) == leg.tick * FRAME
    assert leg.heard_ms == leg.buffer.played * 20


async def test_close_is_a_proper_close_and_ends_a_waiter() -> None:
    codes: list[int | None] = []

    async def handler(ws: ServerConnection) -> None:
        async for _ in ws:
            pass
        codes.append(ws.close_code)

    async with media_server(handler) as uri:
        leg = MediaLeg(MediaEndpoint(uri, 8000))
        task = asyncio.create_task(run_leg(leg))
        async with asyncio.timeout(30):
            assert await leg.until(lambda: leg.tick >= 5)
            waiter = asyncio.create_task(leg.until(lambda: False))
            await asyncio.sleep(0)
            leg.close()
            assert await waiter is False
            await task
        await asyncio.sleep(0.05)
    assert leg.stats.end == "near_closed" and codes in ([1000], [1005])


async def test_a_refused_socket_tells_the_status() -> None:
    def refuse(ws: ServerConnection, _request: object) -> object:
        return ws.respond(503, "no slot\n")

    async with serve(lambda ws: asyncio.sleep(0), "127.0.0.1", 0, process_request=refuse) as server:  # type: ignore[arg-type,return-value]
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(LegConnectFailed) as caught:
            await run_leg(MediaLeg(MediaEndpoint(f"ws://127.0.0.1:{port}/", 16000)))
    assert caught.value.status == 503
    with pytest.raises(LegConnectFailed):
        await run_leg(MediaLeg(MediaEndpoint(f"ws://127.0.0.1:{port}/", 16000)))


async def test_dtmf_and_the_agents_utterances_are_seen() -> None:
    digits: list[str] = []

    async def handler(ws: ServerConnection) -> None:
        await ws.recv()
        for _ in range(5):
            await ws.send(TONE)
        async for message in ws:
            if isinstance(message, str):
                digits.append(json.loads(message)["digit"])

    async with media_server(handler) as uri:
        leg = MediaLeg(MediaEndpoint(uri, 16000), LegOptions(keep_audio=False))
        task = asyncio.create_task(run_leg(leg))
        async with asyncio.timeout(30):
            assert await leg.until(lambda: leg.agent_began_tick is not None)
            leg.send_dtmf("7")
            assert await leg.until(lambda: leg.agent_quiet_ticks() >= 5)
            leg.close()
            await task
    assert digits == ["7"] and leg.heard_pcm == b""


def test_overflow_drops_the_newest() -> None:
    buffer = FarBuffer(capacity_frames=3)
    for n in range(5):
        buffer.push(bytes([n]))
    assert [buffer.tick() for _ in range(4)] == [b"\0", b"\1", b"\2", None]
    assert buffer.overflowed == 2 and buffer.max_frames == 3


def test_dropped_notifies_fire_after_a_clear_only_if_switched_on() -> None:
    for fire in (False, True):
        buffer = FarBuffer(fire_dropped_notifies=fire)
        buffer.push(b"a")
        buffer.push_notify("n")
        buffer.clear()
        assert list(buffer.due) == (["n"] if fire else [])
        assert buffer.tick() is None and buffer.frames == 0


@pytest.mark.parametrize(
    ("gap", "between", "underruns"),
    [(0, None, 0), (1, None, 1), (UNDERRUN_TICKS, None, 1), (UNDERRUN_TICKS + 1, None, 0), (5, "notify", 0),
     (5, "clear", 0)],
)  # fmt: skip
def test_underruns_are_gaps_inside_speech(gap: int, between: str | None, underruns: int) -> None:
    buffer = FarBuffer()
    buffer.push(b"a")
    if between == "notify":
        buffer.push_notify("n")
    assert buffer.tick() == b"a"
    if between == "clear":
        buffer.clear()
    for _ in range(gap):
        assert buffer.tick() is None
    buffer.push(b"b")
    assert buffer.tick() == b"b"
    assert (buffer.underruns, buffer.underrun_ticks) == (underruns, underruns * gap)


@given(st.lists(st.sampled_from(["push", "notify", "tick", "clear"]), max_size=200), st.booleans())
def test_every_frame_and_notify_is_accounted_for_once_and_in_order(actions: list[str], fire: bool) -> None:
    buffer = FarBuffer(capacity_frames=8, fire_dropped_notifies=fire)
    pushed = notified = 0
    played: list[int] = []
    for action in actions:
        if action == "push":
            buffer.push(pushed.to_bytes(2, "big"))
            pushed += 1
        elif action == "notify":
            buffer.push_notify(str(notified))
            notified += 1
        elif action == "clear":
            buffer.clear()
        elif (frame := buffer.tick()) is not None:
            played.append(int.from_bytes(frame, "big"))
    assert played == sorted(set(played))
    assert pushed == len(played) + buffer.frames + buffer.overflowed + buffer.cleared_frames
    assert [int(n) for n in buffer.due] == sorted({int(n) for n in buffer.due})
    assert buffer.frames <= 8
