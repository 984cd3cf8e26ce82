"""Vonage's webhooks: who is believed, what they change, and that they change it once."""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest

from serve_app.conversation.lease import CallLease
from serve_app.dialing.links import AttemptLinks, AttemptRef
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.repositories import AttemptRow, Attempts, Calls
from serve_app.store.slots import Scope
from serve_app.telephony.vonage.webhooks import signed_payload
from tests.unit.api_support import (
    AGENT,
    APPLICATION_ID,
    FROM,
    PUBLIC_URL,
    SECRET,
    TO,
    FakeVonage,
    Plane,
    dump,
    make_plane,
    make_settings,
    redis_keys,
    send,
    signed,
)

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

ANSWER = "/webhooks/vonage/answer"
EVENT = "/webhooks/vonage/event"
UUID = "63f61863-4a51-4f6b-86e1-46edebcf9356"


def question(uuid: str = UUID, to: str = TO, from_: str = FROM) -> dict[str, Any]:
    return {
        "to": to[1:],
        "from": from_[1:],
        "uuid": uuid,
        "conversation_uuid": "CON-1",
        "region_url": "https://api-us-1.nexmo.com",
    }


def happened(status: str, uuid: str = UUID, **fields: Any) -> dict[str, Any]:
    return {"uuid": uuid, "status": status, "to": TO[1:], "from": FROM[1:], "conversation_uuid": "CON-1"} | fields


async def dialled(plane: Plane, *, reserve: bool = True) -> tuple[AttemptRow, str, str]:
    """An outbound call whose request is on its way: the attempt, its answer URL and its event URL."""
    await plane.place()
    attempts = Attempts(plane.db, "default")
    attempt = (await attempts.claim_intended("me", limit=1, lease_s=30, now=datetime.now(UTC)))[0]
    if reserve:
        assert await plane.live.reserve(attempt.id, 60)
    assert await attempts.fence_placing(attempt.id, attempt.epoch)
    links, ref = AttemptLinks(plane.settings), AttemptRef("default", attempt.id)
    return attempt, links.answer_url(ref), links.event_url(ref)


def token_of(ncco: list[dict[str, Any]]) -> str:
    value: str = ncco[-1]["endpoint"][0]["authorization"]["value"]
    assert value.startswith("Bearer ")
    return value.removeprefix("Bearer ")


async def test_an_answered_call_of_ours_is_bound_and_connected_to_its_session(plane: Plane) -> None:
    attempt, answer_url, event_url = await dialled(plane)
    assert answer_url.startswith(PUBLIC_URL)
    response = await send(plane, answer_url, question())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    ncco = response.json()
    endpoint = ncco[-1]["endpoint"][0]
    assert endpoint["uri"] == f"wss://parley.example/media/{attempt.call_id}"
    assert endpoint["content-type"] == "audio/l16;rate=16000"
    assert endpoint["headers"] == {"call_id": attempt.call_id}
    assert ncco[-1]["eventUrl"] == [event_url]
    payload = await plane.live.take_media_token(token_of(ncco))
    assert payload is not None
    lease = CallLease.model_validate_json(payload)
    assert (lease.call_id, lease.attempt_id, lease.slot_id) == (attempt.call_id, attempt.id, attempt.id)
    assert (lease.carrier_call_id, lease.direction, lease.agent.business) == (UUID, "outbound", "Riverside Dental")
    assert (lease.from_number, lease.to_number, lease.agent_version) == (FROM, TO, 1)
    call = await Calls(plane.db, "default").get(attempt.call_id)
    assert call is not None
    assert (call.status, call.carrier_call_id) == ("answered", UUID)
    bound = await Attempts(plane.db, "default").get(attempt.id)
    assert bound is not None
    assert bound.status == "placed"


async def test_the_agents_version_is_that_of_the_request_not_of_the_answer(plane: Plane) -> None:
    _, answer_url, _ = await dialled(plane)
    changed = AGENT | {"opening": "Something else."}
    await plane.http.put("/api/v1/agents/riverside-dental", json=changed, headers=plane.auth)
    ncco = (await send(plane, answer_url, question())).json()
    lease = CallLease.model_validate_json(await plane.live.take_media_token(token_of(ncco)) or "")
    assert (lease.agent.opening, lease.agent_version) == (AGENT["opening"], 1)


