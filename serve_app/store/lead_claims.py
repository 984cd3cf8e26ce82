"""Claiming leads: in one transaction each lead is decided on, and gets its call and attempt, or the reason why not.

Nothing that the decision rests on can change between the decision and the attempt: on SQLite the transaction is the
only writer; on PostgreSQL the leads and the campaign are locked, no other claim of the tenant runs (its limits hold for
all of its campaigns together), two calls to one number are refused by the index `one_live`, and what is switched off or
listed a moment later is caught at the attempt's fence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Literal, cast

from sqlalchemy import Integer, Table, Text, bindparam, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from serve_app.store.base import new_id
from serve_app.store.calls import is_live_call_conflict
from serve_app.store.campaign_models import READY_LEAD, Campaign, Lead, OwnNumber, Tenant
from serve_app.store.campaign_rows import CampaignRow, LeadRow, TenantRow
from serve_app.store.claim_facts import CampaignFacts, NumberFacts, campaign_facts, number_facts
from serve_app.store.lead_log import decision_values, record_decisions
from serve_app.store.models import Attempt, Call
from serve_app.store.scope import TenantScope

# A number that is being called, perhaps for another campaign, is looked at again when that call may be over.
BUSY_AGAIN = timedelta(minutes=2)
BEING_CALLED = "number_is_being_called"
NOT_RUNNING = "campaign_not_running"
# A crossing of two dialers is rare; one that goes on means a fault, and the next round claims again anyway.
TRIES = 3


@dataclass(frozen=True, slots=True)
class PlaceCall:
    """The lead is called from `from_number`, at the latest at `give_up_at`."""

    from_number: str
    agent_version: int
    give_up_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class PutOff:
    """Not before `until`."""

    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class CloseLead:
    """Not at all."""

    state: Literal["barred", "exhausted"]
    reason: str


@dataclass(frozen=True, slots=True)
class Halt:
    """Nothing about this lead: no call of the campaign, the tenant or the platform now. It stays as it is."""

    reason: str


Choice = PlaceCall | PutOff | CloseLead | Halt
Decide = Callable[[LeadRow, CampaignFacts, NumberFacts], Choice]
"""Pure; asked once per lead in the order of the queue, until it halts."""


@dataclass(frozen=True, slots=True)
class ClaimedLead:
    """A lead that got an attempt."""

    lead: LeadRow
    call_id: str
    attempt_id: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """What became of a batch. `looked_at` below the limit: no more leads are ready."""

    leads: Sequence[ClaimedLead] = ()
    looked_at: int = 0
    put_off: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    halted: str | None = None


class LeadClaims(TenantScope):
    async def claim(
        self, campaign_id: str, decide: Decide, *, owner: str, limit: int, lease_s: float, now: datetime
    ) -> Claimed:
        """Decide on at most `limit` ready leads of a running campaign, first come first served by `queue_at`.

        `owner` and `lease_s` are those of the leads; the attempts are then claimed one by one, as all are. A lead whose
        lease runs out is looked after by the upkeep. Raises UnavailableError.
        """
        for last in (False,) * (TRIES - 1) + (True,):
            try:
                async with self.db.transaction() as session:
                    return await self._claim(session, campaign_id, decide, owner, limit, lease_s, now)
            except IntegrityError as error:
                if last or not is_live_call_conflict(error):
                    raise
        raise AssertionError("the last try returns or raises")

    async def _claim(
        self,
        session: AsyncSession,
        campaign_id: str,
        decide: Decide,
        owner: str,
        limit: int,
        lease_s: float,
        now: datetime,
    ) -> Claimed:
        connection = await session.connection()
        await _wait_for_other_claims(connection, self.tenant_id)
        mine = {"tenant_id": self.tenant_id, "campaign_id": campaign_id}
        found = (await connection.execute(_OWN, mine)).one_or_none()
        if found is None or found.status != "running":
            return Claimed(halted=NOT_RUNNING)
        leads = [LeadRow(*row) for row in await connection.execute(_READY, {**mine, "most": limit})]
        if not leads:
            return Claimed()
        campaign = CampaignRow(*found[: len(_CAMPAIGN)])
        tenant = TenantRow(*found[len(_CAMPAIGN) : -1]) if found[len(_CAMPAIGN)] is not None else None
        facts = await campaign_facts(connection, campaign, tenant, now, has_numbers=found.has_numbers)
        known = await number_facts(connection, self.tenant_id, [lead.number for lead in leads])
        batch = _Batch(facts.campaign, owner, now, now + timedelta(seconds=lease_s))
        halted = None
        for lead in leads:
            choice: Choice = PutOff(now + BUSY_AGAIN, BEING_CALLED)
            if not known[lead.number].busy:
                choice = decide(lead, facts, known[lead.number])
            if isinstance(choice, Halt):
                halted = choice.reason
                break
            batch.add(lead, choice)
        await batch.write(connection)
        return Claimed(batch.claimed, len(leads), batch.put_off, batch.closed, halted)


async def _wait_for_other_claims(connection: AsyncConnection, tenant_id: str) -> None:
    """Until the end of this transaction no other one claims for the tenant: what it places counts for the next.

    SQLite has one writer at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(_LOCK, {"name": f"claims:{tenant_id}"})


