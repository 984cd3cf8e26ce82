"""The log of a lead: what was decided about it at each claim, and its attempts.

A lead that may be called gets an attempt in the same transaction, so the attempt is the record of that decision, and of
whatever stopped it afterwards (`rules_reason`). Only the others are rows of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, Literal, cast

from sqlalchemy import Executable, Table, bindparam, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.attempts import of_its_call
from serve_app.store.base import new_id
from serve_app.store.campaign_models import LeadDecision
from serve_app.store.campaign_rows import LeadDecisionRow, LeadRow
from serve_app.store.models import Attempt, Call
from serve_app.store.rows import AgentAttemptRow, to_row, with_agent
from serve_app.store.scope import TenantScope


def decision_values(
    lead: LeadRow, decision: Literal["defer", "deny"], reason: str, until: datetime | None, now: datetime
) -> dict[str, Any]:
    """One decision for `record_decisions`."""
    return {
        "tenant_id": lead.tenant_id,
        "lead_id": lead.id,
        "after_attempt": lead.epoch,
        "reason": reason,
        "id": new_id(),
        "campaign_id": lead.campaign_id,
        "decision": decision,
        "until": until,
        "at": now,
        "last_at": now,
        "times": 1,
    }


async def record_decisions(connection: AsyncConnection, decisions: Sequence[dict[str, Any]]) -> None:
    """In the transaction that acts on them, by one statement. What was decided before for the same reason, with no
    attempt since, is counted up."""
    await connection.execute(_record(connection.dialect.name), decisions)


@cache
def _record(dialect: str) -> Executable:
    table = cast(Table, LeadDecision.__table__)
    insert = (sqlite_insert if dialect == "sqlite" else postgresql_insert)(table)
    newest = {name: insert.excluded[name] for name in ("decision", "until", "last_at")}
    return insert.values({column.name: bindparam(column.name) for column in table.columns}).on_conflict_do_update(
        index_elements=list(table.primary_key), set_=newest | {"times": table.c.times + 1}
    )


class LeadLog(TenantScope):
    async def list(
        self, lead_id: str, *, limit: int, before: str | None = None
    ) -> tuple[list[LeadDecisionRow | AgentAttemptRow], str | None]:
        """Decisions and attempts of a lead, newest first by when each began, with the cursor for the next page.

        Ids sort by time, those of both kinds together. Also of a deleted lead.
        """
        decisions = select(LeadDecision).where(
            LeadDecision.tenant_id == self.tenant_id, LeadDecision.lead_id == lead_id
        )
        attempts = select(Attempt, of_its_call(Call.agent_name), of_its_call(Call.agent_version)).where(
            Attempt.tenant_id == self.tenant_id, Attempt.lead_id == lead_id
        )
        if before is not None:
            decisions, attempts = decisions.where(LeadDecision.id < before), attempts.where(Attempt.id < before)
        rows: list[LeadDecisionRow | AgentAttemptRow] = []
        async with self.db.session() as session:
            for decision in await session.scalars(decisions.order_by(LeadDecision.id.desc()).limit(limit + 1)):
                rows.append(to_row(LeadDecisionRow, decision))
            for found in await session.execute(attempts.order_by(Attempt.id.desc()).limit(limit + 1)):
                rows.append(with_agent(*found))
        rows.sort(key=lambda row: row.id, reverse=True)
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None
