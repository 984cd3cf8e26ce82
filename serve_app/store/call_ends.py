"""The end of a call, and what it means for its attempts, its lead and what was used. Each joins its transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import case, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.attempts import NEVER_ASKED
from serve_app.store.jobs import insert_job
from serve_app.store.models import LIVE_ATTEMPT, TERMINAL_CALL, Attempt, Call
from serve_app.store.records import insert_transcript
from serve_app.store.scope import earliest
from serve_app.store.settlement import Verdict, settle
from serve_app.store.usage import count_call

MIX_RECORDING = "mix_recording"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnd:
    """How a call ended. `started_at`, `sample_rate_hz`, `answered_at` None: what the call already has stays."""

    status: Literal["completed", "failed"]
    outcome: str
    detail: str | None
    ended_at: datetime
    started_at: datetime | None = None
    duration_s: float | None = None
    sample_rate_hz: int | None = None
    answered_at: datetime | None = None


async def end_call(
    session: AsyncSession, tenant_id: str, call_id: str, end: CallEnd, *, verdict: Verdict | None, now: datetime
) -> bool:
    """End the call once; False, and the caller's transaction is rolled back, where it had ended before.

    As `Calls.finish` tells.
    """
    opted_out = Call.opted_out_at.is_not(None)
    ended: dict[str, Any] = {
        "status": case((opted_out, "completed"), else_=end.status),
        "outcome": case((opted_out, "opted_out"), else_=end.outcome),
        "detail": end.detail,
        "ended_at": end.ended_at,
        "duration_s": end.duration_s,
        "updated_at": now,
    }
    if end.started_at is not None:
        ended["started_at"] = end.started_at
    if end.sample_rate_hz is not None:
        ended["sample_rate_hz"] = end.sample_rate_hz
    if end.answered_at is not None:
        ended["answered_at"] = earliest(Call.answered_at, end.answered_at)
    over = update(Call).where(Call.tenant_id == tenant_id, Call.id == call_id, Call.status.not_in(TERMINAL_CALL))
    end_of_call = over.values(ended).returning(Call.started_at, Call.answered_at)
    # Attempt before call, the order in which the dialer locks them too: PostgreSQL would see a deadlock otherwise.
    await end_attempts(session, tenant_id, call_id, end.outcome, end.detail, end.ended_at)
    first = (await session.execute(end_of_call.execution_options(synchronize_session=False))).first()
    if first is None:
        await session.rollback()
        return False
    await insert_transcript(session, tenant_id, call_id, now)
    if first.started_at is not None:
        key = f"{MIX_RECORDING}:{call_id}"
        await insert_job(session, tenant_id, MIX_RECORDING, {"call_id": call_id}, key=key, now=now)
    answered, talk_s = first.answered_at is not None, end.duration_s or 0.0
    await count_ended(session, tenant_id, call_id, at=end.ended_at, answered=answered, talk_s=talk_s)
    if verdict is not None:
        await settle(session, tenant_id, verdict, Attempt.call_id == call_id, now)
    return True


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
    attempts = select(Attempt.campaign_id, asked, Attempt.cost_micros.is_not(None)).where(
        Attempt.tenant_id == tenant_id, Attempt.call_id == call_id
    )
    found = (await session.execute(attempts)).all()
    if not found or any(was_asked for _, was_asked, _ in found):
        campaign_id = found[0].campaign_id if found else None
        priced = any(known for _, _, known in found)
        await count_call(session, tenant_id, campaign_id, at=at, answered=answered, talk_s=talk_s, priced=priced)


async def count_answered(session: AsyncSession, tenant_id: str, call_id: str, *, at: datetime) -> None:
    """A call that was counted as not answered, on the day of `at`, was answered after all."""
    attempts = select(Attempt.campaign_id).where(Attempt.tenant_id == tenant_id, Attempt.call_id == call_id)
    campaign_id = (await session.scalars(attempts)).first()
    await count_call(session, tenant_id, campaign_id, at=at, calls=0, answered=True, talk_s=0.0)