async def test_a_repeated_question_gets_the_same_answer_and_no_second_token(plane: Plane) -> None:
    _, answer_url, _ = await dialled(plane)
    first = await send(plane, answer_url, question(), jti="one")
    before, keys = await dump(plane.db), await redis_keys(plane.live)
    again = await send(plane, answer_url, question(), jti="one")
    assert (again.status_code, again.content) == (200, first.content)
    assert (await dump(plane.db), await redis_keys(plane.live)) == (before, keys)
    anew = await send(plane, answer_url, question(), jti="two")
    assert anew.content == first.content
    assert await redis_keys(plane.live) == keys
    token = token_of(first.json())
    assert await plane.live.take_media_token(token) is not None
    assert await plane.live.take_media_token(token) is None


async def test_an_answer_by_get_is_verified_over_its_query(plane: Plane) -> None:
    attempt, answer_url, _ = await dialled(plane)
    url = answer_url.removeprefix(PUBLIC_URL) + "&" + "&".join(f"{k}={v}" for k, v in question().items())
    items = list(plane.http.build_request("GET", url).url.params.multi_items())
    response = await plane.http.get(url, headers=signed(b"", payload=signed_payload("GET", b"", items)))
    assert response.status_code == 200
    assert response.json()[-1]["endpoint"][0]["headers"] == {"call_id": attempt.call_id}
    assert (await plane.http.get(url, headers=signed(b"x"))).status_code == 401


async def test_the_path_carries_the_token_where_it_is_configured(
    sqlite_db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path
) -> None:
    settings = make_settings(vonage.url, vonage={"media_auth": "path", "sample_rate_hz": 8000})
    made, client = await make_plane(sqlite_db, live, vonage, tmp_path, settings)
    async with made.http:
        ncco = (await send(made, ANSWER, question(to=FROM, from_=TO))).json()
    await client.aclose()
    endpoint = ncco[-1]["endpoint"][0]
    call_id, token = endpoint["uri"].removeprefix("wss://parley.example/media/").split("/")
    assert "authorization" not in endpoint
    assert endpoint["content-type"] == "audio/l16;rate=8000"
    lease = CallLease.model_validate_json(await live.take_media_token(token) or "")
    assert lease.call_id == call_id


@pytest.mark.parametrize("kind", [ANSWER, EVENT])
@pytest.mark.parametrize(
    "forgery",
    ["unsigned", "other secret", "none", "expired", "future", "wrong hash", "other application", "garbage"],
)
async def test_a_webhook_that_proves_nothing_gets_401_and_changes_nothing(
    plane: Plane, kind: str, forgery: str
) -> None:
    _, answer_url, event_url = await dialled(plane)
    url = (answer_url if kind == ANSWER else event_url).removeprefix(PUBLIC_URL)
    body = json.dumps(question() if kind == ANSWER else happened("busy")).encode()
    headers = {
        "unsigned": {},
        "other secret": signed(body, secret="another-secret-of-some-length-000000000"),
        "none": {
            "Authorization": "Bearer "
            + jwt.encode({"iat": int(datetime.now(UTC).timestamp()), "jti": "x"}, None, algorithm="none")
        },
        "expired": signed(body, age_s=400),
        "future": signed(body, age_s=-120),
        "wrong hash": signed(body, payload=b"{}"),
        "other application": signed(body, application_id="99999999-0000-0000-0000-000000000000"),
        "garbage": {"Authorization": "Bearer a.b.c"},
    }[forgery]
    before, keys = await dump(plane.db), await redis_keys(plane.live)
    response = await plane.http.post(url, content=body, headers=headers)
    assert response.status_code == 401
    assert response.json()["code"] == "webhook_rejected"
    assert (await dump(plane.db), await redis_keys(plane.live)) == (before, keys)
    assert plane.vonage.hung_up == []


