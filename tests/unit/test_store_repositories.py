"""The repositories on SQLite and PostgreSQL: calls, attempts, records, keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from serve_app.dialing.tenants import IntendedWork, intended_work
from serve_app.store.base import new_id
from serve_app.store.db import Database
from serve_app.store.repositories import (
    Agents,
    ApiKeys,
    Attempts,
    CallFolding,
    Calls,
    Events,
    Jobs,
    LiveCallExists,
    RawEvent,
    Recordings,
    Transcripts,
    Turns,
)
from tests.unit.store_fixtures import call_entity, finish, inbound, outbound

pytest_plugins = ("tests.unit.store_fixtures",)
LATER = timedelta(seconds=60)


def now() -> datetime:
    return datetime.now(UTC)


# --- agents


async def test_an_equal_document_keeps_its_version(db: Database) -> None:
    agents = Agents(db, "acme")
    first = await agents.apply("desk", {"a": 1, "b": [1, 2]})
    assert (await agents.apply("desk", {"b": [1, 2], "a": 1})).version == first.version == 1
    assert (await agents.apply("desk", {"a": 2})).version == 2
    assert (await agents.apply("desk", {"a": 1, "b": [1, 2]})).version == 3
    await agents.apply("annex", {})
    assert [(row.name, row.version) for row in await agents.list()] == [("annex", 1), ("desk", 3)]
    old = await agents.get("desk", 1)
    assert old is not None and old.document == {"a": 1, "b": [1, 2]}
    assert await agents.get("desk", 9) is None and await agents.get("nobody") is None


async def test_concurrent_writers_of_one_agent_get_distinct_versions(db: Database) -> None:
    rows = await asyncio.gather(*(Agents(db, "acme").apply("desk", {"n": n}) for n in range(5)))
    assert sorted(row.version for row in rows) == [1, 2, 3, 4, 5]


# --- one live call per number


async def test_a_number_holds_one_live_call(db: Database) -> None:
    call, attempt = await outbound(db)
    for status in ("intended", "placing", "placed", "unknown"):
        async with db.transaction() as session:
            await session.execute(text("UPDATE attempts SET status = :s"), {"s": status})
        with pytest.raises(LiveCallExists):
            await outbound(db)
    await outbound(db, number="+12015550124")
    await outbound(db, tenant="globex")
    assert await Attempts(db, "acme").end(attempt.id, "busy")
    second, _ = await outbound(db)
    assert second.id > call.id  # ids sort by time
    rows, _ = await Calls(db, "acme").list(limit=10)
    assert len(rows) == 3  # refused calls left nothing


async def test_of_many_concurrent_calls_to_a_number_one_is_made(db: Database) -> None:
    results = await asyncio.gather(*(outbound(db) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, LiveCallExists) for result in results) == 7
    assert sum(isinstance(result, tuple) for result in results) == 1


# --- claim and fence


async def test_two_owners_never_claim_the_same_attempt(db: Database) -> None:
    made = {(await outbound(db, number=f"+1201555{n:04}"))[1].id for n in range(20)}
    claims = await asyncio.gather(
        *(Attempts(db, "acme").claim_intended(f"owner-{n}", limit=6, lease_s=30, now=now() + LATER) for n in range(6))
    )
    claimed = [row.id for rows in claims for row in rows]
    assert len(claimed) == len(set(claimed)) and set(claimed) <= made
    rest = await Attempts(db, "acme").claim_intended("last", limit=50, lease_s=30, now=now() + LATER)
    assert set(claimed) | {row.id for row in rest} == made
    assert all(row.epoch == 1 for rows in [*claims, rest] for row in rows)


async def test_only_the_newest_claim_passes_the_fence_and_only_once(db: Database) -> None:
    attempts = Attempts(db, "acme")
    call, attempt = await outbound(db)
    old = (await attempts.claim_intended("a", limit=1, lease_s=1, now=now() + LATER))[0]
    assert await attempts.claim_intended("b", limit=1, lease_s=1, now=now() + LATER) == []
    new = (await attempts.claim_intended("b", limit=1, lease_s=1, now=now() + 2 * LATER))[0]
    assert (old.id, old.epoch, new.epoch, new.lease_owner) == (attempt.id, 1, 2, "b")
    assert not await attempts.fence_placing(attempt.id, old.epoch)
    assert await attempts.fence_placing(attempt.id, new.epoch)
    assert not await attempts.fence_placing(attempt.id, new.epoch)
    found = await Calls(db, "acme").get(call.id)
    assert found is not None and found.status == "dialing"
    assert await attempts.claim_intended("c", limit=1, lease_s=1, now=now() + 9 * LATER) == []


async def placing(db: Database) -> tuple[str, str]:
    call, attempt = await outbound(db)
    await Attempts(db, "acme").claim_intended("a", limit=1, lease_s=1, now=now() + LATER)
    assert await Attempts(db, "acme").fence_placing(attempt.id, 1)
    return call.id, attempt.id


async def test_a_placed_call_is_found_by_its_carrier_id(db: Database) -> None:
    call_id, attempt_id = await placing(db)
    assert await Attempts(db, "acme").placed(attempt_id, "uuid-1", "CON-1")
    assert await Attempts(db, "acme").placed(attempt_id, "uuid-1", "CON-1")
    found = await Calls(db, "acme").by_carrier("uuid-1")
    attempt = await Attempts(db, "acme").live_of_call(call_id)
    assert found is not None and found.id == call_id
    assert attempt is not None and (attempt.status, attempt.conversation_id) == ("placed", "CON-1")
    assert await Attempts(db, "acme").stale(now() + 9 * LATER) == []


async def test_a_webhook_heals_an_unknown_attempt(db: Database) -> None:
    call_id, attempt_id = await placing(db)
    attempts = Attempts(db, "acme")
    assert await attempts.unknown(attempt_id, "response lost", check_after_s=15)
    assert await attempts.stale(now()) == []
    assert [row.id for row in await attempts.stale(now() + timedelta(seconds=16))] == [attempt_id]
    assert await attempts.bind(attempt_id, "uuid-1", "https://api-us-1.nexmo.com")
    assert not await attempts.bind(attempt_id, "uuid-2")  # somebody else's call
    assert not await attempts.unknown(attempt_id, "too late")
    found = await Calls(db, "acme").get(call_id)
    assert found is not None
    assert (found.carrier_call_id, found.region_url) == ("uuid-1", "https://api-us-1.nexmo.com")


async def test_an_ended_attempt_stays_ended(db: Database) -> None:
    _, attempt_id = await placing(db)
    attempts = Attempts(db, "acme")
    assert await attempts.end(attempt_id, "busy", "user busy")
    assert not await attempts.end(attempt_id, "completed")
    assert not await attempts.placed(attempt_id, "uuid-1", None)
    assert not await attempts.bind(attempt_id, "uuid-1")
    assert not await attempts.unknown(attempt_id, "x")
    assert not await attempts.release(attempt_id, 1, now())
    row = await attempts.get(attempt_id)
    assert row is not None and (row.status, row.disposition, row.detail) == ("ended", "busy", "user busy")
    assert row.ended_at is not None


async def test_a_released_attempt_can_be_claimed_when_its_time_comes(db: Database) -> None:
    call_id, attempt_id = await placing(db)
    attempts = Attempts(db, "acme")
    retry_at = now() + timedelta(seconds=5)
    assert not await attempts.release(attempt_id, 7, retry_at)
    assert await attempts.release(attempt_id, 1, retry_at)
    assert await intended_work(db, now()) == [IntendedWork("acme", due=0, next_at=retry_at)]
    assert await intended_work(db, retry_at) == [IntendedWork("acme", due=1, next_at=None)]
    assert await attempts.claim_intended("b", limit=1, lease_s=1, now=retry_at - timedelta(seconds=1)) == []
    assert [row.epoch for row in await attempts.claim_intended("b", limit=1, lease_s=1, now=retry_at)] == [2]
    found = await Calls(db, "acme").get(call_id)
    assert found is not None and found.status == "queued"


async def test_a_claim_is_renewed_by_its_holder_only_and_while_nothing_was_sent(db: Database) -> None:
    _, attempt = await outbound(db)
    attempts = Attempts(db, "acme")
    start = now()
    (held,) = await attempts.claim_intended("a", limit=1, lease_s=10, now=start)
    assert await attempts.renew([attempt.id], "b", lease_s=60, now=start) == set()
    later = start + timedelta(seconds=8)
    assert await attempts.renew([attempt.id, "another"], "a", lease_s=10, now=later) == {attempt.id}
    assert await intended_work(db, start) == [IntendedWork("acme", due=0, next_at=later + timedelta(seconds=10))]
    assert await attempts.claim_intended("b", limit=1, lease_s=1, now=start + timedelta(seconds=11)) == []
    assert await attempts.fence_placing(attempt.id, held.epoch)
    assert await attempts.renew([attempt.id], "a", lease_s=10, now=later) == set()


async def test_ends_and_webhooks_at_once_do_not_deadlock(db: Database) -> None:
    made = [await outbound(db, number=f"+1201555{n:04}") for n in range(12)]
    attempts = Attempts(db, "acme")
    await attempts.claim_intended("a", limit=50, lease_s=9, now=now() + LATER)
    work: list[Awaitable[bool]] = []
    for n, (call, attempt) in enumerate(made):
        work += [attempts.fence_placing(attempt.id, 1), finish(db, call), attempts.bind(attempt.id, f"uuid-{n}")]
    await asyncio.gather(*work)
    async with db.session() as session:
        assert set(await session.scalars(text("SELECT status FROM attempts"))) == {"ended"}
        assert set(await session.scalars(text("SELECT status FROM calls"))) == {"completed"}


# --- the life of a call


async def ringing(calls: Calls, call_id: str) -> str:
    event = RawEvent(new_id(), "vonage", "event:ringing", "u", {}, now())
    return await CallFolding(calls.db, calls.tenant_id).reach(call_id, "ringing", now(), event)


STEPS: dict[str, Callable[[Calls, str], Awaitable[object]]] = {
    "ringing": lambda calls, call_id: ringing(calls, call_id),
    "answered": lambda calls, call_id: calls.answered(call_id, now()),
    "in_progress": lambda calls, call_id: calls.in_progress(call_id, now()),
}
RANK = ["queued", "dialing", "ringing", "answered", "in_progress", "completed"]


@given(st.lists(st.sampled_from([*STEPS, "finish"]), max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_call_never_moves_backwards(sqlite_db: Database, order: list[str]) -> None:
    calls = Calls(sqlite_db, "acme")
    call = await inbound(sqlite_db, carrier_call_id=f"c-{now().timestamp()}")
    reached = "ringing"
    for step in order:
        if step == "finish":
            assert await finish(sqlite_db, call) == (reached != "completed")
            reached = "completed"
        else:
            await STEPS[step](calls, call.id)
            reached = max(reached, step, key=RANK.index)
        found = await calls.get(call.id)
        assert found is not None and found.status == reached
        if step == "answered":
            assert found.answered_at is not None


async def test_the_first_end_of_a_call_stays(db: Database) -> None:
    call, attempt = await outbound(db)
    await Turns(db, "acme").put(call.id, 0, "agent", "Hello there.", "Hello", 0, 900, False, True, {"total_ms": 5})
    await Turns(db, "acme").put(call.id, 1, "callee", "Who is it?", "Who is it?", 900, 2000, True, False, {})
    await Turns(db, "acme").put(call.id, 2, "agent", "Never heard.", "", 2100, 2100, False, True, {})
    ends = await asyncio.gather(*(finish(db, call, outcome) for outcome in ("completed", "silence", "session_lost")))
    assert sorted(ends) == [False, False, True]
    ended = await Calls(db, "acme").get(call.id)
    row = await Attempts(db, "acme").get(attempt.id)
    transcript = await Transcripts(db, "acme").get(call.id)
    assert ended is not None and ended.over and row is not None and transcript is not None
    assert row.status == "ended" and row.disposition == ended.outcome
    assert transcript.text == "Agent: Hello\nCallee: Who is it?"
    assert (transcript.turn_count, transcript.approximate) == (3, True)
    jobs = await Jobs(db).lease("w", kinds=["mix_recording"], limit=10, lease_s=9)
    assert [(job.tenant_id, job.payload) for job in jobs] == [("acme", {"call_id": call.id})]


async def test_a_call_without_media_leaves_no_recording_job(db: Database) -> None:
    call, _ = await outbound(db)
    assert await finish(db, call, "busy", status="failed", started_at=None, sample_rate_hz=None, duration_s=None)
    assert await Jobs(db).next_due() is None
    await outbound(db)  # and its number is free


async def test_the_same_inbound_call_is_one_call(db: Database) -> None:
    calls = await asyncio.gather(*(inbound(db, carrier_call_id="same") for _ in range(4)))
    assert len({call.id for call in calls}) == 1
    assert (await inbound(db, "globex", "same")).id != calls[0].id


async def test_pages_of_calls_are_complete_and_in_order(db: Database) -> None:
    made = [(await inbound(db, carrier_call_id=f"c{n}")).id for n in range(7)]
    await finish(db, (await Calls(db, "acme").list(limit=1))[0][0])
    seen: list[str] = []
    cursor: str | None = None
    while True:
        rows, cursor = await Calls(db, "acme").list(limit=3, before=cursor)
        seen += [row.id for row in rows]
        if cursor is None:
            break
    assert seen == made[::-1]
    completed, _ = await Calls(db, "acme").list(limit=9, status="completed")
    assert [row.id for row in completed] == [made[-1]]
    assert [row.id for row in await Calls(db, "acme").active(now())] == made[:-1]
    assert await Calls(db, "acme").active(now() - LATER) == []


# --- records


async def test_a_turn_is_replaced_with_its_latency(db: Database) -> None:
    call = await inbound(db)
    turns = Turns(db, "acme")
    await turns.put(call.id, 1, "callee", "Hi", "Hi", 5, 6, False, False, {})
    await turns.put(call.id, 0, "agent", "Hello", "Hel", 0, 5, False, True, {"total_ms": 700.5, "frame_ms": 3})
    measured = {"total_ms": 800.5, "tts_ms": 0.0, "within_target": False, "over": {"total_ms": "limit"}}
    await turns.put(call.id, 0, "agent", "Hello", "Hello", 0, 5, False, False, {**measured, "causes": ["llm_late"]})
    rows = await turns.list(call.id)
    assert [(row.index, row.heard_text, row.interrupted) for row in rows] == [(0, "Hello", False), (1, "Hi", False)]
    assert {**rows[0].latency, **measured} == rows[0].latency and rows[0].latency["causes"] == ["llm_late"]
    assert rows[0].latency["frame_ms"] is None and rows[0].latency["speculative"] is False
    assert rows[1].latency == {}


async def test_a_recording_is_replaced(db: Database) -> None:
    call = await inbound(db)
    for size in (10, 20):
        await Recordings(db, "acme").put(
            call.id,
            key="recordings/acme/x/call.flac",
            format="flac",
            channels=2,
            sample_rate_hz=16000,
            duration_s=1.5,
            bytes=size,
            peaks=[[0.5], [0.25]],
        )
    row = await Recordings(db, "acme").get(call.id)
    assert row is not None and row.bytes == 20 and row.peaks == [[0.5], [0.25]]


async def test_an_event_is_recorded_once(db: Database) -> None:
    events = Events(db, "acme")
    event = RawEvent("jti-1", "vonage", "ringing", "carrier-1", {"n": 1}, now())
    assert sorted(await asyncio.gather(*(events.record(event) for _ in range(5)))) == [False] * 4 + [True]
    call = await inbound(db)
    for key, seen in (("jti-1", True), ("jti-2", False)):
        known = await events.of_carrier_call(key, "carrier-1")
        assert known is not None and (known.seen, known.call.id) == (seen, call.id)


async def test_what_an_event_changes_is_changed_with_its_record_and_once(db: Database) -> None:
    call, _ = await outbound(db)
    calls, folding, events = Calls(db, "acme"), CallFolding(db, "acme"), Events(db, "acme")
    event = RawEvent("jti-1", "vonage", "event:ringing", "u", {}, now())
    moved = await asyncio.gather(*(folding.reach(call.id, "ringing", now(), event) for _ in range(4)))
    assert sorted(moved) == ["moved"] + ["repeated"] * 3
    assert not await events.record(event)
    told = now()
    late = RawEvent("jti-2", "vonage", "event:answered", "u", {}, told)
    assert await folding.reach(call.id, "answered", told, late) == "moved"
    assert await folding.reach(call.id, "answered", told, late) == "repeated"
    # What moves nothing is left to `fold`, record and all; an earlier time of the answer is news.
    for key, at, result in (("jti-3", told + timedelta(seconds=1), "stored"), ("jti-4", told - timedelta(1), "moved")):
        again = RawEvent(key, "vonage", "event:answered", "u", {}, told)
        assert await folding.reach(call.id, "answered", at, again) == result
        assert await events.record(again) is (result == "stored")
    known = await calls.get(call.id)
    assert known is not None and known.answered_at == told - timedelta(1)


async def test_naive_times_are_refused(db: Database) -> None:
    with pytest.raises(Exception, match="naive datetime"):
        await outbound(db, give_up_at=datetime(2030, 1, 1))  # noqa: DTZ001


async def test_times_come_back_in_utc(db: Database) -> None:
    zone = datetime.fromisoformat("2030-01-01T12:00:00.123456+05:30")
    call, _ = await outbound(db, give_up_at=zone)
    found = await Calls(db, "acme").get(call.id)
    assert found is not None and found.give_up_at == zone and found.give_up_at.utcoffset() == timedelta(0)


# --- keys


async def test_a_key_is_shown_once_and_names_its_tenant(db: Database) -> None:
    assert not await ApiKeys(db, "acme").any()
    plain, row = await ApiKeys(db, "acme").create("first")
    assert plain.startswith("pk_") and len(plain) >= 43 + 3
    verified = await ApiKeys(db, "another").verify(plain)
    assert verified == row and row.tenant_id == "acme"
    assert await ApiKeys(db, "acme").any() and not await ApiKeys(db, "globex").any()
    for wrong in ("", "pk_", plain[:-1], plain + "x", plain.upper(), row.id):
        assert await ApiKeys(db, "acme").verify(wrong) is None
    async with db.session() as session:
        stored = (await session.execute(text("SELECT * FROM api_keys"))).one()
    assert plain not in str(stored)


async def test_an_expired_key_is_refused(db: Database) -> None:
    plain, _ = await ApiKeys(db, "acme").create("old", expires_at=now() - timedelta(seconds=1))
    assert await ApiKeys(db, "acme").verify(plain) is None


# --- transactions


async def test_a_failed_transaction_leaves_nothing(db: Database) -> None:
    with pytest.raises(IntegrityError):
        await Turns(db, "acme").put("no-such-call", 0, "agent", "x", "x", 0, 1, False, False, {"total_ms": 1})
    with pytest.raises(KeyError):
        async with db.transaction() as session:
            session.add(call_entity())
            await session.flush()
            raise KeyError
    assert (await Calls(db, "acme").list(limit=5))[0] == []
