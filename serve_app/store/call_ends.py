"""What the end of a call means for its attempts and for what was used. Each joins its transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import case, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.attempts import NEVER_ASKED
from serve_app.store.models import LIVE_ATTEMPT, Attempt, Call
from serve_app.store.usage import count_call


async def attempt_was_sent(session: AsyncSession, tenant_id: str, call_id: str) -> bool:
    """Whether an attempt went beyond `intended`. None can before the end of the transaction."""
    attempts = select(Attempt.status).where(Attempt.tenant_id == tenant_id, Attempt.call_id == call_id)
    statuses = await session.scalars(attempts.order_by(Attempt.id).with_for_update())
    return any(status not in ("intended", "ended") for status in statuses)


async def end_attempts(
    session: AsyncSession, tenant_id: str, call_id: str, outcome: str, detail: str | None, at: datetime
) -> None:
    """End what lives of the call's attempts. The outcome of a call in which the callee opted out is that."""
    live = update(Attempt).where(
        Attempt.tenant_id == tenant_id, Attempt.call_id == call_id, Attempt.status.in_(LIVE_ATTEMPT)
    )
    opted_out = select(Call.opted_out_at.is_not(None)).where(Call.tenant_id == tenant_id, Call.id == call_id)
    disposition = case((opted_out.scalar_subquery(), "opted_out"), else_=outcome)
    ended = live.values(status="ended", disposition=disposition, detail=detail, ended_at=at)
    await session.execute(ended.execution_options(synchronize_session=False))


async def count_ended(
    session: AsyncSession, tenant_id: str, call_id: str, *, at: datetime, answered: bool, talk_s: float
) -> None:
    """Count the call as used, for its campaign if it has one. One that was never asked of the network is no call."""
    asked = Attempt.placing_at.is_not(None) & Attempt.disposition.not_in(NEVER_ASKED)
    attempts = select(Attempt.campaign_id, asked).where(Attempt.tenant_id == tenant_id, Attempt.call_id == call_id)
    found = (await session.execute(attempts)).all()
    if not found or any(was_asked for _, was_asked in found):
        campaign_id = found[0].campaign_id if found else None
        await count_call(session, tenant_id, campaign_id, at=at, answered=answered, talk_s=talk_s)
