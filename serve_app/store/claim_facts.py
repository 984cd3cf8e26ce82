"""What SQL knows that a decision to call needs, read in the transaction that acts on the decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.attempts import NEVER_ASKED
from serve_app.store.campaign_models import EVERYBODY, KillSwitch, RegistryNumber, Tenant
from serve_app.store.campaign_rows import CampaignRow, ConsentRow, SwitchScope, TenantRow
from serve_app.store.consents import consents_of
from serve_app.store.models import LIVE_ATTEMPT, ONE_LIVE, Agent, Attempt, DoNotCallEntry
from serve_app.store.rows import to_row
from serve_app.store.usage import Used, used_by


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """A call to a number that was placed, may have been, or is about to be."""

    at: datetime
    campaign_id: str | None


@dataclass(frozen=True, slots=True)
class NumberFacts:
    """Of one number, for one tenant."""

    on_list: bool
    """On the tenant's do-not-call list."""
    registries: tuple[str, ...]
    """The public registries on which it is, by their names."""
    consents: tuple[ConsentRow, ...]
    """Oldest first, revoked and expired ones included."""
    placed: tuple[PlacedCall, ...]
    """By all campaigns and single calls of the tenant, oldest first."""
    busy: bool
    """A call to it is live."""
    switched_off: bool
    """A kill switch for this number is on."""


@dataclass(frozen=True, slots=True)
class CampaignFacts:
    """Of the campaign that is fed, and of its tenant."""

    campaign: CampaignRow
    tenant: TenantRow | None
    switches: frozenset[SwitchScope]
    """Kill switches that are on: `global`, `tenant`, `campaign`."""
    agent_version: int | None
    """That of the campaign, or the newest; None: there is no such agent."""
    live: int
    """Calls of the campaign that wait, ring or go on; the slots in Redis are the limit, this is the truth."""
    tenant_live: int
    used_today: Used
    """By the campaign, on this UTC day, live calls not included."""
    used_ever: Used
    """By the campaign."""
    tenant_used_today: Used
    tenant_used_month: Used
    """By all calls of the tenant, in this calendar month (UTC)."""


async def campaign_facts(session: AsyncSession, campaign: CampaignRow, now: datetime) -> CampaignFacts:
    tenant_id = campaign.tenant_id
    tenant = await session.scalar(select(Tenant).where(Tenant.tenant_id == tenant_id))
    versions = select(func.max(Agent.version)).where(Agent.tenant_id == tenant_id, Agent.name == campaign.agent_name)
    if campaign.agent_version is not None:
        versions = versions.where(Agent.version == campaign.agent_version)
    # In this order a call that ends in between is counted twice on PostgreSQL, and never not at all.
    live, tenant_live = await _live(session, tenant_id, campaign.id)
    used = await used_by(session, tenant_id, campaign.id, now)
    return CampaignFacts(
        campaign=campaign,
        tenant=None if tenant is None else to_row(TenantRow, tenant),
        switches=await _switches(session, tenant_id, campaign.id),
        agent_version=await session.scalar(versions),
        live=live,
        tenant_live=tenant_live,
        used_today=used.today,
        used_ever=used.ever,
        tenant_used_today=used.tenant_today,
        tenant_used_month=used.tenant_month,
    )


async def number_facts(session: AsyncSession, tenant_id: str, numbers: Collection[str]) -> dict[str, NumberFacts]:
    """Of each of the numbers, in a handful of statements for all of them."""
    listed = set(
        await session.scalars(
            select(DoNotCallEntry.number).where(
                DoNotCallEntry.tenant_id == tenant_id,
                DoNotCallEntry.number.in_(numbers),
                DoNotCallEntry.removed_at.is_(None),
            )
        )
    )
    registries: dict[str, list[str]] = defaultdict(list)
    on_registry = select(RegistryNumber.number, RegistryNumber.source).where(
        RegistryNumber.tenant_id.in_((tenant_id, EVERYBODY)), RegistryNumber.number.in_(numbers)
    )
    for number, source in await session.execute(on_registry.order_by(RegistryNumber.source)):
        registries[number].append(source)
    off = set(
        await session.scalars(
            select(KillSwitch.key).where(
                KillSwitch.tenant_id == tenant_id,
                KillSwitch.scope == "number",
                KillSwitch.key.in_(numbers),
                KillSwitch.off_at.is_(None),
            )
        )
    )
    consents = await consents_of(session, tenant_id, numbers)
    placed, busy = await _placed(session, tenant_id, numbers)
    return {
        number: NumberFacts(
            on_list=number in listed,
            registries=tuple(registries[number]),
            consents=consents[number],
            placed=tuple(placed[number]),
            busy=number in busy,
            switched_off=number in off,
        )
        for number in numbers
    }


async def _switches(session: AsyncSession, tenant_id: str, campaign_id: str) -> frozenset[SwitchScope]:
    own = or_(KillSwitch.scope == "tenant", and_(KillSwitch.scope == "campaign", KillSwitch.key == campaign_id))
    covering = or_(
        and_(KillSwitch.tenant_id == tenant_id, own),
        and_(KillSwitch.tenant_id == EVERYBODY, KillSwitch.scope == "global"),
    )
    on: Any = await session.scalars(select(KillSwitch.scope).where(covering, KillSwitch.off_at.is_(None)))
    return frozenset(on)


async def _placed(
    session: AsyncSession, tenant_id: str, numbers: Collection[str]
) -> tuple[dict[str, list[PlacedCall]], set[str]]:
    attempts = (
        select(Attempt.to_number, Attempt.placing_at, Attempt.created_at, Attempt.campaign_id, Attempt.status)
        .where(
            Attempt.tenant_id == tenant_id,
            Attempt.to_number.in_(numbers),
            or_(
                Attempt.status != "ended",
                and_(Attempt.placing_at.is_not(None), Attempt.disposition.not_in(NEVER_ASKED)),
            ),
        )
        .order_by(Attempt.created_at)
    )
    placed: dict[str, list[PlacedCall]] = defaultdict(list)
    busy = set()
    for number, placing_at, created_at, campaign_id, status in await session.execute(attempts):
        placed[number].append(PlacedCall(placing_at or created_at, campaign_id))
        if status in LIVE_ATTEMPT:
            busy.add(number)
    return placed, busy


async def _live(session: AsyncSession, tenant_id: str, campaign_id: str) -> tuple[int, int]:
    """How many calls of the campaign, and of the whole tenant, are waiting, ringing or going on."""
    # The literal condition of the index `one_live`: a parameter would hide it from the planner.
    live = select(Attempt.campaign_id, func.count()).where(ONE_LIVE, Attempt.tenant_id == tenant_id)
    counts: dict[str | None, int] = dict((await session.execute(live.group_by(Attempt.campaign_id))).all())
    return counts.get(campaign_id, 0), sum(counts.values())
