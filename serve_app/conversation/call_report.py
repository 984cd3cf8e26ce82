"""What is told of a call besides its records: a log line per reply, counts for `/metrics`, spans. One set of names."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from serve_app.clock import Clock
from serve_app.conversation.call_trace import CallTrace
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.latency import MEASURES, LatencyProbe
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.latency_counts import LATENCIES

log = structlog.get_logger()


class CallReport:
    """One call's. Does no I/O but the log's, and only between turns."""

    def __init__(self, lease: CallLease, clock: Clock) -> None:
        self._log = log.bind(call_id=lease.call_id)
        self._trace = CallTrace(lease, clock)

    def replied(self, record: TurnRecord, probe: LatencyProbe) -> None:
        """An agent's turn is over."""
        latency = record.latency
        measured = {name: getattr(latency, name) for name in MEASURES}
        LATENCIES.reply(measured, latency.over, latency.causes)
        self._trace.replied(record, probe)
        self._log.info(
            "turn",
            turn_index=record.index,
            interrupted=record.interrupted,
            **measured,
            within_target=latency.within_target,
            over=latency.over,
            causes=latency.causes,
            speculative=latency.speculative,
        )

    def ended(self, result: CallResult, unheard_causes: Sequence[str]) -> None:
        """The call is over. `unheard_causes`: why nothing was heard after the last turn; they are on no turn."""
        LATENCIES.reply({}, {}, unheard_causes)
        self._trace.ended(result)
        self._log.info(
            "call ended",
            outcome=result.outcome,
            detail=result.detail,
            duration_s=result.duration_s,
            causes=list(unheard_causes),
        )
