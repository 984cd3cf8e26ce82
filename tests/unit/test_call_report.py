"""What is told of a call beside its records: a log line, counts and spans per reply, all by the names of the record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from structlog.testing import capture_logs

from serve_app.api.schemas import LatencyView
from serve_app.conversation import call_report
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.call_report import CallReport
from serve_app.conversation.call_trace import PREFIX
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.latency import MEASURES, STAGES, LatencyProbe, TurnLatency
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.latency_budgets import LatencyBudgets
from serve_app.latency_counts import LatencyCounts
from serve_app.store.models import LatencyMeasurement

STARTED = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
ZERO = 5000.0
AGENT = AgentDefinition.model_validate(
    {"name": "front-desk", "business": "Riverside", "voice": "v", "opening": "Hello.", "system_prompt": "Be kind."}
)
LEASE = CallLease(
    call_id="call-1",
    tenant_id="acme",
    direction="outbound",
    carrier_call_id="carrier-1",
    from_number="+12025550100",
    to_number="+12025550123",
    agent=AGENT,
    agent_version=3,
    slot_id="slot-1",
)
RESULT = CallResult(
    call_id="call-1",
    tenant_id="acme",
    outcome="completed",
    started_at=STARTED,
    ended_at=STARTED + timedelta(seconds=30),
    duration_s=30,
    sample_rate_hz=8000,
)


class StoppedClock:
    """Moved by hand. The time of day is set back by an hour in the middle, as it may be on a real machine."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.set_by = timedelta()

    def monotonic(self) -> float:
        return ZERO + self.passed_s

    def now(self) -> datetime:
        return STARTED + timedelta(seconds=self.passed_s) + self.set_by

    async def sleep(self, seconds: float) -> None:
        self.passed_s += seconds


@pytest.fixture(name="spans")
def fixture_spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


@pytest.fixture(name="counts")
def fixture_counts(monkeypatch: pytest.MonkeyPatch) -> LatencyCounts:
    counts = LatencyCounts()
    monkeypatch.setattr(call_report, "LATENCIES", counts)
    return counts


def a_reply() -> tuple[TurnRecord, LatencyProbe]:
    """Heard from 10.4 s to 12.4 s after the call's begin; the callee's last sound was at 10 s."""
    probe = LatencyProbe(
        speech_ended_at=ZERO + 10,
        turn_ended_at=ZERO + 10.25,
        first_token_at=ZERO + 10.2,
        first_sentence_at=ZERO + 10.26,
        first_audio_at=ZERO + 10.39,
        first_frame_at=ZERO + 10.41,
        first_confirmed_at=ZERO + 10.5,
        causes=["filler"],
        speculative=True,
    )
    latency = probe.latency(LatencyBudgets())
    record = TurnRecord(2, "agent", "We open at nine.", "We open at", 10_410, 12_410, False, True, latency)
    return record, probe


def told(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    assert span.attributes is not None
    return {name.removeprefix(PREFIX): value for name, value in span.attributes.items()}


def ns(seconds: float) -> int:
    return round((STARTED.timestamp() + seconds) * 1e9)


def test_one_set_of_names() -> None:
    """In the record, in SQL, in the API: whoever adds one must add it everywhere."""
    names = {field.name for field in fields(TurnLatency)}
    columns = set(LatencyMeasurement.__table__.columns.keys())
    assert names == set(LatencyView.model_fields) == columns - {"tenant_id", "call_id", "turn_index", "created_at"}
    assert set(MEASURES) < names


def test_a_call_and_its_replies_become_spans(spans: InMemorySpanExporter, counts: LatencyCounts) -> None:
    clock = StoppedClock()
    report = CallReport(LEASE, clock)
    clock.passed_s, clock.set_by = 13.0, timedelta(hours=-1)
    report.replied(*a_reply())
    clock.passed_s = 30.0
    report.ended(RESULT, [])
    call, turn = told(spans)["call"], told(spans)["turn"]
    assert (call.start_time, call.end_time) == (ns(0), ns(30))
    assert call.parent is None
    assert attributes(call) == {
        "call_id": "call-1",
        "tenant_id": "acme",
        "direction": "outbound",
        "agent": "front-desk",
        "agent_version": 3,
        "outcome": "completed",
        "duration_s": 30,
    }
    assert turn.parent == call.context
    assert (turn.start_time, turn.end_time) == (ns(10), ns(12.41))
    # The first token came with a draft, before the end of the turn: in the record its stage took no time.
    assert [(event.name, event.timestamp) for event in turn.events] == [
        ("turn_ended", ns(10.25)),
        ("first_token", ns(10.25)),
        ("first_sentence", ns(10.26)),
        ("first_audio", ns(10.39)),
        ("first_frame", ns(10.41)),
        ("first_confirmed", ns(10.5)),
    ]
    record, _ = a_reply()
    found = attributes(turn)
    assert {name: found[name] for name in MEASURES} == {name: getattr(record.latency, name) for name in MEASURES}
    assert (found["turn_index"], found["interrupted"], found["speculative"]) == (2, True, True)
    assert (found["causes"], found["within_target"]) == (("filler",), False)
    assert found["over"] == ("tts_ms: target", "total_ms: target")


def test_neither_numbers_nor_words_go_into_a_trace(spans: InMemorySpanExporter, counts: LatencyCounts) -> None:
    report = CallReport(LEASE, StoppedClock())
    report.replied(*a_reply())
    report.ended(RESULT, [])
    written = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "call-1" in written
    for secret in ("2025550123", "2025550100", "nine", "Be kind"):
        assert secret not in written


def test_a_call_that_is_not_sampled_makes_no_turn_spans(monkeypatch: pytest.MonkeyPatch, counts: LatencyCounts) -> None:
    provider, exporter = TracerProvider(sampler=ALWAYS_OFF), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    report = CallReport(LEASE, StoppedClock())
    report.replied(*a_reply())
    report.ended(RESULT, [])
    assert exporter.get_finished_spans() == ()
    assert counts.report()["causes"] == {"filler": 1}


def test_a_log_line_per_reply_by_the_same_names(counts: LatencyCounts) -> None:
    record, probe = a_reply()
    with capture_logs() as lines:
        report = CallReport(LEASE, StoppedClock())
        report.replied(record, probe)
        report.ended(RESULT, ["gave up: llm"])
    turn, end = lines
    assert turn["event"] == "turn" and turn["call_id"] == "call-1" and turn["turn_index"] == 2
    names = [field.name for field in fields(TurnLatency)]
    assert {name: turn[name] for name in names} == {name: getattr(record.latency, name) for name in names}
    assert "We open" not in str(turn)
    assert (end["event"], end["outcome"], end["causes"]) == ("call ended", "completed", ["gave up: llm"])


def test_a_reply_and_its_causes_are_counted(counts: LatencyCounts) -> None:
    report = CallReport(LEASE, StoppedClock())
    report.replied(*a_reply())
    report.ended(RESULT, ["gave up: llm"])
    counted = counts.report()
    within = {stage: within for stage, within, _, _ in counted["stages"]}
    assert set(within) == {*STAGES, "confirm_ms", "total_ms"}
    assert (within["stt_ms"], within["tts_ms"], within["sentence_ms"]) == ("true", "false", "")
    assert counted["causes"] == {"filler": 1, "gave up": 1}
