"""The featureless server: a yardstick must do what it is compared for, or it measures nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import picows
import pytest
import uvloop

from load_tests.callbench.systems.base import Place
from load_tests.callbench.systems.floor import Floor
from load_tests.floor.call import Call
from load_tests.floor.playback import FRAME_BYTES, LEAD_S, Playback
from load_tests.floor.providers import Options, Providers
from load_tests.legs.calls import HttpClients, WorkerCall
from load_tests.legs.documents import CallOrder
from load_tests.legs.results import LegResult
from serve_app.simulators.cartesia import CARTESIA
from serve_app.simulators.chat import CHAT
from serve_app.simulators.config import SimulatorConfig
from tests.unit.providers_fixtures import QUICK, Bed, eventually, running

GREETING = "Hello, this is the practice of Doctor Patel."
QUESTION, INTERRUPTION = "Where can I park?", "Sorry, what does it cost?"
LONG_REPLY = "There is parking behind the house, and in the street, and at the library, which is open until eight."
SHORT_REPLY = "It is free."
SCRIPT = {
    "turns": [
        {"text": QUESTION, "after_agent_quiet_ms": 300},
        {"text": INTERRUPTION, "barge_in_after_ms": 1000},
    ],
    "hang_up_after_agent_quiet_ms": 300,
    "max_duration_s": 40,
}


@contextlib.asynccontextmanager
async def floor_of(bed: Bed) -> AsyncIterator[str]:
    """The server's address, in this process."""
    providers = Providers(Options(bed.url, "Answer.", GREETING))
    server = await picows.ws_create_server(lambda request: Call(providers), "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
    finally:
        server.close()
        await providers.aclose()


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    config = SimulatorConfig(
        latency=QUICK,
        recognise=False,
        stt_default_script=[QUESTION, INTERRUPTION],
        llm_script={QUESTION: LONG_REPLY, INTERRUPTION: SHORT_REPLY},
    )
    async with running(config) as bed:
        yield bed


async def call(url: str) -> LegResult:
    http = HttpClients()
    events: list[dict[str, object]] = []
    order = CallOrder.model_validate(
        {"op": "call", "id": "c1", "open": {"kind": "socket", "uri": url}, "script": SCRIPT}
    )
    try:
        await WorkerCall(order, events.append, http).run()
    finally:
        await http.close()
    return LegResult.model_validate(events[-1])


async def test_a_call_is_held_and_a_barge_in_clears_the_reply(bed: Bed) -> None:
    async with floor_of(bed) as url, asyncio.timeout(60):
        result = await call(url)
        assert result.error is None and result.wrong_size == 0
        assert [said.after_turns for said in result.utterances] == [0, 1, 2]
        assert len(result.clears) == 1 and result.stale_frames == 0
        assert result.turns[1].barge_in and result.utterances[1].cleared_at == result.clears[0]
        asked = [request["messages"] for request in bed.app[CHAT].recent]
        assert [messages[-1]["content"] for messages in asked] == [QUESTION, INTERRUPTION]
        assert [message["content"] for message in asked[1]] == ["Answer.", GREETING, QUESTION, LONG_REPLY, INTERRUPTION]
        # Nothing outlives the call.
        speech = bed.app[CARTESIA]
        await eventually(lambda: speech.sockets == 0 and speech.active_contexts == 0)


async def test_it_runs_as_a_system_under_test(bed: Bed, tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    system = Floor()
    await asyncio.to_thread(system.start, Place(core, "mark", bed.url, tmp_path, max_calls=1))
    try:
        members = system.tree().members()
        assert len(members) == 1 and system.tree().not_on(core) == []
        assert (await call(system.opening()["uri"])).error is None
    finally:
        await asyncio.to_thread(system.stop)
    assert not members[0].is_running()


async def test_a_provider_that_fails_ends_the_call(bed: Bed) -> None:
    bed.fault("cartesia", "server_error")
    async with floor_of(bed) as url, asyncio.timeout(30):
        result = await call(url)
    assert result.error is not None and result.end == "far_closed"


async def test_playback_keeps_its_lead_in_whole_frames() -> None:
    sent: list[bytes] = []
    playback = Playback(sent.append)
    audio = bytes(range(1, 251)) * 40  # 15.6 frames
    playback.add(audio)
    lead_frames = round(LEAD_S / 0.02)
    assert len(sent) == lead_frames
    playback.end()
    await eventually(lambda: len(sent) == 16)
    assert b"".join(sent) == audio.ljust(16 * FRAME_BYTES, b"\0")
    assert playback.drop(), "the network still plays"


def test_a_frame_costs_one_wake_up() -> None:
    """On uvloop, whose timers fire up to half a millisecond early: waiting for the rest would spin."""

    class Counting(Playback):
        wake_ups = 0

        def _advance(self) -> None:
            self.wake_ups += 1
            super()._advance()

    async def play() -> tuple[int, int]:
        sent: list[bytes] = []
        playback = Counting(sent.append)
        playback.add(bytes(FRAME_BYTES * 30))
        await eventually(lambda: len(sent) == 30)
        return len(sent), playback.wake_ups

    frames, wake_ups = uvloop.run(play())
    assert wake_ups <= frames


async def test_what_was_dropped_is_never_sent() -> None:
    sent: list[bytes] = []
    playback = Playback(sent.append)
    assert not playback.drop()
    playback.add(bytes(FRAME_BYTES * 50))
    count = len(sent)
    assert playback.drop()
    await asyncio.sleep(0.1)
    assert len(sent) == count and not playback.drop()
