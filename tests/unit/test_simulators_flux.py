"""The Flux stand-in on the wire, without any SDK: it must be no kinder than Deepgram."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.listen import UNINTELLIGIBLE
from tests.unit.providers_fixtures import QUICK, Bed, running, spoken

pytest_plugins = ("tests.unit.providers_fixtures",)

QUERY = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": "16000", "tag": "call-1"}
KEY = {"Authorization": "Token k"}
TEXT = "Yes that time works for me."


class Client:
    """A socket and what came over it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        self.messages.append(json.loads(message.data))
        return self.messages[-1]

    async def until(self, **wanted: Any) -> dict[str, Any]:
        while True:
            message = await self.next()
            if all(message.get(name) == value for name, value in wanted.items()):
                return message

    async def nothing(self, seconds: float = 0.3) -> None:
        with pytest.raises(TimeoutError):
            await self.socket.receive(timeout=seconds)


@asynccontextmanager
async def connected(bed: Bed, **query: str) -> AsyncIterator[Client]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{bed.url}/v2/listen", params={**QUERY, **query}, headers=KEY) as socket,
    ):
        client = Client(socket)
        first = await client.next()
        assert (first["type"], first["sequence_id"]) == ("Connected", 0)
        yield client


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ({"eager_eot_threshold": "0.8", "eot_threshold": "0.7"}, KEY, 400),
        ({"eot_threshold": "0.4"}, KEY, 400),
        ({"eot_timeout_ms": "100"}, KEY, 400),
        ({"sample_rate": "11025"}, KEY, 400),
        ({"model": "nova-3"}, KEY, 400),
        ({"interim_results": "true"}, KEY, 400),
        ({"keyterm": " "}, KEY, 400),
        ({}, {}, 401),
        ({}, {"Authorization": "Token invalid"}, 401),
    ],
)
async def test_bad_handshakes(bed: Bed, query: dict[str, str], headers: dict[str, str], status: int) -> None:
    async with aiohttp.ClientSession() as session:
        response = await session.get(f"{bed.url}/v2/listen", params={**QUERY, **query}, headers=headers)
        assert response.status == status
        assert response.headers["dg-error"] and response.headers["dg-request-id"]


async def test_a_turn_has_all_its_messages_in_order(bed: Bed) -> None:
    bed.scripts.expect("call-1", TEXT)
    async with connected(bed) as client:
        await client.socket.send_bytes(spoken(TEXT))
        ended = await client.until(event="EndOfTurn")
    assert [message["sequence_id"] for message in client.messages] == list(range(len(client.messages)))
    events = [message["event"] for message in client.messages[1:]]
    assert events[0] == "StartOfTurn" and events[-1] == "EndOfTurn" and set(events[1:-1]) == {"Update"}
    assert ended["transcript"] == TEXT and ended["trigger"] == "model"
    assert all("trigger" not in message for message in client.messages[:-1])
    updates = [message["audio_window_end"] for message in client.messages if message.get("event") == "Update"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(updates)]
    assert all(gap == pytest.approx(0.25, abs=0.03) for gap in gaps)
    for message in client.messages[1:]:
        for word in message["words"]:
            assert word["confidence"] >= 0.9
            assert word["start"] <= word["end"] <= message["audio_window_end"] + 0.001


async def test_without_audio_no_turn_ends(bed: Bed) -> None:
    bed.scripts.expect("call-1", TEXT)
    async with connected(bed) as client:
        await client.socket.send_bytes(spoken(TEXT, silence_s=0.0))
        await client.until(event="StartOfTurn")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.until(event="EndOfTurn")


async def test_a_turn_may_be_ended_by_hand_or_by_timeout(bed: Bed) -> None:
    bed.scripts.expect("call-1", TEXT)
    bed.scripts.expect("call-1", TEXT)
    async with connected(bed, eot_threshold="1.0", eot_timeout_ms="1000") as client:
        await client.socket.send_bytes(spoken(TEXT, silence_s=0.5))
        await client.socket.send_json({"type": "ForceEndTurn"})
        assert (await client.until(event="EndOfTurn"))["trigger"] == "manual"
        await client.socket.send_bytes(spoken(TEXT, silence_s=1.5))
        ended = await client.until(event="EndOfTurn")
        assert (ended["trigger"], ended["turn_index"]) == ("timeout", 1)


