"""What leads need though nobody asks: to become ready when their time comes, to be looked after when a process died.

For all tenants: the upkeep belongs to the platform, and every row names its tenant.

Every step is bounded and may be done by any number of processes at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Integer, Text, and_, bindparam, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.errors import UnavailableError
from serve_app.store.base import UtcDateTime
from serve_app.store.campaign_models import DEFERRED_LEAD, EXPECTED_LEAD, LEASED_LEAD, Campaign, Lead
from serve_app.store.db import Database
from serve_app.store.models import LIVE_ATTEMPT, UNSETTLED, Attempt, unsettled
from serve_app.store.scope import changed
from serve_app.store.settlement import Verdict, settle

# How long a lead whose attempt still lives is left alone: the attempt has deadlines of its own.
LOOK_AGAIN = timedelta(minutes=5)
LEAST_SHARE = 10
"""Leads that each campaign gets promoted in one step, however many campaigns there are."""
MOST_CAMPAIGNS = 200
"""Whose leads are promoted in one step: it is one transaction, with a question for each of them."""


async def promote(db: Database, now: datetime, *, limit: int) -> int:
    """Make deferred leads of running campaigns ready whose time has come; how many. Raises UnavailableError.

    First promised callbacks (and calls that could not be placed), of all campaigns, at most `limit`. Then of each
    campaign its longest due ones, an equal share of `limit` but at least `LEAST_SHARE`: whoever has a million leads due
    at nine does not hold up anybody else's. Of more than `MOST_CAMPAIGNS` it draws some, for the same reason: those
    with the most leads would be the longest due for hours.
    """
    async with db.transaction() as session:
        ids = list(await session.scalars(_EXPECTED, {"now": now, "most": limit}))
        due = (await session.execute(_DUE_CAMPAIGNS, {"now": now, "most": MOST_CAMPAIGNS})).all()
        share = max(LEAST_SHARE, limit // max(1, len(due)))
        for tenant_id, campaign_id in due:
            of_it = {"tenant_id": tenant_id, "campaign_id": campaign_id, "now": now, "most": share}
            ids += await session.scalars(_LONGEST_DUE, of_it)
        if not ids:
            return 0
        ready = update(Lead).where(Lead.id.in_(ids), DEFERRED_LEAD).values(state="ready", updated_at=now)
        return await changed(session, ready.execution_options(synchronize_session=False))


async def next_due(db: Database) -> datetime | None:
    """When the next deferred lead of a running campaign has to be promoted. Raises UnavailableError."""
    async with db.session() as session:
        return await session.scalar(_NEXT_DUE)


async def settle_ended(
    db: Database,
    verdict: Verdict,
    now: datetime,
    *,
    limit: int,
    without: Collection[str] = (),
    failed: Callable[[str], None] | None = None,
) -> int:
    """Settle attempts that ended without a verdict, but not those of the ids `without`; how many.

    `failed` is told, while the exception is handled, of each attempt that raises one; the others are settled. None: it
    is raised. Raises UnavailableError.
    """
    query = select(Attempt.tenant_id, Attempt.id).where(UNSETTLED).order_by(Attempt.ended_at).limit(limit)
    if without:
        query = query.where(Attempt.id.not_in(without))
    found: dict[str, list[str]] = defaultdict(list)
    async with db.session() as session:
        for tenant_id, attempt_id in await session.execute(query):
            found[tenant_id].append(attempt_id)
    settled = 0
    for tenant_id, ids in found.items():
        try:
            settled += await _settle(db, tenant_id, verdict, ids, now)
        except UnavailableError:
            raise
        except Exception:
            if failed is None:
                raise
            settled += await _settle_each(db, tenant_id, verdict, ids, now, failed)
    return settled


async def _settle(db: Database, tenant_id: str, verdict: Verdict, ids: Sequence[str], now: datetime) -> int:
    async with db.transaction() as session:
        return await settle(session, tenant_id, verdict, Attempt.id.in_(ids), now, skip_locked=True)


async def _settle_each(
    db: Database, tenant_id: str, verdict: Verdict, ids: Sequence[str], now: datetime, failed: Callable[[str], None]
) -> int:
    settled = 0
    for attempt_id in ids:
        try:
            settled += await _settle(db, tenant_id, verdict, [attempt_id], now)
        except UnavailableError:
            raise
        except Exception:  # noqa: BLE001  (whatever it is, it is told, and must not keep the others from being settled)
            failed(attempt_id)
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


# Put together once: the feeder asks them all the time. Each campaign that runs costs a look into an index, and those
# that do not run cost nothing, however many leads of theirs are due.
_NOW, _MOST = bindparam("now", type_=UtcDateTime()), bindparam("most", type_=Integer())
_OF_CAMPAIGN = (Lead.tenant_id == Campaign.tenant_id, Lead.campaign_id == Campaign.id)
_FIRST_DUE = select(func.min(Lead.next_at)).where(DEFERRED_LEAD, *_OF_CAMPAIGN).correlate(Campaign).scalar_subquery()
_NEXT_DUE = select(func.min(_FIRST_DUE)).where(Campaign.status == "running")
_DUE_CAMPAIGNS = (
    select(Campaign.tenant_id, Campaign.id)
    .where(Campaign.status == "running", _FIRST_DUE <= _NOW)
    .order_by(func.random())
    .limit(_MOST)
)
_EXPECTED = (
    select(Lead.id)
    .join(Campaign, and_(*_OF_CAMPAIGN))
    .where(Campaign.status == "running", EXPECTED_LEAD, Lead.next_at <= _NOW)
    .order_by(Lead.next_at, Lead.id)
    .limit(_MOST)
    .with_for_update(of=Lead, skip_locked=True)
)
_LONGEST_DUE = (
    select(Lead.id)
    .where(
        DEFERRED_LEAD,
        Lead.tenant_id == bindparam("tenant_id", type_=Text()),
        Lead.campaign_id == bindparam("campaign_id", type_=Text()),
        Lead.next_at <= _NOW,
    )
    .order_by(Lead.next_at, Lead.id)
    .limit(_MOST)
    .with_for_update(skip_locked=True)
)
