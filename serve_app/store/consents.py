"""Consents: that the owner of a number agreed to be called, when, how, and for what."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import and_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.base import new_id
from serve_app.store.campaign_models import Consent, Lead
from serve_app.store.campaign_rows import ConsentKind, ConsentRow
from serve_app.store.do_not_call import lock_number
from serve_app.store.leads import reopen_leads
from serve_app.store.rows import to_row
from serve_app.store.scope import TenantScope

WITHOUT_CONSENT = ("no_consent", "consent_revoked", "consent_expired", "consent_insufficient")
"""The reasons of the calling rules that a new consent may take away."""


async def consents_of(
    session: AsyncSession, tenant_id: str, numbers: Collection[str]
) -> dict[str, tuple[ConsentRow, ...]]:
    """What is recorded of each number, revoked and expired ones included, oldest first."""
    query = select(Consent).where(Consent.tenant_id == tenant_id, Consent.number.in_(numbers)).order_by(Consent.id)
    found: dict[str, list[ConsentRow]] = {number: [] for number in numbers}
    for consent in await session.scalars(query):
        found[consent.number].append(to_row(ConsentRow, consent))
    return {number: tuple(rows) for number, rows in found.items()}


class Consents(TenantScope):
    async def record(
        self,
        number: str,
        kind: ConsentKind,
        *,
        scope: str,
        source: str,
        given_at: datetime,
        expires_at: datetime | None = None,
        document: dict[str, Any] | None = None,
    ) -> ConsentRow:
        """Keep a consent; those before it stay on record. `scope`: `*`, or what it names.

        Leads of the number that were closed for want of one are ready again; the calling rules decide anew.

        Raises ValueError where it would be no proof: without a source, or given in the future.
        """
        now = self.clock.now()
        if not source.strip():
            raise ValueError("source: a consent without its source proves nothing; say where it was given")
        if given_at > now:
            raise ValueError("given_at: a consent cannot have been given in the future; check the date and its zone")
        if expires_at is not None and expires_at <= given_at:
            raise ValueError("expires_at: it is not after given_at; leave it out if the consent has no term")
        consent = Consent(
            id=new_id(),
            tenant_id=self.tenant_id,
            number=number,
            kind=kind,
            scope=scope,
            source=source.strip(),
            given_at=given_at,
            expires_at=expires_at,
            document=document,
            created_at=now,
        )
        async with self.db.transaction() as session:
            session.add(consent)
            await session.flush()
            missed = and_(Lead.number == number, Lead.last_reason.in_(WITHOUT_CONSENT))
            await reopen_leads(session, self.tenant_id, missed, now)
            return to_row(ConsentRow, consent)

    async def revoke(self, number: str, *, at: datetime | None = None) -> int:
        """Take back every consent of a number; how many there were. From the commit on no campaign's call is placed."""
        back = update(Consent).where(
            Consent.tenant_id == self.tenant_id, Consent.number == number, Consent.revoked_at.is_(None)
        )
        revoked = back.values(revoked_at=at or self.clock.now()).returning(Consent.id)
        async with self.db.transaction() as session:
            await lock_number(session, self.tenant_id, number)
            return len((await session.scalars(revoked.execution_options(synchronize_session=False))).all())

    async def of(self, number: str) -> list[ConsentRow]:
        """Oldest first."""
        async with self.db.session() as session:
            return list((await consents_of(session, self.tenant_id, [number]))[number])
