"""Which campaigns could place calls now, and how much is under way: the questions of the feeder across tenants."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, func, select

from serve_app.dialing.fairness import Flow
from serve_app.dialing.plans import Plans
from serve_app.store.campaign_models import READY_LEAD, Campaign, Lead, Tenant
from serve_app.store.db import Database
from serve_app.store.models import ONE_LIVE, OPEN_CALL, Attempt, Call


@dataclass(frozen=True, slots=True)
class RunningCampaign:
    tenant_id: str
    id: str
    agent_name: str
    weight: int
    max_concurrent: int | None
    plan: str | None
    """Of its tenant; None: nothing is known of the tenant."""
    tenant_weight: int
    tenant_most: int | None
    """Calls that the tenant may have live by its own limit."""
    ready: bool
    """It has a lead that could be called."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Calls that have not ended."""

    by_tenant: Counter[str]
    by_campaign: Counter[str]
    waiting: int
    """Outbound ones that were not placed yet."""
    outbound: int
    inbound: int


async def running_campaigns(db: Database) -> list[RunningCampaign]:
    """Of all tenants, the longest running first. Raises UnavailableError."""
    ready = exists().where(READY_LEAD, Lead.tenant_id == Campaign.tenant_id, Lead.campaign_id == Campaign.id)
    # No documents: this is asked again and again, and one that cannot be read must not hold up the other campaigns.
    query = (
        select(
            Campaign.tenant_id,
            Campaign.id,
            Campaign.agent_name,
            Campaign.weight,
            Campaign.max_concurrent,
            Tenant.plan,
            func.coalesce(Tenant.weight, 1),
            Tenant.max_concurrent,
            ready,
        )
        .outerjoin(Tenant, Tenant.tenant_id == Campaign.tenant_id)
        .where(Campaign.status == "running")
        .order_by(Campaign.started_at, Campaign.id)
    )
    async with db.session() as session:
        return [RunningCampaign(*columns) for columns in await session.execute(query)]


async def next_start(db: Database) -> datetime | None:
    """When the next scheduled campaign begins. Raises UnavailableError."""
    async with db.session() as session:
        return await session.scalar(select(func.min(Campaign.scheduled_at)).where(Campaign.status == "scheduled"))


async def under_way(db: Database) -> UnderWay:
    """Of all tenants. Raises UnavailableError."""
    # The predicates are those of the partial indexes, so that this reads live calls only, whatever the history.
    attempts = (
        select(Attempt.tenant_id, Attempt.campaign_id, Attempt.status, func.count())
        .where(ONE_LIVE)
        .group_by(Attempt.tenant_id, Attempt.campaign_id, Attempt.status)
    )
    inbound = select(func.count()).select_from(Call).where(OPEN_CALL, Call.direction == "inbound")
    by_tenant, by_campaign, waiting = Counter[str](), Counter[str](), 0
    async with db.session() as session:
        for tenant_id, campaign_id, status, count in await session.execute(attempts):
            by_tenant[tenant_id] += count
            by_campaign[campaign_id or ""] += count
            waiting += count if status == "intended" else 0
        received = await session.scalar(inbound)
    return UnderWay(by_tenant, by_campaign, waiting, by_tenant.total(), received or 0)


def flows_of(running: Sequence[RunningCampaign], live: UnderWay, plans: Plans) -> list[Flow]:
    """The campaigns that could place calls, with the room that they have. Pure.

    A plan's agents are those of the campaigns that have been running longest. A plan that is not known allows nothing.
    """
    agents: dict[str, set[str]] = defaultdict(set)
    flows = []
    for one in running:
        plan = plans.of(one.plan)
        if plan is None:
            continue
        in_use = agents[one.tenant_id]
        if plan.agents is None or one.agent_name in in_use or len(in_use) < plan.agents:
            in_use.add(one.agent_name)
        else:
            continue
        tenant_live, own_live = live.by_tenant[one.tenant_id], live.by_campaign[one.id]
        limits = [most for most in (plan.concurrent_calls, one.tenant_most) if most is not None]
        if one.ready:
            flows.append(
                Flow(
                    tenant_id=one.tenant_id,
                    campaign_id=one.id,
                    tenant_weight=one.tenant_weight,
                    weight=one.weight,
                    tenant_live=tenant_live,
                    live=own_live,
                    tenant_room=max(0, min(limits) - tenant_live) if limits else None,
                    room=None if one.max_concurrent is None else max(0, one.max_concurrent - own_live),
                )
            )
    return flows
