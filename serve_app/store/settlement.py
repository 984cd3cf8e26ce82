"""What an ended attempt means for its lead, written in the transaction that ends it.

The store holds no policy: `Verdict`, a pure function, says what becomes of the lead. An attempt that ended without one
(its process had none at hand, or died) is settled by the upkeep of leads. Settling again what became clearer later
gives the same state as settling it once, in whatever order the news came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.campaign_models import CLOSED_LEAD, Campaign, Lead
from serve_app.store.campaign_rows import LeadRow
from serve_app.store.campaign_upkeep import run_again
from serve_app.store.do_not_call import list_number
from serve_app.store.models import Attempt, Call
from serve_app.store.queue_order import queue_at
from serve_app.store.rows import AttemptRow, to_row
from serve_app.store.scope import changed

# From these an attempt may still move its lead on, if the lead has not been leased anew.
_OPEN = ("leased", "ready", "deferred", "done", "exhausted")


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """What the verdict is given."""

    attempt: AttemptRow
    lead: LeadRow
    retry_policy: Mapping[str, Any]
    answered: bool
    duration_s: float | None
    counts: Mapping[str, int]
    """How often each result came of the lead's other attempts."""
    campaign_started_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LeadStep:
    """What becomes of the lead."""

    result: str
    """The attempt's disposition."""
    state: Literal["deferred", "done", "exhausted", "barred"]
    reason: str
    attempts: int
    """Those that count, this one included if it does."""
    next_at: datetime | None = None
    """With `deferred`."""
    callback: bool = False
    whole_number: bool = False
    """With `barred`: the number goes on the do-not-call list, and all its leads of the tenant are closed."""
    other_number: bool = False
    """Not from the same number of ours again."""


Verdict = Callable[[EndedAttempt], LeadStep]


async def settle(
    session: AsyncSession,
    tenant_id: str,
    verdict: Verdict,
    which: ColumnElement[bool],
    now: datetime,
    *,
    skip_locked: bool = False,
) -> int:
    """Settle the ended attempts of a tenant for which `which` holds; how many. In the caller's transaction."""
    query = (
        select(Attempt, Lead, Campaign.retry_policy, Campaign.started_at, Call.answered_at, Call.duration_s)
        # Outer joins, for their order: SQLite would rather begin with all leads of the tenant.
        .outerjoin(Lead, (Lead.tenant_id == Attempt.tenant_id) & (Lead.id == Attempt.lead_id))
        .outerjoin(Campaign, (Campaign.tenant_id == Lead.tenant_id) & (Campaign.id == Lead.campaign_id))
        .outerjoin(Call, (Call.tenant_id == Attempt.tenant_id) & (Call.id == Attempt.call_id))
        .where(Attempt.tenant_id == tenant_id, which, Attempt.lead_id.is_not(None), Attempt.settled_at.is_(None))
        # Spelt so that no index by the status is used: a tenant has very many that have ended, `which` names a few.
        .where(Attempt.status.concat("") == "ended")
        .order_by(Attempt.id)
        # Leads are locked last, and after their number: whoever lists a number does so too.
        .with_for_update(of=Attempt, skip_locked=skip_locked)
        .execution_options(populate_existing=True)
    )
    found = [row for row in await session.execute(query) if row[1] is not None]
    if not found:
        return 0
    counts = await _counts(session, tenant_id, {attempt.lead_id for attempt, *_ in found if attempt.lead_id})
    for attempt, lead, policy, campaign_started_at, answered_at, duration_s in found:
        ended = EndedAttempt(
            to_row(AttemptRow, attempt),
            to_row(LeadRow, lead),
            policy,
            answered_at is not None,
            duration_s,
            counts[lead.id],
            campaign_started_at,
        )
        step = verdict(ended)
        counts[lead.id][step.result] += 1
        await _apply(session, ended, step, now)
    return len(found)


async def _counts(session: AsyncSession, tenant_id: str, lead_ids: set[str]) -> dict[str, dict[str, int]]:
    settled = (
        select(Attempt.lead_id, Attempt.result, func.count())
        .where(Attempt.tenant_id == tenant_id, Attempt.lead_id.in_(lead_ids), Attempt.settled_at.is_not(None))
        .group_by(Attempt.lead_id, Attempt.result)
    )
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for lead_id, result, times in await session.execute(settled):
        if lead_id is not None and result is not None:
            counts[lead_id][result] += times
    return counts


async def _apply(session: AsyncSession, ended: EndedAttempt, step: LeadStep, now: datetime) -> None:
    attempt, lead = ended.attempt, ended.lead
    tenant_id = lead.tenant_id
    record = update(Attempt).where(Attempt.tenant_id == tenant_id, Attempt.id == attempt.id)
    await session.execute(_quiet(record.values(result=step.result, settled_at=now)))
    if step.whole_number:
        text = f"an attempt to call it came to {step.result}"
        await list_number(session, tenant_id, lead.number, "result", text, attempt.call_id, now, reason=step.reason)
    mine = update(Lead).where(Lead.tenant_id == tenant_id, Lead.id == lead.id)
    # A lead that was leased anew, closed or deleted meanwhile keeps its state.
    in_hand = mine.where(Lead.epoch == attempt.number_in_lead, Lead.state.in_(_OPEN))
    moved = await changed(session, _quiet(in_hand.values(_move(lead, step))))
    if moved and step.state == "deferred" and lead.state in CLOSED_LEAD:
        # Settled anew, and there is something left to do after all.
        await run_again(session, tenant_id, [lead.campaign_id], now)
    values: dict[str, Any] = {"attempts": step.attempts, "last_result": step.result, "updated_at": now}
    # Settled anew, the attempt is counted already.
    if step.attempts > lead.attempts or (attempt.placing_at is not None and attempt.placing_at == lead.last_called_at):
        values["last_called_at"] = attempt.placing_at
        values["caller_id"] = None if step.other_number else attempt.from_number
    await session.execute(_quiet(mine.where(Lead.epoch == attempt.number_in_lead).values(values)))


def _move(lead: LeadRow, step: LeadStep) -> dict[str, Any]:
    values: dict[str, Any] = {
        "state": step.state,
        "last_reason": step.reason,
        "lease_owner": None,
        "lease_until": None,
    }
    if step.next_at is not None:
        values["next_at"] = step.next_at
        values["queue_at"] = queue_at(
            step.next_at,
            priority=lead.priority,
            high_value=lead.high_value,
            tags=lead.tags,
            fresh=step.attempts == 0,
            callback=step.callback,
        )
    return values


def _quiet(statement: Any) -> Any:
    return statement.execution_options(synchronize_session=False)
