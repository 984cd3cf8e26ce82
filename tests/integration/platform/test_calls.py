"""Calls through the whole chain on a real Serve: what the caller hears, what is stored, what survives a fault."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from serve_app.store.live import LiveState
from tests.integration.harness import Running, as_base64, eventually, spoken

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SILENCE_LIMIT_S = 5.0


@pytest.mark.parametrize(("rate_hz", "channels"), [(44100, 2), (8000, 1)])
def test_a_sound_file_reaches_the_recogniser_unharmed(
    platform: Running, tmp_path: Path, rate_hz: int, channels: int
) -> None:
    """The PCM that enters the leg occurs as one contiguous run in what the STT stand-in received."""
    text = "Where can I park my car"
    samples = spoken(text, rate_hz)
    file = tmp_path / "speech.wav"
    soundfile.write(file, np.column_stack([samples] * channels), rate_hz, subtype="PCM_16")
    steps = [
        {"play_base64": as_base64(file), "transcript": text},
        {"say": "Thank you. Goodbye."},
        {"listen": True},
    ]
    call_id = platform.place(steps, to="+12025550124")
    call = platform.ended(call_id)
    assert call["outcome"] == "completed", call
    network = platform.network(call_id)
    media = network["media"]
    assert media["wrong_size"] == 0
    said = media["utterances"][0]
    entered = platform.sim.get(f"/sim/calls/{call_id}/utterances/0.pcm").raise_for_status().content
    assert len(entered) == said["bytes"] > 16000
    received = platform.sim.get(f"/sim/calls/{call_id}/stt_audio").raise_for_status().content
    assert received.count(entered) == 1
    turns = platform.turns(call_id)
    assert next(t["text"] for t in turns if t["role"] == "callee") == text
    assert not any(t["approximate"] for t in turns)
    assert "Parking is free" in " ".join(t["text"] for t in turns if t["role"] == "agent")
    description, recorded = platform.recording(call_id)
    assert abs(description["duration_s"] - call["duration_s"]) <= 0.04
    assert _contains(recorded[:, 0], np.frombuffer(entered, dtype="<i2"))
    assert np.abs(recorded[:, 1]).max() > 1000


def _contains(track: np.ndarray, piece: np.ndarray) -> bool:
    """Whether `piece` stands in `track` sample for sample."""
    return piece.astype("<i2").tobytes() in track.astype("<i2").tobytes()


def test_speech_without_a_transcript_is_recognised_and_marked(platform: Running, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    soundfile.write(file, spoken("where is the practice", 16000), 16000)
    noise = tmp_path / "noise.wav"
    generator = np.random.default_rng(1)
    soundfile.write(noise, generator.normal(0, 6000, 12000).astype("int16"), 16000)
    steps = [{"play_base64": as_base64(file)}, {"play_base64": as_base64(noise)}, {"wait_ms": 3000}, {"hang_up": True}]
    call_id = platform.place(steps, to="+12025550125")
    call = platform.ended(call_id)
    assert call["outcome"] == "callee_hung_up"
    callee = [turn for turn in platform.turns(call_id) if turn["role"] == "callee"]
    assert len(callee) >= 2, "speech that cannot be read still makes a turn"
    assert all(turn["approximate"] and turn["text"] for turn in callee)


FAULTS = [
    ("llm", "unauthorized", {"count": 1}),
    ("llm", "rate_limited", {"count": 1}),
    ("llm", "hang", {"count": 1}),
    ("llm", "cut", {"count": 1, "after": 3}),
    ("cartesia", "cut", {"count": 1, "after": 2}),
    ("cartesia", "hang_mid_stream", {"count": 1, "after": 2}),
    ("deepgram", "cut", {"count": 1, "after": 8}),
]


@pytest.mark.parametrize(("provider", "kind", "extra"), FAULTS, ids=[f"{p}-{k}" for p, k, _ in FAULTS])
def test_a_failing_provider_ends_in_speech_or_a_clean_end(
    platform: Running, provider: str, kind: str, extra: dict[str, int]
) -> None:
    steps = [{"say": "Where is the practice?"}, {"say": "Where can I park?"}, {"say": "Goodbye."}]
    to = "+12025550126"
    call_id = platform.place([*steps, {"listen": True}], to=to, max_duration_s=60)
    # The opening must be spoken before the fault begins: it is the talk that is tested here.
    eventually(lambda: any(turn["role"] == "agent" for turn in platform.turns(call_id)), 60)
    platform.fault(provider, kind, **extra)
    try:
        call = platform.ended(call_id)
    finally:
        platform.sim.delete("/sim/faults").raise_for_status()
    assert call["outcome"] in ("completed", "provider_failure"), call
    heard = platform.sim.get(f"/sim/calls/{call_id}/heard.wav").raise_for_status().content
    silence_s = _longest_silence_s(heard, platform.network(call_id)["media"]["utterances"])
    assert silence_s <= SILENCE_LIMIT_S, f"{silence_s:.1f} s of silence"
    platform.recording(call_id)


def _longest_silence_s(heard_wav: bytes, utterances: list[dict[str, int]]) -> float:
    """The longest time in which neither side made a sound, until the call's end."""
    samples, rate = soundfile.read(io.BytesIO(heard_wav), dtype="int16", always_2d=True)
    frame = rate // 50
    frames = np.abs(samples[: len(samples) // frame * frame, 0].astype(int)).reshape(-1, frame).max(axis=1)
    loud = frames > 200
    for said in utterances:
        first = said["first_frame"]
        loud[first : first + said["bytes"] // (2 * frame)] = True
    longest = current = 0
    for sounding in loud[int(np.argmax(loud)) :]:
        current = 0 if sounding else current + 1
        longest = max(longest, current)
    return longest / 50


def test_a_hang_up_by_command_reaches_the_live_call(platform: Running) -> None:
    call_id = platform.place([{"listen": True}], to="+12025550127")
    platform.until(call_id, "in_progress")
    answer = platform.api.post(f"/api/v1/calls/{call_id}/hangup")
    assert answer.status_code == 200, answer.text
    call = platform.ended(call_id)
    assert call["outcome"] == "agent_hung_up"
    assert platform.network(call_id)["disconnected_by"] == "platform"
    assert platform.api.post(f"/api/v1/calls/{call_id}/hangup").status_code == 409


def test_many_calls_at_once_leave_nothing_behind(platform: Running) -> None:
    """Six calls on one session process: each its own transcript, and all slots free afterwards."""
    questions = ["Where is the practice?", "Where can I park?", "What should I bring?"] * 2
    with ThreadPoolExecutor(6) as pool:
        placed = list(
            pool.map(
                lambda item: platform.place(
                    [{"say": item[1]}, {"say": "Goodbye."}, {"listen": True}], to=f"+1202555013{item[0]}"
                ),
                enumerate(questions),
            )
        )
        calls = list(pool.map(platform.ended, placed))
    assert [call["outcome"] for call in calls] == ["completed"] * 6
    for call_id, question in zip(placed, questions, strict=True):
        texts = [turn["text"] for turn in platform.turns(call_id) if turn["role"] == "callee"]
        assert texts == [question, "Goodbye."]
    eventually(lambda: platform.api.get("/health").json()["capacity"]["used"] == 0, 20)


def ways_in(platform: Running) -> tuple[str, str]:
    """The ingress' own listener, and Serve's proxy."""
    return f"ws://127.0.0.1:{platform.world.media_port}", platform.url.replace("http", "ws", 1)


def test_a_call_is_told_to_come_to_the_media_listener_and_may_come_through_the_proxy(platform: Running) -> None:
    own, proxy = ways_in(platform)
    assert platform.api.get("/health").json()["media"] == {"url": own, "through_proxy": False}
    for number, way in enumerate((own, proxy)):
        leg = {"uuid": f"way-{number}", "conversation_uuid": "CON-1", "from": f"1202555016{number}"}
        body = json.dumps({**leg, "to": "12015550100"}).encode()
        (connecting,) = platform.api.post("/webhooks/vonage/answer", content=body, headers=platform.signed(body)).json()
        (endpoint,) = connecting["endpoint"]
        assert endpoint["uri"].startswith(f"{own}/media/")
        token = {"Authorization": endpoint["authorization"]["value"]}
        with connect(endpoint["uri"].replace(own, way), additional_headers=token, proxy=None) as media:
            connected = {"event": "websocket:connected", "content-type": endpoint["content-type"]}
            media.send(json.dumps(connected | endpoint["headers"]))
            greeting = next(message for message in media if isinstance(message, bytes))
            assert len(greeting) == 640
        platform.ended(endpoint["headers"]["call_id"])


class TestAdmission:
    """A media socket without a right to be there is refused before it is accepted."""

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer guess"}, {"Authorization": "Basic eDp5"}])
    def test_a_wrong_token_gets_401(self, platform: Running, headers: dict[str, str]) -> None:
        for way in ways_in(platform):
            with pytest.raises(InvalidStatus) as refused:
                connect(f"{way}/media/some-call", additional_headers=headers, proxy=None)
            assert refused.value.response.status_code == 401

    def test_a_token_in_the_path_is_checked_too(self, platform: Running) -> None:
        for way in ways_in(platform):
            with pytest.raises(InvalidStatus) as refused:
                connect(f"{way}/media/some-call/guess", proxy=None)
            assert refused.value.response.status_code == 401

    async def test_without_a_free_session_nobody_hangs(self, platform: Running) -> None:
        live = await LiveState.connect(platform.world.redis_url)
        total, _ = await live.capacity()
        taken = [f"test-{number}" for number in range(total)]
        try:
            assert all([await live.reserve(slot, 60) for slot in taken])
            # Inbound: a spoken apology from the answer webhook.
            body = json.dumps(
                {"uuid": "inbound-full", "conversation_uuid": "CON-1", "from": "12025550199", "to": "12015550100"}
            ).encode()
            answer = platform.api.post("/webhooks/vonage/answer", content=body, headers=platform.signed(body))
            assert answer.status_code == 200
            assert [action["action"] for action in answer.json()] == ["talk"]
            # Outbound: it waits for a session, and no request reaches the network meanwhile.
            before = platform.sim.get("/sim/calls").json()
            call_id = platform.place([{"listen": True}], to="+12025550128")
            await asyncio.sleep(2)
            assert platform.call(call_id)["status"] == "queued"
            assert len(platform.sim.get("/sim/calls").json()["calls"]) == len(before["calls"])
            # A socket whose slot is gone is refused with 503.
            lease = await _lease_for(live, platform)
            with pytest.raises(InvalidStatus) as refused:
                connect(
                    platform.url.replace("http", "ws", 1) + f"/media/{lease['call_id']}",
                    additional_headers={"Authorization": f"Bearer {lease['token']}"},
                    proxy=None,
                )
            assert refused.value.response.status_code == 503
        finally:
            for slot in taken:
                await live.release(slot)
            await live.aclose()
        # A session is free again: the queued call is placed after all.
        platform.until(call_id, "in_progress")
        platform.api.post(f"/api/v1/calls/{call_id}/hangup")
        platform.ended(call_id)


async def _lease_for(live: LiveState, platform: Running) -> dict[str, str]:
    """A genuine media token for a call whose slot does not exist."""
    agent = platform.api.get("/api/v1/agents/brief").json()
    lease = {
        "call_id": "no-slot", "tenant_id": "default", "direction": "inbound", "carrier_call_id": "none",
        "from_number": "+12025550123", "to_number": "+12015550100", "agent": agent["document"],
        "agent_version": agent["version"], "slot_id": "gone",
    }  # fmt: skip
    await live.put_media_token("a-token-of-the-test", json.dumps(lease), 30)
    return {"call_id": "no-slot", "token": "a-token-of-the-test"}


def test_an_inbound_call_is_answered_by_the_default_agent(platform: Running) -> None:
    behaviour = {"steps": [{"say": "Where can I park my car?"}, {"say": "Goodbye."}, {"listen": True}]}
    answer = platform.sim.post(
        "/sim/inbound", json={"from": "12025550150", "to": "12015550100", "behaviour": behaviour}
    )
    assert answer.status_code in (200, 201), answer.text
    found = eventually(
        lambda: [c for c in platform.api.get("/api/v1/calls").json()["items"] if c["from"] == "+12025550150"], 30
    )
    call = platform.ended(found[0]["id"])
    assert (call["direction"], call["outcome"]) == ("inbound", "completed")
    assert "Parking is free" in " ".join(turn["text"] for turn in platform.turns(call["id"]))


def test_a_killed_session_process_ends_its_call_on_record(platform: Running) -> None:
    """Outcome, transcript and the recording so far; and the next call finds a new process."""
    call_id = platform.place([{"say": "Where is the practice?"}, {"listen": True}], to="+12025550129")
    eventually(lambda: sum(t["role"] == "agent" and t["heard_text"] != "" for t in platform.turns(call_id)) >= 2, 60)
    time.sleep(2)  # more than one recording part per direction should have been written by now
    # Whichever of them holds the call: there may be more than one for the calls of other tests.
    killed = {session.pid for session in platform.replicas("CallSessions")}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    call = platform.ended(call_id, timeout_s=30)
    assert (call["status"], call["outcome"]) == ("failed", "session_lost")
    assert call["duration_s"] > 5
    assert platform.network(call_id)["over"]
    texts = " ".join(turn["text"] for turn in platform.turns(call_id))
    assert "Where is the practice?" in texts and "library" in texts
    description, samples = platform.recording(call_id)
    assert description["channels"] == 2
    assert np.abs(samples[:, 0]).max() > 1000 and np.abs(samples[:, 1]).max() > 1000
    eventually(lambda: {session.pid for session in platform.replicas("CallSessions")} - killed, 60)
    again = platform.place([{"say": "Goodbye."}, {"listen": True}], to="+12025550129")
    assert platform.ended(again)["outcome"] == "completed"
