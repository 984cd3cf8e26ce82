"""The simulated network: its API, its calls, its webhooks, its callees.

The platform's own code checks the signatures.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import wave
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import numpy as np
import pytest
from aiohttp import web

from serve_app.simulators.callee import CalleeBehaviour, load_behaviour
from serve_app.simulators.callee_actor import share_words
from serve_app.simulators.network import add_network_routes
from serve_app.simulators.network_config import NetworkConfig, NetworkFault, RollingLimit
from serve_app.simulators.scripts import SCRIPTS, ScriptBook
from serve_app.telephony.vonage import ncco
from serve_app.telephony.vonage.rest import NotPlaced, PlacedCall, VonageClient
from serve_app.telephony.vonage.webhooks import WebhookRejected, parse_event, replay_key, signed_payload, verify
from tests.unit.network_fixtures import (
    CALLEE,
    CALLER,
    Hook,
    Platform,
    eventually,
    key_pair,
    platform,
    serving,
    vonage_network,
    vonage_settings,
)

TERMINAL = {"completed", "busy", "timeout", "rejected", "failed", "unanswered", "cancelled"}


def listener(**changes: Any) -> CalleeBehaviour:
    return CalleeBehaviour.model_validate({"answer_after_ms": 10} | changes)


def check(hook: Hook) -> None:
    items = hook.query
    verify(hook.headers.get("Authorization"), hook.method, hook.body, items, vonage_settings(), datetime.now(UTC))


async def place(url: str, it: Platform, **extra: Any) -> PlacedCall:
    client = VonageClient(vonage_settings(url))
    try:
        return await client.create_call(
            CALLEE, CALLER, answer_url=f"{it.url}/answer?attempt=a1", event_url=f"{it.url}/event?attempt=a1", **extra
        )
    finally:
        await client.aclose()


async def hang_up(url: str, uuid: str) -> None:
    client = VonageClient(vonage_settings(url))
    await client.hang_up(uuid)
    await client.aclose()


async def test_a_call_from_post_to_completed() -> None:
    behaviour = listener(steps=[{"say": "Yes, that works."}, {"dtmf": "1#"}, {"hang_up": True}])
    async with platform() as it, vonage_network(default_callee=behaviour) as (url, network):
        placed = await place(url, it)
        call = network.calls[placed.uuid]
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        assert it.statuses(placed.uuid) == ["started", "ringing", "answered", "completed"]
        for hook in [*it.answers, *it.events]:
            check(hook)
            assert dict(hook.query).get("attempt") == "a1" or hook.document.get("uuid") == call.media_uuid
        (answer,) = it.answers
        parameters = parse_event(answer.body)
        assert (parameters.to, parameters.from_, parameters.uuid) == (CALLEE, CALLER, placed.uuid)
        assert parameters.region_url == url
        completed = it.events[-1].document
        assert completed["disconnected_by"] == "user" and completed["duration"].isdigit()
        assert isinstance(completed["price"], str)
        media = [parse_event(e.body) for e in it.events if e.document.get("uuid") == call.media_uuid]
        assert [e.status for e in media] == ["started", "answered", "completed"]
        assert all(e.of_media_leg and e.conversation_uuid == placed.conversation_uuid for e in media)
        assert it.media_headers["Authorization"] == "Bearer token-1"
        assert it.media_text[0] == {
            "event": "websocket:connected", "content-type": "audio/l16;rate=16000", "call_id": "call-1",
        }  # fmt: skip
        assert [m["digit"] for m in it.media_text[1:]] == ["1", "#"]
        assert call.media is not None and call.callee.steps_done == 2 + 1
        (said,) = call.media.utterances
        start = said.first_frame * 640
        assert hashlib.sha256(it.media_audio[start : start + len(said.pcm)]).hexdigest() == said.sha256
        assert call.media.buffer.played == it.tone_frames and call.media.buffer.underruns == 0
        assert said.first_frame > it.tone_frames  # it waited for the agent to finish


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("busy", ["started", "ringing", "busy", "completed"]),
        ("no_answer", ["started", "ringing", "timeout", "completed"]),
        ("unanswered", ["started", "ringing", "unanswered", "completed"]),
        ("rejected", ["started", "ringing", "rejected"]),
        ("failed", ["started", "ringing", "failed", "completed"]),
    ],
)
async def test_calls_that_are_not_answered(outcome: str, expected: list[str]) -> None:
    async with platform() as it, vonage_network(default_callee=listener(outcome=outcome)) as (url, network):
        placed = await place(url, it, ringing_timer=1)
        await eventually(lambda: it.statuses(placed.uuid) == expected)
        assert it.answers == [] and network.calls[placed.uuid].over
        client = VonageClient(vonage_settings(url))
        snapshot = await client.get_call(placed.uuid)
        await client.aclose()
        assert snapshot is not None and snapshot.status == expected[2] and snapshot.over


async def test_hang_up_by_rest_while_ringing_and_while_talking() -> None:
    async with platform() as it, vonage_network(default_callee=listener(answer_after_ms=300)) as (url, network):
        ringing = await place(url, it)
        await eventually(lambda: it.statuses(ringing.uuid) == ["started", "ringing"])
        await hang_up(url, ringing.uuid)
        await eventually(lambda: it.statuses(ringing.uuid)[2:] == ["cancelled", "completed"])
        talking = await place(url, it)
        await eventually(lambda: it.media_text)
        await hang_up(url, talking.uuid)
        await eventually(lambda: "completed" in it.statuses(talking.uuid))
        assert it.events[-1].document["disconnected_by"] == "platform"
        assert not [e for e in it.events if e.document["status"] == "disconnected"]
        media = network.calls[talking.uuid].media
        assert media is not None and media.stats.end == "near_closed"


async def test_length_timer_and_the_callees_own_patience_end_a_call() -> None:
    async with platform() as it, vonage_network(default_callee=listener()) as (url, _):
        placed = await place(url, it, length_timer=1)
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        assert it.events[-1].document["disconnected_by"] == "platform"
    async with platform() as it, vonage_network(default_callee=listener(max_duration_s=0.3)) as (url, _):
        placed = await place(url, it)
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        assert it.events[-1].document["disconnected_by"] == "user"


async def test_the_platform_closing_the_socket_is_told_as_disconnected() -> None:
    async with platform() as it, vonage_network(default_callee=listener()) as (url, network):
        it.close_after_s = 0.2
        placed = await place(url, it)
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        leg = it.statuses(network.calls[placed.uuid].media_uuid or "")
        assert leg == ["started", "answered", "disconnected"]


async def test_a_refused_media_socket_fails_the_leg() -> None:
    async with platform() as it, vonage_network(default_callee=listener()) as (url, network):
        it.refuse_media = 503
        placed = await place(url, it)
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        call = network.calls[placed.uuid]
        assert it.statuses(call.media_uuid or "") == ["started", "failed"] and "503" in (call.problem or "")


async def test_an_ncco_without_media_format_or_not_an_ncco_ends_the_call() -> None:
    broken: list[Any] = [
        [], {}, [{"action": "dance"}], [*ncco.talk("a"), {"action": "connect", "endpoint": []}],
        [{"action": "connect", "endpoint": [{"type": "websocket", "uri": "wss://h", "contentType": "x"}]}],
    ]  # fmt: skip
    async with platform() as it, vonage_network(default_callee=listener(), calls_per_second=9) as (url, _):
        for document in broken:
            it.ncco = lambda _, document=document: document
            placed = await place(url, it)
            await eventually(lambda uuid=placed.uuid: "completed" in it.statuses(uuid))
        errors = [e.document for e in it.events if "reason" in e.document and "status" not in e.document]
        assert len(errors) == len(broken) and all("uuid" not in e for e in errors)


async def test_talk_then_the_call_ends() -> None:
    async with platform() as it, vonage_network(default_callee=listener()) as (url, network):
        it.ncco = lambda _: ncco.talk("All our lines are busy.")
        placed = await place(url, it)
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        assert network.calls[placed.uuid].talk_texts == ["All our lines are busy."]


async def test_the_ncco_is_asked_for_twice_only_where_the_network_does() -> None:
    async with platform() as it, vonage_network(default_callee=listener(), calls_per_second=9) as (url, _):
        it.ncco = lambda _: ncco.talk("Hello.")
        for status, asked in ((503, 2), (429, 2), (504, 2), (500, 1), (404, 1)):
            it.answers.clear()
            it.answer_statuses = [status]
            placed = await place(url, it)
            await eventually(lambda uuid=placed.uuid: "completed" in it.statuses(uuid))
            assert len(it.answers) == asked
            keys = set()
            for hook in it.answers:
                items = hook.query
                claims = verify(
                    hook.headers["Authorization"], "POST", hook.body, items, vonage_settings(), datetime.now(UTC)
                )
                keys.add(replay_key(claims, signed_payload("POST", hook.body, items)))
            assert len(keys) == asked


async def test_an_event_is_sent_again_once() -> None:
    async with platform() as it, vonage_network(default_callee=listener(outcome="busy")) as (url, network):
        it.event_statuses = [500, 500]
        placed = await place(url, it)
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        assert it.statuses(placed.uuid) == ["started", "started", "ringing", "busy", "completed"]
        assert [w["code"] for w in network.sender.describe()] == [500, 500, 200, 200, 200]


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("webhook_lost", "ringing", ["started", "busy", "completed"]),
        ("webhook_duplicated", "busy", ["started", "ringing", "busy", "busy", "completed"]),
        ("webhook_reordered", "started", ["ringing", "started", "busy", "completed"]),
        ("webhook_reordered", "busy", ["started", "ringing", "completed", "busy"]),
        ("webhook_reordered", "completed", ["started", "ringing", "busy", "completed"]),
    ],
)
async def test_lost_duplicated_and_reordered_webhooks(kind: Any, status: str, expected: list[str]) -> None:
    async with platform() as it, vonage_network(default_callee=listener(outcome="busy")) as (url, network):
        network.faults.active.append(NetworkFault(kind=kind, status=status))
        placed = await place(url, it)
        await eventually(lambda: len(it.events) == len(expected))
        assert it.statuses(placed.uuid) == expected and network.faults.active == []
        if kind == "webhook_duplicated":
            first, second = (e for e in it.events if e.document["status"] == "busy")
            assert (first.body, first.headers["Authorization"]) == (second.body, second.headers["Authorization"])


@pytest.mark.parametrize("kind", ["webhook_unsigned", "webhook_bad_hash", "webhook_stale"])
async def test_forged_webhooks_do_not_verify(kind: Any) -> None:
    async with platform() as it, vonage_network(default_callee=listener(outcome="busy")) as (url, network):
        network.faults.active.append(NetworkFault(kind=kind, status="busy"))
        placed = await place(url, it)
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        verdicts: dict[str, bool] = {}
        for hook in it.events:
            try:
                check(hook)
                verdicts[hook.document["status"]] = True
            except WebhookRejected:
                verdicts[hook.document["status"]] = False
        assert verdicts == {"started": True, "ringing": True, "busy": False, "completed": True}


async def test_an_inbound_call_asks_by_get_and_is_answered_by_the_ncco() -> None:
    async with platform() as it:
        hooks = {"answer_url": f"{it.url}/answer", "event_url": f"{it.url}/event"}
        async with vonage_network(default_callee=listener(), **hooks) as (url, _), aiohttp.ClientSession() as http:
            behaviour = {"steps": [{"hang_up": True}]}
            body = {"from": CALLER, "to": CALLEE, "behaviour": behaviour}
            async with http.post(f"{url}/sim/inbound", json=body) as response:
                assert response.status == 201
                uuid = (await response.json())["uuid"]
            await eventually(lambda: "completed" in it.statuses(uuid))
            (hook,) = it.answers
            check(hook)
            assert hook.method == "GET" and parse_event(b"", hook.query).to == CALLEE
            assert it.statuses(uuid) == ["started", "ringing", "answered", "completed"]
            assert {parse_event(e.body).direction for e in it.events if e.document["uuid"] == uuid} == {"inbound"}


async def test_more_than_three_creates_in_a_second_are_refused_and_not_queued() -> None:
    async with platform() as it, vonage_network(default_callee=listener(outcome="rejected")) as (url, network):
        outcomes = await asyncio.gather(*(place(url, it) for _ in range(6)), return_exceptions=True)
        refused = [o for o in outcomes if isinstance(o, NotPlaced) and o.status == 429 and o.retryable]
        assert len(refused) == 3 == len(network.calls) and network.create_requests == 6


def test_the_limit_is_a_rolling_second() -> None:
    now = [0.0]
    limit = RollingLimit(3, lambda: now[0])
    granted = []
    for now[0] in (0.0, 0.9, 0.95, 0.99, 1.0, 1.5, 1.91, 1.96):
        granted.append(limit.grant())
    assert granted == [True, True, True, False, True, False, True, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"application_id": "other"}, {"exp": 1}, {"jti": None}, {"exp": None},
    ],
)  # fmt: skip
async def test_rest_tokens_are_checked(changes: dict[str, Any]) -> None:
    settings = vonage_settings()
    now = int(datetime.now(UTC).timestamp())
    claims = {"application_id": settings.application_id, "iat": now, "jti": "x", "exp": now + 900} | changes
    token = jwt.encode({k: v for k, v in claims.items() if v is not None}, key_pair()[0], algorithm="RS256")
    forged = jwt.encode({"application_id": settings.application_id, "iat": now, "jti": "x", "exp": now + 9}, "s" * 40)
    async with vonage_network() as (url, network), aiohttp.ClientSession() as http:
        for authorization in (f"Bearer {token}", f"Bearer {forged}", "Bearer x", ""):
            async with http.post(f"{url}/v1/calls", json={}, headers={"Authorization": authorization}) as response:
                assert response.status == 401
        assert len(network.calls) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"to": [{"type": "phone", "number": CALLEE}]}, {"to": []}, {"from": None}, {"answer_url": None},
        {"ncco": [{"action": "talk"}]}, {"ringing_timer": 121}, {"length_timer": 0}, {"answer_url": "http://x"},
    ],
)  # fmt: skip
async def test_create_call_is_validated(changes: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "to": [{"type": "phone", "number": CALLEE[1:]}], "from": {"type": "phone", "number": CALLER[1:]},
        "answer_url": ["http://127.0.0.1:9/a"],
    }  # fmt: skip
    token = VonageClient(vonage_settings())._jwt.generate_application_jwt().decode()
    body = {k: v for k, v in (good | changes).items() if v is not None}
    async with vonage_network() as (url, network), aiohttp.ClientSession() as http:
        headers = {"Authorization": f"Bearer {token}"}
        async with http.post(f"{url}/v1/calls", json=body, headers=headers) as response:
            assert response.status == 400
            document = await response.json()
        assert document["type"] == "BAD_REQUEST" and document["invalid_parameters"] and not network.calls


def wav_bytes(rate: int, seconds: float) -> bytes:
    samples = (np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * 300 / rate) * 9000).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples, 2).tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize("by_path", [True, False])
async def test_a_sound_file_of_another_rate_enters_the_leg_in_one_run(tmp_path: Path, by_path: bool) -> None:
    sound = wav_bytes(44100, 0.53)
    path = tmp_path / "callee.wav"
    path.write_bytes(sound)
    step = {"play": str(path)} if by_path else {"play_base64": base64.b64encode(sound).decode()}
    async with platform() as it, vonage_network() as (url, network), aiohttp.ClientSession() as http:
        behaviour = {"answer_after_ms": 1, "steps": [step | {"pause_ms": 100}, {"wait_ms": 60}, {"hang_up": True}]}
        async with http.put(f"{url}/sim/callees/{CALLEE}", json=behaviour) as response:
            assert response.status == 200
        placed = await place(url, it)
        await eventually(lambda: network.calls[placed.uuid].over)
        async with http.get(f"{url}/sim/calls/call-1") as response:
            shown = await response.json()
        assert shown["uuid"] == placed.uuid and shown["steps_done"] == 3
        (said,) = shown["media"]["utterances"]
        assert said["text"] is None and said["bytes"] % 640 == 0
        assert abs(said["bytes"] / 32000 - 0.53) <= 0.021
        async with http.get(f"{url}/sim/calls/{placed.uuid}/utterances/0.pcm") as response:
            pcm = await response.read()
        assert hashlib.sha256(pcm).hexdigest() == said["sha256"]
        assert bytes(it.media_audio).count(pcm) == 1
        async with (
            http.get(f"{url}/sim/calls/{placed.uuid}/heard.wav") as response,
            http.get(f"{url}/sim/calls/x") as no,
        ):
            heard = wave.open(io.BytesIO(await response.read()))  # noqa: SIM115
            assert no.status == 404
        assert heard.getframerate() == 16000
        assert heard.getnframes() * 1000 // 16000 == shown["media"]["duration_ms"]


async def test_wrong_behaviours_are_told_at_once(tmp_path: Path) -> None:
    noise = tmp_path / "noise.wav"
    noise.write_bytes(b"no sound")
    wrong: list[Any] = [
        {"steps": [{"sing": "la"}]}, {"steps": [{"play": str(tmp_path / "none.wav")}]},
        {"steps": [{"play": str(noise)}]}, {"steps": [{"play_base64": "?"}]}, {"outcome": "maybe"},
        {"steps": [{"dtmf": "x"}]}, {"voice": "none", "steps": [{"say": "x"}]},
    ]  # fmt: skip
    async with vonage_network() as (url, network), aiohttp.ClientSession() as http:
        for document in wrong:
            async with http.put(f"{url}/sim/callees/{CALLEE}", json=document) as response:
                assert response.status == 422 and (await response.json())["error"]
        async with http.put(f"{url}/sim/callees/nobody", json={}) as response:
            assert response.status == 422
        assert network.callees == {}


async def test_the_script_is_told_before_the_words_sound() -> None:
    app = web.Application()
    app[SCRIPTS] = ScriptBook()
    behaviour = listener(steps=[{"say": "Great, thank you. Goodbye."}, {"hang_up": True}])
    network = add_network_routes(
        app, NetworkConfig(application_id=vonage_settings().application_id or "", api_key="abcd1234",
                           public_key=key_pair()[1], signature_secret="s" * 40, default_callee=behaviour)
    )  # fmt: skip
    async with platform() as it, serving(app) as url:
        placed = await place(url, it)
        await eventually(lambda: network.calls[placed.uuid].over)
    segments = []
    while (segment := app[SCRIPTS].next_segment("call-1")) is not None:
        segments.append(segment)
    assert " ".join(s.text for s in segments) == "Great, thank you. Goodbye."
    assert [s.more_follows for s in segments] == [True] * (len(segments) - 1) + [False]


async def test_a_barge_in_begins_while_the_agent_sounds() -> None:
    behaviour = listener(steps=[{"barge_in": "Wait.", "after_ms": 200}, {"hang_up": True}])
    async with platform() as it, vonage_network(default_callee=behaviour) as (url, network):
        it.tone_frames = 200
        placed = await place(url, it)
        await eventually(lambda: network.calls[placed.uuid].over)
        media = network.calls[placed.uuid].media
        assert media is not None and media.agent_began_tick is not None
        began = media.utterances[0].first_frame - media.agent_began_tick
        assert 9 <= began <= 12


def test_words_are_shared_by_voiced_time() -> None:
    assert share_words("a b c d", [(0, 100), (200, 500)]) == ["a", "b c d"]
    assert share_words("a b", [(0, 1), (2, 900)]) == ["a", "b"]
    assert share_words("a b c", [(0, 900), (901, 902), (903, 904)]) == ["a", "b", "c"]
    assert share_words("a", [(0, 1), (2, 3)]) == ["a", ""]
    assert share_words("a b", []) == []


def test_the_demonstration_callee_is_a_conversation() -> None:
    behaviour = load_behaviour()
    kinds = [type(step).__name__ for step in behaviour.steps]
    assert kinds.count("Say") + kinds.count("BargeIn") >= 4 and "BargeIn" in kinds
