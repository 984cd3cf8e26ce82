"""Campaigns, leads and decisions for tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from serve_app.dialing.settling import settle_lead
from serve_app.store.agents import Agents
from serve_app.store.attempts import Attempts
from serve_app.store.calls import Calls
from serve_app.store.campaign_rows import CampaignRow, LeadRow
from serve_app.store.campaigns import Campaigns
from serve_app.store.claim_facts import CampaignFacts, NumberFacts
from serve_app.store.db import Database
from serve_app.store.lead_claims import Choice, Claimed, CloseLead, Decide, LeadClaims, PlaceCall
from serve_app.store.leads import Leads, NewLead

TENANT = "acme"
OWN = "+12015550100"
START = datetime(2026, 11, 23, 15, tzinfo=UTC)
RULES: dict[str, Any] = {"countries": ["US"]}


def number(index: int) -> str:
    return f"+1201555{index:04d}"


async def campaign(
    db: Database, *, leads: Sequence[str | NewLead] = (), tenant: str = TENANT, name: str = "spring", **values: Any
) -> CampaignRow:
    """A running campaign with leads."""
    await Agents(db, tenant).apply("front-desk", {"a": 1})
    campaigns = Campaigns(db, tenant)
    row = await campaigns.create(name, "front-desk", calling_rules=RULES, **values)
    if leads:
        new = [lead if isinstance(lead, NewLead) else NewLead(lead) for lead in leads]
        assert len(await Leads(db, tenant).add(row.id, new)) == len(leads)
    started = await campaigns.start(row.id)
    assert started is not None and started[1]
    return started[0]


def allow(lead: LeadRow, facts: CampaignFacts, known: NumberFacts) -> Choice:
    """Call whoever is not on a list."""
    if known.on_list:
        return CloseLead("barred", "on_do_not_call_list")
    assert facts.agent_version is not None
    return PlaceCall(OWN, facts.agent_version, datetime.now(UTC) + timedelta(seconds=60), "allowed")


async def claim(
    db: Database,
    row: CampaignRow,
    decide: Decide = allow,
    *,
    limit: int = 10,
    now: datetime | None = None,
    lease_s: float = 600,
) -> Claimed:
    claims = LeadClaims(db, row.tenant_id)
    return await claims.claim(
        row.id, decide, owner="feeder-1", limit=limit, lease_s=lease_s, now=now or datetime.now(UTC)
    )


async def send(db: Database, attempt_id: str, tenant: str = TENANT, now: datetime | None = None) -> bool:
    """Claim one intended attempt and pass its fence, as the dialer does. False: it did not pass."""
    attempts = Attempts(db, tenant)
    held = await attempts.claim_intended("dialer-1", limit=100, lease_s=0, now=now or datetime.now(UTC))
    mine = next((row for row in held if row.id == attempt_id), None)
    return mine is not None and await attempts.fence_placing(mine.id, mine.epoch)


async def end(
    db: Database,
    call_id: str,
    outcome: str,
    *,
    tenant: str = TENANT,
    at: datetime | None = None,
    settled: bool = True,
    detail: str | None = None,
    talked_s: float | None = None,
) -> bool:
    """End a call. `talked_s`: it was answered, and lasted so long."""
    calls = Calls(db, tenant)
    when = at or datetime.now(UTC)
    if talked_s is not None:
        await calls.answered(call_id, when)
    return await calls.finish(
        call_id,
        status="completed" if talked_s is not None else "failed",
        outcome=outcome,
        detail=detail,
        started_at=None,
        ended_at=when,
        duration_s=talked_s,
        sample_rate_hz=None,
        verdict=settle_lead if settled else None,
    )


async def lead_of(db: Database, row: CampaignRow, to: str) -> LeadRow:
    (lead,), _ = await Leads(db, row.tenant_id).list(row.id, limit=10, number=to)
    return lead