async def test_configure_echoes_what_is_in_force(bed: Bed) -> None:
    async with connected(bed) as client:
        await client.socket.send_json({"type": "Configure", "thresholds": {"eot_threshold": 0.9}})
        answer = await client.next()
        assert answer["type"] == "ConfigureSuccess" and answer["thresholds"]["eot_threshold"] == 0.9
        await client.socket.send_json({"type": "Configure", "thresholds": {"eager_eot_threshold": 0.95}})
        assert (await client.next())["type"] == "ConfigureFailure"


async def test_there_is_no_keep_alive_message(bed: Bed) -> None:
    async with connected(bed) as client:
        await client.socket.send_json({"type": "KeepAlive"})
        assert (await client.next())["type"] == "Error"
        assert (await client.socket.receive(timeout=2)).type is aiohttp.WSMsgType.CLOSE
        assert client.socket.close_code == 1008


async def test_a_stream_without_audio_is_closed() -> None:
    async with running(SimulatorConfig(latency=QUICK, stt_idle_close_s=0.2)) as bed, connected(bed) as client:
        assert (await client.next())["code"] == "INACTIVE_CLIENT"


async def test_close_stream_closes_with_1000(bed: Bed) -> None:
    async with connected(bed) as client:
        await client.socket.send_json({"type": "CloseStream"})
        assert (await client.socket.receive(timeout=2)).type is aiohttp.WSMsgType.CLOSE
        assert client.socket.close_code == 1000


async def test_speech_that_nobody_scripted_still_makes_a_turn(bed: Bed) -> None:
    async with connected(bed) as client:
        await client.socket.send_bytes(spoken(TEXT))
        ended = await client.until(event="EndOfTurn")
    assert ended["transcript"] == UNINTELLIGIBLE
    assert all(word["confidence"] < 0.5 for word in ended["words"])


async def test_unscripted_speech_is_recognised_and_marked_by_its_confidence() -> None:
    async with running(SimulatorConfig(latency=QUICK)) as bed, connected(bed) as client:
        await client.socket.send_bytes(spoken(TEXT))
        async with asyncio.timeout(30):
            while (message := json.loads((await client.socket.receive()).data))["event"] != "EndOfTurn":
                pass
    assert "works for me" in message["transcript"]
    assert all(word["confidence"] < 0.5 for word in message["words"])


async def test_the_script_comes_over_http_too_and_the_audio_can_be_fetched(bed: Bed) -> None:
    audio = spoken(TEXT)
    async with connected(bed) as client, aiohttp.ClientSession() as session:
        answer = await session.post(f"{bed.url}/sim/calls/call-1/script", json={"texts": [TEXT]})
        assert (await answer.json()) == {"pending": 1}
        assert (await session.post(f"{bed.url}/sim/calls/call-1/script", json={"text": TEXT})).status == 422
        for offset in range(0, len(audio), 6400):
            await client.socket.send_bytes(audio[offset : offset + 6400])
        assert (await client.until(event="EndOfTurn"))["transcript"] == TEXT
        fetched = await session.get(f"{bed.url}/sim/calls/call-1/stt_audio")
        assert await fetched.read() == audio
        assert (await session.get(f"{bed.url}/sim/calls/other/stt_audio")).status == 404


async def test_faults_are_validated_counted_and_switched_off(bed: Bed) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"{bed.url}/sim/faults"
        assert (await session.post(url, json={"provider": "deepgram", "kind": "odd_chunks"})).status == 422
        assert (await session.post(url, json={"provider": "nobody", "kind": "cut"})).status == 422
        fault = {"provider": "deepgram", "kind": "unauthorized", "count": 2}
        assert (await session.post(url, json=fault)).status == 201
        statuses = []
        for _ in range(3):
            response = await session.get(f"{bed.url}/v2/listen", params={**QUERY, "model": "x"}, headers=KEY)
            statuses.append(response.status)
        assert statuses == [401, 401, 400]
        await session.post(url, json=fault)
        assert (await session.delete(url)).status == 204
        assert await (await session.get(url)).json() == []
