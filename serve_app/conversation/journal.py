"""Where a session writes what happened. One implementation stores it in SQL and Redis, another keeps it for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from serve_app.conversation.lease import CallLease, CallResult

TurnRole = Literal["agent", "callee"]


@dataclass(frozen=True, slots=True)
class TurnLatency:
    """Milliseconds of one agent reply, on the monotonic clock. None where the stage did not happen.

    end_of_turn: callee's last sound -> end-of-turn event. llm_first_token: end of turn -> first token.
    tts_first_audio: first text to the synthesizer -> first audio. first_frame: first audio -> first frame on the wire.
    total: callee's last sound -> first frame on the wire.
    """

    end_of_turn_ms: float | None = None
    llm_first_token_ms: float | None = None
    tts_first_audio_ms: float | None = None
    first_frame_ms: float | None = None
    total_ms: float | None = None


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

    async def finished(self, lease: CallLease, result: CallResult) -> None: ...
