"""Calls that nobody serves any more get an end; calls that somebody serves are left alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.journal import CallJournal, TurnRecord
from serve_app.conversation.latency import TurnLatency
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.sql_journal import SqlJournal
from serve_app.errors import ProviderError, UnavailableError
from serve_app.jobs.finalize import close_lost_call, reconcile
from serve_app.jobs.mix_recording import MixRecording
from serve_app.jobs.runner import JobFailed
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import Attempts, CallRow, Calls, JobRow, Jobs, Recordings, Transcripts, Turns
from tests.unit.store_fixtures import finish, inbound, outbound

pytest_plugins = ("tests.unit.store_fixtures",)
LIFE_S = 60.0


class Control:
    """Counts hang-ups."""

    def __init__(self, error: Exception | None = None) -> None:
        self.hung_up: list[str] = []
        self.error = error

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        self.hung_up.append(carrier_call_id)
        if self.error is not None:
            raise self.error


def now(seconds: float = 0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def talking(db: Database, live: LiveState, started: datetime) -> tuple[CallRow, str]:
    """An outbound call in conversation, its slot held, its lease beating a moment ago. Returns (call, attempt id)."""
    call, attempt = await outbound(db)
    await live.beat("replica", 1, 60)
    assert await live.reserve(attempt.id, 600)
    await Attempts(db, "acme").claim_intended("d", limit=1, lease_s=9, now=now(1))
    assert await Attempts(db, "acme").fence_placing(attempt.id, 1)
    assert await Attempts(db, "acme").placed(attempt.id, "uuid-1", None)
    assert await Calls(db, "acme").in_progress(call.id, started)
    return call, attempt.id


# --- closing one call


async def test_a_lost_call_ends_with_what_is_known_of_it(db: Database, live: LiveState, tmp_path: Path) -> None:
    objects = ObjectStore.open(None, tmp_path)
    started = now(-100)
    call, attempt_id = await talking(db, live, started)
    await Turns(db, "acme").put(call.id, 0, "agent", "Hello", "Hello", 0, 20_000, False, False, {})
    prefix = f"recordings/acme/{call.id}/parts"
    await objects.put(f"{prefix}/callee-000000000000-8000.pcm", b"\0\0" * 8000)
    await objects.put(f"{prefix}/agent-000000320000-8000.pcm", b"\0\0" * 8000)  # ends at 41 s
    await objects.put(f"{prefix}/not-a-part.txt", b"")
    ends = await asyncio.gather(
        *(
            close_lost_call(db, live, call.id, outcome="session_lost", detail="killed", objects=objects)
            for _ in range(3)
        )
    )
    assert sorted(ends) == [False, False, True]
    ended = await Calls(db, "acme").get(call.id)
    attempt = await Attempts(db, "acme").get(attempt_id)
    transcript = await Transcripts(db, "acme").get(call.id)
    assert ended is not None and attempt is not None and transcript is not None
    assert (ended.status, ended.outcome, ended.detail) == ("failed", "session_lost", "killed")
    assert ended.duration_s == pytest.approx(41.0) and ended.sample_rate_hz == 8000
    assert ended.ended_at == started + timedelta(seconds=41)
    assert attempt.status == "ended" and attempt.disposition == "session_lost"
    assert transcript.text == "Agent: Hello"
    assert await live.capacity() == (1, 0)
    jobs = await Jobs(db).lease("w", kinds=["mix_recording"], limit=5, lease_s=5)
    assert len(jobs) == 1
    events = [event async for _, event in live.follow(call.id, idle_timeout_s=0.05)]
    assert [event["type"] for event in events] == ["finished"]


async def test_the_last_beat_counts_and_the_session_is_fenced_off(db: Database, live: LiveState) -> None:
    call, _ = await talking(db, live, now(-30))
    await live.lease_call(call.id, 3, 1, {})
    assert await close_lost_call(db, live, call.id, outcome="session_lost", detail="killed", tenant_id="acme")
    ended = await Calls(db, "acme").get(call.id)
    assert ended is not None and ended.duration_s == pytest.approx(30, abs=5)
    assert not await live.lease_call(call.id, 4, 1, {}), "a session that comes back must stop"


async def test_a_finished_or_unknown_call_is_left_alone(db: Database, live: LiveState) -> None:
    call = await inbound(db)
    await finish(db, call, "completed")
    assert not await close_lost_call(db, live, call.id, outcome="session_lost", detail="x")
    assert not await close_lost_call(db, live, "no-such-call", outcome="session_lost", detail="x")
    assert not await close_lost_call(db, live, call.id, outcome="failed", detail="x", tenant_id="globex")
    found = await Calls(db, "acme").get(call.id)
    assert found is not None and found.outcome == "completed"


async def test_a_call_without_media_lasted_no_time(db: Database, live: LiveState) -> None:
    call = await inbound(db)
    assert await close_lost_call(db, live, call.id, outcome="media_failure", detail="no socket")
    found = await Calls(db, "acme").get(call.id)
    assert found is not None and found.duration_s == 0 and found.started_at is None
    assert await Jobs(db).next_due() is None


# --- reconciling all


async def test_a_session_without_a_lease_is_closed_on_the_second_look(db: Database, live: LiveState) -> None:
    control = Control()
    call, _ = await talking(db, live, now(-100))
    await live.lease_call(call.id, 1, 0.05, {})
    await asyncio.sleep(0.1)
    assert await reconcile(db, live, control, now()) == []
    assert await reconcile(db, live, control, now(9)) == []
    assert await reconcile(db, live, control, now(11)) == [call.id]
    assert await reconcile(db, live, control, now(12)) == []
    assert control.hung_up == ["uuid-1"]
    found = await Calls(db, "acme").get(call.id)
    assert found is not None and found.outcome == "session_lost"


async def test_a_call_that_is_leased_is_left_alone(db: Database, live: LiveState) -> None:
    control = Control()
    call, _ = await talking(db, live, now(-100))
    await live.lease_call(call.id, 1, 60, {})
    assert await reconcile(db, live, control, now(1000)) == []
    assert control.hung_up == []


async def test_a_flushed_redis_ends_no_call(db: Database, live: LiveState) -> None:
    """Looks fall into the gap before the beats are back, each time after another restart."""
    control = Control()
    call, _ = await talking(db, live, now(-100))
    for restart in range(3):
        await live.client.flushall()
        assert await reconcile(db, live, control, now(restart * 60)) == []
        assert await live.lease_call(call.id, 1, 0.05, {})
        assert await reconcile(db, live, control, now(restart * 60 + 30)) == []
        await asyncio.sleep(0.1)
        assert await reconcile(db, live, control, now(restart * 60 + 31)) == []
    assert control.hung_up == []


async def test_calls_whose_media_never_came_are_closed(db: Database, live: LiveState) -> None:
    control = Control()
    answered = await inbound(db, carrier_call_id="answered")
    await Calls(db, "acme").answered(answered.id, now())
    ringing = await inbound(db, carrier_call_id="ringing")
    queued, _ = await outbound(db)
    foreign = await inbound(db, "globex", "foreign")
    assert await reconcile(db, live, control, now(LIFE_S - 5), token_life_s=LIFE_S) == []
    closed = await reconcile(db, live, control, now(LIFE_S + 5), token_life_s=LIFE_S)
    assert set(closed) == {answered.id, ringing.id, foreign.id}
    assert sorted(control.hung_up) == ["answered", "foreign", "ringing"]
    for call in (answered, ringing):
        found = await Calls(db, "acme").get(call.id)
        assert found is not None and found.outcome == "media_failure"
    found = await Calls(db, "acme").get(queued.id)
    assert found is not None and found.status == "queued", "the dialer decides about it"


async def test_a_placed_call_without_a_report_frees_its_number(db: Database, live: LiveState) -> None:
    control = Control()
    call, attempt = await outbound(db)
    await Attempts(db, "acme").claim_intended("d", limit=1, lease_s=9, now=now(1))
    assert await Attempts(db, "acme").fence_placing(attempt.id, 1)
    assert await Attempts(db, "acme").unknown(attempt.id, "response lost")
    assert await reconcile(db, live, control, now(500), token_life_s=LIFE_S) == [], "unproven: the dialer asks"
    assert await Attempts(db, "acme").bind(attempt.id, "uuid-1")
    assert await reconcile(db, live, control, now(500), token_life_s=LIFE_S) == [call.id]
    assert control.hung_up == ["uuid-1"]
    await outbound(db)


async def test_a_hang_up_that_fails_does_not_stop_the_record(db: Database, live: LiveState) -> None:
    control = Control(ProviderError("telephony", "vonage", "down", retryable=True, status=503))
    calls = [await inbound(db, carrier_call_id=f"c{n}") for n in range(3)]
    assert set(await reconcile(db, live, control, now(LIFE_S + 5))) == {call.id for call in calls}


# --- the journal


def lease_of(call: CallRow, attempt_id: str | None) -> CallLease:
    agent = AgentDefinition(name="front-desk", business="B", opening="Hello.", system_prompt="Be kind.")
    return CallLease(
        call_id=call.id,
        tenant_id=call.tenant_id,
        attempt_id=attempt_id,
        direction="outbound",
        carrier_call_id="uuid-1",
        from_number=call.from_number,
        to_number=call.to_number,
        agent=agent,
        agent_version=1,
        slot_id=attempt_id or call.id,
    )


async def test_the_journal_keeps_a_whole_call(db: Database, live: LiveState) -> None:
    call, attempt = await outbound(db)
    lease, started = lease_of(call, attempt.id), now(-3)
    journal: CallJournal = SqlJournal(db, live)
    await journal.started(lease, started)
    latency = TurnLatency(total_ms=812.5)
    await journal.turn(
        lease, TurnRecord(0, "agent", "Hello there.", "Hello", 0, 700, interrupted=True, latency=latency)
    )
    await journal.turn(lease, TurnRecord(1, "callee", "Hi.", "Hi.", 700, 1500, approximate=True))
    await journal.live(lease, {"type": "turn", "index": 1})
    result = CallResult(
        call_id=call.id,
        tenant_id="acme",
        outcome="callee_hung_up",
        started_at=started,
        ended_at=now(),
        duration_s=3.0,
        sample_rate_hz=16000,
    )
    await journal.finished(lease, result)
    await journal.finished(lease, result.model_copy(update={"outcome": "media_failure"}))
    ended = await Calls(db, "acme").get(call.id)
    turns = await Turns(db, "acme").list(call.id)
    assert ended is not None and (ended.status, ended.outcome) == ("completed", "callee_hung_up")
    assert (ended.duration_s, ended.sample_rate_hz, ended.started_at) == (3.0, 16000, started)
    assert [(turn.heard_text, turn.interrupted, turn.approximate) for turn in turns] == [
        ("Hello", True, False),
        ("Hi.", False, True),
    ]
    assert turns[0].latency["total_ms"] == 812.5
    events = [event async for _, event in live.follow(call.id, idle_timeout_s=0.05)]
    assert [event["type"] for event in events] == ["turn", "finished"]
    assert events[-1]["outcome"] == "callee_hung_up"


async def test_live_events_of_all_calls_go_out_together_and_in_order(
    sqlite_db: Database, live: LiveState, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SqlJournal(sqlite_db, live, live_every_s=0.05)
    calls = [await outbound(sqlite_db, number=f"+1202555010{n}") for n in range(2)]
    round_trips = 0
    publish_all = live.publish_all

    async def counted(events: Any) -> None:
        nonlocal round_trips
        round_trips += 1
        await publish_all(events)

    monkeypatch.setattr(live, "publish_all", counted)
    for call, attempt in calls:
        lease = lease_of(call, attempt.id)
        await journal.live(lease, {"type": "state", "state": "listening"})
        for text in ("Where", "Where can I park?"):
            await journal.live(lease, {"type": "partial", "text": text})
        await journal.live(lease, {"type": "turn", "index": 0})
    await asyncio.sleep(0.3)
    assert round_trips == 1
    for call, _ in calls:
        events = [event async for _, event in live.follow(call.id, idle_timeout_s=0.05)]
        assert [event["type"] for event in events] == ["state", "partial", "turn"]
        assert events[1]["text"] == "Where can I park?", "a later partial says what the earlier one did"


async def test_a_failure_is_a_failed_call(sqlite_db: Database, live: LiveState) -> None:
    call, attempt = await outbound(sqlite_db)
    result = CallResult(
        call_id=call.id,
        tenant_id="acme",
        outcome="provider_failure",
        detail="stt/deepgram: 401",
        started_at=now(),
        ended_at=now(),
        duration_s=0.0,
        sample_rate_hz=8000,
    )
    await SqlJournal(sqlite_db, live).finished(lease_of(call, attempt.id), result)
    ended = await Calls(sqlite_db, "acme").get(call.id)
    assert ended is not None and (ended.status, ended.detail) == ("failed", "stt/deepgram: 401")


# --- the recording job


class Pool:
    """Stands for the codec pool."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, ...]] = []

    async def __call__(
        self, prefix: str, out_key: str, rate_hz: int, duration_s: float | None, file_format: str
    ) -> dict[str, Any]:
        self.requests.append((prefix, out_key, rate_hz, duration_s, file_format))
        return {
            "key": out_key,
            "format": file_format,
            "channels": 2,
            "sample_rate_hz": rate_hz,
            "duration_s": duration_s,
            "bytes": 1234,
            "peaks": [[0.5], [0.1]],
        }


