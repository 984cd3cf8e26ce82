"""The tables of campaigns: tenants, campaigns, leads, consents, numbers, imports, kill switches, registries.

The outbox of a campaign is the table `jobs`: `insert_job` writes into the transaction that makes the work necessary.
Money is in minor units (cents) of the platform's currency; zones are IANA names, never offsets.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from serve_app.store.base import Base, id_column

EVERYBODY = "*"
"""In `tenant_id`: the row holds for every tenant. No tenant can have this name."""

OPEN_CAMPAIGN = ("draft", "scheduled", "running", "paused")
CLOSED_CAMPAIGN = ("completed", "cancelled")
OPEN_LEAD = ("ready", "deferred", "leased")
CLOSED_LEAD = ("done", "exhausted", "barred", "deleted")

READY_LEAD = text("state = 'ready'")
DEFERRED_LEAD = text("state = 'deferred'")
EXPECTED_LEAD = text("state = 'deferred' AND last_result IN ('callback', 'not_placed')")
"""Somebody was promised this call, or it was its turn and the call could not be placed."""
LEASED_LEAD = text("state = 'leased'")
KEPT_LEAD = text("state <> 'deleted'")
ON = text("off_at IS NULL")


def _campaign_reference() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant_id", "campaign_id"], ["campaigns.tenant_id", "campaigns.id"])


class Tenant(Base):
    """What a tenant may use. A tenant without a row has the smallest plan and no limits of its own."""

    __tablename__ = "tenants"
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    business_name: Mapped[str] = mapped_column(String(200))
    plan: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(16))
    country: Mapped[str | None] = mapped_column(String(2))
    calling_rules: Mapped[dict[str, Any] | None]
    weight: Mapped[int]
    max_concurrent: Mapped[int | None]
    daily_calls: Mapped[int | None]
    spend_cap_minor: Mapped[int | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Campaign(Base):
    """draft -> scheduled -> running <-> paused -> completed | cancelled. `epoch` counts the changes of status."""

    __tablename__ = "campaigns"
    __table_args__ = (
        UniqueConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "name"),
        Index("ix_campaigns_status_scheduled_at", "status", "scheduled_at"),
    )
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(100))
    description: Mapped[str]
    goal: Mapped[str]
    status: Mapped[str] = mapped_column(String(16))
    agent_name: Mapped[str] = mapped_column(String(63))
    agent_version: Mapped[int | None]
    calling_rules: Mapped[dict[str, Any]]
    retry_policy: Mapped[dict[str, Any]]
    number_pool: Mapped[str | None] = mapped_column(String(64))
    weight: Mapped[int]
    max_concurrent: Mapped[int | None]
    daily_calls: Mapped[int | None]
    spend_cap_minor: Mapped[int | None]
    scheduled_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    epoch: Mapped[int]


class Lead(Base):
    """A number that a campaign wants to reach: ready -> leased -> ready | deferred | done | exhausted | barred.

    At most one per number and campaign, unless deleted. `leased`: an attempt of it lives, or has ended and is not
    settled yet. `queue_at` orders the ready ones: `next_at`, earlier by what the lead's priority is worth.
    `epoch` counts the leases, so it numbers the attempts.
    """

    __tablename__ = "leads"
    __table_args__ = (
        _campaign_reference(),
        CheckConstraint("priority BETWEEN 1 AND 10", name="ck_leads_priority"),
        # With the number before the campaign it also finds all leads of a number; one index of numbers less is a third
        # of the time that a lead takes to insert, since numbers come in no order.
        Index(
            "one_lead",
            "tenant_id",
            "number",
            "campaign_id",
            unique=True,
            sqlite_where=KEPT_LEAD,
            postgresql_where=KEPT_LEAD,
        ),
        # What the feeder reads, in its order: ready leads only, whatever waits for later.
        Index(
            "ix_leads_ready",
            "tenant_id",
            "campaign_id",
            "queue_at",
            "id",
            sqlite_where=READY_LEAD,
            postgresql_where=READY_LEAD,
        ),
        # Who is due, by campaign: those of one that does not run are not even looked at.
        Index(
            "ix_leads_deferred",
            "tenant_id",
            "campaign_id",
            "next_at",
            "id",
            sqlite_where=DEFERRED_LEAD,
            postgresql_where=DEFERRED_LEAD,
        ),
        Index(
            "ix_leads_expected",
            "tenant_id",
            "campaign_id",
            "next_at",
            sqlite_where=EXPECTED_LEAD,
            postgresql_where=EXPECTED_LEAD,
        ),
        Index("ix_leads_leased", "lease_until", sqlite_where=LEASED_LEAD, postgresql_where=LEASED_LEAD),
        Index("ix_leads_tenant_id_campaign_id_id", "tenant_id", "campaign_id", "id"),
        Index("ix_leads_tenant_id_campaign_id_state", "tenant_id", "campaign_id", "state", "id"),
    )
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    campaign_id: Mapped[str] = mapped_column(String(36))
    number: Mapped[str] = mapped_column(String(16))
    first_name: Mapped[str | None] = mapped_column(String(100))
    last_name: Mapped[str | None] = mapped_column(String(100))
    email: Mapped[str | None] = mapped_column(String(254))
    zones: Mapped[list[str] | None]
    region: Mapped[str | None] = mapped_column(String(6))
    priority: Mapped[int]
    high_value: Mapped[bool]
    tags: Mapped[list[str]]
    custom_fields: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    next_at: Mapped[datetime]
    queue_at: Mapped[datetime]
    attempts: Mapped[int]
    epoch: Mapped[int]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    last_result: Mapped[str | None] = mapped_column(String(32))
    last_reason: Mapped[str | None] = mapped_column(String(64))
    last_called_at: Mapped[datetime | None]
    caller_id: Mapped[str | None] = mapped_column(String(16))
    import_id: Mapped[str | None] = mapped_column(String(36))
    consent_at: Mapped[datetime | None]
    scrubbed_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class LeadDecision(Base):
    """That a lead was put off (`defer`, until a time) or closed (`deny`) at a claim, and why.

    One row for a reason between two attempts of the lead: when it was decided first and last, and how often. So their
    number is bounded by attempts and reasons, however often a lead is looked at. One that was allowed has an attempt.
    `lead_id` is no foreign key: the record outlives a lead that is erased.
    """

    __tablename__ = "lead_decisions"
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    lead_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    after_attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """How many attempts the lead had had."""
    reason: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(36))
    campaign_id: Mapped[str] = mapped_column(String(36))
    decision: Mapped[str] = mapped_column(String(16))
    until: Mapped[datetime | None]
    at: Mapped[datetime]
    last_at: Mapped[datetime]
    times: Mapped[int]


class Consent(Base):
    """That the owner of a number agreed to be called: express, written or transactional, and for what (`scope`)."""

    __tablename__ = "consents"
    __table_args__ = (Index("ix_consents_tenant_id_number", "tenant_id", "number"),)
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    number: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str] = mapped_column(String(16))
    scope: Mapped[str]
    source: Mapped[str]
    given_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    document: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class RegistryNumber(Base):
    """A number on a public do-not-call registry, as a tenant that subscribes to it (or the platform, `*`) loaded it."""

    __tablename__ = "global_dnc"
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[str] = mapped_column(String(16), primary_key=True)
    source: Mapped[str] = mapped_column(String(64), primary_key=True)
    listed_at: Mapped[datetime]


class OwnNumber(Base):
    """A number of the tenant's own to call from: active, cooling (until `cool_until`) or retired."""

    __tablename__ = "numbers"
    __table_args__ = (
        UniqueConstraint("tenant_id", "e164"),
        Index("ix_numbers_tenant_id_pool_state", "tenant_id", "pool", "state"),
    )
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    e164: Mapped[str] = mapped_column(String(16))
    pool: Mapped[str] = mapped_column(String(64))
    region: Mapped[str | None] = mapped_column(String(6))
    attestation: Mapped[str | None] = mapped_column(String(1))
    agent_name: Mapped[str | None] = mapped_column(String(63))
    daily_cap: Mapped[int]
    warmup_from: Mapped[datetime | None]
    state: Mapped[str] = mapped_column(String(16))
    cool_until: Mapped[datetime | None]
    state_reason: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Import(Base):
    """One file of leads or of do-not-call numbers. `fingerprint`: of its bytes, target and mapping; once per tenant."""

    __tablename__ = "imports"
    __table_args__ = (
        UniqueConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "fingerprint"),
        Index("ix_imports_tenant_id_status", "tenant_id", "status"),
    )
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    campaign_id: Mapped[str | None] = mapped_column(String(36))
    kind: Mapped[str] = mapped_column(String(16))
    filename: Mapped[str]
    object_key: Mapped[str]
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    mapping: Mapped[dict[str, Any]]
    options: Mapped[dict[str, Any]]
    counts: Mapped[dict[str, Any]]
    rows_total: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]


