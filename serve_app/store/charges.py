"""What the network charged for an attempt's call: noted on it, and counted as used. In any order, however often."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.models import Attempt
from serve_app.store.rows import Charge
from serve_app.store.usage import count_cost


async def book(session: AsyncSession, tenant_id: str, charge: Charge, *, now: datetime) -> None:
    """In the caller's transaction. What is not more than what was told before changes nothing."""
    cost = charge.cost
    mine = update(Attempt).where(Attempt.tenant_id == tenant_id, Attempt.id == charge.attempt_id)
    note = mine.values(cost_micros=cost.micros, cost_currency=cost.currency)
    note = note.execution_options(synchronize_session=False)
    news = note.where(Attempt.cost_micros.is_(None)).returning(Attempt.campaign_id, Attempt.call_id)
    first = (await session.execute(news)).first()
    if first is not None:
        await count_cost(session, tenant_id, first.campaign_id, first.call_id, cost.micros, at=now, first=True)
        return
    told = select(Attempt.cost_micros, Attempt.campaign_id, Attempt.call_id).where(
        Attempt.tenant_id == tenant_id, Attempt.id == charge.attempt_id
    )
    known = (await session.execute(told.with_for_update())).first()
    if known is None or cost.micros <= known.cost_micros:
        return
    await session.execute(note)
    more = cost.micros - known.cost_micros
    await count_cost(session, tenant_id, known.campaign_id, known.call_id, more, at=now, first=False)
