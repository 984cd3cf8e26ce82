"""What the repositories of campaigns return: plain frozen rows, detached from the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

CampaignStatus = Literal["draft", "scheduled", "running", "paused", "completed", "cancelled"]
LeadState = Literal["ready", "deferred", "leased", "done", "exhausted", "barred", "deleted"]
ConsentKind = Literal["express", "written", "transactional"]
NumberState = Literal["active", "cooling", "retired"]
SwitchScope = Literal["number", "campaign", "tenant", "global"]
ImportStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
TenantStatus = Literal["active", "suspended"]


@dataclass(frozen=True, slots=True)
class TenantRow:
    tenant_id: str
    business_name: str
    plan: str
    status: TenantStatus
    country: str | None
    """ISO 3166-1 alpha-2: the default of its country allow-list."""
    calling_rules: dict[str, Any] | None
    weight: int
    max_concurrent: int | None
    daily_calls: int | None
    spend_cap_minor: int | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class CampaignRow:
    id: str
    tenant_id: str
    name: str
    description: str
    goal: str
    status: CampaignStatus
    agent_name: str
    agent_version: int | None
    """None: the newest at the time of each call."""
    calling_rules: dict[str, Any]
    retry_policy: dict[str, Any]
    number_pool: str | None
    weight: int
    max_concurrent: int | None
    daily_calls: int | None
    spend_cap_minor: int | None
    scheduled_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    """When it was completed or cancelled."""
    created_at: datetime
    updated_at: datetime
    epoch: int
    """Counts the changes of status."""


@dataclass(frozen=True, slots=True)
class LeadRow:
    id: str
    tenant_id: str
    campaign_id: str
    number: str
    first_name: str | None
    last_name: str | None
    email: str | None
    zones: list[str] | None
    """IANA names as given for this lead; None: those of the number's prefix."""
    region: str | None
    """ISO 3166-2, as given for this lead."""
    priority: int
    high_value: bool
    tags: list[str]
    custom_fields: dict[str, Any]
    state: LeadState
    next_at: datetime
    """Ready or deferred: not before."""
    queue_at: datetime
    """Its place among the ready ones: `next_at`, earlier by what the lead is worth."""
    attempts: int
    """Those that count: the network was asked to place a call."""
    epoch: int
    lease_owner: str | None
    lease_until: datetime | None
    last_result: str | None
    """A `dialing.dispositions.Disposition`."""
    last_reason: str | None
    """Why it is in this state: a reason code of the calling rules or of the retry policy."""
    last_called_at: datetime | None
    caller_id: str | None
    """The number of ours that called it last: the next call shows the same one."""
    import_id: str | None
    consent_at: datetime | None
    scrubbed_at: datetime | None
    """When its number was last compared with the registries."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ConsentRow:
    id: str
    number: str
    kind: ConsentKind
    scope: str
    source: str
    given_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    document: dict[str, Any] | None
    """What was shown and agreed to, or where the copy is."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NumberRow:
    id: str
    e164: str
    pool: str
    region: str | None
    attestation: str | None
    """STIR/SHAKEN: A, B or C."""
    agent_name: str | None
    """Who answers it; None: the default agent."""
    daily_cap: int
    warmup_from: datetime | None
    state: NumberState
    cool_until: datetime | None
    state_reason: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ImportRow:
    id: str
    tenant_id: str
    campaign_id: str | None
    """None: an import of do-not-call numbers."""
    kind: Literal["leads", "do_not_call"]
    filename: str
    object_key: str
    size_bytes: int
    sha256: str
    fingerprint: str
    status: ImportStatus
    mapping: dict[str, Any]
    options: dict[str, Any]
    counts: dict[str, Any]
    rows_total: int | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SwitchRow:
    """A kill switch: on, or (with `off_at`) it was."""

    id: str
    tenant_id: str
    scope: SwitchScope
    key: str
    """The number or the campaign's id; the tenant's id; `*` for all."""
    reason: str
    on_at: datetime
    on_by: str
    off_at: datetime | None
    off_by: str | None


@dataclass(frozen=True, slots=True)
class LeadDecisionRow:
    """That a lead was put off or closed, without an attempt between `at` and `last_at`."""

    id: str
    lead_id: str
    campaign_id: str
    after_attempt: int
    """How many attempts the lead had had."""
    decision: Literal["defer", "deny"]
    reason: str
    until: datetime | None
    """With `defer`: the latest."""
    at: datetime
    last_at: datetime
    times: int
