"""What a client of the REST API gets: calls placed, listed, read and hung up; errors that say what to do."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.store.db import Database
from serve_app.store.live import LiveState, Mailroom
from serve_app.store.repositories import ApiKeys, Attempts, Calls, Recordings, Turns
from tests.unit.api_support import AGENT, FROM, TO, FakeVonage, Plane, StoppedClock, dump, make_plane, make_settings

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

CALLS = "/api/v1/calls"


def check_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:parley:problem:{code}"
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


async def test_a_placed_call_is_queued_with_its_attempt_and_wakes_the_dialer(plane: Plane) -> None:
    response = await plane.http.post(
        CALLS, json={"to": "+1 202-555-0123", "metadata": {"order": 7}}, headers=plane.auth
    )
    assert response.status_code == 201
    call = response.json()
    assert (call["status"], call["to"], call["from"]) == ("queued", TO, FROM)
    assert call["agent"] == {"name": "riverside-dental", "version": 1}
    assert call["metadata"] == {"order": 7}
    attempts = await Attempts(plane.db, "default").for_call(call["id"])
    assert [attempt.status for attempt in attempts] == ["intended"]
    assert plane.woken == ["dialer"]
    assert plane.vonage.posts == []
    read = await plane.http.get(f"{CALLS}/{call['id']}", headers=plane.auth)
    assert read.json() == call


@pytest.mark.parametrize(
    ("body", "field", "remedy"),
    [
        ({}, "to", "add the field to"),
        ({"to": "2025550123"}, "to", "E.164"),
        ({"to": "+1 202 555"}, "to", "digits"),
        ({"to": "+12025550123 ext. 5"}, "to", "extension"),
        ({"to": "hello"}, "to", "E.164"),
        ({"to": TO, "form": FROM}, "form", "did you mean from?"),
        ({"to": TO, "agent": "Not A Name"}, "agent", "/docs"),
        ({"to": TO, "agent": "nobody"}, "agent", "/api/v1/agents"),
        ({"to": TO, "metadata": {"x": "y" * 5000}}, "metadata", "id"),
    ],
)
async def test_a_wrong_request_names_the_field_and_the_remedy(
    plane: Plane, body: dict[str, Any], field: str, remedy: str
) -> None:
    before = await dump(plane.db)
    response = await plane.http.post(CALLS, json=body, headers=plane.auth)
    problem = check_problem(response, 422, "no_agent" if remedy == "/api/v1/agents" else "invalid_request")
    assert problem["errors"][0]["field"] == field
    assert remedy in problem["errors"][0]["remedy"]
    assert await dump(plane.db) == before


async def test_broken_json_is_a_problem(plane: Plane) -> None:
    headers = plane.auth | {"Content-Type": "application/json"}
    response = await plane.http.post(CALLS, content=b'{"to": ', headers=headers)
    assert check_problem(response, 422, "invalid_request")["errors"][0]["field"] == "body"


async def test_a_second_live_call_to_a_number_is_refused_but_not_for_another_tenant(plane: Plane) -> None:
    await plane.place()
    response = await plane.http.post(CALLS, json={"to": TO}, headers=plane.auth)
    check_problem(response, 409, "call_live")
    other = await plane.another_key("other")
    await plane.http.put("/api/v1/agents/riverside-dental", json=AGENT, headers=other)
    response = await plane.http.post(CALLS, json={"to": TO}, headers=other)
    assert response.status_code == 201


async def test_a_real_network_dials_only_allowed_numbers_and_shows_only_our_own(
    sqlite_db: Database,
    live: LiveState,
    vonage: FakeVonage,
    tmp_path: Path,
) -> None:
    settings = make_settings(
        vonage={"base_url": "https://api.nexmo.com"}, dialing={"allowed_numbers": ["+14155550100", "+15551234567"]}
    )
    clock = StoppedClock(datetime(2026, 11, 20, 20, 0, tzinfo=UTC))  # noon in San Francisco
    made, client = await make_plane(sqlite_db, live, vonage, tmp_path, settings, clock=clock)
    async with made.http:
        before = await dump(sqlite_db)
        denied = await made.http.post(CALLS, json={"to": TO}, headers=made.auth)
        assert check_problem(denied, 403, "not_allowed")["reason"] == "not_on_allow_list"
        unassigned = await made.http.post(CALLS, json={"to": "+15551234567"}, headers=made.auth)
        assert check_problem(unassigned, 403, "not_allowed")["reason"] == "invalid_number"
        spoofed = await made.http.post(CALLS, json={"to": "+14155550100", "from": TO}, headers=made.auth)
        assert check_problem(spoofed, 422, "invalid_request")["errors"][0]["field"] == "from"
        clock.time = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)  # ten in the evening there
        late = check_problem(
            await made.http.post(CALLS, json={"to": "+14155550100"}, headers=made.auth), 403, "not_allowed"
        )
        assert (late["reason"], late["allowed_from"]) == ("outside_window", "2026-11-21T16:00:00+00:00")
        assert await dump(sqlite_db) == before
        clock.time = datetime(2026, 11, 21, 16, 0, tzinfo=UTC)
        allowed = await made.http.post(CALLS, json={"to": "+14155550100"}, headers=made.auth)
        assert allowed.status_code == 201
    await client.aclose()


async def test_every_route_needs_a_key(plane: Plane) -> None:
    app_routes = (await plane.http.get("/openapi.json")).json()["paths"]
    checked = 0
    for path, methods in app_routes.items():
        if not path.startswith("/api/"):
            continue
        for method in methods:
            url = path.replace("{call_id}", "x").replace("{name}", "x")
            for headers in ({}, {"Authorization": "Bearer pk_wrong"}, {"X-API-Key": "nonsense"}):
                response = await plane.http.request(method.upper(), url, headers=headers)
                check_problem(response, 401, "unauthorized")
                checked += 1
    assert checked >= 10 * 3


async def test_the_key_may_come_as_x_api_key_and_an_expired_one_is_refused(plane: Plane) -> None:
    assert (await plane.http.get(CALLS, headers={"X-API-Key": plane.key})).status_code == 200
    old, _ = await ApiKeys(plane.db, "default").create("old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    check_problem(await plane.http.get(CALLS, headers={"X-API-Key": old}), 401, "unauthorized")


async def test_another_tenants_call_does_not_exist_on_any_route(plane: Plane) -> None:
    call = await plane.place()
    other = await plane.another_key("other")
    paths = (await plane.http.get("/openapi.json")).json()["paths"]
    routes = [(p, m) for p, methods in paths.items() if "{call_id}" in p for m in methods]
    assert len(routes) >= 5
    before = await dump(plane.db)
    for path, method in routes:
        url, result = path.replace("{call_id}", call["id"]), {"result": "success"}
        response = await plane.http.request(method.upper(), url, json=result, headers=other)
        check_problem(response, 404, "not_found")
    assert (await plane.http.get(CALLS, headers=other)).json()["items"] == []
    assert (await plane.http.get("/api/v1/agents", headers=other)).json()["items"] == []
    check_problem(await plane.http.get("/api/v1/agents/riverside-dental", headers=other), 404, "not_found")
    assert await dump(plane.db) == before


async def test_the_list_pages_through_every_call_once(plane: Plane) -> None:
    placed = [(await plane.place(f"+1202555{1000 + n}"))["id"] for n in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query: dict[str, Any] = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await plane.http.get(CALLS, params=query, headers=plane.auth)).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == placed[::-1]
    none = await plane.http.get(CALLS, params={"status": "completed"}, headers=plane.auth)
    assert none.json()["items"] == []
    check_problem(await plane.http.get(CALLS, params={"limit": 1000}, headers=plane.auth), 422, "invalid_request")


async def test_unknown_paths_methods_and_faults_are_problems_without_a_traceback(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_problem(await plane.http.get("/nothing", headers=plane.auth), 404, "not_found")
    check_problem(await plane.http.delete(CALLS, headers=plane.auth), 405, "method_not_allowed")

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Calls, "list", broken)
    response = await plane.http.get(CALLS, headers=plane.auth)
    check_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "Traceback" not in response.text


async def _turns(plane: Plane, call_id: str) -> None:
    turns = Turns(plane.db, "default")
    latency = {"total_ms": 812.5, "stt_ms": 240.0, "over": {"total_ms": "limit"}, "causes": ["llm_late"]}
    await turns.put(call_id, 0, "agent", "Hello there.", "Hello there.", 0, 900, False, False, {})
    await turns.put(call_id, 1, "callee", "Hi.", "Hi.", 1200, 1500, True, False, {})
    await turns.put(call_id, 2, "agent", "Fine, thank you so much.", "Fine, thank", 2300, 3000, False, True, latency)


async def test_the_transcript_has_turns_latencies_and_text_as_heard(plane: Plane) -> None:
    call = await plane.place()
    await _turns(plane, call["id"])
    body = (await plane.http.get(f"{CALLS}/{call['id']}/transcript", headers=plane.auth)).json()
    assert [turn["role"] for turn in body["turns"]] == ["agent", "callee", "agent"]
    assert body["turns"][2]["latency"]["total_ms"] == 812.5
    assert body["turns"][2]["latency"]["llm_ms"] is None
    assert body["turns"][2]["latency"]["over"] == {"total_ms": "limit"}
    assert body["turns"][2]["latency"]["causes"] == ["llm_late"]
    assert body["turns"][1]["approximate"] is True
    assert body["text"] == "agent: Hello there.\ncallee: Hi.\nagent: Fine, thank"


async def test_a_recording_is_described_downloaded_and_read_by_range(plane: Plane) -> None:
    call = await plane.place()
    url = f"{CALLS}/{call['id']}/recording"
    check_problem(await plane.http.get(url, headers=plane.auth), 404, "no_recording")
    audio = b"fLaC" + bytes(range(256)) * 8
    key = f"recordings/default/{call['id']}/mix.flac"
    await plane.deps.objects.put(key, audio)
    await Recordings(plane.db, "default").put(
        call["id"],
        key=key,
        format="flac",
        channels=2,
        sample_rate_hz=16000,
        duration_s=1.5,
        bytes=len(audio),
        peaks=[[0.0, 0.5], [0.25, 0.0]],
    )
    described = (await plane.http.get(url, headers=plane.auth)).json()
    assert (described["channels"], described["duration_s"], described["bytes"]) == (2, 1.5, len(audio))
    assert described["path"] == str(plane.deps.objects.local_path(key))
    whole = await plane.http.get(url, params={"download": 1}, headers=plane.auth)
    assert (whole.content, whole.headers["content-type"]) == (audio, "audio/flac")
    accepted = await plane.http.get(url, headers=plane.auth | {"Accept": "audio/*"})
    assert accepted.content == audio
    part = await plane.http.get(url, params={"download": 1}, headers=plane.auth | {"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, audio[4:8])


async def test_hanging_up_a_queued_call_means_it_is_never_placed(plane: Plane) -> None:
    call = await plane.place()
    response = await plane.http.post(f"{CALLS}/{call['id']}/hangup", headers=plane.auth)
    assert response.json()["status"] == "ended"
    read = (await plane.http.get(f"{CALLS}/{call['id']}", headers=plane.auth)).json()
    assert (read["status"], read["outcome"]) == ("failed", "agent_hung_up")
    attempt = (await Attempts(plane.db, "default").for_call(call["id"]))[0]
    assert attempt.status == "ended"
    assert not await Attempts(plane.db, "default").fence_placing(attempt.id, attempt.epoch)
    again = await plane.http.post(f"{CALLS}/{call['id']}/hangup", headers=plane.auth)
    check_problem(again, 409, "call_ended")


async def test_a_queued_call_whose_request_leaves_at_this_moment_is_not_said_to_be_cancelled(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await plane.place()
    attempts = Attempts(plane.db, "default")
    read = Attempts.live_of_call

    async def read_and_fence(self: Attempts, call_id: str) -> object:
        found = await read(self, call_id)
        assert found is not None
        await attempts.fence_placing(found.id, found.epoch)
        return found

    monkeypatch.setattr(Attempts, "live_of_call", read_and_fence)
    response = await plane.http.post(f"{CALLS}/{call['id']}/hangup", headers=plane.auth)
    check_problem(response, 409, "being_placed")
    attempt = (await attempts.for_call(call["id"]))[0]
    assert attempt.status == "placing", "its number stays taken while the request is on the way"


async def test_wrong_parameters_are_the_callers_fault(plane: Plane) -> None:
    call = await plane.place()
    for path, headers in (
        (f"{CALLS}?cursor=nonsense", {}),
        (f"{CALLS}/{call['id']}/events", {"Last-Event-ID": "nonsense"}),
        ("/api/v1/agents/riverside-dental?version=99999999999", {}),
    ):
        response = await plane.http.get(path, headers=plane.auth | headers)
        check_problem(response, 422, "invalid_request")


async def test_an_invented_method_makes_no_time_series_of_its_own(plane: Plane) -> None:
    await plane.http.request("BREW", CALLS, headers=plane.auth)
    assert "BREW" not in (await plane.http.get("/metrics")).text


async def test_hanging_up_a_ringing_call_goes_to_the_network(plane: Plane) -> None:
    call = await plane.place()
    attempts = Attempts(plane.db, "default")
    attempt = (await attempts.claim_intended("me", limit=1, lease_s=30, now=datetime.now(UTC)))[0]
    await attempts.fence_placing(attempt.id, attempt.epoch)
    response = await plane.http.post(f"{CALLS}/{call['id']}/hangup", headers=plane.auth)
    check_problem(response, 409, "being_placed")
    await attempts.placed(attempt.id, "uuid-1", "CON-1")
    response = await plane.http.post(f"{CALLS}/{call['id']}/hangup", headers=plane.auth)
    assert response.json()["status"] == "ended"
    assert plane.vonage.hung_up == ["uuid-1"]


async def _in_progress(plane: Plane) -> str:
    call = await plane.place()
    attempts = Attempts(plane.db, "default")
    attempt = (await attempts.claim_intended("me", limit=1, lease_s=30, now=datetime.now(UTC)))[0]
    await attempts.fence_placing(attempt.id, attempt.epoch)
    await attempts.placed(attempt.id, "uuid-1", "CON-1")
    await Calls(plane.db, "default").in_progress(call["id"], datetime.now(UTC))
    return str(call["id"])


async def test_hanging_up_a_live_call_goes_to_its_mailbox(plane: Plane) -> None:
    call_id = await _in_progress(plane)
    commands: list[dict[str, Any]] = []

    async def session(command: dict[str, Any]) -> dict[str, Any]:
        commands.append(command)
        return {"ok": True}

    room = Mailroom(plane.live)
    room.add(call_id, session)
    running = asyncio.create_task(room.run())
    response = await plane.http.post(f"{CALLS}/{call_id}/hangup", headers=plane.auth)
    running.cancel()
    assert response.json()["status"] == "ending"
    assert commands == [{"type": "hangup"}]
    assert plane.vonage.hung_up == []


async def test_a_session_that_does_not_answer_is_hung_up_by_the_network(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.api.hangup.COMMAND_DEADLINE_S", 0.2)
    call_id = await _in_progress(plane)
    response = await plane.http.post(f"{CALLS}/{call_id}/hangup", headers=plane.auth)
    assert response.json()["status"] == "ending"
    assert plane.vonage.hung_up == ["uuid-1"]


async def test_the_event_stream_tells_everything_and_ends_with_the_call(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.api.calls.EVENTS_IDLE_S", 0.3)
    call = await plane.place()
    await plane.live.publish(call["id"], {"type": "status", "status": "ringing"})

    async def later() -> None:
        await asyncio.sleep(0.1)
        await plane.live.publish(call["id"], {"type": "turn", "text": "Hello"})
        await plane.http.post(f"{CALLS}/{call['id']}/hangup", headers=plane.auth)

    task = asyncio.create_task(later())
    response = await plane.http.get(f"{CALLS}/{call['id']}/events", headers=plane.auth)
    await task
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in response.text.split("\n\n") if block.startswith(("id:", "event:"))]
    kinds = [line[7:] for block in blocks for line in block.split("\n") if line.startswith("event: ")]
    assert kinds == ["status", "turn", "finished", "end"]
    final = json.loads(blocks[-1].split("data: ")[1])
    assert (final["id"], final["outcome"]) == (call["id"], "agent_hung_up")
    ids = [line[4:] for block in blocks for line in block.split("\n") if line.startswith("id: ")]
    resumed = await plane.http.get(f"{CALLS}/{call['id']}/events", headers=plane.auth | {"Last-Event-ID": ids[1]})
    assert "event: turn" not in resumed.text
    assert "event: finished" in resumed.text


async def test_agents_are_versioned_by_content(plane: Plane) -> None:
    url = "/api/v1/agents/riverside-dental"
    same = await plane.http.put(url, json=AGENT, headers=plane.auth)
    # The stored document of the fixture has no defaults filled in, so this is its second version.
    first = same.json()["version"]
    again = await plane.http.put(url, json=AGENT, headers=plane.auth)
    assert again.json()["version"] == first
    changed = await plane.http.put(url, json=AGENT | {"opening": "Good day."}, headers=plane.auth)
    assert changed.json()["version"] == first + 1
    old = await plane.http.get(url, params={"version": first}, headers=plane.auth)
    assert old.json()["document"]["opening"] == AGENT["opening"]
    wrong = await plane.http.put(url, json=AGENT | {"openning": "x"}, headers=plane.auth)
    assert check_problem(wrong, 422, "invalid_request")["errors"][0]["remedy"] == "did you mean opening?"
    misnamed = await plane.http.put("/api/v1/agents/other", json=AGENT, headers=plane.auth)
    check_problem(misnamed, 422, "invalid_request")


async def test_watchers_leave_room_for_webhooks(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.calls.MOST_WATCHERS", 1)
    monkeypatch.setattr("serve_app.api.calls.EVENTS_IDLE_S", 0.3)
    call = await plane.place()
    watching = asyncio.create_task(plane.http.get(f"{CALLS}/{call['id']}/events", headers=plane.auth))
    await asyncio.sleep(0.3)
    refused = await plane.http.get(f"{CALLS}/{call['id']}/events", headers=plane.auth)
    assert refused.status_code == 503
    assert refused.json()["code"] == "too_many_watchers"
    await plane.http.post(f"{CALLS}/{call['id']}/hangup", headers=plane.auth)
    assert (await watching).status_code == 200
    again = await plane.http.get(f"{CALLS}/{call['id']}/events", headers=plane.auth)
    assert again.status_code == 200
