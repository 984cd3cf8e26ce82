"""The tenant's own numbers to call from, in pools, with what each has done lately."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Text, bindparam, case, exists, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from serve_app.store.attempts import NEVER_ASKED
from serve_app.store.base import UtcDateTime, new_id
from serve_app.store.campaign_models import OwnNumber
from serve_app.store.campaign_rows import NumberRow, NumberState
from serve_app.store.models import Attempt
from serve_app.store.rows import to_row
from serve_app.store.scope import TenantScope, changed, insert_or_ignore

DEFAULT_POOL = "default"
DAILY_CAP = 75
DAY = timedelta(hours=24)
"""A day of the cap is the last 24 hours: it has no midnight at which everything is called at once."""


@dataclass(frozen=True, slots=True)
class NumberUse:
    """A number, and the calls from it that count for its cap."""

    number: NumberRow
    calls: int


async def numbers_in_use(
    connection: AsyncConnection, tenant_id: str, pool: str | None, now: datetime
) -> tuple[NumberUse, ...]:
    """The numbers of a pool (None: of all pools) that are not retired, by E.164.

    Calls of the last `DAY`: those that wait count, those that were never asked of the network do not.
    """
    wanted = {"tenant_id": tenant_id, "pool": pool, "since": now - DAY}
    found = await connection.execute(_IN_USE, wanted)
    return tuple(NumberUse(NumberRow(*number), int(calls)) for *number, calls in found)


@dataclass(frozen=True, slots=True)
class NumberHealth:
    """What came of the newest calls from one number."""

    e164: str
    calls: int
    answered: int
    short: int


class NumberTaken(LookupError):  # noqa: N818  what it means, not that it is an error
    """Another tenant has the number."""


class Numbers(TenantScope):
    async def put(
        self,
        e164: str,
        *,
        pool: str = DEFAULT_POOL,
        region: str | None = None,
        attestation: str | None = None,
        agent_name: str | None = None,
        daily_cap: int = DAILY_CAP,
        warmup_from: datetime | None = None,
    ) -> NumberRow:
        """Add a number, or change what is known of it; its state and history stay. Raises NumberTaken."""
        now = self.clock.now()
        settings: dict[str, Any] = {
            "pool": pool,
            "region": region,
            "attestation": attestation,
            "agent_name": agent_name,
            "daily_cap": daily_cap,
            "warmup_from": warmup_from,
            "updated_at": now,
        }
        new = {"id": new_id(), "tenant_id": self.tenant_id, "e164": e164, "state": "active", "created_at": now}
        async with self.db.transaction() as session:
            await self._refuse_taken(session, e164)
            if not await changed(session, insert_or_ignore(session, OwnNumber, new | settings)):
                await session.execute(update(OwnNumber).where(*self._is(e164)).values(settings))
            return to_row(NumberRow, (await session.scalars(select(OwnNumber).where(*self._is(e164)))).one())

    async def get(self, e164: str) -> NumberRow | None:
        async with self.db.session() as session:
            found = await session.scalar(select(OwnNumber).where(*self._is(e164)))
            return None if found is None else to_row(NumberRow, found)

    async def set_state(
        self, e164: str, state: NumberState, *, reason: str, cool_until: datetime | None = None
    ) -> NumberRow | None:
        """Rest, retire or bring back a number. None: there is none such.

        Raises ValueError for a rest without end, NumberTaken for one that another tenant has since it was retired.
        """
        if (state == "cooling") != (cool_until is not None):
            raise ValueError("cool_until: give it with the state cooling, and with no other")
        values = {"state": state, "cool_until": cool_until, "state_reason": reason, "updated_at": self.clock.now()}
        change = update(OwnNumber).where(*self._is(e164)).values(values).returning(OwnNumber)
        async with self.db.transaction() as session:
            found = await session.scalar(change.execution_options(synchronize_session=False))
            if found is not None and state != "retired":
                await self._refuse_taken(session, e164)
            return None if found is None else to_row(NumberRow, found)

    async def health(
        self,
        e164: str,
        *,
        newest: int,
        short: tuple[str, ...],
        human: tuple[str, ...],
        since: datetime | None = None,
    ) -> NumberHealth:
        """Of the newest settled calls from a number: how many a person answered, and how many of those were short.

        `short`, `human`: the dispositions that mean so. `since`: calls before it do not count.
        """
        calls = (
            select(Attempt.result)
            .where(
                Attempt.tenant_id == self.tenant_id,
                Attempt.from_number == e164,
                Attempt.result.is_not(None),
                Attempt.placed_at.is_not(None),
                true() if since is None else Attempt.created_at >= since,
            )
            .order_by(Attempt.created_at.desc())
            .limit(newest)
            .subquery()
        )
        query = select(
            func.count(),
            func.coalesce(func.sum(case((calls.c.result.in_(human), 1), else_=0)), 0),
            func.coalesce(func.sum(case((calls.c.result.in_(short), 1), else_=0)), 0),
        ).select_from(calls)
        async with self.db.session() as session:
            total, answered, brief = (await session.execute(query)).one()
            return NumberHealth(e164, int(total), int(answered), int(brief))

    async def list(self, *, pool: str | None = None) -> list[NumberRow]:
        query = select(OwnNumber).where(OwnNumber.tenant_id == self.tenant_id).order_by(OwnNumber.e164)
        if pool is not None:
            query = query.where(OwnNumber.pool == pool)
        async with self.db.session() as session:
            return [to_row(NumberRow, number) for number in await session.scalars(query)]

    async def _refuse_taken(self, session: AsyncSession, e164: str) -> None:
        """Who calls a number back must reach one tenant, so a number has one owner; a retired one is free."""
        others = exists().where(
            OwnNumber.e164 == e164, OwnNumber.tenant_id != self.tenant_id, OwnNumber.state != "retired"
        )
        if await session.scalar(select(others)):
            raise NumberTaken(e164)

    def _is(self, e164: str) -> tuple[Any, ...]:
        return (OwnNumber.tenant_id == self.tenant_id, OwnNumber.e164 == e164)


# For each claim: put together once. A number's calls of a day are few, its cap sees to that, and an index finds them:
# however long the history of the tenant is.
_CALLS = (
    select(func.count())
    .where(
        Attempt.tenant_id == OwnNumber.tenant_id,
        Attempt.from_number == OwnNumber.e164,
        Attempt.created_at >= bindparam("since", type_=UtcDateTime()),
        or_(Attempt.disposition.is_(None), Attempt.disposition.not_in(NEVER_ASKED)),
    )
    .correlate(OwnNumber)
    .scalar_subquery()
)
_POOL = bindparam("pool", type_=Text())
_IN_USE = (
    select(*(getattr(OwnNumber, column.name) for column in fields(NumberRow)), _CALLS)
    .where(
        OwnNumber.tenant_id == bindparam("tenant_id", type_=Text()),
        OwnNumber.state != "retired",
        or_(_POOL.is_(None), OwnNumber.pool == _POOL),
    )
    .order_by(OwnNumber.e164)
)
