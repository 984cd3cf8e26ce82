"""The load side's own instruments: the timer that drives all legs, and what a leg notes about its call."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import picows
import pytest
from websockets.asyncio.server import ServerConnection

from serve_app.simulators import leg as leg_module
from serve_app.simulators.leg import LegOptions, MediaEndpoint, MediaLeg, Utterance
from serve_app.simulators.ticker import SLOTS, Lateness, Ticker
from serve_app.simulators.timeline import PRIMED_FRAMES, Timeline
from tests.unit.test_simulators_leg import TONE, media_server, run_leg

FRAME_S = 0.02


class _Member:
    def __init__(self) -> None:
        self.ticks = 0

    def on_tick(self, late_ms: float) -> None:
        self.ticks += 1


async def test_the_ticker_keeps_the_rate_through_a_stall_and_spreads_its_members() -> None:
    ticker = Ticker(asyncio.get_running_loop())
    members = [_Member() for _ in range(2 * SLOTS)]
    for member in members:
        ticker.add(member)
    start = asyncio.get_running_loop().time()
    await asyncio.sleep(0.1)
    import time

    time.sleep(0.2)  # noqa: ASYNC251 - the stall is the test
    await asyncio.sleep(0.1)
    passed = asyncio.get_running_loop().time() - start
    for member in members:
        ticker.remove(member)
    counts = {member.ticks for member in members}
    # No tick is lost in the stall.
    assert min(counts) >= passed / FRAME_S - 3 and max(counts) <= passed / FRAME_S + 2
    late = ticker.take_lateness()
    assert late.count == sum(member.ticks for member in members) and late.max_ms >= 150
    assert ticker.take_lateness().count == 0
    await asyncio.sleep(0.05)
    assert {member.ticks for member in members} == counts


def test_lateness_quantiles() -> None:
    late = Lateness()
    for ms in range(100):
        late.add(ms + 0.1)
    assert late.quantile_ms(0.5) == pytest.approx(49.25) and late.quantile_ms(0.99) == pytest.approx(98.25)
    late.add(5000)
    assert late.max_ms == 5000 and late.quantile_ms(1.0) == 5000


def test_an_utterance_is_timed_from_its_first_sounding_frame() -> None:
    timeline = Timeline()
    timeline.frame_arrived(1.0, False, 0)
    assert timeline.utterances == []
    for n in range(10):
        timeline.frame_arrived(2.0 + n * FRAME_S, True, n)
    timeline.frame_arrived(3.0, True, 0)  # more than half a second later
    first, second = timeline.utterances
    assert (first.first_sound_at, second.first_sound_at) == (2.0, 3.0)
    assert first.frames == 10 and first.max_late_ms == pytest.approx(0, abs=1e-6)
    assert first.last_sound_at == pytest.approx(2.0 + 9 * FRAME_S)


def test_depth_counts_from_the_first_150_ms_to_the_last_sounding_frame() -> None:
    timeline = Timeline()
    for depth in range(PRIMED_FRAMES + 2):
        timeline.frame_arrived(0.0, True, depth)  # one burst
    timeline.frame_arrived(0.1, True, 5)
    timeline.frame_arrived(0.2, False, 1)
    assert timeline.utterances[0].min_depth_ms == 5 * 20
    timeline.frame_arrived(0.3, True, 3)
    assert timeline.utterances[0].min_depth_ms == 1 * 20
    timeline.frame_arrived(0.4, False, 0)  # the tail's silence is no part of it
    assert timeline.utterances[0].min_depth_ms == 1 * 20
    shallow = Timeline()
    shallow.frame_arrived(0.0, True, 0)
    shallow.frame_arrived(0.02, True, 0)
    assert shallow.utterances[0].min_depth_ms is None


def test_stale_is_what_sounds_after_a_clear_while_the_callee_speaks() -> None:
    timeline = Timeline()
    timeline.frame_arrived(0.0, True, 0)
    timeline.turn_began(0.5)
    timeline.clear_arrived(0.8)
    timeline.frame_arrived(0.81, True, 0)
    timeline.frame_arrived(0.82, False, 0)
    timeline.turn_ended(1.5)
    timeline.frame_arrived(1.6, True, 0)
    assert timeline.stale_frames == 1 and timeline.clears == [0.8]
    greeting, reply = timeline.utterances
    assert greeting.cleared_at == 0.8 and greeting.after_turns == 0
    assert reply.after_turns == 1 and reply.first_sound_at == 1.6
    timeline.clear_arrived(1.7)  # the callee is silent: what follows is a reply
    timeline.frame_arrived(1.75, True, 0)
    assert timeline.stale_frames == 1


async def test_a_leg_notes_turns_utterances_underruns_and_lateness_of_its_call() -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.recv()
        for _ in range(10):
            await ws.send(TONE)
        await asyncio.sleep(0.3)  # 200 ms of it: 100 ms too late
        for _ in range(10):
            await ws.send(TONE)
        async for message in ws:
            if isinstance(message, bytes) and any(message):
                await ws.send('{"action":"clear"}')
                return

    async with media_server(handler) as uri:
        leg = MediaLeg(MediaEndpoint(uri, 16000), LegOptions(keep_audio=False, timeline=True))
        speech = Utterance.of(TONE * 3 + bytes(640 * 2), "hello", 640)
        assert speech.sounding_frames == 3

        async def act() -> None:
            assert await leg.until(lambda: leg.agent_quiet_ticks() > 10 and leg.agent_sound_tick is not None)
            leg.say(speech)

        acting = asyncio.create_task(act())
        await run_leg(leg)
        await acting
    timeline = leg.timeline
    assert timeline is not None and leg.stats.end == "far_closed"
    assert leg.buffer.gaps == 1 and sum(said.underruns for said in timeline.utterances) == 1
    assert timeline.utterances[0].max_late_ms >= 50
    assert len(timeline.clears) == 1 and timeline.turns[0].began_at <= timeline.clears[0]


async def test_a_message_in_fragments_is_one_frame() -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.recv()
        await ws.send(iter([TONE[:100], TONE[100:]]))
        await ws.send(iter(['{"action":', '"clear"}']))
        await ws.recv()

    async with media_server(handler) as uri:
        leg = MediaLeg(MediaEndpoint(uri, 16000))
        await run_leg(leg)
    assert leg.stats.frames_received == 1 and len(leg.stats.clears_ms) == 1 and leg.stats.wrong_size == 0


async def test_a_stalled_peer_ends_its_own_leg_and_disturbs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_module, "STALL_S", 1.0)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A handshake, and then no byte more is read."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        import base64
        import hashlib

        accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        await asyncio.sleep(30)

    async def talkative(ws: ServerConnection) -> None:
        async for _ in ws:
            await ws.send(TONE)

    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with media_server(talkative) as uri:
        server = await asyncio.start_server(deaf, sock=listener)
        stalled = MediaLeg(MediaEndpoint(f"ws://127.0.0.1:{listener.getsockname()[1]}/", 16000))
        lively = MediaLeg(MediaEndpoint(uri, 16000), LegOptions(keep_audio=False))
        other = asyncio.create_task(lively.run())
        stalling = asyncio.create_task(stalled.run())
        async with asyncio.timeout(20):
            while stalled._transport is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            # Fill the kernel's buffers at once instead of waiting for minutes of audio.
            while stalled._transport.underlying_transport.get_write_buffer_size() == 0:
                for _ in range(50):
                    stalled._transport.send(picows.WSMsgType.BINARY, bytes(640))
            await stalling
        ticks = lively.tick
        lively.close()
        await other
        server.close()
    assert stalled.stats.end == "stalled" and stalled.stats.close_code == 1006
    assert lively.stats.end == "near_closed" and ticks >= 50 and lively.stats.frames_received >= ticks - 5


async def test_cancelling_a_leg_leaves_nothing_open() -> None:
    gone = asyncio.Event()

    async def handler(ws: ServerConnection) -> None:
        with contextlib.suppress(Exception):
            async for _ in ws:
                pass
        gone.set()

    async with media_server(handler) as uri:
        leg = MediaLeg(MediaEndpoint(uri, 16000))
        task = asyncio.create_task(leg.run())
        assert await leg.until(lambda: leg.tick > 3)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async with asyncio.timeout(30):
            await gone.wait()
    assert leg.closed


def test_the_probe_tells_speech_from_silence_and_line_noise() -> None:
    leg = MediaLeg(MediaEndpoint("ws://127.0.0.1:1/", 16000), LegOptions(keep_audio=False, timeline=True))
    rng = np.random.default_rng(1)
    noise = (rng.standard_normal(320) * 50).astype("<i2").tobytes()
    transport = object()
    for frame, sounds in ((bytes(640), False), (noise, False), (TONE, True)):
        leg._media(transport, frame)  # type: ignore[arg-type]
        assert leg.buffer.tick() == frame and leg.buffer.sounded is sounds
