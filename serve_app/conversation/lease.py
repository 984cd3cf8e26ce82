"""What a session is given when a call starts, and what it gives back when the call is over."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serve_app.conversation.agent import AgentDefinition

Direction = Literal["outbound", "inbound"]

Outcome = Literal[
    "completed",  # the conversation came to its end (agent or callee said goodbye)
    "callee_hung_up",
    "agent_hung_up",  # by command of a person (API)
    "opted_out",  # the callee asked not to be called again
    "silence",
    "max_duration",
    "max_turns",
    "provider_failure",  # STT, LLM or TTS failed beyond recovery
    "media_failure",  # the media socket or the link was lost
    "session_lost",  # the session process died
    "not_answered",
    "busy",
    "rejected",
    "no_capacity",
    "not_allowed",
    "not_placed",  # the network proved that it took no call
    "failed",
]


class CallLease(BaseModel):
    """Everything about one call that its session needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call_id: str
    tenant_id: str
    attempt_id: str | None = None
    direction: Direction
    carrier: Literal["vonage"] = "vonage"
    carrier_call_id: str
    region_url: str | None = None
    from_number: str
    to_number: str
    agent: AgentDefinition
    agent_version: int
    slot_id: str
    scopes: tuple[str, ...] = ()
    """What its slot counts in, beside the sessions: see `serve_app.store.slots`."""
    epoch: int = 1
    lead_zone: str | None = None
    """IANA name: where the lead is for whose sake the call is. None: no lead waits for what comes of it."""

    @property
    def callee_number(self) -> str:
        """Of the person who talks with the agent; no phone number where a caller withheld it."""
        return self.to_number if self.direction == "outbound" else self.from_number


class CallResult(BaseModel):
    """How a call ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call_id: str
    tenant_id: str
    outcome: Outcome
    detail: str | None = None
    started_at: datetime
    ended_at: datetime
    duration_s: float
    """From the first media message to the socket's close."""
    sample_rate_hz: int
