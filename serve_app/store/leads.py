"""Leads: the numbers that a campaign wants to reach, each with what is known of it and where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Exists, Select, and_, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.base import new_id
from serve_app.store.campaign_models import KEPT_LEAD, Campaign, Consent, Lead
from serve_app.store.campaign_rows import ConsentKind, LeadRow, LeadState
from serve_app.store.campaign_upkeep import run_again
from serve_app.store.models import Attempt
from serve_app.store.queue_order import NORMAL_PRIORITY, queue_at
from serve_app.store.rows import to_row
from serve_app.store.scope import TenantScope, changed

CLOSED = ("done", "exhausted", "barred")
UNSCRUBBED = ("not_scrubbed", "scrub_stale")
"""The reasons of the calling rules that a comparison with the national do-not-call list may take away."""
AT_ONCE = 2000
REOPENED = "reopened"


@dataclass(frozen=True, slots=True)
class NewConsent:
    """That the owner of a lead's number agreed to be called. `scope`: `*`, or what it names."""

    kind: ConsentKind
    given_at: datetime
    source: str
    scope: str = "*"


@dataclass(frozen=True, slots=True)
class NewLead:
    """A lead to add. `number` in E.164; `custom_fields` are the caller's own."""

    number: str
    first_name: str | None = None
    last_name: str | None = None
    email: str | None = None
    zones: Sequence[str] | None = None
    region: str | None = None
    priority: int = NORMAL_PRIORITY
    high_value: bool = False
    tags: Sequence[str] = ()
    custom_fields: Mapping[str, Any] = field(default_factory=dict)
    consent: NewConsent | None = None
    """Recorded with the lead, which may be called as soon as it is there."""
    scrubbed_at: datetime | None = None


async def insert_leads(
    session: AsyncSession,
    tenant_id: str,
    campaign_id: str,
    leads: Sequence[NewLead],
    *,
    now: datetime,
    import_id: str | None = None,
) -> set[str]:
    """Add leads, ready at once, in the caller's transaction. Returns the numbers that were taken.

    A campaign that is completed runs again.

    The others have a lead in this campaign already, or occur in `leads` before. Raises LookupError for a campaign that
    this tenant does not have. At most 10,000 at a time: each number is one parameter of a statement.
    """
    # One insertion at a time in a campaign, so that nothing comes between the question and the insert.
    campaign = select(Campaign.status).where(Campaign.tenant_id == tenant_id, Campaign.id == campaign_id)
    status = await session.scalar(campaign.with_for_update())
    if status is None:
        raise LookupError("there is no such campaign")
    there = select(Lead.number).where(
        Lead.tenant_id == tenant_id,
        Lead.campaign_id == campaign_id,
        Lead.number.in_([lead.number for lead in leads]),
        KEPT_LEAD,
    )
    known = set(await session.scalars(there))
    new: dict[str, NewLead] = {}
    for lead in leads:
        if lead.number not in known:
            new.setdefault(lead.number, lead)
    if new:
        rows = [_values(tenant_id, campaign_id, lead, now, import_id) for lead in new.values()]
        await session.execute(insert(Lead), rows)
        if status == "completed":
            await run_again(session, tenant_id, [campaign_id], now)
    consents = [_consent(tenant_id, lead, lead.consent, now) for lead in new.values() if lead.consent is not None]
    if consents:
        await session.execute(insert(Consent), consents)
    return set(new)


def _consent(tenant_id: str, lead: NewLead, consent: NewConsent, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id(),
        "tenant_id": tenant_id,
        "number": lead.number,
        "kind": consent.kind,
        "scope": consent.scope,
        "source": consent.source,
        "given_at": consent.given_at,
        "created_at": now,
    }


def _values(tenant_id: str, campaign_id: str, lead: NewLead, now: datetime, import_id: str | None) -> dict[str, Any]:
    return {
        "id": new_id(),
        "tenant_id": tenant_id,
        "campaign_id": campaign_id,
        "number": lead.number,
        "first_name": lead.first_name,
        "last_name": lead.last_name,
        "email": lead.email,
        "zones": None if lead.zones is None else list(lead.zones),
        "region": lead.region,
        "priority": lead.priority,
        "high_value": lead.high_value,
        "tags": list(lead.tags),
        "custom_fields": dict(lead.custom_fields),
        "state": "ready",
        "next_at": now,
        "queue_at": queue_at(now, priority=lead.priority, high_value=lead.high_value, tags=lead.tags),
        "attempts": 0,
        "epoch": 0,
        "import_id": import_id,
        "consent_at": None if lead.consent is None else lead.consent.given_at,
        "scrubbed_at": lead.scrubbed_at,
        "created_at": now,
        "updated_at": now,
    }


async def reopen_leads(session: AsyncSession, tenant_id: str, which: ColumnElement[bool], now: datetime) -> int:
    """Make closed leads ready again, each at the place that it is worth, in the caller's transaction; how many.

    Their campaigns run again, if they are completed.
    """
    closed = select(Lead).where(Lead.tenant_id == tenant_id, Lead.state.in_(CLOSED), KEPT_LEAD, which)
    leads = (await session.scalars(closed.with_for_update())).all()
    changes = [
        {
            "id": lead.id,
            "state": "ready",
            "next_at": now,
            "queue_at": queue_at(
                now, priority=lead.priority, high_value=lead.high_value, tags=lead.tags, fresh=lead.attempts == 0
            ),
            "last_reason": REOPENED,
            "updated_at": now,
        }
        for lead in leads
    ]
    if changes:
        await session.execute(update(Lead), changes)
        await run_again(session, tenant_id, {lead.campaign_id for lead in leads}, now)
    return len(changes)