async def only_job(db: Database) -> JobRow:
    (job,) = await Jobs(db).lease("w", kinds=["mix_recording"], limit=5, lease_s=5)
    return job


async def test_the_recording_of_a_call_is_mixed_by_key(db: Database, tmp_path: Path) -> None:
    call = await inbound(db)
    await finish(db, call, duration_s=2.5, sample_rate_hz=16000)
    pool = Pool()
    handler = MixRecording(db, ObjectStore.open(None, tmp_path), pool, file_format="wav")
    job = await only_job(db)
    await handler(job)
    await handler(job)
    folder = f"recordings/acme/{call.id}"
    assert pool.requests == [(f"{folder}/parts/", f"{folder}/call.wav", 16000, 2.5, "wav")] * 2
    row = await Recordings(db, "acme").get(call.id)
    assert row is not None and (row.key, row.bytes, row.peaks) == (f"{folder}/call.wav", 1234, [[0.5], [0.1]])


async def test_a_recording_without_a_known_rate_takes_that_of_its_parts(db: Database, tmp_path: Path) -> None:
    objects = ObjectStore.open(None, tmp_path)
    call = await inbound(db)
    await objects.put(f"recordings/acme/{call.id}/parts/agent-000000000000-24000.pcm", b"\0\0")
    await finish(db, call, sample_rate_hz=None)
    pool = Pool()
    await MixRecording(db, objects, pool)(await only_job(db))
    assert pool.requests[0][2] == 24000


