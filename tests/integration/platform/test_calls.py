"""Calls that are interfered with: by command, by sockets without a right, by a full platform, by a killed process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import numpy as np
import pytest
import redis
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from serve_app.audio.mix import CHANNELS, parts_prefix
from serve_app.store.live import LiveState
from serve_app.store.objects import LOCAL_FOLDER
from serve_app.store.slots import REPLICAS
from tests.integration.harness import START_S, Running, eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_hang_up_by_command_reaches_the_live_call(platform: Running) -> None:
    call_id = platform.place([{"listen": True}], to="+12025550127")
    platform.until(call_id, "in_progress")
    answer = platform.api.post(f"/api/v1/calls/{call_id}/hangup")
    assert answer.status_code == 200, answer.text
    call = platform.ended(call_id)
    assert call["outcome"] == "agent_hung_up"
    assert platform.network(call_id)["disconnected_by"] == "platform"
    assert platform.api.post(f"/api/v1/calls/{call_id}/hangup").status_code == 409


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


def offers(platform: Running) -> set[str]:
    """The session replicas whose offer of slots is valid now."""
    with redis.Redis.from_url(platform.world.redis_url, decode_responses=True) as client:
        return set(client.zrangebyscore(REPLICAS[0], f"({time.time() * 1000}", "+inf"))


def test_a_killed_session_process_ends_its_call_on_record(platform: Running) -> None:
    """Outcome, transcript and the recording so far; and the next call finds a new process."""
    call_id = platform.place([{"say": "Where is the practice?"}, {"listen": True}], to="+12025550129")
    eventually(lambda: sum(t["role"] == "agent" and t["heard_text"] != "" for t in platform.turns(call_id)) >= 2, 60)
    parts = platform.world.folder / "data" / LOCAL_FOLDER / parts_prefix("default", call_id)
    eventually(lambda: all(any(parts.glob(f"{direction}-*")) for direction in CHANNELS), 60)
    # Whichever of them holds the call: there may be more than one for the calls of other tests.
    offered = offers(platform)
    for session in platform.replicas("CallSessions"):
        os.kill(session.pid, signal.SIGKILL)
    call = platform.ended(call_id)
    assert (call["status"], call["outcome"]) == ("failed", "session_lost")
    assert call["duration_s"] > 5
    assert platform.network(call_id)["over"]
    texts = " ".join(turn["text"] for turn in platform.turns(call_id))
    assert "Where is the practice?" in texts and "library" in texts
    description, samples = platform.recording(call_id)
    assert description["channels"] == 2
    assert np.abs(samples[:, 0]).max() > 1000 and np.abs(samples[:, 1]).max() > 1000
    # What the dead ones offered is valid for some seconds more; what the new one offers, as soon as it is ready.
    eventually(lambda: (now := offers(platform)) and not now & offered, START_S)
    again = platform.place([{"say": "Goodbye."}, {"listen": True}], to="+12025550129")
    assert platform.ended(again)["outcome"] == "completed"
