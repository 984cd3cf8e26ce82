"""What campaigns become by themselves: started when their time has come, completed when nothing is left to do.

For all tenants, in one statement each; any number of processes may do it at once.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import exists, func, update

from serve_app.store.campaign_models import OPEN_LEAD, Campaign, Import, Lead
from serve_app.store.db import Database


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
    """Complete every running campaign that has had leads and has none left to call; how many. Raises UnavailableError.

    One into which a file is being imported goes on.
    """
    of_it = (Lead.tenant_id == Campaign.tenant_id, Lead.campaign_id == Campaign.id)
    importing = exists().where(
        Import.tenant_id == Campaign.tenant_id,
        Import.campaign_id == Campaign.id,
        Import.status.in_(("queued", "running")),
    )
    over = update(Campaign).where(
        Campaign.status == "running",
        exists().where(*of_it),
        ~exists().where(*of_it, Lead.state.in_(OPEN_LEAD)),
        ~importing,
    )
    completed = over.values(status="completed", completed_at=now, updated_at=now, epoch=Campaign.epoch + 1)
    async with db.transaction() as session:
        found = await session.scalars(completed.returning(Campaign.id).execution_options(synchronize_session=False))
        return len(found.all())
