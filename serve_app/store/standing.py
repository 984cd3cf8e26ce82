"""How a tenant stands that wants to place a call by itself, and whether a public registry has the number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, func, literal, select

from serve_app.store.campaign_models import EVERYBODY, RegistryNumber, Tenant, Usage
from serve_app.store.db import Database
from serve_app.store.models import ONE_LIVE, Attempt


@dataclass(frozen=True, slots=True)
class Standing:
    status: str | None
    """None, and `plan` with it: nothing is known of the tenant."""
    plan: str | None
    daily_calls: int | None
    spend_cap_minor: int | None
    registered: bool
    """The number is on a registry of the tenant's, or of the platform's."""
    live: int
    """Calls of the tenant that wait, ring or go on."""
    calls_today: int
    """Ended calls of this UTC day."""
    talk_s: float
    """Of ended calls in this calendar month (UTC)."""


async def standing_of(db: Database, tenant_id: str, number: str, now: datetime) -> Standing:
    """Of one moment, by one statement. Raises UnavailableError."""
    registered = exists().where(RegistryNumber.tenant_id.in_((tenant_id, EVERYBODY)), RegistryNumber.number == number)
    live = select(func.count()).select_from(Attempt).where(ONE_LIVE, Attempt.tenant_id == tenant_id)
    today, month = f"{now:%Y-%m-%d}", f"{now:%Y-%m}-01"
    calls = select(func.coalesce(func.sum(Usage.calls), 0)).where(Usage.tenant_id == tenant_id, Usage.day == today)
    talk = select(func.coalesce(func.sum(Usage.talk_s), 0.0)).where(Usage.tenant_id == tenant_id, Usage.day >= month)
    one = select(literal(1).label("row")).subquery()
    query = select(
        Tenant.status,
        Tenant.plan,
        Tenant.daily_calls,
        Tenant.spend_cap_minor,
        registered,
        live.scalar_subquery(),
        calls.scalar_subquery(),
        talk.scalar_subquery(),
    ).select_from(one.outerjoin(Tenant, Tenant.tenant_id == tenant_id))
    async with db.session() as session:
        status, plan, daily, cap, listed, under_way, ended, talk_s = (await session.execute(query)).one()
    return Standing(status, plan, daily, cap, bool(listed), int(under_way), int(ended), float(talk_s))
