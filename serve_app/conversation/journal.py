"""Where a session writes what happened. One implementation stores it in SQL and Redis, another keeps it for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from serve_app.conversation.latency import TurnLatency
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.results import Report
from serve_app.conversation.turn_types import OptOutSource

TurnRole = Literal["agent", "callee"]


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn of the transcript. For the agent `text` is what was generated and `heard_text` what was heard."""

    index: int
    role: TurnRole
    text: str
    heard_text: str
    started_ms: float
    """Since the first media message."""
    ended_ms: float
    approximate: bool = False
    interrupted: bool = False
    latency: TurnLatency = field(default_factory=TurnLatency)


class CallJournal(Protocol):
    """Persists a call while it runs. Methods raise UnavailableError; a session logs that and goes on talking."""

    async def started(self, lease: CallLease, at: datetime) -> None: ...

    async def turn(self, lease: CallLease, record: TurnRecord) -> None:
        """Store or replace turn `record.index`."""
        ...

    async def live(self, lease: CallLease, event: dict[str, object]) -> None:
        """A transient event for whoever watches the call now."""
        ...

    async def opt_out(self, lease: CallLease, source: OptOutSource, text: str) -> None:
        """The callee is not to be called again. From the commit on no call to the number is claimed or placed.

        Idempotent; it may return late, and whoever stops waiting does not stop the writing.
        """
        ...

    async def report(self, lease: CallLease, report: Report) -> None:
        """What came of the conversation; the last report stays. Idempotent."""
        ...

    async def finished(self, lease: CallLease, result: CallResult) -> None: ...