class Leads(TenantScope):
    async def add(self, campaign_id: str, leads: Sequence[NewLead]) -> set[str]:
        """As `insert_leads`, in a transaction of its own."""
        async with self.db.transaction() as session:
            return await insert_leads(session, self.tenant_id, campaign_id, leads, now=self.clock.now())

    async def get(self, lead_id: str) -> LeadRow | None:
        async with self.db.session() as session:
            found = await session.scalar(self._query().where(Lead.id == lead_id))
            return None if found is None else to_row(LeadRow, found)

    async def of_number(self, number: str) -> list[LeadRow]:
        """In all campaigns, newest first: who a caller may be."""
        query = self._query().where(Lead.number == number, KEPT_LEAD).order_by(Lead.id.desc())
        async with self.db.session() as session:
            return [to_row(LeadRow, lead) for lead in await session.scalars(query)]

    async def of_call(self, call_id: str) -> LeadRow | None:
        """The lead for whose sake a call was placed; None for a call that was asked for by itself, or came in."""
        query = self._query().join(Attempt, (Attempt.tenant_id == Lead.tenant_id) & (Attempt.lead_id == Lead.id))
        async with self.db.session() as session:
            found = await session.scalar(query.where(Attempt.call_id == call_id).limit(1))
            return None if found is None else to_row(LeadRow, found)

    async def delete(self, lead_id: str) -> bool:
        """Call it no more; what was done stays on record, and the number can be added anew. False: there is none.

        An attempt that waits is not placed; one that is under way goes on.
        """
        now = self.clock.now()
        gone = update(Lead).where(Lead.tenant_id == self.tenant_id, Lead.id == lead_id, Lead.state != "deleted")
        values = {"state": "deleted", "lease_owner": None, "lease_until": None, "updated_at": now}
        async with self.db.transaction() as session:
            return bool(await changed(session, gone.values(values)))

    async def reopen(
        self,
        campaign_id: str,
        *,
        lead_id: str | None = None,
        reason: str | None = None,
    ) -> int:
        """Make closed leads ready again: one, or all that were closed for `reason`; how many.

        The calling rules decide anew at the claim, so what is barred by law or by its owner is closed again.
        """
        if (lead_id is None) == (reason is None):
            raise ValueError("name one lead or one reason")
        which = Lead.id == lead_id if lead_id is not None else Lead.last_reason == reason
        async with self.db.transaction() as session:
            mine = and_(Lead.campaign_id == campaign_id, which)
            return await reopen_leads(session, self.tenant_id, mine, self.clock.now())

    async def scrubbed(self, campaign_id: str, at: datetime) -> tuple[int, int]:
        """Record that a campaign's leads were compared with the national do-not-call list; those that were closed for
        want of it are ready again, and the calling rules decide anew. How many leads, and how many are ready again.

        Leads that were added after `at` were not there to be compared. A transaction for some leads at a time.
        """
        mine = and_(
            Lead.tenant_id == self.tenant_id,
            Lead.campaign_id == campaign_id,
            Lead.created_at <= at,
            or_(Lead.scrubbed_at.is_(None), Lead.scrubbed_at < at),
            KEPT_LEAD,
        )
        leads, reopened, after = 0, 0, ""
        while True:
            async with self.db.transaction() as session:
                page = select(Lead.id).where(mine, Lead.id > after).order_by(Lead.id).limit(AT_ONCE)
                ids = (await session.scalars(page)).all()
                if not ids:
                    return leads, reopened
                these = and_(mine, Lead.id > after, Lead.id <= ids[-1])
                reopened += await reopen_leads(
                    session, self.tenant_id, and_(these, Lead.last_reason.in_(UNSCRUBBED)), self.clock.now()
                )
                dated = update(Lead).where(these).values(scrubbed_at=at)
                leads += await changed(session, dated.execution_options(synchronize_session=False))
                after = ids[-1]

    async def list(
        self,
        campaign_id: str,
        *,
        limit: int,
        after: str | None = None,
        state: LeadState | None = None,
        result: str | None = None,
        reason: str | None = None,
        tag: str | None = None,
        number: str | None = None,
    ) -> tuple[list[LeadRow], str | None]:
        """In the order in which they were added, without deleted ones unless asked for; with the next page's cursor."""
        query = self._query().where(Lead.campaign_id == campaign_id).order_by(Lead.id).limit(limit + 1)
        query = query.where(KEPT_LEAD if state is None else Lead.state == state)
        if after is not None:
            query = query.where(Lead.id > after)
        if result is not None:
            query = query.where(Lead.last_result == result)
        if reason is not None:
            query = query.where(Lead.last_reason == reason)
        if tag is not None:
            query = query.where(self._has_tag(tag))
        if number is not None:
            query = query.where(Lead.number == number)
        async with self.db.session() as session:
            rows = [to_row(LeadRow, lead) for lead in await session.scalars(query)]
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    def _has_tag(self, tag: str) -> Exists:
        elements = func.json_each if self.db.dialect == "sqlite" else func.jsonb_array_elements_text
        each = elements(Lead.tags).table_valued("value")
        return exists().select_from(each).where(each.c.value == tag)

    def _query(self) -> Select[Lead]:
        return select(Lead).where(Lead.tenant_id == self.tenant_id)