class ImportChunk(Base):
    """A chunk of an import that is committed, with its leads: what a resumed import skips."""

    __tablename__ = "import_chunks"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "import_id"], ["imports.tenant_id", "imports.id"]),)
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    import_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    chunk_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    counts: Mapped[dict[str, Any]]
    committed_at: Mapped[datetime]


class ImportRowError(Base):
    """Why a row of an import was not taken. `row_no` counts the lines of the file from 1, the header included."""

    __tablename__ = "import_errors"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "import_id"], ["imports.tenant_id", "imports.id"]),)
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    import_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    row_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    column_name: Mapped[str] = mapped_column(String(200))
    code: Mapped[str] = mapped_column(String(64))
    value: Mapped[str]


class KillSwitch(Base):
    """Nothing is placed while one is on: for a number, a campaign, a tenant, or (tenant `*`) at all. Kept when off."""

    __tablename__ = "kill_switches"
    __table_args__ = (
        Index("one_switch", "tenant_id", "scope", "key", unique=True, sqlite_where=ON, postgresql_where=ON),
    )
    id: Mapped[str] = id_column()
    tenant_id: Mapped[str] = mapped_column(String(64))
    scope: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str]
    on_at: Mapped[datetime]
    on_by: Mapped[str] = mapped_column(String(100))
    off_at: Mapped[datetime | None]
    off_by: Mapped[str | None] = mapped_column(String(100))


class Usage(Base):
    """What the ended calls of a UTC day amount to, counted in the transactions that end them, and what the network
    charged for calls, counted on the day on which it told so."""

    __tablename__ = "usage"
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    campaign_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """Empty: calls of no campaign."""
    calls: Mapped[int]
    answered: Mapped[int]
    talk_s: Mapped[float]
    cost_micros: Mapped[int] = mapped_column(BigInteger)
    """Millionths of the unit of the network's currency (`dialing.carrier_events.CURRENCY`)."""
    priced_talk_s: Mapped[float]
    """The part of the talk for which `cost_micros` is the charge."""