@pytest.mark.parametrize("part", ["tenant", "attempt", "sig"])
async def test_a_link_that_we_did_not_sign_gets_401_and_changes_nothing(plane: Plane, part: str) -> None:
    attempt, answer_url, event_url = await dialled(plane)
    before = await dump(plane.db)
    links = AttemptLinks(plane.settings)
    good = dict(item.split("=") for item in answer_url.split("?")[1].split("&"))
    bad = good | {part: {"tenant": "other", "attempt": "0" * 36, "sig": good["sig"][::-1]}[part]}
    for url, document in ((answer_url, question()), (event_url, happened("busy"))):
        forged = url.split("?")[0] + "?" + "&".join(f"{k}={v}" for k, v in bad.items())
        assert (await send(plane, forged, document)).status_code == 401
        missing = url.split("?")[0] + "?" + "&".join(f"{k}={v}" for k, v in good.items() if k != part)
        assert (await send(plane, missing, document)).status_code == 401
    assert await dump(plane.db) == before
    assert links.check("default", attempt.id, good["sig"]) == AttemptRef("default", attempt.id)


async def test_a_missing_hash_is_refused_only_where_it_is_required(
    sqlite_db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path
) -> None:
    body = json.dumps(happened("ringing")).encode()
    claims = {"iat": int(datetime.now(UTC).timestamp()), "jti": "x", "application_id": APPLICATION_ID}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}
    for required, status in ((False, 200), (True, 401)):
        settings = make_settings(vonage.url, vonage={"require_payload_hash": required})
        made, client = await make_plane(sqlite_db, live, vonage, tmp_path, settings)
        async with made.http:
            assert (await made.http.post(EVENT, content=body, headers=headers)).status_code == status
        await client.aclose()


async def test_an_answered_call_rings_no_more_and_an_inbound_one_takes_a_line(
    sqlite_db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path
) -> None:
    async def places(scope: str) -> set[str]:
        return set(await live.client.zrange(f"parley:slots:{scope}", 0, -1))

    made, client = await make_plane(
        sqlite_db, live, vonage, tmp_path, make_settings(vonage.url, vonage={"channels": 2})
    )
    async with made.http:
        attempt, answer_url, _ = await dialled(made, reserve=False)
        taken = [Scope("tenant:default", 1), Scope("ringing", 1), Scope("lines", 2)]
        assert await live.reserve_in(taken, attempt.id, 60) is None
        ncco = (await send(made, answer_url, question())).json()
        lease = CallLease.model_validate_json(await live.take_media_token(token_of(ncco)) or "")
        assert lease.scopes == ("tenant:default", "lines")
        assert (await places("ringing"), await places("tenant:default")) == (set(), {attempt.id})
        for n in range(2):
            # The network carries it already: it is not refused, but who dials sees it.
            ncco = (await send(made, ANSWER, question(uuid=f"in-{n}", to=FROM, from_=TO))).json()
            lease = CallLease.model_validate_json(await live.take_media_token(token_of(ncco)) or "")
            assert lease.scopes == ("lines",) and lease.slot_id in await places("lines")
        assert await live.reserve_in(taken[2:], "new", 60) == "lines"
    await client.aclose()


async def test_an_oversized_or_unreadable_body_is_refused(plane: Plane) -> None:
    huge = b"x" * 100_000
    assert (await plane.http.post(EVENT, content=huge, headers=signed(huge))).status_code == 413
    broken = b"[1, 2"
    assert (await plane.http.post(EVENT, content=broken, headers=signed(broken))).status_code == 400