async def test_a_recording_of_no_call_is_hopeless(sqlite_db: Database, tmp_path: Path) -> None:
    await Jobs(sqlite_db).add("acme", "mix_recording", {"call_id": "gone"})
    with pytest.raises(JobFailed):
        await MixRecording(sqlite_db, ObjectStore.open(None, tmp_path), Pool())(await only_job(sqlite_db))


# --- objects


async def test_objects_are_kept_listed_and_deleted(tmp_path: Path) -> None:
    objects = ObjectStore.open(None, tmp_path)
    for key in ("a/b/2.pcm", "a/b/1.pcm", "a/bc/3.pcm"):
        await objects.put(key, key.encode())
    await objects.put("a/b/1.pcm", b"again")
    assert await objects.list("a/b") == await objects.list("a/b/") == ["a/b/1.pcm", "a/b/2.pcm"]
    assert await objects.get("a/b/1.pcm") == b"again"
    path = objects.local_path("a/b/1.pcm")
    assert path is not None and path.read_bytes() == b"again"
    assert objects.local_path("../../etc/passwd") is None
    await objects.delete(["a/b/1.pcm", "a/never"])
    with pytest.raises(FileNotFoundError):
        await objects.get("a/b/1.pcm")
    assert await objects.list("nothing") == []


async def test_a_store_by_url_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="nonsense://"):
        ObjectStore.open("nonsense://bucket", tmp_path)
    memory = ObjectStore.open("memory:///", tmp_path)
    await memory.put("k", b"v")
    assert await memory.get("k") == b"v" and memory.local_path("k") is None
