"""The Cartesia stand-in on the wire, without any SDK."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
from pydantic import ValidationError

from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.faults import FAULTS, Fault
from serve_app.simulators.speech import speak
from tests.unit.providers_fixtures import QUICK, running

KEY = {"Authorization": "Bearer k"}
FORMAT = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}


def request(context_id: str = "t1", **fields: Any) -> dict[str, Any]:
    base = {"model_id": "sonic-3", "transcript": "Hello there. ", "voice": {"id": "v"}, "output_format": FORMAT}
    return {"context_id": context_id, "language": "en", "continue": True, "max_buffer_delay_ms": 0, **base, **fields}


@asynccontextmanager
async def connected(
    config: SimulatorConfig | None = None, *faults: Fault
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    config = config or SimulatorConfig(latency=QUICK, tts_realtime_factor=40)
    async with running(config) as bed, aiohttp.ClientSession() as session:
        for fault in faults:
            bed.app[FAULTS].add(fault)
        async with session.ws_connect(f"{bed.url}/tts/websocket", headers=KEY) as socket:
            yield socket
        assert bed.app[FAULTS].active == []


async def until(socket: aiohttp.ClientWebSocketResponse, kind: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while not messages or messages[-1]["type"] != kind:
            messages.append(json.loads((await socket.receive()).data))
    return messages


def audio(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(message["data"]) for message in messages if message["type"] == "chunk")


async def test_chunks_timestamps_flush_and_done() -> None:
    async with connected() as socket:
        await socket.send_json(request(add_timestamps=True))
        await socket.send_json(request(transcript="", flush=True, add_timestamps=True))
        await socket.send_json(request(transcript="", **{"continue": False}))
        messages = await until(socket, "done")
    assert {message["context_id"] for message in messages} == {"t1"}
    assert audio(messages) == speak("Hello there. ", voice="agent-en", rate_hz=16000).pcm.tobytes()
    timed = next(message for message in messages if message["type"] == "timestamps")
    assert timed["word_timestamps"]["words"] == ["Hello", "there."]
    assert [message["flush_id"] for message in messages if message["type"] == "flush_done"] == [1]


async def test_text_waits_for_more_unless_told_otherwise() -> None:
    async with connected() as socket:
        document = request(max_buffer_delay_ms=400)
        await socket.send_json(document)
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=0.2)
        assert audio(await until(socket, "chunk"))


async def test_a_context_expires_and_cannot_be_used_again() -> None:
    config = SimulatorConfig(latency=QUICK, tts_realtime_factor=40, tts_context_expiry_s=0.1)
    async with connected(config) as socket:
        await socket.send_json(request())
        await until(socket, "done")
        await socket.send_json(request())
        error = (await until(socket, "error"))[-1]
        assert (error["context_id"], error["status_code"]) == ("t1", 400)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model_id": "sonic-english"}, 400, "model_sunsetted"),
        ({"model_id": "sonic-9"}, 404, "model_not_found"),
        ({"voice": {"embedding": [0.1]}}, 400, "invalid_request"),
        ({"output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 11025}}, 400, None),
        ({"max_buffer_delay_ms": 9000}, 400, None),
    ],
)
async def test_errors_name_their_context(fields: dict[str, Any], status: int, code: str | None) -> None:
    async with connected() as socket:
        await socket.send_json(request(**fields))
        error = (await until(socket, "error"))[-1]
    assert (error["context_id"], error["status_code"]) == ("t1", status)
    assert code is None or error["error_code"] == code
    assert error["title"] and error["message"] and error["request_id"]


async def test_fields_are_fixed_within_a_context_and_bad_json_names_none() -> None:
    async with connected() as socket:
        await socket.send_json(request())
        await socket.send_json(request(voice={"id": "other"}))
        assert (await until(socket, "error"))[-1]["context_id"] == "t1"
        await socket.send_str("not json")
        assert "context_id" not in (await until(socket, "error"))[-1]


async def test_late_chunks_follow_a_cancel_and_no_done() -> None:
    async with connected(SimulatorConfig(latency=QUICK, tts_realtime_factor=2)) as socket:
        await socket.send_json(request(transcript="This is a rather long sentence, so that much audio follows. "))
        await until(socket, "chunk")
        await socket.send_json({"context_id": "t1", "cancel": True})
        late = []
        with pytest.raises(TimeoutError):
            while True:
                late.append(json.loads((await socket.receive(timeout=0.5)).data)["type"])
    assert 1 <= late.count("chunk") <= 3 and "done" not in late


async def test_http_routes_and_voices() -> None:
    async with running() as bed, aiohttp.ClientSession(headers=KEY) as session:
        document = {name: value for name, value in request().items() if name in ("model_id", "transcript", "voice")}
        formats = {"encoding": "pcm_f32le", "sample_rate": 24000}
        whole = await session.post(f"{bed.url}/tts/bytes", json={**document, "output_format": formats})
        samples = np.frombuffer(await whole.read(), dtype="<f4")
        assert len(samples) == len(speak("Hello there. ", voice="agent-en", rate_hz=24000).pcm)
        stream = await session.post(f"{bed.url}/tts/sse", json={**document, "output_format": FORMAT})
        lines = [line for line in (await stream.text()).splitlines() if line.startswith("data: ")]
        assert json.loads(lines[-1][6:])["type"] == "done"
        voices = (await (await session.get(f"{bed.url}/voices")).json())["data"]
        assert (await session.get(f"{bed.url}/voices/{voices[0]['id']}")).status == 200
        assert (await session.get(f"{bed.url}/voices/none")).status == 404
        assert (await session.get(f"{bed.url}/voices", headers={"Authorization": "Bearer invalid"})).status == 401


async def test_a_fault_may_wait_for_the_text_that_it_breaks() -> None:
    fault = Fault(provider="cartesia", kind="error_event", containing="library")
    async with connected(None, fault) as socket:
        await socket.send_json(request("t1", **{"continue": False}))
        assert (await until(socket, "done"))[-1]["context_id"] == "t1"
        # Its second sentence is the one.
        await socket.send_json(request("t2"))
        await socket.send_json(request("t2", transcript="It is next to the library.", **{"continue": False}))
        messages = await until(socket, "error")
    assert messages[-1]["context_id"] == "t2"
    assert audio(messages) == speak("Hello there. ", voice="agent-en", rate_hz=16000).pcm.tobytes()


@pytest.mark.parametrize("fault", [{"provider": "deepgram", "kind": "cut"}, {"provider": "cartesia", "kind": "hang"}])
def test_a_fault_where_no_text_is_there_cannot_wait_for_one(fault: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"containing|call_id"):
        Fault.model_validate({**fault, "containing": "library"})
