"""The tables of calls; `campaign_models` has the others. Every row has a tenant; children refer to it and the call."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKeyConstraint,
    Index,
    String,
    UniqueConstraint,
    and_,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from serve_app.store.base import Base, id_column

LIVE_ATTEMPT = ("intended", "placing", "placed", "unknown")
LIVE_CALL = ("queued", "dialing", "ringing", "answered", "in_progress")
TERMINAL_CALL = ("completed", "failed")
ONE_LIVE = text("status IN ('intended', 'placing', 'placed', 'unknown')")
OPEN_CALL = text("status IN ('queued', 'dialing', 'ringing', 'answered', 'in_progress')")
READY_JOB = text("status IN ('ready', 'leased')")
LISTED = text("removed_at IS NULL")
GIVEN_UP = text("status = 'ended' AND carrier_call_id IS NULL AND placing_at IS NOT NULL")
OF_A_LEAD = text("lead_id IS NOT NULL")
UNFOLDED = text("unfolded_since IS NOT NULL")
UNSETTLED = text("lead_id IS NOT NULL AND status = 'ended' AND settled_at IS NULL")

SCHEMA_REVISION = "0005"
"""The newest migration: what these models describe. A test holds both together."""


def _call_reference() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant_id", "call_id"], ["calls.tenant_id", "calls.id"])


class Agent(Base):
    """One immutable version of an agent definition."""

    __tablename__ = "agents"
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    document: Mapped[dict[str, Any]]
    content_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


class Call(Base):
    """queued, dialing, ringing, answered, in_progress, then completed or failed."""

    __tablename__ = "calls"
    __table_args__ = (
        UniqueConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "carrier_call_id"),
        Index("ix_calls_tenant_id_status_updated_at", "tenant_id", "status", "updated_at"),
        # Whose a call of the network is, of all tenants: asked only where a request got no answer.
        Index("ix_calls_carrier_call_id", "carrier_call_id"),
        # What the reconciler reads every few seconds: live calls only, whatever the history.
        Index("ix_calls_open", "updated_at", sqlite_where=OPEN_CALL, postgresql_where=OPEN_CALL),
    )
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    direction: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[str | None] = mapped_column(String(32))
    detail: Mapped[str | None]
    carrier_call_id: Mapped[str | None] = mapped_column(String(128))
    region_url: Mapped[str | None]
    from_number: Mapped[str] = mapped_column(String(32))
    to_number: Mapped[str] = mapped_column(String(32))
    agent_name: Mapped[str] = mapped_column(String(63))
    agent_version: Mapped[int]
    caller_metadata: Mapped[dict[str, Any]] = mapped_column("metadata")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    give_up_at: Mapped[datetime | None]
    answered_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    duration_s: Mapped[float | None]
    sample_rate_hz: Mapped[int | None]
    opted_out_at: Mapped[datetime | None]


class Attempt(Base):
    """One try to place a call: intended -> placing -> placed | unknown -> ended. At most one live per number.

    An attempt of a campaign names its lead; `lead_id` is no foreign key, for the record of a call outlives a lead that
    is erased. The prompt and voice are those of the call's agent version. `reported`: the result as the conversation
    told it; `result`: what the lead was settled by, once `settled_at` is set.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        _call_reference(),
        Index("one_live", "tenant_id", "to_number", unique=True, sqlite_where=ONE_LIVE, postgresql_where=ONE_LIVE),
        Index("ix_attempts_tenant_id_call_id", "tenant_id", "call_id"),
        Index("ix_attempts_tenant_id_status_next_at", "tenant_id", "status", "next_at"),
        # Two claims of one lead have two numbers, so a dialer that was paused cannot add a second attempt for its own.
        Index(
            "one_attempt",
            "lead_id",
            "number_in_lead",
            unique=True,
            sqlite_where=OF_A_LEAD,
            postgresql_where=OF_A_LEAD,
        ),
        Index("ix_attempts_unsettled", "ended_at", sqlite_where=UNSETTLED, postgresql_where=UNSETTLED),
        # The network may have a call of theirs all the same.
        Index("ix_attempts_given_up", "ended_at", sqlite_where=GIVEN_UP, postgresql_where=GIVEN_UP),
        # The caps: per number across campaigns, per campaign and day, per number of our own and day. The first also
        # finds, among all tenants, the one that called somebody who calls back.
        Index("ix_attempts_to_number_tenant_id_created_at", "to_number", "tenant_id", "created_at"),
        Index("ix_attempts_tenant_id_campaign_id_created_at", "tenant_id", "campaign_id", "created_at"),
        Index("ix_attempts_tenant_id_from_number_created_at", "tenant_id", "from_number", "created_at"),
    )
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    call_id: Mapped[str] = mapped_column(String(36))
    to_number: Mapped[str] = mapped_column(String(32))
    from_number: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(16))
    epoch: Mapped[int]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    next_at: Mapped[datetime]
    give_up_at: Mapped[datetime]
    carrier_call_id: Mapped[str | None] = mapped_column(String(128))
    conversation_id: Mapped[str | None] = mapped_column(String(128))
    region_url: Mapped[str | None]
    created_at: Mapped[datetime]
    placing_at: Mapped[datetime | None]
    placed_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    disposition: Mapped[str | None] = mapped_column(String(32))
    detail: Mapped[str | None]
    lead_id: Mapped[str | None] = mapped_column(String(36))
    campaign_id: Mapped[str | None] = mapped_column(String(36))
    number_in_lead: Mapped[int | None]
    rules_reason: Mapped[str | None] = mapped_column(String(64))
    cost_micros: Mapped[int | None] = mapped_column(BigInteger)
    cost_currency: Mapped[str | None] = mapped_column(String(3))
    reported: Mapped[str | None] = mapped_column(String(32))
    callback_at: Mapped[datetime | None]
    result: Mapped[str | None] = mapped_column(String(32))
    settled_at: Mapped[datetime | None]


