"""Health, readiness and metrics; and what happens when SQL or Redis is away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve_app.errors import UnavailableError
from serve_app.latency_counts import LatencyCounts
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.reports import TURNS, VITALS, Reports
from serve_app.store.repositories import Calls, Turns
from tests.unit.api_support import TO, Plane

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")


async def _away(*_: Any, **__: Any) -> None:
    raise UnavailableError("Redis at redis://host does not answer")


async def test_health_says_what_runs_and_how_much_is_free(plane: Plane) -> None:
    await plane.live.reserve("a", 60)
    body = (await plane.http.get("/health")).json()
    assert body["status"] == "ok"
    assert body["checks"] == {"sql": "ok", "redis": "ok"}
    assert body["capacity"] == {"slots": 10, "used": 1}
    assert body["runtime"] == {"haproxy": False}
    assert body["mode"] == "local"
    assert body["simulated_network"] is True
    assert body["simulated"] == ["cartesia", "deepgram", "groq"]


async def test_ready_only_while_sql_and_redis_answer(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await plane.http.get("/ready")).json()["status"] == "ready"
    monkeypatch.setattr(LiveState, "capacity", _away)
    response = await plane.http.get("/ready")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert "redis" in response.json()["detail"]
    assert response.json()["checks"]["sql"] == "ok"
    health = await plane.http.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert (await plane.http.get("/metrics")).status_code == 200
    monkeypatch.setattr(Database, "ping", _away)
    assert "sql" in (await plane.http.get("/ready")).json()["detail"]


async def test_a_request_that_needs_what_is_away_gets_503_without_internals(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Calls, "list", _away)
    response = await plane.http.get("/api/v1/calls", headers=plane.auth)
    assert response.status_code == 503
    assert response.json()["code"] == "unavailable"
    assert response.headers["retry-after"]
    assert "redis://" not in response.text


async def test_metrics_show_calls_slots_and_latencies_and_no_number(plane: Plane) -> None:
    call = await plane.place()
    other = await plane.place("+12025550188")
    turns, calls = Turns(plane.db, "default"), Calls(plane.db, "default")
    for index in range(10):
        latency = {"total_ms": 100.0 * (index + 1)}
        await turns.put(call["id"], index, "agent", "x", "x", 0, 1, False, False, latency)
    now = datetime.now(UTC)
    await calls.finish(
        other["id"],
        status="failed",
        outcome="busy",
        detail=None,
        started_at=None,
        ended_at=now - timedelta(seconds=1),
        duration_s=None,
        sample_rate_hz=None,
    )
    response = await plane.http.get("/metrics")
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert values[("parley_calls_live", "queued")] == 1
    assert values[("parley_calls_recent", "busy")] == 1
    assert values[("parley_turn_latency_recent_ms", "0.5")] == 600
    assert values[("parley_slots",)] == 10
    assert values[("parley_calls_requested_total", "accepted")] >= 2
    assert ("parley_http_requests_total", "POST", "/api/v1/calls", "201") in values
    assert TO not in response.text
    assert call["id"] not in response.text


async def test_metrics_show_what_every_replica_holds(plane: Plane) -> None:
    report = {"deployment": "sessions", "calls_open": 3, "calls_held": 4, "tasks": 20, "fds": 40, "threads": 9}
    await Reports(plane.live, VITALS).put("sessions@node:1", {**report, "rss_bytes": 1000}, 60)
    text = (await plane.http.get("/metrics")).text
    assert 'parley_replica_calls_held{deployment="sessions",replica="sessions@node:1"} 4.0' in text
    assert 'parley_replica_open_fds{deployment="sessions",replica="sessions@node:1"} 40.0' in text
    await Reports(plane.live, VITALS).drop("sessions@node:1")
    assert "sessions@node:1" not in (await plane.http.get("/metrics")).text


async def test_metrics_show_what_the_sessions_count(plane: Plane) -> None:
    counts = LatencyCounts()
    counts.reply({"llm_ms": 40.0, "frame_ms": 2.0, "total_ms": None}, {}, [])
    counts.reply({"llm_ms": 95.0}, {"llm_ms": "target"}, ["llm_late", "failover: 429"])
    drafts = ["parley_drafts_total", {"result": "dropped"}, 3.0]
    saved = ["parley_draft_saved_seconds_total", {}, 0.4]
    report = {**counts.report(), "counters": [drafts, saved]}
    await Reports(plane.live, TURNS).put("sessions@node:1", report, 60)

    async def sample(name: str, **labels: str) -> float | None:
        text = (await plane.http.get("/metrics")).text
        found = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
        return next((s.value for s in found if labels.items() <= s.labels.items()), None)

    latency, replica = "parley_turn_latency_ms", "sessions@node:1"
    assert await sample(f"{latency}_bucket", stage="llm_ms", within_target="true", replica=replica, le="50") == 1
    assert await sample(f"{latency}_bucket", stage="llm_ms", within_target="false", replica=replica, le="90") == 0
    assert await sample(f"{latency}_bucket", stage="llm_ms", within_target="false", replica=replica, le="100") == 1
    assert await sample(f"{latency}_bucket", stage="llm_ms", within_target="false", replica=replica, le="+Inf") == 1
    assert await sample(f"{latency}_sum", stage="llm_ms", within_target="false", replica=replica) == 95
    assert await sample(f"{latency}_count", stage="frame_ms", within_target="", replica=replica) == 1
    assert await sample(f"{latency}_count", stage="total_ms", replica=replica) is None
    assert await sample("parley_turn_causes_total", cause="failover", replica=replica) == 1
    assert await sample("parley_drafts_total", result="dropped", replica=replica) == 3
    assert await sample("parley_draft_saved_seconds_total", replica=replica) == 0.4
    await Reports(plane.live, TURNS).drop(replica)
    assert await sample(f"{latency}_count", replica=replica) is None


async def test_the_documentation_opens(plane: Plane) -> None:
    assert (await plane.http.get("/docs")).status_code == 200
    document = (await plane.http.get("/openapi.json")).json()
    assert "/api/v1/calls/{call_id}/transcript" in document["paths"]
    assert not any(path.startswith("/webhooks") for path in document["paths"])
