"""What the repositories return: plain frozen rows, detached from the database."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal, TypeVar

Row = TypeVar("Row")

# Python names that differ from the mapped attribute of the same column.
_ATTRIBUTE = {"metadata": "caller_metadata", "index": "turn_index"}


def to_row(kind: type[Row], entity: object) -> Row:
    """Copy the attributes that `kind` names."""
    return kind(**{f.name: getattr(entity, _ATTRIBUTE.get(f.name, f.name)) for f in fields(kind)})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, order=True)
class Cost:
    """What a network charges for a call. Of two that it told, the greater one is believed."""

    micros: int
    """Millionths of the currency's unit, rounded up: a cent would lose what a second costs."""
    currency: str
    """ISO 4217."""

    @property
    def amount(self) -> str:
        """In the currency's unit, like 0.000834."""
        return f"{self.micros // 10**6}.{self.micros % 10**6:06d}"


@dataclass(frozen=True, slots=True)
class Charge:
    """A cost, and the attempt whose call it is of."""

    attempt_id: str
    cost: Cost


@dataclass(frozen=True, slots=True)
class AgentRow:
    name: str
    version: int
    document: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CallRow:
    id: str
    tenant_id: str
    direction: str
    status: str
    outcome: str | None
    detail: str | None
    carrier_call_id: str | None
    region_url: str | None
    from_number: str
    to_number: str
    agent_name: str
    agent_version: int
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    give_up_at: datetime | None
    answered_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_s: float | None
    sample_rate_hz: int | None
    opted_out_at: datetime | None
    """When the callee asked not to be called again."""

    @property
    def over(self) -> bool:
        return self.status in ("completed", "failed")


@dataclass(frozen=True, slots=True)
class AttemptRow:
    id: str
    tenant_id: str
    call_id: str
    to_number: str
    from_number: str
    status: str
    epoch: int
    lease_owner: str | None
    lease_until: datetime | None
    next_at: datetime
    give_up_at: datetime
    carrier_call_id: str | None
    conversation_id: str | None
    region_url: str | None
    created_at: datetime
    placing_at: datetime | None
    placed_at: datetime | None
    ended_at: datetime | None
    disposition: str | None
    detail: str | None
    lead_id: str | None
    """None: a single call, asked for by itself."""
    campaign_id: str | None
    number_in_lead: int | None
    """1 for the first attempt of a lead."""
    rules_reason: str | None
    cost_micros: int | None
    """See `cost`; None: the network has not told (yet)."""
    cost_currency: str | None
    reported: str | None
    """The result as the conversation told it, and when to call back: a `dialing.dispositions.Disposition`."""
    callback_at: datetime | None
    result: str | None
    """What its lead was settled by, at `settled_at`."""
    settled_at: datetime | None

    @property
    def cost(self) -> Cost | None:
        """What the network charged."""
        if self.cost_micros is None or self.cost_currency is None:
            return None
        return Cost(self.cost_micros, self.cost_currency)


DoNotCallSource = Literal["key", "phrase", "model", "person", "result", "import"]


@dataclass(frozen=True, slots=True)
class DoNotCallRow:
    """A number that must not be called (`removed_at` None), or must not have been from `created_at` to `removed_at`."""

    id: str
    number: str
    source: DoNotCallSource
    """How the wish was told: a key, words, the language model's reading of words; or who listed the number: a person,
    the result of an attempt (wrong number), or a file that was imported."""
    call_id: str | None
    text: str
    """The callee's words, the person's note, or which file it was."""
    created_at: datetime
    removed_at: datetime | None
    removed_by: str | None
    removed_reason: str | None


@dataclass(frozen=True, slots=True)
class AgentAttemptRow(AttemptRow):
    """An attempt, and who talks in it: a version of an agent is its prompt and its voice."""

    agent_name: str
    agent_version: int


@dataclass(frozen=True, slots=True)
class ClaimRow(AgentAttemptRow):
    """An attempt that is about to be placed, and what bounds the calls of its tenant and campaign."""

    tenant_plan: str | None
    """None, and `tenant_most` with it: nothing is known of the tenant."""
    tenant_most: int | None
    """Calls at once by the tenant's own limit, and by the campaign's; None: it states none."""
    campaign_most: int | None


def with_agent(attempt: object, agent_name: str, agent_version: int) -> AgentAttemptRow:
    """`attempt`: the entity; the agent is its call's."""
    return AgentAttemptRow(**asdict(to_row(AttemptRow, attempt)), agent_name=agent_name, agent_version=agent_version)


@dataclass(frozen=True, slots=True)
class RawEvent:
    """A webhook as it came. Two deliveries of one webhook have one `dedupe_key`."""

    dedupe_key: str
    source: str
    kind: str
    carrier_call_id: str | None
    body: dict[str, Any]
    received_at: datetime
    attempt_id: str | None = None
    """The attempt that its signed link names."""


@dataclass(frozen=True, slots=True)
class EventContext:
    """What is known when an event comes."""

    seen: bool
    """The same event came before, and was applied."""
    call: CallRow
    attempt: AttemptRow | None = None
    agent: AgentRow | None = None


@dataclass(frozen=True, slots=True)
class TurnRow:
    call_id: str
    index: int
    role: str
    text: str
    heard_text: str
    started_ms: float
    ended_ms: float
    approximate: bool
    interrupted: bool
    latency: dict[str, Any]
    """The fields of `conversation.latency.TurnLatency`; empty where nothing was measured."""


@dataclass(frozen=True, slots=True)
class TranscriptRow:
    call_id: str
    text: str
    turn_count: int
    approximate: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RecordingRow:
    call_id: str
    key: str
    format: str
    channels: int
    sample_rate_hz: int
    duration_s: float
    bytes: int
    peaks: list[list[float]]
    """Per channel, 0..1, for drawing a waveform."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    id: str
    tenant_id: str
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobRow:
    id: str
    tenant_id: str
    kind: str
    key: str | None
    payload: dict[str, Any]
    status: str
    attempts: int
    max_attempts: int
    due_at: datetime
    lease_owner: str | None
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None
