"""What tenants and campaigns have used: counted once per call, in the transactions that end and that charge it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, case, false, func, literal, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.campaign_models import Usage
from serve_app.store.models import TERMINAL_CALL, Call

NO_CAMPAIGN = ""
_KEY = ("tenant_id", "day", "campaign_id")


@dataclass(frozen=True, slots=True)
class Used:
    """Ended calls, those of them that were answered, and the seconds of talk; what the network charged, as far as it
    told, and the seconds of talk that are paid with that."""

    calls: int = 0
    answered: int = 0
    talk_s: float = 0.0
    cost_micros: int = 0
    priced_talk_s: float = 0.0


async def count_call(
    session: AsyncSession,
    tenant_id: str,
    campaign_id: str | None,
    *,
    at: datetime,
    answered: bool,
    talk_s: float,
    calls: int = 1,
    priced: bool = False,
) -> None:
    """Add one ended call, in the caller's transaction, which ends it. `calls` 0: more is known of one that counts.

    `priced`: what it cost is counted already.
    """
    insert = _insert_of(session)
    values = {
        "tenant_id": tenant_id,
        "day": _day(at),
        "campaign_id": campaign_id or NO_CAMPAIGN,
        "calls": calls,
        "answered": int(answered),
        "talk_s": talk_s,
        "cost_micros": 0,
        "priced_talk_s": talk_s if priced else 0.0,
    }
    added = {
        "calls": Usage.calls + calls,
        "answered": Usage.answered + int(answered),
        "talk_s": Usage.talk_s + talk_s,
        "priced_talk_s": Usage.priced_talk_s + values["priced_talk_s"],
    }
    row = insert(Usage).values(values)
    await session.execute(
        row.on_conflict_do_update(index_elements=_KEY, set_=added).execution_options(synchronize_session=False)
    )


async def count_cost(
    session: AsyncSession,
    tenant_id: str,
    campaign_id: str | None,
    call_id: str,
    micros: int,
    *,
    at: datetime,
    first: bool,
) -> None:
    """Add what the network charged for a call, in the caller's transaction, which holds the call's attempt.

    On the day on which the call ended, where its talk is counted: else the talk of one day were paid with the charge of
    another, and cost a budget nothing. `at`: the day of a call that goes on.

    `first`: it had told nothing of this call before. So the call's talk is paid with it, if the call has ended; one
    that goes on notes that at its end.
    """
    over = Call.status.in_(TERMINAL_CALL) if first else false()
    talked = case((over, func.coalesce(Call.duration_s, 0.0)), else_=0.0)
    values: dict[str, Any] = {
        "tenant_id": literal(tenant_id),
        "day": func.coalesce(_day_of(session, Call.ended_at), _day(at)),
        "campaign_id": literal(campaign_id or NO_CAMPAIGN),
        **dict.fromkeys(("calls", "answered"), literal(0)),
        "talk_s": literal(0.0),
        "cost_micros": literal(micros, BigInteger()),
        "priced_talk_s": talked,
    }
    # By a statement of its own, which on PostgreSQL sees what was committed while this one waited for the attempt.
    its_own = select(*values.values()).where(Call.tenant_id == tenant_id, Call.id == call_id)
    row = _insert_of(session)(Usage).from_select(list(values), its_own)
    added = {name: getattr(Usage, name) + row.excluded[name] for name in ("cost_micros", "priced_talk_s")}
    await session.execute(
        row.on_conflict_do_update(index_elements=_KEY, set_=added).execution_options(synchronize_session=False)
    )


def _insert_of(session: AsyncSession) -> Any:
    return sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert


def _day_of(session: AsyncSession, time: Any) -> Any:
    """As `_day`, of a column."""
    if session.get_bind().dialect.name == "sqlite":
        return func.date(time)
    return func.to_char(func.timezone("UTC", time), "YYYY-MM-DD")


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"
