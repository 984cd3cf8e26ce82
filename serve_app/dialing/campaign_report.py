"""The figures of a campaign as people read them. Pure."""

from __future__ import annotations

from pydantic import BaseModel, Field

from serve_app.dialing.dispositions import HUMAN, Disposition
from serve_app.store.campaigns import CampaignStats


class CampaignReport(BaseModel):
    """Counts of one moment, and the ratios that are made of them; null where there is nothing to divide by."""

    leads: dict[str, int] = Field(description="by state; deleted ones are not in `total_leads`")
    total_leads: int
    attempted_leads: int = Field(description="leads that were called at least once")
    live_calls: int = Field(description="calls that wait, ring or talk")
    results: dict[str, int] = Field(description="ended attempts by disposition; `not_placed` are no calls")
    attempts: int = Field(description="ended attempts that count")
    contacts: int = Field(description="attempts that a person answered")
    successes: int
    talk_s: float = Field(description="seconds of talk of its ended calls")
    penetration: float | None = Field(description="attempted leads / total leads")
    contact_rate: float | None = Field(description="contacts / attempts")
    attempts_per_contact: float | None
    exhausted_share: float | None = Field(description="leads whose attempts are used up / total leads")


def report_of(stats: CampaignStats) -> CampaignReport:
    total = sum(count for state, count in stats.leads.items() if state != "deleted")
    attempts = sum(count for result, count in stats.results.items() if result != Disposition.NOT_PLACED)
    contacts = sum(count for result, count in stats.results.items() if result in HUMAN)
    return CampaignReport(
        leads=dict(stats.leads),
        total_leads=total,
        attempted_leads=stats.attempted,
        live_calls=stats.live,
        results=dict(stats.results),
        attempts=attempts,
        contacts=contacts,
        successes=stats.results.get(Disposition.SUCCESS, 0),
        talk_s=stats.talk_s,
        penetration=_ratio(stats.attempted, total),
        contact_rate=_ratio(contacts, attempts),
        attempts_per_contact=_ratio(attempts, contacts),
        exhausted_share=_ratio(stats.leads.get("exhausted", 0), total),
    )


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
