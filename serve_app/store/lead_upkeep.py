"""What leads need though nobody asks: to become ready when their time comes, to be looked after when a process died.

For all tenants: the upkeep belongs to the platform, and every row names its tenant.

Every step is bounded and may be done by any number of processes at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.campaign_models import DEFERRED_LEAD, LEASED_LEAD, Lead
from serve_app.store.db import Database
from serve_app.store.models import LIVE_ATTEMPT, UNSETTLED, Attempt, unsettled
from serve_app.store.scope import changed
from serve_app.store.settlement import Verdict, settle

# How long a lead whose attempt still lives is left alone: the attempt has deadlines of its own.
LOOK_AGAIN = timedelta(minutes=5)


async def promote(db: Database, now: datetime, *, limit: int) -> int:
    """Make deferred leads ready whose time has come, the longest due first; how many. Raises UnavailableError."""
    due = (
        select(Lead.id)
        .where(DEFERRED_LEAD, Lead.next_at <= now)
        .order_by(Lead.next_at, Lead.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    async with db.transaction() as session:
        ids = (await session.scalars(due)).all()
        if not ids:
            return 0
        ready = update(Lead).where(Lead.id.in_(ids), DEFERRED_LEAD).values(state="ready", updated_at=now)
        return await changed(session, ready.execution_options(synchronize_session=False))


async def next_due(db: Database) -> datetime | None:
    """When the next deferred lead has to be promoted. Raises UnavailableError."""
    async with db.session() as session:
        return await session.scalar(select(func.min(Lead.next_at)).where(DEFERRED_LEAD))


async def settle_ended(db: Database, verdict: Verdict, now: datetime, *, limit: int) -> int:
    """Settle attempts that ended without a verdict; how many. Raises UnavailableError."""
    query = select(Attempt.tenant_id, Attempt.id).where(UNSETTLED).order_by(Attempt.ended_at).limit(limit)
    found: dict[str, list[str]] = defaultdict(list)
    async with db.session() as session:
        for tenant_id, attempt_id in await session.execute(query):
            found[tenant_id].append(attempt_id)
    settled = 0
    for tenant_id, ids in found.items():
        async with db.transaction() as session:
            settled += await settle(session, tenant_id, verdict, Attempt.id.in_(ids), now, skip_locked=True)
    return settled


async def heal(db: Database, now: datetime, *, limit: int) -> int:
    """Look after leads whose lease is over; how many. Call `settle_ended` before. Raises UnavailableError.

    One whose attempt lives stays leased; one without is ready again: nothing of it was ever sent.
    """
    lost = (
        select(Lead.id)
        .where(LEASED_LEAD, Lead.lease_until <= now)
        .order_by(Lead.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    async with db.transaction() as session:
        ids = (await session.scalars(lost)).all()
        if not ids:
            return 0
        await _leave(session, ids, now)
        mine = update(Lead).where(Lead.id.in_(ids), LEASED_LEAD, Lead.lease_until <= now)
        free = mine.values(state="ready", lease_owner=None, lease_until=None, updated_at=now)
        await session.execute(free.execution_options(synchronize_session=False))
        return len(ids)


async def _leave(session: AsyncSession, ids: Sequence[str], now: datetime) -> None:
    """Extend the leases of leads that have an attempt which lives, or waits to be settled."""
    under_way = exists().where(
        Attempt.lead_id == Lead.id,
        Attempt.number_in_lead == Lead.epoch,
        Attempt.status.in_(LIVE_ATTEMPT) | unsettled(),
    )
    stay = update(Lead).where(Lead.id.in_(ids), LEASED_LEAD, under_way)
    longer = stay.values(lease_until=now + LOOK_AGAIN)
    await session.execute(longer.execution_options(synchronize_session=False))
