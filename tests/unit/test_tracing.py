"""Where traces go is said by OpenTelemetry's own variables; without them, nowhere."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serve_app.errors import SettingsError
from serve_app.tracing import configure_tracing


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def test_nothing_is_exported_by_default() -> None:
    assert configure_tracing("sessions@host:1") is False


@pytest.mark.parametrize(
    "variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}], ids=["disabled", "none"]
)
def test_an_endpoint_may_be_set_and_traces_still_be_off(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert configure_tracing("sessions@host:1") is False


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", r"OTEL_TRACES_EXPORTER is 'zipkin'; set otlp, console or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", r"OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; set http/protobuf"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=told):
        configure_tracing("sessions@host:1")


PROCESS = """
from opentelemetry import trace
from serve_app.tracing import configure_tracing
assert configure_tracing("sessions@host:1")
trace.get_tracer("parley").start_span("call").end()
"""


async def test_spans_reach_a_collector_named_by_the_standard_variable() -> None:
    """In a process of its own: a provider of spans can be installed once."""
    bodies: list[ExportTraceServiceRequest] = []

    async def collect(request: web.Request) -> web.Response:
        bodies.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:{port}"}
        environment["OTEL_EXPORTER_OTLP_COMPRESSION"] = "none"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROCESS, env=environment)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        await runner.cleanup()
    (spans,) = [resource for body in bodies for resource in body.resource_spans]
    named = {item.key: item.value.string_value for item in spans.resource.attributes}
    assert (named["service.name"], named["service.instance.id"]) == ("parley", "sessions@host:1")
    assert [span.name for span in spans.scope_spans[0].spans] == ["call"]
