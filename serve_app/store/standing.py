"""How a tenant stands that wants to place a call by itself, and whether a public registry has the number."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import exists, func, literal, select

from serve_app.store.campaign_models import EVERYBODY, RegistryNumber, Tenant, Usage
from serve_app.store.db import Database
from serve_app.store.models import ONE_LIVE, Attempt
from serve_app.store.usage import Used


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
    used: Used
    """By its calls that ended in this calendar month (UTC), and charged for them."""


async def standing_of(db: Database, tenant_id: str, number: str, now: datetime) -> Standing:
    """Of one moment, by one statement. Raises UnavailableError."""
    registered = exists().where(RegistryNumber.tenant_id.in_((tenant_id, EVERYBODY)), RegistryNumber.number == number)
    live = select(func.count()).select_from(Attempt).where(ONE_LIVE, Attempt.tenant_id == tenant_id)
    today, month = f"{now:%Y-%m-%d}", f"{now:%Y-%m}-01"
    calls = select(func.coalesce(func.sum(Usage.calls), 0)).where(Usage.tenant_id == tenant_id, Usage.day == today)
    sums = [
        select(func.coalesce(func.sum(getattr(Usage, field.name)), 0))
        .where(Usage.tenant_id == tenant_id, Usage.day >= month)
        .scalar_subquery()
        for field in fields(Used)
    ]
    one = select(literal(1).label("row")).subquery()
    query = select(
        Tenant.status,
        Tenant.plan,
        Tenant.daily_calls,
        Tenant.spend_cap_minor,
        registered,
        live.scalar_subquery(),
        calls.scalar_subquery(),
        *sums,
    ).select_from(one.outerjoin(Tenant, Tenant.tenant_id == tenant_id))
    async with db.session() as session:
        status, plan, daily, cap, listed, under_way, ended, *used = (await session.execute(query)).one()
    return Standing(status, plan, daily, cap, bool(listed), int(under_way), int(ended), _used(*used))


def _used(calls: Any, answered: Any, talk_s: Any, cost_micros: Any, priced_talk_s: Any) -> Used:
    return Used(int(calls), int(answered), float(talk_s), int(cost_micros), float(priced_talk_s))
