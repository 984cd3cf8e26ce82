"""`parley leads log`: what was decided about a lead and why, and what came of its attempts."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from serve_app.cli.common import clear_errors, err, out, print_table, with_database
from serve_app.dialing.lead_log import decision_of, words_for
from serve_app.errors import ParleyError
from serve_app.store.campaign_rows import LeadDecisionRow, LeadRow
from serve_app.store.db import Database
from serve_app.store.lead_log import LeadLog
from serve_app.store.leads import Leads
from serve_app.store.rows import AgentAttemptRow

MOST = 500

Row = LeadDecisionRow | AgentAttemptRow


def show_log(
    lead_id: Annotated[UUID, typer.Argument(help="The lead's id, as `parley leads list` tells it.")],
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many entries, the newest first.")] = 50,
) -> None:
    """Why a lead was called, put off or closed, and what came of its calls; also of a deleted one."""
    with clear_errors():

        async def read(db: Database, tenant: str) -> tuple[LeadRow | None, list[Row], str | None]:
            lead = await Leads(db, tenant).get(str(lead_id))
            return (lead, *await LeadLog(db, tenant).list(str(lead_id), limit=limit))

        lead, rows, more = asyncio.run(with_database(read))
        if lead is None:
            raise ParleyError(f"there is no lead {lead_id}; see `parley leads list`")
        out.print(f"{lead.number}: {lead.state}, {lead.last_reason or 'new'}", markup=False)
        table = Table(box=None, pad_edge=False)
        for title in ("at", "decision", "reason", "until", "times", "attempt", "result", "agent"):
            table.add_column(title, no_wrap=True)
        for row in rows:
            table.add_row(*_cells(row))
        print_table(table)
        for reason in sorted({decision_of(row)[1] for row in rows}):
            if words := words_for(reason):
                remedy = f"; {words.remedy}" if words.remedy else ""
                out.print(Text(f"{reason}: {words.explanation}{remedy}"), soft_wrap=True)
        if more is not None:
            err.print(f"there are more than {limit}; see --limit")


def _cells(row: Row) -> tuple[str, ...]:
    decision, reason = decision_of(row)
    if isinstance(row, LeadDecisionRow):
        return (_at(row.at), decision, reason, _at(row.until), str(row.times), "", "", "")
    attempt, result = str(row.number_in_lead or ""), row.result or row.disposition or row.status
    return (_at(row.created_at), decision, reason, "", "1", attempt, result, f"{row.agent_name} {row.agent_version}")


def _at(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
