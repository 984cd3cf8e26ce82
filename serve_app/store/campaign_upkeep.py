"""What campaigns become by themselves: started when their time has come, completed when nothing is left to do, and
running again when something is.

Any number of processes may do it at once. Who makes a lead ready locks its campaign and lets it run again, and who
completes a campaign locks it before the look at its leads: so no lead is left behind in one that is completed.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.campaign_models import OPEN_LEAD, Campaign, Import, Lead
from serve_app.store.db import Database

MOST_COMPLETED = 1000
"""In one transaction; the next one has its turn with the next look."""


async def start_scheduled(db: Database, now: datetime) -> int:
    """Run every scheduled campaign whose time has come, of all tenants; how many. Raises UnavailableError."""
    due = update(Campaign).where(Campaign.status == "scheduled", Campaign.scheduled_at <= now)
    started = due.values(
        status="running",
        started_at=func.coalesce(Campaign.started_at, now),
        updated_at=now,
        epoch=Campaign.epoch + 1,
    ).returning(Campaign.id)
    async with db.transaction() as session:
        return len((await session.scalars(started.execution_options(synchronize_session=False))).all())


async def complete_finished(db: Database, now: datetime) -> int:
    """Complete the running campaigns of all tenants that have had leads and have none left to call; how many.

    At most `MOST_COMPLETED`. Raises UnavailableError. One into which a file is being imported goes on.
    """
    of_it = (Lead.tenant_id == Campaign.tenant_id, Lead.campaign_id == Campaign.id)
    importing = exists().where(
        Import.tenant_id == Campaign.tenant_id,
        Import.campaign_id == Campaign.id,
        Import.status.in_(("queued", "running")),
    )
    over = (
        Campaign.status == "running",
        exists().where(*of_it),
        ~exists().where(*of_it, Lead.state.in_(OPEN_LEAD)),
        ~importing,
    )
    values = {"status": "completed", "completed_at": now, "updated_at": now, "epoch": Campaign.epoch + 1}
    async with db.transaction() as session:
        found = select(Campaign.id).where(*over).limit(MOST_COMPLETED).with_for_update(skip_locked=True, key_share=True)
        ids = (await session.scalars(found)).all()
        if not ids:
            return 0
        # Asked again by another statement: on PostgreSQL the first one does not see the leads that were committed while
        # it looked, and now whoever adds one waits.
        completed = update(Campaign).where(Campaign.id.in_(ids), *over).values(values).returning(Campaign.id)
        return len((await session.scalars(completed.execution_options(synchronize_session=False))).all())


async def run_again(session: AsyncSession, tenant_id: str, campaign_ids: Collection[str], now: datetime) -> None:
    """Let those of a tenant's campaigns that are completed run again, in the caller's transaction, which makes leads of
    them ready. It holds all of them from here on, so that none is completed meanwhile."""
    mine = select(Campaign.id, Campaign.status).where(Campaign.tenant_id == tenant_id, Campaign.id.in_(campaign_ids))
    # In one order, so that two of these cannot wait for each other in a circle.
    found = (await session.execute(mine.order_by(Campaign.id).with_for_update(key_share=True))).all()
    completed = [campaign_id for campaign_id, status in found if status == "completed"]
    if completed:
        again = update(Campaign).where(Campaign.tenant_id == tenant_id, Campaign.id.in_(completed))
        values = {"status": "running", "completed_at": None, "updated_at": now, "epoch": Campaign.epoch + 1}
        await session.execute(again.values(values).execution_options(synchronize_session=False))
