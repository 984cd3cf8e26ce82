"""What the truth about latency costs: the record of a reply, its log line, its counts, its span."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from load_tests.micro.conversation import LEASE
from load_tests.micro.figures import Figure, cpu_us
from serve_app.clock import SystemClock
from serve_app.conversation.call_report import CallReport
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.latency import LatencyProbe
from serve_app.conversation.lease import CallResult
from serve_app.latency_budgets import LatencyBudgets
from serve_app.log import configure_logging
from serve_app.settings import LogSettings

TURNS = 20
RESULT = CallResult(
    call_id=LEASE.call_id,
    tenant_id=LEASE.tenant_id,
    outcome="completed",
    started_at=datetime.now(UTC),
    ended_at=datetime.now(UTC),
    duration_s=120.0,
    sample_rate_hz=16000,
)


class _Encoded(SpanProcessor):
    """Encodes the spans as the exporter's own thread would; it shares the interpreter with the calls."""

    def __init__(self) -> None:
        self.waiting: list[ReadableSpan] = []
        self.bytes = 0

    def on_end(self, span: ReadableSpan) -> None:
        self.waiting.append(span)
        if span.name == "call":
            self.bytes += encode_spans(self.waiting).ByteSize()
            self.waiting = []


@contextlib.contextmanager
def _logging_to_nowhere() -> Iterator[None]:
    """The log as the product has it, masked JSON lines, written to the null device."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    with Path(os.devnull).open("w") as nowhere, patch.object(sys, "stderr", nowhere):
        configure_logging(LogSettings())
        try:
            yield
        finally:
            root.handlers = handlers
            root.setLevel(level)
            structlog.configure(**before)


def _call() -> None:
    """The reports of a call of TURNS replies."""
    clock, budgets = SystemClock(), LatencyBudgets()
    report = CallReport(LEASE, clock)
    for index in range(TURNS):
        zero = clock.monotonic()
        moments = (zero + offset_s for offset_s in (0.0, 0.25, 0.29, 0.31, 0.43, 0.44, 0.52))
        probe = LatencyProbe(*moments, causes=["llm_late"])
        latency = probe.latency(budgets)
        report.replied(TurnRecord(index, "agent", "", "", index * 1e3, index * 1e3 + 500, latency=latency), probe)
    report.ended(RESULT, [])


def reported() -> Figure:
    """As it is where no traces are exported."""
    with _logging_to_nowhere():
        rounds = cpu_us(_call, 20, per=TURNS)
    # A reply takes some seconds of its call: 500 us are 0.01 % of a core per call.
    return Figure("a reply's latency: record, log line, counts", 500, "us", rounds)


def traced() -> Figure:
    """The same with every call sampled; what reaches the collector is encoded, and not sent."""
    encoded, provider = _Encoded(), TracerProvider()
    provider.add_span_processor(encoded)
    with _logging_to_nowhere(), patch.object(trace, "get_tracer", provider.get_tracer):
        rounds = cpu_us(_call, 20, per=TURNS)
    assert encoded.bytes > 0 and not encoded.waiting
    return Figure("a reply's latency: the same, and its span", 1000, "us", rounds)
