"""The leg worker's process and its client, against a small media server of the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import jwt
import numpy as np
import pytest
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from load_tests.legs.client import LegWorker
from serve_app.simulators.vad import SPEECH_RMS

TONE = (np.sin(np.arange(320) / 5) * 8000).astype("<i2").tobytes()
SECRET = "s" * 32
SCRIPT = {
    "turns": [{"text": "Hello there.", "after_agent_quiet_ms": 200}, {"text": "Wait.", "barge_in_after_ms": 200}],
    "hang_up_after_agent_quiet_ms": 200,
    "max_duration_s": 20,
}
seen: list[dict[str, object]] = []


def _sounds(frame: bytes) -> bool:
    samples = np.frombuffer(frame, "<i2").astype(np.float64)
    return float(np.sqrt(np.mean(samples**2))) >= SPEECH_RMS


async def agent(ws: ServerConnection) -> None:
    """Greets; answers 100 ms after the callee fell silent, for 1 s; falls silent at once when interrupted."""
    with contextlib.suppress(ConnectionClosed):
        seen.append(json.loads(await ws.recv()))
        for _ in range(10):
            await ws.send(TONE)
        quiet, heard, talking = 0, False, 0
        async for message in ws:
            if isinstance(message, str):
                continue
            if _sounds(message):
                quiet, heard = 0, True
                if talking:
                    talking = 0
                    await ws.send('{"action":"clear"}')
            else:
                quiet += 1
            if heard and quiet == 5:
                heard, talking = False, 50
            if talking:
                talking -= 1
                await ws.send(TONE)


@pytest.fixture
async def media_url() -> AsyncIterator[str]:
    seen.clear()
    async with serve(agent, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/media"


@pytest.fixture
async def worker() -> AsyncIterator[LegWorker]:
    worker = await LegWorker.start()
    try:
        yield worker
    finally:
        await worker.close()


async def test_a_call_by_socket_yields_every_figure(worker: LegWorker, media_url: str) -> None:
    turns: list[int] = []
    worker._on_turn = lambda call_id, figures: turns.append(figures.number)
    opening = {"kind": "socket", "uri": media_url, "headers": {"call_id": "{call_id}", "n": 1}}
    async with asyncio.timeout(30):
        result = await worker.call(opening, SCRIPT, id="c1")
    assert result.error is None and not result.refused and result.end == "near_closed"
    assert seen[0]["call_id"] == "c1" and seen[0]["n"] == 1
    first, second = result.turns
    assert (first.text, second.text) == ("Hello there.", "Wait.") and second.barge_in and not first.barge_in
    assert turns == [1, 2]
    greeting, reply, *_ = result.utterances
    assert greeting.after_turns == 0 and greeting.first_sound_at < first.began_at < first.last_sound_sent_at
    assert reply.after_turns == 1 and reply.first_sound_at == first.answered_at
    assert first.answer_ms is not None and first.answer_ms >= 80
    # The second turn began into the reply, which was cleared.
    assert second.clear_at is not None and reply.cleared_at == second.clear_at == result.clears[0]
    assert second.began_at <= second.clear_at and result.stale_frames == 0
    assert result.wrong_size == 0 and result.frames_sent > 100 and result.frames_received > 50
    assert result.connected_at is not None and result.asked_at < result.connected_at < (result.ended_at or 0)


async def test_refusals_bad_orders_and_a_dead_worker_are_results(worker: LegWorker) -> None:
    def refuse(ws: ServerConnection, _request: object) -> object:
        return ws.respond(503, "no slot\n")

    async with serve(agent, "127.0.0.1", 0, process_request=refuse) as server:  # type: ignore[arg-type]
        port = next(iter(server.sockets)).getsockname()[1]
        opening = {"kind": "socket", "uri": f"ws://127.0.0.1:{port}/"}
        refused = await worker.call(opening, SCRIPT)
    assert refused.refused and refused.refused_status == 503 and refused.connected_at is None
    bad = await worker.call({"kind": "telegraph"}, SCRIPT)
    assert bad.error is not None and "telegraph" in bad.error
    unreachable = await worker.call({"kind": "socket", "uri": f"ws://127.0.0.1:{port}/"}, SCRIPT)
    assert unreachable.error is not None and not unreachable.refused


async def test_the_load_is_told_every_second_and_a_killed_worker_ends_its_calls(media_url: str) -> None:
    worker = await LegWorker.start()
    opening = {"kind": "socket", "uri": media_url}
    calls = [asyncio.create_task(worker.call(opening, {"turns": []} | SCRIPT)) for _ in range(5)]
    async with asyncio.timeout(30):
        while not any(load.legs == 5 for load in worker.loads):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        worker._process.kill()
        results = await asyncio.gather(*calls)
    assert {result.error for result in results} == {"the leg worker ended"}
    assert worker.loads[-1].cpu_s > 0
    await worker.close()


async def test_a_cancelled_call_hangs_up_and_reports_no_turn(worker: LegWorker, media_url: str) -> None:
    turns: list[str] = []
    worker._on_turn = lambda call_id, figures: turns.append(call_id)
    # A last turn is told when its call ends.
    script = {**SCRIPT, "turns": SCRIPT["turns"][:1], "hang_up_after_agent_quiet_ms": 5000}  # type: ignore[index]
    call = asyncio.create_task(worker.call({"kind": "socket", "uri": media_url}, script, id="cut"))
    await asyncio.sleep(2.5)  # the turn is over
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    worker.loads.clear()
    async with asyncio.timeout(30):
        while not worker.loads or worker.loads[-1].legs:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert call.cancelled() and turns == []


async def test_an_inbound_call_as_vonage_announces_it(worker: LegWorker, media_url: str) -> None:
    events: list[tuple[str, str]] = []
    asked: list[dict[str, str]] = []

    def signed(request: web.Request) -> bool:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], issuer="Vonage")
        return claims["application_id"] == "app" and claims["api_key"] == "key"

    async def answer(request: web.Request) -> web.Response:
        assert signed(request)
        asked.append(dict(request.query))
        if request.query["to"] == "12015550199":
            return web.json_response([{"action": "talk", "text": "All lines are busy."}])
        endpoint = {
            "type": "websocket",
            "uri": media_url,
            "content-type": "audio/l16;rate=16000",
            "headers": {"call_id": "platform-1"},
        }
        return web.json_response([{"action": "connect", "endpoint": [endpoint]}])

    async def event(request: web.Request) -> web.Response:
        assert signed(request)
        document = await request.json()
        events.append((document["status"], document.get("uuid", "")))
        return web.Response()

    app = web.Application()
    app.router.add_get("/answer", answer)
    app.router.add_post("/event", event)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    opening = {
        "kind": "vonage", "answer_url": f"{url}/answer", "event_url": f"{url}/event", "to": "+12015550100",
        "from": "+12025550123", "api_key": "key", "application_id": "app", "signature_secret": SECRET,
    }  # fmt: skip
    try:
        async with asyncio.timeout(30):
            result = await worker.call(opening, SCRIPT)
            busy = await worker.call({**opening, "to": "+12015550199"}, SCRIPT)
    finally:
        await runner.cleanup()
    assert result.error is None and len(result.turns) == 2 and result.end == "near_closed"
    assert asked[0]["from"] == "12025550123" and asked[0]["to"] == "12015550100"
    statuses = [status for status, uuid in events if uuid == asked[0]["uuid"]]
    assert statuses[:3] == ["started", "ringing", "answered"] and statuses[-1] == "completed"
    assert busy.refused and busy.refused_status is None and "busy" in (busy.error or "")