async def test_an_inbound_call_is_answered_by_the_agent_of_its_number(
    sqlite_db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path
) -> None:
    settings = make_settings(vonage.url, agents={"numbers": {FROM: "night-desk"}})
    made, client = await make_plane(sqlite_db, live, vonage, tmp_path, settings)
    async with made.http:
        night = AGENT | {"name": "night-desk", "business": "Night Desk"}
        await made.http.put("/api/v1/agents/night-desk", json=night, headers=made.auth)
        for to, business in ((FROM, "Night Desk"), ("+12025550111", "Riverside Dental")):
            ncco = (await send(made, ANSWER, question(uuid=f"in-{to[1:]}", to=to, from_=TO))).json()
            lease = CallLease.model_validate_json(await live.take_media_token(token_of(ncco)) or "")
            assert (lease.agent.business, lease.direction, lease.attempt_id) == (business, "inbound", None)
            assert (lease.slot_id, lease.from_number, lease.to_number) == (lease.call_id, TO, to)
            call = await Calls(sqlite_db, "default").get(lease.call_id)
            assert call is not None
            assert (call.status, call.direction) == ("answered", "inbound")
        listed = (await made.http.get("/api/v1/calls", headers=made.auth)).json()["items"]
        assert len(listed) == 2
    await client.aclose()


async def test_without_a_slot_an_inbound_caller_hears_an_apology_and_the_call_is_recorded(plane: Plane) -> None:
    await plane.live.leave("replica-1")
    response = await send(plane, ANSWER, question(to=FROM, from_=TO))
    (action,) = response.json()
    assert action["action"] == "talk"
    assert "busy" in action["text"]
    (call,) = (await plane.http.get("/api/v1/calls", headers=plane.auth)).json()["items"]
    assert (call["status"], call["outcome"]) == ("failed", "no_capacity")
    # Capacity that comes back does not change what was said.
    await plane.live.beat("replica-1", 10, ttl_s=600)
    again = await send(plane, ANSWER, question(to=FROM, from_=TO))
    assert again.content == response.content
    assert await plane.live.capacity() == (10, 0)


async def test_a_slot_lost_before_the_answer_is_taken_again_or_the_callee_hears_an_apology(plane: Plane) -> None:
    attempt, answer_url, _ = await dialled(plane, reserve=False)
    await plane.live.leave("replica-1")
    response = await send(plane, answer_url, question())
    assert response.json()[0]["action"] == "talk"
    call = await Calls(plane.db, "default").get(attempt.call_id)
    assert call is not None
    assert (call.status, call.outcome) == ("failed", "media_failure"), "a phone rang, and somebody answered"


async def test_a_second_call_of_the_network_for_one_attempt_is_not_connected(plane: Plane) -> None:
    _, answer_url, _ = await dialled(plane)
    await send(plane, answer_url, question())
    before = (await dump(plane.db))["calls"], (await dump(plane.db))["attempts"]
    response = await send(plane, answer_url, question(uuid="another-uuid"))
    assert response.json()[0]["action"] == "talk"
    assert ((await dump(plane.db))["calls"], (await dump(plane.db))["attempts"]) == before


async def test_an_inbound_call_without_any_agent_is_recorded_and_told(plane: Plane) -> None:
    plane.deps.settings.agents.__dict__["default"] = "nobody"
    response = await send(plane, ANSWER, question(to=FROM, from_=TO))
    assert response.json()[0]["action"] == "talk"
    (call,) = (await plane.http.get("/api/v1/calls", headers=plane.auth)).json()["items"]
    assert (call["status"], call["outcome"]) == ("failed", "failed")
    assert await plane.live.capacity() == (10, 0)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("busy", "busy"),
        ("timeout", "not_answered"),
        ("unanswered", "not_answered"),
        ("rejected", "rejected"),
        ("failed", "failed"),
        ("cancelled", "not_answered"),
        ("completed", "not_answered"),
    ],
)
async def test_an_unanswered_call_ends_with_its_outcome_and_frees_slot_and_number(
    plane: Plane, status: str, outcome: str
) -> None:
    attempt, _, event_url = await dialled(plane)
    await send(plane, event_url, happened("started"))
    await send(plane, event_url, happened("ringing"))
    call = (await plane.http.get(f"/api/v1/calls/{attempt.call_id}", headers=plane.auth)).json()
    assert call["status"] == "ringing"
    assert (await plane.live.capacity())[1] == 1
    assert (await send(plane, event_url, happened(status))).status_code == 200
    call = (await plane.http.get(f"/api/v1/calls/{attempt.call_id}", headers=plane.auth)).json()
    assert (call["status"], call["outcome"]) == ("failed", outcome)
    ended = await Attempts(plane.db, "default").get(attempt.id)
    assert ended is not None
    assert (ended.status, ended.carrier_call_id) == ("ended", UUID)
    assert (await plane.live.capacity())[1] == 0
    await plane.place()


