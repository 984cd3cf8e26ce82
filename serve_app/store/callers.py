"""Who is on the line: what is known of a callee, or of somebody who calls one of our numbers."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, case, func, or_, select

from serve_app.store.attempts import NEVER_ASKED
from serve_app.store.campaign_models import Campaign, Lead, OwnNumber
from serve_app.store.campaign_rows import LeadRow
from serve_app.store.db import Database
from serve_app.store.models import Attempt, Call
from serve_app.store.rows import to_row
from serve_app.store.scope import TenantScope


@dataclass(frozen=True, slots=True)
class KnownLead:
    """A lead and what its campaign says of it."""

    lead: LeadRow
    campaign_name: str
    goal: str
    agent_name: str
    agent_version: int | None
    """None: the newest."""


class Callers(TenantScope):
    async def lead(self, lead_id: str) -> KnownLead | None:
        """The lead for whose sake a call is. None: it was erased."""
        query = (
            select(Lead, Campaign)
            .join(Campaign, and_(Campaign.tenant_id == Lead.tenant_id, Campaign.id == Lead.campaign_id))
            .where(Lead.tenant_id == self.tenant_id, Lead.id == lead_id)
        )
        async with self.db.session() as session:
            found = (await session.execute(query)).first()
            return None if found is None else _known(*found)

    async def last_called(self, caller: str, dialled: str) -> KnownLead | None:
        """The lead of the campaign that called this number last, from the number that was dialled if any did.

        Only calls that were asked of the network count.
        """
        query = (
            # Outer joins, for their order: SQLite would rather begin with all leads of the tenant.
            select(Lead, Campaign)
            .select_from(Attempt)
            .outerjoin(Lead, and_(Lead.tenant_id == Attempt.tenant_id, Lead.id == Attempt.lead_id))
            .outerjoin(Campaign, and_(Campaign.tenant_id == Lead.tenant_id, Campaign.id == Lead.campaign_id))
            .where(
                Attempt.tenant_id == self.tenant_id,
                Attempt.to_number == caller,
                Attempt.placing_at.is_not(None),
                func.coalesce(Lead.state, "deleted") != "deleted",
            )
            .order_by(case((Attempt.from_number == dialled, 0), else_=1), Attempt.created_at.desc())
            .limit(1)
        )
        async with self.db.session() as session:
            found = (await session.execute(query)).first()
            return None if found is None else _known(*found)

    async def last_agent(self, caller: str, dialled: str) -> str | None:
        """The name of the agent that called this number last, from the number that was dialled if any did."""
        query = (
            select(Call.agent_name)
            .select_from(Attempt)
            .outerjoin(Call, and_(Call.tenant_id == Attempt.tenant_id, Call.id == Attempt.call_id))
            .where(Attempt.tenant_id == self.tenant_id, Attempt.to_number == caller, Attempt.placing_at.is_not(None))
            .order_by(case((Attempt.from_number == dialled, 0), else_=1), Attempt.created_at.desc())
            .limit(1)
        )
        async with self.db.session() as session:
            return await session.scalar(query)


def _known(lead: Lead, campaign: Campaign) -> KnownLead:
    return KnownLead(to_row(LeadRow, lead), campaign.name, campaign.goal, campaign.agent_name, campaign.agent_version)


async def owner_of(db: Database, *numbers: str | None) -> str | None:
    """The tenant to whom one of these numbers belongs, in their order: a webhook without our link names numbers only.

    A retired number is still answered, unless another tenant has it now. None: to nobody, or to more than one.
    """
    asked = [number for number in numbers if number is not None]
    query = select(OwnNumber.e164, OwnNumber.tenant_id, OwnNumber.state).where(OwnNumber.e164.in_(asked))
    async with db.session() as session:
        owners = (await session.execute(query)).all()
    for number in asked:
        in_use = {tenant for e164, tenant, state in owners if e164 == number and state != "retired"}
        tenants = in_use or {tenant for e164, tenant, _ in owners if e164 == number}
        if len(tenants) == 1:
            return str(tenants.pop())
    return None


async def tenant_that_called(db: Database, carrier_call_id: str | None, *numbers: str | None) -> str | None:
    """The tenant of a call between two numbers of which no tenant owns one: several may call from the same number.

    That of the call's record, so that all its events find it, whoever is called meanwhile; else that of the newest call
    from one of the numbers to the other which the network was asked for. None: there was none.
    """
    both = [number for number in numbers if number is not None]
    recorded = select(Call.tenant_id).where(Call.carrier_call_id == carrier_call_id).limit(1)
    placed = (
        select(Attempt.tenant_id)
        .where(
            Attempt.to_number.in_(both),
            Attempt.from_number.in_(both),
            Attempt.placing_at.is_not(None),
            or_(Attempt.disposition.is_(None), Attempt.disposition.not_in(NEVER_ASKED)),
        )
        .order_by(Attempt.created_at.desc())
        .limit(1)
    )
    async with db.session() as session:
        return await session.scalar(recorded) or await session.scalar(placed)
