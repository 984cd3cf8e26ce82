"""What goes in and out of the REST API. Numbers are E.164; times are RFC 3339 in UTC; durations carry their unit."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from serve_app.conversation.agent import Name
from serve_app.dialing.numbers import PhoneNumber

METADATA_BYTES = 4096

CallStatus = Literal["queued", "dialing", "ringing", "answered", "in_progress", "completed", "failed"]


def bounded(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """A validator: a document of the caller's own, small enough to be kept in a row."""
    document = json.dumps(metadata, separators=(",", ":"))
    if "\\u0000" in document:
        raise PydanticCustomError("nul", "it holds a NUL character", {"remedy": "leave it out"})
    if len(document.encode()) > METADATA_BYTES:
        raise PydanticCustomError(
            "metadata_too_large",
            "the metadata is larger than {limit} bytes as JSON",
            {"limit": METADATA_BYTES, "remedy": "store the rest on your side, under an id that you put here"},
        )
    return metadata


class CallRequest(BaseModel):
    """An outbound call. `from` must be a number of this platform; without it, the configured one is used."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    to: PhoneNumber
    agent: Name | None = Field(None, description="the agent's name; without it, the configured default")
    from_: PhoneNumber | None = Field(None, alias="from")
    metadata: Annotated[dict[str, JsonValue], AfterValidator(bounded)] = Field(
        default_factory=dict, description="kept with the call and returned with it"
    )


class AgentReference(BaseModel):
    name: str
    version: int


class CallView(BaseModel):
    id: str
    status: CallStatus
    outcome: str | None
    detail: str | None
    direction: Literal["outbound", "inbound"]
    to: str
    from_: str = Field(serialization_alias="from")
    agent: AgentReference
    metadata: dict[str, Any]
    created_at: datetime
    answered_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_s: float | None
    opted_out_at: datetime | None = Field(description="when the callee asked not to be called again")


class CallPage(BaseModel):
    items: list[CallView]
    next_cursor: str | None = Field(description="pass as `cursor` to get the next page; null on the last one")


class LatencyView(BaseModel):
    """Milliseconds of one agent reply; null where a stage did not happen. The first five add up to the total."""

    stt_ms: float | None = Field(None, description="the callee's last sound -> end of turn")
    llm_ms: float | None = Field(None, description="end of turn -> first token")
    sentence_ms: float | None = Field(None, description="first token -> first sentence given to the synthesizer")
    tts_ms: float | None = Field(None, description="first sentence -> first audio")
    frame_ms: float | None = Field(None, description="first audio -> first frame to the network")
    confirm_ms: float | None = Field(None, description="first frame to the network -> its word that it was played")
    total_ms: float | None = Field(None, description="the callee's last sound -> first frame to the network")
    within_target: bool | None = Field(None, description="whether the total is within its target (call.budgets)")
    over: dict[str, Literal["target", "limit"]] = Field(
        default_factory=dict, description="stage -> what of its budget it is above; the others are within"
    )
    causes: list[str] = Field(
        default_factory=list, description="why the callee waited, or heard something else than the reply"
    )
    speculative: bool = Field(False, description="the reply began as a draft, before the end of the turn was certain")


class TurnView(BaseModel):
    """`text` is what was said (callee) or generated (agent); `heard_text` is what the other side heard."""

    index: int
    role: Literal["agent", "callee"]
    text: str
    heard_text: str
    started_ms: float
    ended_ms: float
    approximate: bool
    interrupted: bool
    latency: LatencyView


class TranscriptView(BaseModel):
    call_id: str
    status: CallStatus
    turns: list[TurnView]
    text: str = Field(description="the turns as lines of plain text, as they were heard")


class RecordingView(BaseModel):
    call_id: str
    format: str
    channels: int = Field(description="2: the callee left, the agent right, on one clock")
    sample_rate_hz: int
    duration_s: float
    bytes: int
    peaks: list[list[float]] = Field(description="per channel: the largest magnitude (0 to 1) of each bucket")
    download_url: str
    path: str | None = Field(description="the file on this machine, where recordings are kept in a local folder")


class HangupView(BaseModel):
    id: str
    status: Literal["ended", "ending"]
    detail: str


class AgentView(BaseModel):
    name: str
    version: int
    created_at: datetime
    document: dict[str, Any]


class AgentPage(BaseModel):
    items: list[AgentView]
