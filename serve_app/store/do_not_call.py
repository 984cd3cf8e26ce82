"""The do-not-call list of a tenant: from the commit that puts a number on it, no call to it is claimed or placed.

Who dials asks inside its own transaction (`listed`), so a list that cannot be read means that nothing is placed.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from serve_app.store.base import new_id
from serve_app.store.campaign_models import KEPT_LEAD, OPEN_LEAD, Lead
from serve_app.store.models import Attempt, Call, DoNotCallEntry
from serve_app.store.rows import DoNotCallRow, DoNotCallSource, to_row
from serve_app.store.scope import TenantScope, changed, insert_or_ignore

TEXT_CHARS = 2000
"""Of a callee's words more is not kept here; the transcript has them all."""

ON_LIST = "on_do_not_call_list"
"""Why the leads of a listed number are closed: the calling rules' word for it."""

_Text = InstrumentedAttribute[str] | str

_E164 = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)


def listed(tenant_id: _Text, number: _Text) -> ColumnElement[bool]:
    """The condition that a number is on the list of a tenant: values, or the columns that hold them."""
    on_list = DoNotCallEntry.tenant_id == tenant_id, DoNotCallEntry.number == number
    return exists().where(*on_list, DoNotCallEntry.removed_at.is_(None))


async def wait_for_listing(session: AsyncSession, tenant_id: str, attempt_id: str) -> None:
    """Before an attempt passes its point of no return: whoever is just barring its number commits first.

    On PostgreSQL a statement does not see what commits while it runs. SQLite has one writer at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        number = select(Attempt.to_number).where(Attempt.tenant_id == tenant_id, Attempt.id == attempt_id)
        await session.execute(_lock(tenant_id, number.scalar_subquery()))


async def lock_number(session: AsyncSession, tenant_id: str, number: str) -> None:
    """From here to the commit no attempt to the number passes its fence."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(_lock(tenant_id, number))


def _lock(tenant_id: str, number: Any) -> Select[Any]:
    return select(func.pg_advisory_xact_lock(func.hashtextextended(func.concat(tenant_id, ":", number), 0)))


async def list_number(
    session: AsyncSession,
    tenant_id: str,
    number: str,
    source: DoNotCallSource,
    text: str,
    call_id: str | None,
    at: datetime,
    *,
    reason: str = ON_LIST,
) -> None:
    """List a number in the caller's transaction, and close every lead of it that is not closed, for `reason`.

    One that is listed already stays as it is. The caller may hold locks of attempts and calls, but none of leads.
    """
    await lock_number(session, tenant_id, number)
    values = {
        "id": new_id(),
        "tenant_id": tenant_id,
        "number": number,
        "source": source,
        "call_id": call_id,
        "text": text[:TEXT_CHARS],
        "created_at": at,
    }
    await changed(session, insert_or_ignore(session, DoNotCallEntry, values))
    mine = Lead.tenant_id == tenant_id, Lead.number == number
    waiting = update(Lead).where(*mine, Lead.state.in_(OPEN_LEAD), KEPT_LEAD)  # KEPT_LEAD names the index one_lead
    closed = waiting.values(state="barred", last_reason=reason, lease_owner=None, lease_until=None, updated_at=at)
    await session.execute(closed.execution_options(synchronize_session=False))


class DoNotCall(TenantScope):
    async def opt_out(
        self, call_id: str, number: str, source: DoNotCallSource, text: str, *, at: datetime | None = None
    ) -> None:
        """The callee of this call is not to be called again: the number is listed and the call marked, together.

        Idempotent. A callee who withheld the number cannot be listed, nor called: the call alone is marked.
        """
        now = at or self.clock.now()
        mark = update(Call).where(Call.tenant_id == self.tenant_id, Call.id == call_id)
        marked = mark.values(opted_out_at=func.coalesce(Call.opted_out_at, now))
        async with self.db.transaction() as session:
            # Call before number and leads, the order in which the end of a call locks them.
            await session.execute(marked.execution_options(synchronize_session=False))
            if _E164.fullmatch(number):
                await list_number(session, self.tenant_id, number, source, text, call_id, now)

    async def add(self, number: str, text: str) -> DoNotCallRow:
        """A person lists an E.164 number. One that is listed already stays as it is. Raises ValueError."""
        if not _E164.fullmatch(number):
            raise ValueError("not an E.164 number with a leading +")
        async with self.db.transaction() as session:
            await list_number(session, self.tenant_id, number, "person", text, None, self.clock.now())
            return to_row(DoNotCallRow, (await session.scalars(self._entries().where(*self._on(number)))).one())

    async def remove(self, number: str, *, reason: str, by: str) -> DoNotCallRow | None:
        """Take a number off the list; who did it and why stays on record. None: it is not listed.

        Raises ValueError without a reason.
        """
        if not reason.strip():
            raise ValueError("a number is taken off the do-not-call list for a stated reason only")
        off = update(DoNotCallEntry).where(*self._on(number)).returning(DoNotCallEntry)
        values = {"removed_at": self.clock.now(), "removed_by": by, "removed_reason": reason.strip()[:TEXT_CHARS]}
        async with self.db.transaction() as session:
            found = await session.scalar(off.values(values).execution_options(synchronize_session=False))
            return None if found is None else to_row(DoNotCallRow, found)

    async def contains(self, number: str) -> bool:
        async with self.db.session() as session:
            return bool(await session.scalar(select(listed(self.tenant_id, number))))

    async def list(
        self, *, limit: int, before: str | None = None, number: str | None = None, removed: bool = False
    ) -> tuple[list[DoNotCallRow], str | None]:
        """Newest first, with the cursor for the next page. `removed`: also what was taken off."""
        query = self._entries().order_by(DoNotCallEntry.id.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(DoNotCallEntry.id < before)
        if number is not None:
            query = query.where(DoNotCallEntry.number == number)
        if not removed:
            query = query.where(DoNotCallEntry.removed_at.is_(None))
        async with self.db.session() as session:
            rows = [to_row(DoNotCallRow, entry) for entry in await session.scalars(query)]
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    def _on(self, number: str) -> tuple[ColumnElement[bool], ...]:
        return (
            DoNotCallEntry.tenant_id == self.tenant_id,
            DoNotCallEntry.number == number,
            DoNotCallEntry.removed_at.is_(None),
        )

    def _entries(self) -> Select[DoNotCallEntry]:
        return select(DoNotCallEntry).where(DoNotCallEntry.tenant_id == self.tenant_id)
