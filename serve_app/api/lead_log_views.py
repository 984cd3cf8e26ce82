"""The log of a lead as it goes out: decisions and attempts, each with words for people."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from serve_app.api.campaign_views import JobView, job_view
from serve_app.dialing.lead_log import DecisionWord, decision_of, words_for
from serve_app.store.campaign_rows import LeadDecisionRow
from serve_app.store.rows import AgentAttemptRow


class LogEntry(BaseModel):
    """allow: it got an attempt; defer: not before `until`; deny: not at all, or what it had got was stopped."""

    id: str
    at: datetime
    decision: DecisionWord
    reason: str = Field(description="a reason code")
    explanation: str | None = Field(description="what the code means; null for one that is not known any more")
    remedy: str | None
    until: datetime | None
    times: int = Field(description="how often it was decided so, for this reason, without an attempt in between")
    last_at: datetime
    attempt: JobView | None = Field(description="with `allow`, and with a `deny` that stopped one")


class LeadLogPage(BaseModel):
    items: list[LogEntry]
    next_cursor: str | None = Field(description="pass as `cursor` to get the next page; null on the last one")


def log_entry(row: LeadDecisionRow | AgentAttemptRow) -> LogEntry:
    decision, reason = decision_of(row)
    words = words_for(reason)
    told: dict[str, Any] = {
        "id": row.id,
        "decision": decision,
        "reason": reason,
        "explanation": None if words is None else words.explanation,
        "remedy": None if words is None else words.remedy,
    }
    if isinstance(row, LeadDecisionRow):
        return LogEntry(**told, at=row.at, until=row.until, times=row.times, last_at=row.last_at, attempt=None)
    return LogEntry(**told, at=row.created_at, until=None, times=1, last_at=row.created_at, attempt=job_view(row))
