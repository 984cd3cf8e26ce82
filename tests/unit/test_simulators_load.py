"""The stand-ins as a benchmark uses them: fixed texts and delays, and notes of what they injected when."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import aiohttp
import numpy as np
import pytest
import uvloop

from serve_app.simulators.config import SimulatorConfig, load_config
from serve_app.simulators.flux_turns import Thresholds, TurnTracker
from serve_app.simulators.latency import Constant
from serve_app.simulators.scripts import ScriptedSegment
from tests.unit.providers_fixtures import Bed, running, spoken

SPEECH = spoken("And where can I park?")
FAST = {
    name: {"kind": "constant", "ms": ms}
    for name, ms in {"stt_connect": 0, "llm_first_token": 60, "tts_first_audio": 40}.items()
}


def load_profile(**fields: Any) -> SimulatorConfig:
    return SimulatorConfig.model_validate({"profile": "load", "latency": FAST, **fields})


async def hear(bed: Bed, turns: int, **query: str) -> list[str]:
    """The transcripts of a stream that hears `turns` utterances."""
    parameters = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": "16000", **query}
    texts: list[str] = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{bed.url}/v2/listen", params=parameters, headers={"Authorization": "Token k"}) as socket,
    ):
        for _ in range(turns):
            await socket.send_bytes(bytes(64_000))
            await socket.send_bytes(SPEECH)
        async with asyncio.timeout(30):
            while len(texts) < turns:
                message = (await socket.receive()).json()
                if message.get("event") == "EndOfTurn":
                    texts.append(message["transcript"])
    return texts


async def take(bed: Bed) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{bed.url}/sim/timings") as answer:
        document: dict[str, Any] = await answer.json()
        return document


def test_the_load_profile_is_fixed_and_keeps_nothing() -> None:
    config = SimulatorConfig.model_validate({"profile": "load"})
    assert not config.recognise and config.stt_keep_audio_calls == 0
    assert all(isinstance(getattr(config.latency, name), Constant) for name in type(config.latency).model_fields)
    assert config.fixed_wait_ms == 400 + 250 + 150
    assert SimulatorConfig.model_validate({"profile": "load", "recognise": True}).recognise
    assert load_profile().fixed_wait_ms == 400 + 60 + 40
    assert SimulatorConfig().fixed_wait_ms is None


def test_the_environment_names_the_profile_of_a_file_that_names_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    file = tmp_path / "simulators.yaml"
    file.write_text("seed: 3")
    monkeypatch.setenv("SIMULATORS_PROFILE", "load")
    assert load_config(file).profile == "load" == load_config(None).profile
    file.write_text("profile: realistic")
    assert load_config(file).profile == "realistic"


async def test_a_stream_that_nobody_announced_says_the_default_texts_in_turn() -> None:
    async with running(load_profile(stt_default_script=["one", "two words"])) as bed:
        assert await hear(bed, 3) == ["one", "two words", "one"]
        bed.scripts.expect("told", "as announced")
        assert await hear(bed, 2, tag="told") == ["as announced", "two words"]


async def test_timings_name_stream_turn_and_moment_and_are_taken_once() -> None:
    async with running(load_profile(stt_default_script=["one", "two"])) as bed:
        before = time.monotonic()
        await hear(bed, 1, tag="call-1")
        await hear(bed, 2)
        after = time.monotonic()
        taken = await take(bed)
        assert (await take(bed))["streams"] == []
    first, second = taken["streams"]
    assert (first["tag"], first["number"], second["tag"], second["number"]) == ("call-1", 0, "", 1)
    assert [turn["text"] for turn in second["turns"]] == ["one", "two"]
    for turn in (*first["turns"], *second["turns"]):
        moments = [turn[name] for name in ("start_of_turn_audio_at", "start_of_turn_at", "end_of_turn_at")]
        assert before <= moments[0] <= moments[1] <= moments[2] <= after
    assert taken["lateness_max_ms"] >= taken["lateness_p99_ms"] >= 0 and taken["cpu_s"] > 0


async def test_replies_and_speech_are_fixed_and_their_waits_are_noted() -> None:
    config = load_profile(llm_script={"Where?": "Behind the building. It is free."}, llm_default_reply="Well.")
    async with running(config) as bed, aiohttp.ClientSession() as session:
        for asked, reply in (("Where?", "Behind the building. It is free."), ("Why?", "Well.")):
            body = {
                "model": "openai/gpt-oss-20b",
                "messages": [{"role": "user", "content": asked}],
                "include_reasoning": False,
            }
            headers = {"Authorization": "Bearer k"}
            url = f"{bed.url}/openai/v1/chat/completions"
            async with session.post(url, json={**body, "stream": False}, headers=headers) as answer:
                assert (await answer.json())["choices"][0]["message"]["content"] == reply
            async with session.post(url, json={**body, "stream": True}, headers=headers) as answer:
                assert b"[DONE]" in await answer.read()
        socket_url = f"{bed.url}/tts/websocket?api_key=k"
        async with session.ws_connect(socket_url) as socket:
            await socket.send_json(
                {
                    "model_id": "sonic-3", "transcript": "It is free.", "voice": {"id": "v"}, "context_id": "x",
                    "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 16000},
                    "max_buffer_delay_ms": 0,
                }
            )  # fmt: skip
            async with asyncio.timeout(30):
                while (await socket.receive()).json()["type"] != "done":
                    pass
        taken = await take(bed)
    assert [note["asked"] for note in taken["llm"]] == ["Where?", "Why?"]
    for note in taken["llm"]:
        assert note["injected_ms"] == 60 and (note["first_token_at"] - note["request_at"]) * 1000 >= 59
    (speech,) = taken["tts"]
    assert (speech["context_id"], speech["text"], speech["injected_ms"]) == ("x", "It is free.", 40)
    assert (speech["first_audio_at"] - speech["text_at"]) * 1000 >= 39


@pytest.mark.parametrize("joined", [1, 4, 7])
def test_silence_without_arithmetic_changes_no_event(joined: int) -> None:
    """The fast path against the slow one: the same drafts at the same positions."""

    def tracker() -> TurnTracker:
        return TurnTracker(
            16000,
            Thresholds(0.7, 0.5),
            next_segment=lambda: ScriptedSegment("x", more_follows=False),
            draw_start_delay_s=lambda: 0.2,
            draw_eot_delay_s=lambda: 0.4,
        )

    stream = bytes(640 * 40) + SPEECH + bytes(640 * 50) + SPEECH + bytes(640 * 300)
    frames = [stream[i : i + 640] for i in range(0, len(stream) // 640 * 640, 640)]
    slow, fast = tracker(), tracker()
    expected = [(d.event, d.window_end) for frame in frames for d in slow.feed(np.frombuffer(frame, "<i2"))]
    found: list[tuple[str, int]] = []
    for index in range(0, len(frames), joined):
        group = frames[index : index + joined]
        if not fast.in_turn and not any(map(any, group)):
            found += [(d.event, d.window_end) for d in fast.feed_silence(len(group))]
            continue
        for frame in group:
            drafts = fast.feed(np.frombuffer(frame, "<i2")) if any(frame) else fast.feed_silence(1)
            found += [(d.event, d.window_end) for d in drafts]
    assert found == expected and fast.position == slow.position
    assert [event for event, _ in found].count("EndOfTurn") == 2


def test_the_stand_ins_work_on_uvloop_faults_included() -> None:
    """The simulators' process runs on it, and its transports are no subclasses of asyncio's."""

    async def run() -> None:
        async with running(load_profile(stt_default_script=["one"])) as bed:
            assert await hear(bed, 1) == ["one"]
            bed.fault("deepgram", "cut")
            with pytest.raises(TypeError):  # a message that is no text: the connection is gone
                await hear(bed, 1)
            bed.fault("llm", "disconnect", count=2)  # aiohttp tries a GET twice
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientError):
                    await session.get(f"{bed.url}/v1/models", headers={"Authorization": "Bearer k"})

    uvloop.run(run())


async def test_a_client_that_leaves_in_the_handshake_leaves_nothing_behind() -> None:
    config = load_profile(latency={**FAST, "stt_connect": {"kind": "constant", "ms": 200}})
    async with running(config) as bed:
        host, port = bed.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /v2/listen?model=flux-general-en&encoding=linear16&sample_rate=16000 HTTP/1.1\r\nHost: x\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Token k\r\n\r\n"
        )
        await writer.drain()
        writer.transport.abort()
        await asyncio.sleep(0.4)
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert "flux idle watch" not in names


async def test_the_process_tells_its_profile() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serve_app.simulators", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "SIMULATORS_PROFILE": "load"},
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None
    try:
        import json

        url = json.loads(await process.stdout.readline())["url"]
        async with aiohttp.ClientSession() as session, session.get(f"{url}/sim/ready") as answer:
            assert await answer.json() == {"ready": True, "profile": "load", "fixed_wait_ms": 800}
    finally:
        process.stdin.close()
        async with asyncio.timeout(30):
            await process.wait()
