"""The figures of a campaign as people read them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, Field

from serve_app.dialing.dispositions import HUMAN, Disposition
from serve_app.dialing.pacing import USUAL_ANSWER_RATE, USUAL_TALK_S, Outlook, pass_s
from serve_app.dialing.plans import Plans
from serve_app.settings import VonageSettings
from serve_app.store.campaign_rows import CampaignRow, TenantRow
from serve_app.store.campaigns import CampaignStats
from serve_app.store.rows import Cost

ANSWERED = HUMAN | {Disposition.MACHINE, Disposition.MESSAGE_LEFT}


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
    cost: dict[str, str] = Field(
        description="by currency, what the network charged for its calls, as far as it told; without speech and models"
    )
    penetration: float | None = Field(description="attempted leads / total leads")
    contact_rate: float | None = Field(description="contacts / attempts")
    attempts_per_contact: float | None
    exhausted_share: float | None = Field(description="leads whose attempts are used up / total leads")
    pass_hours: float | None = Field(
        None, description="hours of dialing until each open lead was called once, if nothing else is called"
    )


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a campaign may use while nothing else is called."""

    calls_per_second: float
    calls_at_once: int


def capacity_of(
    campaign: CampaignRow, tenant: TenantRow | None, plans: Plans, network: VonageSettings, sessions: int
) -> Capacity:
    """The least of what sessions, lines, plan, tenant and campaign allow. `sessions`: all that the platform has."""
    plan = plans.of(None if tenant is None else tenant.plan)
    limits = [network.channels, campaign.max_concurrent, None if tenant is None else tenant.max_concurrent]
    limits.append(0 if plan is None else plan.concurrent_calls)
    at_once = min([sessions, *(limit for limit in limits if limit is not None)])
    return Capacity(network.calls_per_second, at_once)


def report_of(stats: CampaignStats, capacity: Capacity | None = None) -> CampaignReport:
    """`capacity` None: it is not known, so there is no `pass_hours`."""
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
        cost={currency: Cost(micros, currency).amount for currency, micros in stats.cost_micros.items()},
        penetration=_ratio(stats.attempted, total),
        contact_rate=_ratio(contacts, attempts),
        attempts_per_contact=_ratio(attempts, contacts),
        exhausted_share=_ratio(stats.leads.get("exhausted", 0), total),
        pass_hours=None if capacity is None else _pass_hours(stats, capacity, attempts),
    )


def _pass_hours(stats: CampaignStats, capacity: Capacity, attempts: int) -> float | None:
    answered = sum(count for result, count in stats.results.items() if result in ANSWERED)
    seconds = pass_s(
        Outlook(
            leads=stats.leads.get("ready", 0) + stats.leads.get("deferred", 0),
            calls_per_second=capacity.calls_per_second,
            sessions=capacity.calls_at_once,
            answer_rate=answered / attempts if attempts else USUAL_ANSWER_RATE,
            talk_s=stats.talk_s / answered if answered else USUAL_TALK_S,
        )
    )
    return None if seconds is None else round(seconds / 3600, 2)


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