class _Batch:
    """The choices of one claim, and what they change: written in a handful of statements, however many leads."""

    def __init__(self, campaign: CampaignRow, owner: str, now: datetime, lease_until: datetime) -> None:
        self.claimed: list[ClaimedLead] = []
        self.put_off: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self._campaign = campaign
        self._now = now
        self._lease = {"lease_owner": owner, "lease_until": lease_until}
        self._leads: list[dict[str, Any]] = []
        self._calls: list[dict[str, Any]] = []
        self._attempts: list[dict[str, Any]] = []
        self._decisions: list[dict[str, Any]] = []

    def add(self, lead: LeadRow, choice: PlaceCall | PutOff | CloseLead) -> None:
        if isinstance(choice, PlaceCall):
            epoch = lead.epoch + 1
            self._change(lead, choice.reason, state="leased", epoch=epoch, **self._lease)
            self._place(lead, epoch, choice)
        elif isinstance(choice, PutOff):
            # What the lead is worth stays the same distance from the time at which it is due.
            place = choice.until - (lead.next_at - lead.queue_at)
            self._change(lead, choice.reason, state="deferred", next_at=choice.until, queue_at=place)
            self._decisions.append(decision_values(lead, "defer", choice.reason, choice.until, self._now))
            self.put_off[choice.reason] += 1
        else:
            self._change(lead, choice.reason, state=choice.state)
            self._decisions.append(decision_values(lead, "deny", choice.reason, None, self._now))
            self.closed[choice.reason] += 1

    async def write(self, connection: AsyncConnection) -> None:
        if self._leads:
            await connection.execute(_CHANGE, self._leads)
        if self._decisions:
            await record_decisions(connection, self._decisions)
        if self._calls:
            # Two dialers that insert numbers in one order cannot wait for each other in a circle.
            self._attempts.sort(key=itemgetter("to_number"))
            await connection.execute(_INSERT_CALLS, self._calls)
            await connection.execute(_INSERT_ATTEMPTS, self._attempts)

    def _change(self, lead: LeadRow, reason: str, **values: Any) -> None:
        # All of one shape, so that they are one statement.
        new = {name: getattr(lead, name) for name in _CHANGED} | values
        new |= {"last_reason": reason, "updated_at": self._now}
        self._leads.append({"lead_id": lead.id, **{f"new_{name}": value for name, value in new.items()}})

    def _place(self, lead: LeadRow, epoch: int, choice: PlaceCall) -> None:
        call_id, attempt_id = new_id(), new_id()
        common = {
            "tenant_id": lead.tenant_id,
            "from_number": choice.from_number,
            "to_number": lead.number,
            "give_up_at": choice.give_up_at,
            "created_at": self._now,
        }
        self._calls.append(
            {
                "id": call_id,
                "direction": "outbound",
                "status": "queued",
                "agent_name": self._campaign.agent_name,
                "agent_version": choice.agent_version,
                "metadata": {},
                "updated_at": self._now,
                **common,
            }
        )
        self._attempts.append(
            {
                "id": attempt_id,
                "call_id": call_id,
                "status": "intended",
                "epoch": 0,
                "next_at": self._now,
                "lead_id": lead.id,
                "campaign_id": self._campaign.id,
                "number_in_lead": epoch,
                "rules_reason": choice.reason,
                **common,
            }
        )
        self.claimed.append(ClaimedLead(lead, call_id, attempt_id))


_CHANGED = ("state", "epoch", "next_at", "queue_at", "lease_owner", "lease_until")

# Statements of tables and not of entities, put together once: a claim is done again and again, and the mapper's part
# of it was most of its cost.
_CAMPAIGN = [getattr(Campaign, column.name) for column in fields(CampaignRow)]
_TENANT = [getattr(Tenant, column.name) for column in fields(TenantRow)]
_OWN = (
    select(*_CAMPAIGN, *_TENANT, exists().where(OwnNumber.tenant_id == Campaign.tenant_id).label("has_numbers"))
    .outerjoin(Tenant, Tenant.tenant_id == Campaign.tenant_id)
    .where(Campaign.tenant_id == bindparam("tenant_id"), Campaign.id == bindparam("campaign_id"))
    # Not a stronger lock: an import must not wait that adds leads to the campaign.
    .with_for_update(key_share=True, of=Campaign)
)
_LOCK = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("name", type_=Text()), 0)))
_READY = (
    select(*(getattr(Lead, column.name) for column in fields(LeadRow)))
    .where(READY_LEAD, Lead.tenant_id == bindparam("tenant_id"), Lead.campaign_id == bindparam("campaign_id"))
    .order_by(Lead.queue_at, Lead.id)
    .limit(bindparam("most", type_=Integer()))
    .with_for_update(skip_locked=True)
)
_LEADS, _CALLS, _ATTEMPTS = (cast(Table, model.__table__) for model in (Lead, Call, Attempt))
_CHANGE = (
    update(_LEADS)
    .where(_LEADS.c.id == bindparam("lead_id"))
    .values({name: bindparam(f"new_{name}") for name in (*_CHANGED, "last_reason", "updated_at")})
)
_INSERT_CALLS, _INSERT_ATTEMPTS = insert(_CALLS), insert(_ATTEMPTS)
