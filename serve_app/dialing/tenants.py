"""Whose calls are to be placed: the questions of dialing that go across tenants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, exists, func, select

from serve_app.store.attempts import NEVER_ASKED
from serve_app.store.barring import is_barred
from serve_app.store.db import Database
from serve_app.store.models import GIVEN_UP, ONE_LIVE, Attempt, Call
from serve_app.store.rows import AttemptRow, to_row


@dataclass(frozen=True, slots=True)
class IntendedWork:
    """What one tenant has to place."""

    tenant_id: str
    due: int
    """Attempts that can be claimed now."""
    next_at: datetime | None
    """When the next one after them can be; None: there is none."""
    barred: int = 0
    """Attempts, due or not, that `store.barring` bars: never claimed, to be ended."""


async def intended_work(db: Database, now: datetime) -> list[IntendedWork]:
    """Every tenant that has an intended attempt, in one question. Raises UnavailableError."""
    # A claim that is held lasts until its lease is over. A comparison with NULL is not true.
    claimable_at = case((Attempt.lease_until > Attempt.next_at, Attempt.lease_until), else_=Attempt.next_at)
    query = (
        select(
            Attempt.tenant_id,
            func.sum(case((claimable_at <= now, 1), else_=0)),
            func.min(case((claimable_at > now, claimable_at))),
            func.sum(case((is_barred(), 1), else_=0)),
        )
        # The predicate is that of the partial index `one_live`, so this reads live attempts only, whatever the history.
        .where(ONE_LIVE, Attempt.status == "intended")
        .group_by(Attempt.tenant_id)
        .order_by(Attempt.tenant_id)
    )
    async with db.session() as session:
        found = await session.execute(query)
        return [IntendedWork(tenant, int(due), next_at, int(barred)) for tenant, due, next_at, barred in found]


async def tenants_with_live_attempts(db: Database) -> list[str]:
    """The tenants that have an attempt which has not ended. Raises UnavailableError."""
    query = select(Attempt.tenant_id).where(ONE_LIVE).distinct().order_by(Attempt.tenant_id)
    async with db.session() as session:
        return list(await session.scalars(query))


async def given_up_since(db: Database, since: datetime) -> list[AttemptRow]:
    """Attempts whose request was, or may have been, sent, and that ended without a call of the network known.

    Of all tenants. Raises UnavailableError.
    """
    query = select(Attempt).where(GIVEN_UP, Attempt.ended_at >= since, Attempt.disposition.not_in(NEVER_ASKED))
    async with db.session() as session:
        return [to_row(AttemptRow, attempt) for attempt in await session.scalars(query.order_by(Attempt.ended_at))]


async def is_being_called(db: Database, number: str) -> bool:
    """Whether any tenant has a live attempt to a number. Raises UnavailableError."""
    async with db.session() as session:
        return bool(await session.scalar(select(exists().where(ONE_LIVE, Attempt.to_number == number))))


async def is_bound(db: Database, carrier_call_id: str, *, other_than: str) -> bool:
    """Whether a call of the network is that of any tenant's call `other_than` this one. Raises UnavailableError."""
    async with db.session() as session:
        bound = exists().where(Call.carrier_call_id == carrier_call_id, Call.id != other_than)
        return bool(await session.scalar(select(bound)))