async def test_the_first_webhook_heals_a_lost_response(plane: Plane) -> None:
    attempt, _, event_url = await dialled(plane)
    attempts = Attempts(plane.db, "default")
    await attempts.unknown(attempt.id, "no answer")
    await send(plane, event_url, happened("started", region_url="https://api-eu-1.nexmo.com"))
    healed = await attempts.get(attempt.id)
    assert healed is not None
    assert (healed.status, healed.carrier_call_id) == ("placed", UUID)


@pytest.mark.parametrize("cause", ["busy", "timeout", "rejected", "failed"])
async def test_any_order_of_events_ends_in_the_same_state(plane: Plane, cause: str) -> None:
    statuses = ["started", "ringing", cause, "completed", cause]
    for n, order in enumerate(sorted(set(itertools.permutations(statuses)))[::3]):
        attempt, _, event_url = await dialled(plane)
        for position, status in enumerate(order):
            document = happened(status, uuid=f"uuid-{n}", timestamp=f"2026-11-20T10:00:{position:02d}Z")
            assert (await send(plane, event_url, document)).status_code == 200
        call = await Calls(plane.db, "default").get(attempt.call_id)
        ended = await Attempts(plane.db, "default").get(attempt.id)
        assert call is not None
        assert ended is not None
        outcome = "not_answered" if cause == "timeout" else cause
        assert (call.status, call.outcome, ended.status, ended.disposition) == ("failed", outcome, "ended", outcome)


async def test_the_socket_that_cannot_be_connected_ends_the_call_as_a_media_failure(plane: Plane) -> None:
    for n, order in enumerate(itertools.permutations(["leg", "completed", "answered"])):
        attempt, answer_url, event_url = await dialled(plane)
        uuid = f"uuid-{n}"
        await send(plane, answer_url, question(uuid=uuid))
        leg = happened("failed", uuid=f"leg-{n}", to=f"wss://parley.example/media/{attempt.call_id}", detail="refused")
        events = {
            "leg": leg,
            "completed": happened("completed", uuid=uuid, disconnected_by="user"),
            "answered": happened("answered", uuid=uuid),
        }
        for name in order:
            await send(plane, event_url, events[name])
        call = await Calls(plane.db, "default").get(attempt.call_id)
        assert call is not None
        assert (call.status, call.outcome) == ("failed", "media_failure")
        assert "refused" in (call.detail or "")
        assert (await plane.live.capacity())[1] == 0


async def test_a_repeated_event_changes_nothing(plane: Plane) -> None:
    _, _, event_url = await dialled(plane)
    await send(plane, event_url, happened("ringing"), jti="same")
    before, keys = await dump(plane.db), await redis_keys(plane.live)
    # The same jti with another story is still the same delivery.
    for document in (happened("ringing"), happened("busy")):
        assert (await send(plane, event_url, document, jti="same")).status_code == 200
    assert (await dump(plane.db), await redis_keys(plane.live)) == (before, keys)
    body = json.dumps(happened("answered")).encode()
    claims = {"iat": int(datetime.now(UTC).timestamp())}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}
    path = event_url.removeprefix(PUBLIC_URL)
    assert (await plane.http.post(path, content=body, headers=headers)).status_code == 200
    before = await dump(plane.db)
    assert (await plane.http.post(path, content=body, headers=headers)).status_code == 200
    assert await dump(plane.db) == before


