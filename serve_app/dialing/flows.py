"""Which campaigns could place calls now, and how much is under way: the questions of the feeder across tenants."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, func, select

from serve_app.dialing.call_limits import calls_at_once
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


@dataclass(slots=True)
class TenantCalls:
    """The outbound calls of a tenant that have not ended."""

    plan: str | None
    """None: nothing is known of the tenant."""
    most: int | None
    """Calls that it may have live by its own limit."""
    waiting: int = 0
    placed: int = 0


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Calls that have not ended."""

    by_tenant: Counter[str]
    by_campaign: Counter[str]
    tenants: Sequence[TenantCalls]
    inbound: int
    unanswered: int
    """Outbound ones that wait, are being placed, or ring."""

    @property
    def waiting(self) -> int:
        """Outbound ones that were not placed yet."""
        return sum(calls.waiting for calls in self.tenants)

    @property
    def outbound(self) -> int:
        return self.by_tenant.total()

    def held_back(self, plans: Plans, *, simulated_network: bool) -> int:
        """Of those that wait, those that their own tenant leaves no room for: single calls, or its limit was lowered.

        They wait beside the others, and take neither session nor line nor place in the rate.
        """
        held = 0
        for calls in self.tenants:
            if simulated_network and calls.plan is None:
                continue  # as in `CallLimits`
            most = calls_at_once(plans, calls.plan, calls.most)
            if most is not None:
                held += max(0, calls.waiting - max(0, most - calls.placed))
        return held


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
    live = (
        select(Attempt.tenant_id, Attempt.campaign_id, Attempt.status, func.count().label("count"))
        .where(ONE_LIVE)
        .group_by(Attempt.tenant_id, Attempt.campaign_id, Attempt.status)
        .subquery()
    )
    attempts = select(live, Tenant.plan, Tenant.max_concurrent).outerjoin(Tenant, Tenant.tenant_id == live.c.tenant_id)
    unanswered = Call.answered_at.is_(None)
    calls = select(Call.direction, unanswered, func.count()).where(OPEN_CALL).group_by(Call.direction, unanswered)
    by_tenant, by_campaign = Counter[str](), Counter[str]()
    tenants: dict[str, TenantCalls] = {}
    inbound = ringing = 0
    async with db.session() as session:
        for tenant_id, campaign_id, status, count, plan, most in await session.execute(attempts):
            by_tenant[tenant_id] += count
            by_campaign[campaign_id or ""] += count
            known = tenants.setdefault(tenant_id, TenantCalls(plan, most))
            if status == "intended":
                known.waiting += count
            else:
                known.placed += count
        for direction, is_unanswered, count in await session.execute(calls):
            inbound += count if direction == "inbound" else 0
            ringing += count if direction == "outbound" and is_unanswered else 0
    return UnderWay(by_tenant, by_campaign, list(tenants.values()), inbound, ringing)


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
        most = calls_at_once(plans, one.plan, one.tenant_most)
        if one.ready:
            flows.append(
                Flow(
                    tenant_id=one.tenant_id,
                    campaign_id=one.id,
                    tenant_weight=one.tenant_weight,
                    weight=one.weight,
                    tenant_live=tenant_live,
                    live=own_live,
                    tenant_room=None if most is None else max(0, most - tenant_live),
                    room=None if one.max_concurrent is None else max(0, one.max_concurrent - own_live),
                )
            )
    return flows