class DoNotCallEntry(Base):
    """A number that must not be called, until a person takes it off, with a reason; what was taken off stays on record.

    `call_id` is no foreign key: the wish must outlive the records of the call in which it was said.
    """

    __tablename__ = "do_not_call"
    __table_args__ = (
        Index("one_listed", "tenant_id", "number", unique=True, sqlite_where=LISTED, postgresql_where=LISTED),
        Index("ix_do_not_call_tenant_id_id", "tenant_id", "id"),
    )
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    number: Mapped[str] = mapped_column(String(32))
    source: Mapped[str] = mapped_column(String(16))
    call_id: Mapped[str | None] = mapped_column(String(36))
    text: Mapped[str]
    created_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]
    removed_by: Mapped[str | None] = mapped_column(String(100))
    removed_reason: Mapped[str | None]


class CallEvent(Base):
    """A webhook as it came, once per dedupe key. `unfolded_since`: it was kept before it was folded, and still waits.

    `carrier_call_id`: of the call that it is about; our own id of it for the leg to our media socket.
    """

    __tablename__ = "call_events"
    __table_args__ = (
        Index("ix_call_events_tenant_id_carrier_call_id", "tenant_id", "carrier_call_id"),
        Index("ix_call_events_unfolded", "unfolded_since", sqlite_where=UNFOLDED, postgresql_where=UNFOLDED),
    )
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    dedupe_key: Mapped[str] = mapped_column(String(128), primary_key=True)
    source: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(64))
    carrier_call_id: Mapped[str | None] = mapped_column(String(128))
    body: Mapped[dict[str, Any]]
    received_at: Mapped[datetime]
    attempt_id: Mapped[str | None] = mapped_column(String(36))
    unfolded_since: Mapped[datetime | None]


class Turn(Base):
    """One turn. Milliseconds since the first media message."""

    __tablename__ = "turns"
    __table_args__ = (_call_reference(),)
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    call_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    turn_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    role: Mapped[str] = mapped_column(String(16))
    text: Mapped[str]
    heard_text: Mapped[str]
    started_ms: Mapped[float]
    ended_ms: Mapped[float]
    approximate: Mapped[bool]
    interrupted: Mapped[bool]


class Transcript(Base):
    """The whole conversation as text, made once when the call ends."""

    __tablename__ = "transcripts"
    __table_args__ = (_call_reference(),)
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    call_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    text: Mapped[str]
    turn_count: Mapped[int]
    approximate: Mapped[bool]
    created_at: Mapped[datetime]


class Recording(Base):
    """The mixed recording of a call; the audio is in the object store under `key`."""

    __tablename__ = "recordings"
    __table_args__ = (_call_reference(),)
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    call_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    key: Mapped[str]
    format: Mapped[str] = mapped_column(String(8))
    channels: Mapped[int]
    sample_rate_hz: Mapped[int]
    duration_s: Mapped[float]
    bytes: Mapped[int]
    peaks: Mapped[list[list[float]]]
    created_at: Mapped[datetime]


class LatencyMeasurement(Base):
    """One agent reply (`conversation.latency.TurnLatency`). Null where a stage did not happen, and in the last four
    columns of rows that are older than these."""

    __tablename__ = "latency_measurements"
    __table_args__ = (_call_reference(),)
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    call_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    turn_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stt_ms: Mapped[float | None]
    llm_ms: Mapped[float | None]
    sentence_ms: Mapped[float | None]
    tts_ms: Mapped[float | None]
    frame_ms: Mapped[float | None]
    confirm_ms: Mapped[float | None]
    total_ms: Mapped[float | None]
    within_target: Mapped[bool | None]
    over: Mapped[dict[str, Any] | None]
    causes: Mapped[list[str] | None]
    speculative: Mapped[bool | None]
    created_at: Mapped[datetime]


class ApiKey(Base):
    """A key is 256 random bits, so a fast hash is enough; the plain text is shown once and not kept."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("key_sha256"), Index("ix_api_keys_tenant_id", "tenant_id"))
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    key_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class Job(Base):
    """Background work, written in the transaction that makes it necessary: ready -> leased -> done | dead."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("tenant_id", "key"),
        Index("ix_jobs_due_at", "due_at", sqlite_where=READY_JOB, postgresql_where=READY_JOB),
    )
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(64))
    key: Mapped[str | None] = mapped_column(String(200))
    payload: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    max_attempts: Mapped[int]
    due_at: Mapped[datetime]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    last_error: Mapped[str | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


def unsettled() -> ColumnElement[bool]:
    """The condition of `UNSETTLED` for queries of several tables, spelt so that its index is used."""
    ended = Attempt.status == literal_column("'ended'")
    return and_(Attempt.lead_id.is_not(None), ended, Attempt.settled_at.is_(None))
