"""What tenants and campaigns have used: counted once per call, in the transaction that ends it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.campaign_models import Usage

NO_CAMPAIGN = ""


@dataclass(frozen=True, slots=True)
class Used:
    """Ended calls, those of them that were answered, and the seconds of talk."""

    calls: int = 0
    answered: int = 0
    talk_s: float = 0.0


async def count_call(
    session: AsyncSession,
    tenant_id: str,
    campaign_id: str | None,
    *,
    at: datetime,
    answered: bool,
    talk_s: float,
    calls: int = 1,
) -> None:
    """Add one ended call, in the caller's transaction, which ends it. `calls` 0: more is known of one that counts."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    values = {
        "tenant_id": tenant_id,
        "day": _day(at),
        "campaign_id": campaign_id or NO_CAMPAIGN,
        "calls": calls,
        "answered": int(answered),
        "talk_s": talk_s,
    }
    added = {
        "calls": Usage.calls + calls,
        "answered": Usage.answered + int(answered),
        "talk_s": Usage.talk_s + talk_s,
    }
    row = insert(Usage).values(values)
    await session.execute(
        row.on_conflict_do_update(index_elements=["tenant_id", "day", "campaign_id"], set_=added).execution_options(
            synchronize_session=False
        )
    )


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"
