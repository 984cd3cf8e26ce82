"""Which campaigns could place calls now, and how much is under way: the questions of the feeder across tenants."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, exists, func, literal_column, select

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
class LiveCalls:
    """Outbound calls that have not ended."""

    waiting: int = 0
    placed: int = 0

    def count(self, calls: int, *, wait: bool) -> None:
        if wait:
            self.waiting += calls
        else:
            self.placed += calls

    def held_back(self, most: int | None) -> int:
        """Of those that wait, those for which a limit leaves no room."""
        return 0 if most is None else max(0, self.waiting - max(0, most - self.placed))


@dataclass(slots=True)
class TenantCalls(LiveCalls):
    """Those of a tenant."""

    plan: str | None = None
    """None: nothing is known of the tenant."""
    most: int | None = None
    """Calls that it may have live by its own limit."""
    held_in_campaigns: int = 0
    """Of those that wait, those that the limit of their own campaign leaves no room for."""
    waiting_single: int = 0
    """Of those that wait, those of no campaign."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Calls that have not ended."""

    by_tenant: Counter[str]
    by_campaign: Counter[str]
    tenants: Mapping[str, TenantCalls]
    inbound: int
    unanswered: int
    """Outbound ones that wait, are being placed, or ring."""

    @property
    def waiting(self) -> int:
        """Outbound ones that were not placed yet."""
        return sum(calls.waiting for calls in self.tenants.values())

    @property
    def outbound(self) -> int:
        return self.by_tenant.total()

    def aside(self, plans: Plans, *, simulated_network: bool, most_single: int) -> int:
        """Of those that wait, those that leave what they will need to others.

        First those that their own tenant or campaign leaves no room for: it has single calls, or a limit was lowered.
        Then single calls beyond `most_single`: the dialer serves tenants in turn, so they come later than what is
        decided on now.
        """
        held = single = 0
        for calls in self.tenants.values():
            unlimited = simulated_network and calls.plan is None  # as in `CallLimits`
            most = None if unlimited else calls_at_once(plans, calls.plan, calls.most)
            # Those that their campaign holds back leave what the tenant has to the others.
            of_tenant = max(calls.held_back(most), calls.held_in_campaigns)
            held += of_tenant
            single += min(calls.waiting_single, calls.waiting - of_tenant)
        return held + max(0, single - most_single)

    def crowded(self, most_single: int) -> set[str]:
        """Tenants of whose single calls more wait than that: calls of their campaigns would only wait behind them."""
        return {tenant_id for tenant_id, calls in self.tenants.items() if calls.waiting_single > most_single}


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
    # SQLite would rather group by an index of the whole history: it does not know this tenant_id in any.
    owner = Attempt.tenant_id.concat(literal_column("''"))
    live = (
        select(owner.label("tenant_id"), Attempt.campaign_id, Attempt.status, func.count().label("count"))
        .where(ONE_LIVE)
        .group_by(owner, Attempt.campaign_id, Attempt.status)
        .subquery()
    )
    attempts = (
        select(live, Campaign.max_concurrent, Tenant.plan, Tenant.max_concurrent)
        .outerjoin(Campaign, and_(Campaign.tenant_id == live.c.tenant_id, Campaign.id == live.c.campaign_id))
        .outerjoin(Tenant, Tenant.tenant_id == live.c.tenant_id)
    )
    unanswered = Call.answered_at.is_(None)
    calls = select(Call.direction, unanswered, func.count()).where(OPEN_CALL).group_by(Call.direction, unanswered)
    by_tenant, by_campaign = Counter[str](), Counter[str]()
    tenants: dict[str, TenantCalls] = {}
    limited: dict[tuple[str, str], tuple[int, LiveCalls]] = {}
    inbound = ringing = 0
    async with db.session() as session:
        for tenant_id, campaign_id, status, count, campaign_most, plan, most in await session.execute(attempts):
            wait = status == "intended"
            by_tenant[tenant_id] += count
            by_campaign[campaign_id or ""] += count
            of_tenant = tenants.setdefault(tenant_id, TenantCalls(plan=plan, most=most))
            of_tenant.count(count, wait=wait)
            if wait and campaign_id is None:
                of_tenant.waiting_single += count
            if campaign_most is not None:
                limited.setdefault((tenant_id, campaign_id), (campaign_most, LiveCalls()))[1].count(count, wait=wait)
        for direction, is_unanswered, count in await session.execute(calls):
            inbound += count if direction == "inbound" else 0
            ringing += count if direction == "outbound" and is_unanswered else 0
    for (tenant_id, _), (most, of_campaign) in limited.items():
        tenants[tenant_id].held_in_campaigns += of_campaign.held_back(most)
    return UnderWay(by_tenant, by_campaign, tenants, inbound, ringing)


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
