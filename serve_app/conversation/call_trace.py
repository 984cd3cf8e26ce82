"""The spans of a call: one for the call, one for every reply. Made from finished records, never on the audio path."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.util.types import AttributeValue

from serve_app.clock import Clock
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.latency import MEASURES, STAGE_ENDS, LatencyProbe
from serve_app.conversation.lease import CallLease, CallResult

PREFIX = "parley."
"""Of every attribute; what follows is the name in the turn's record."""


class CallTrace:
    """One call. Costs next to nothing while no provider of spans is configured, or the call is not sampled."""

    def __init__(self, lease: CallLease, clock: Clock) -> None:
        """The call begins now. Neither numbers nor words go into a trace."""
        self._clock = clock
        self._tracer = trace.get_tracer("parley")
        self._wall_s, self._zero = clock.now().timestamp(), clock.monotonic()
        attributes: dict[str, AttributeValue] = {
            "call_id": lease.call_id,
            "tenant_id": lease.tenant_id,
            "direction": lease.direction,
            "agent": lease.agent.name,
            "agent_version": lease.agent_version,
        }
        # Whatever is current in this process is not this call's parent.
        self._call = self._tracer.start_span(
            "call", Context(), attributes=_prefixed(attributes), start_time=self._ns(self._zero)
        )

    def replied(self, record: TurnRecord, probe: LatencyProbe) -> None:
        """A reply is over: a span from the callee's last sound to the end of the speech, an event at every moment."""
        stages = probe.stages()
        if not stages or not self._call.is_recording():
            return
        latency = record.latency
        attributes: dict[str, AttributeValue] = {
            "turn_index": record.index,
            "interrupted": record.interrupted,
            "speculative": latency.speculative,
            "causes": latency.causes,
            "over": [f"{stage}: {excess}" for stage, excess in latency.over.items()],
        }
        known = {name: getattr(latency, name) for name in (*MEASURES, "within_target")}
        attributes.update((name, value) for name, value in known.items() if value is not None)
        span = self._tracer.start_span(
            "turn",
            trace.set_span_in_context(self._call, Context()),
            attributes=_prefixed(attributes),
            start_time=self._ns(stages[0][1]),
        )
        for stage, at in stages[1:]:
            span.add_event(STAGE_ENDS[stage], timestamp=self._ns(at))
        if probe.first_confirmed_at is not None:
            span.add_event("first_confirmed", timestamp=self._ns(probe.first_confirmed_at))
        span.end(self._ns(stages[-1][1] + (record.ended_ms - record.started_ms) / 1000))

    def ended(self, result: CallResult) -> None:
        self._call.set_attribute(PREFIX + "outcome", result.outcome)
        self._call.set_attribute(PREFIX + "duration_s", result.duration_s)
        self._call.end(self._ns(self._clock.monotonic()))

    def _ns(self, at: float) -> int:
        """The time of day of a monotonic time: a clock that is set during a call bends no span."""
        return round((self._wall_s + at - self._zero) * 1e9)


def _prefixed(attributes: dict[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {PREFIX + name: value for name, value in attributes.items()}