async def test_events_of_the_sockets_own_leg_are_kept_but_do_not_end_the_call(plane: Plane) -> None:
    attempt, answer_url, event_url = await dialled(plane)
    await send(plane, answer_url, question())
    leg = happened("completed", uuid="leg-uuid", to=f"wss://parley.example/media/{attempt.call_id}")
    await send(plane, event_url, leg)
    await send(plane, event_url, happened("completed", uuid="yet-another-uuid"))
    call = await Calls(plane.db, "default").get(attempt.call_id)
    assert call is not None
    assert call.status == "answered"
    assert len((await dump(plane.db))["call_events"]) == 3


async def test_an_event_of_the_sockets_leg_does_not_bind_the_attempt(plane: Plane) -> None:
    attempt, _, event_url = await dialled(plane)
    leg = happened("failed", uuid="leg-uuid", to=f"wss://parley.example/media/{attempt.call_id}")
    await send(plane, event_url, leg)
    unchanged = await Attempts(plane.db, "default").get(attempt.id)
    assert unchanged is not None
    assert (unchanged.status, unchanged.carrier_call_id) == ("placing", None)


async def test_two_questions_at_once_get_one_answer_and_one_token(plane: Plane) -> None:
    _, answer_url, _ = await dialled(plane)
    for _ in range(5):
        await plane.live.client.flushall()
        await plane.live.beat("replica-1", 10, ttl_s=600)
        answers = await asyncio.gather(*(send(plane, answer_url, question()) for _ in range(6)))
        assert len({answer.content for answer in answers}) == 1
        assert len(await plane.live.client.keys("parley:media:*")) == 1
        assert await plane.live.take_media_token(token_of(answers[0].json())) is not None


async def test_completed_is_left_to_the_session_that_has_or_had_the_call(plane: Plane) -> None:
    attempt, answer_url, event_url = await dialled(plane)
    await send(plane, answer_url, question())
    await plane.live.lease_call(attempt.call_id, 1, 30, {})
    await send(plane, event_url, happened("completed", disconnected_by="user"))
    await plane.live.drop_call(attempt.call_id, 1)
    await send(plane, event_url, happened("completed", disconnected_by="user", duration="1"))
    call = await Calls(plane.db, "default").get(attempt.call_id)
    assert call is not None
    assert call.status == "answered"


async def test_completed_ends_an_answered_call_that_no_session_took(plane: Plane) -> None:
    attempt, answer_url, event_url = await dialled(plane)
    await send(plane, answer_url, question())
    # The application's own event URL, without our link, finds the call by the carrier's id.
    assert EVENT in event_url
    await send(plane, EVENT, happened("completed", disconnected_by="user"))
    call = await Calls(plane.db, "default").get(attempt.call_id)
    assert call is not None
    assert (call.status, call.outcome) == ("failed", "callee_hung_up")
    assert (await plane.live.capacity())[1] == 0


async def test_a_slow_store_ends_the_question_in_time_to_be_asked_again(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(*_: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr("serve_app.api.webhooks.ANSWER_DEADLINE_S", 0.2)
    monkeypatch.setattr(LiveState, "recalled_answer", stuck)
    response = await send(plane, ANSWER, question(to=FROM, from_=TO))
    # Vonage asks once more after 429, 503 and 504.
    assert (response.status_code, response.json()["code"]) == (504, "timeout")


async def test_a_call_that_appears_after_its_attempt_was_given_up_is_hung_up(plane: Plane) -> None:
    attempt, answer_url, event_url = await dialled(plane)
    await Attempts(plane.db, "default").end(attempt.id, "unknown")
    assert (await send(plane, event_url, happened("ringing"))).status_code == 200
    assert plane.vonage.hung_up == [UUID]
    assert (await send(plane, answer_url, question())).json()[0]["action"] == "talk"


async def test_unknown_and_odd_events_are_accepted(plane: Plane) -> None:
    for document in (
        {"reason": "Syntax error in NCCO", "conversation_uuid": "CON-1"},
        {"call_uuid": "x", "status": "machine", "sub_state": "beep_start"},
        {"uuid": "nobody", "status": "completed"},
        {"uuid": UUID, "status": "a status of tomorrow"},
        {},
    ):
        assert (await send(plane, EVENT, document)).status_code == 200
    assert len((await dump(plane.db))["call_events"]) == 5
