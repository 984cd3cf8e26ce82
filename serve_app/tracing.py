"""Traces by OpenTelemetry: exported where its own environment variables say so, and made nowhere else.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ : the SDK reads the sampler, the batch
and the limits itself; here are the exporter and the name of the service.
"""

from __future__ import annotations

import os
import sys

from opentelemetry import trace

from serve_app.errors import SettingsError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


def configure_tracing(instance: str) -> bool:
    """Export the spans of this process from now on. False: nothing is to be exported. Call once per process.

    `instance` names the process among those of the service. A provider that somebody installed before (Ray's tracing
    hook) stays. Raises SettingsError, naming the variable.
    """
    exporter = traces_exporter()
    if exporter is None:
        return False
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return True
    # Only now: the SDK and the exporter take a tenth of a second and some megabytes.
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    spans: SpanExporter
    if exporter == "console":
        # On stderr, like the log: stdout belongs to commands that print JSON.
        spans = ConsoleSpanExporter(out=sys.stderr)
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        spans = OTLPSpanExporter()
    own = {"service.instance.id": instance}
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not named:
        own["service.name"] = "parley"
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    return True


def traces_exporter() -> str | None:
    """`otlp`, `console`, or None: what the environment asks for. Raises SettingsError, naming the variable."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    # The specification's default is otlp to a collector on this machine; without any variable nothing is exported.
    default = "otlp" if any(os.environ.get(name) for name in _ENDPOINTS) else "none"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or default
    if exporter not in ("otlp", "console", "none"):
        raise SettingsError(f"OTEL_TRACES_EXPORTER is {exporter!r}; set otlp, console or none")
    if exporter == "otlp":
        variable = next((name for name in _PROTOCOLS if os.environ.get(name)), None)
        if variable is not None and os.environ[variable].strip() != _HTTP:
            raise SettingsError(
                f"{variable} is {os.environ[variable]!r}; set {_HTTP} (a collector listens for it on port 4318)"
            )
    return None if exporter == "none" else exporter
