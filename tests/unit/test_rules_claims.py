"""The rules in the claim: what SQL knows of a lead, its campaign and its tenant becomes a call, a delay or an end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from serve_app.dialing.lead_choice import NO_AGENT, RULES_INVALID, CallerNumber, LeadChooser, Terms
from serve_app.dialing.rules import EVERYBODY, shipped
from serve_app.store.agents import Agents
from serve_app.store.attempts import Attempts
from serve_app.store.campaign_rows import CampaignRow
from serve_app.store.campaigns import Campaigns
from serve_app.store.consents import Consents
from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall
from serve_app.store.kill_switches import KillSwitches
from serve_app.store.lead_claims import Claimed, ClaimedLead
from serve_app.store.leads import Leads, NewLead
from serve_app.store.registries import Registries
from tests.unit.api_support import StoppedClock
from tests.unit.campaign_support import OWN, START, TENANT, claim, end, lead_of, number

pytest_plugins = ("tests.unit.store_fixtures",)

SERVICE: Mapping[str, Any] = {
    "countries": ["US"],
    "purpose": "informational",
    "consent": {"required": "none", "reason": "customers who asked to be called back"},
}
TERMS = Terms(
    now=START,  # a Monday, ten in the morning in New Jersey
    law=shipped(),
    ringing_s=30,
    simulated_network=True,
    queue_timeout_s=60,
    pick=lambda lead: CallerNumber(OWN),
    plan_minutes=None,
    reserve_minutes=2,
    spent_minor=0,
    tenant_spent_minor=0,
    reserve_minor=50,
)


async def running(
    db: Database, *leads: str | NewLead, rules: Mapping[str, Any] = SERVICE, name: str = "service", **values: Any
) -> CampaignRow:
    await Agents(db, TENANT).apply("front-desk", {"a": 1})
    campaigns = Campaigns(db, TENANT)
    row = await campaigns.create(name, "front-desk", calling_rules=rules, **values)
    await Leads(db, TENANT).add(row.id, [lead if isinstance(lead, NewLead) else NewLead(lead) for lead in leads])
    started = await campaigns.start(row.id)
    assert started is not None
    return started[0]


async def chosen(db: Database, row: CampaignRow, terms: Terms = TERMS, **claiming: Any) -> Claimed:
    return await claim(db, row, LeadChooser(terms), now=terms.now, **claiming)


async def test_a_lead_is_called_within_its_window(db: Database) -> None:
    row = await running(db, number(1))
    (held,) = (await chosen(db, row)).leads
    attempt = await Attempts(db, TENANT).get(held.attempt_id)
    assert attempt is not None
    assert (attempt.from_number, attempt.rules_reason) == (OWN, "allowed")
    assert attempt.give_up_at == START + timedelta(seconds=60)


async def test_no_call_waits_beyond_the_end_of_its_window(db: Database) -> None:
    row = await running(db, number(1))
    seven_pm = START + timedelta(hours=9)
    (held,) = (await chosen(db, row, replace(TERMS, now=seven_pm - timedelta(seconds=50)))).leads
    attempt = await Attempts(db, TENANT).get(held.attempt_id)
    assert attempt is not None and attempt.give_up_at == seven_pm - timedelta(seconds=30)


async def test_a_lead_outside_its_window_is_deferred_to_it(db: Database) -> None:
    row = await running(db, NewLead(number(1)), NewLead("+13105551234"), NewLead(number(2), zones=["America/Denver"]))
    claimed = await chosen(db, row)
    assert [held.lead.number for held in claimed.leads] == [number(1)]
    assert claimed.put_off == {"outside_window": 2}
    los_angeles = await lead_of(db, row, "+13105551234")
    assert (los_angeles.state, los_angeles.last_reason) == ("deferred", "outside_window")
    assert los_angeles.next_at == START + timedelta(hours=2)
    # A zone that contradicts the number is one more to keep to.
    assert (await lead_of(db, row, number(2))).next_at == START + timedelta(hours=1)


async def test_what_bars_a_number_closes_its_lead_with_the_reason(db: Database) -> None:
    marketing = {"countries": ["US"]}
    scrubbed = START - timedelta(days=3)
    leads = [NewLead(number(n), scrubbed_at=scrubbed) for n in range(1, 8)]
    row = await running(db, *leads, NewLead("+442071234567", scrubbed_at=scrubbed), rules=marketing)
    consents, given = Consents(db, TENANT, clock=StoppedClock(START)), START - timedelta(days=9)
    for n in (1, 2, 3, 4, 5):
        await consents.record(number(n), "written", scope=EVERYBODY, source="web form", given_at=given)
    await consents.record(number(6), "express", scope=EVERYBODY, source="on the phone", given_at=given)
    await DoNotCall(db, TENANT).add(number(2), "asked by letter")
    await Registries(db, TENANT).replace("national", [number(3)])
    await KillSwitches(db, TENANT).on("number", number(4), reason="complaint", by="test")
    await consents.revoke(number(5), at=START - timedelta(days=1))
    claimed = await chosen(db, row)
    assert [held.lead.number for held in claimed.leads] == [number(1)]
    told = {}
    for lead in [*leads[1:], NewLead("+442071234567")]:
        found = await lead_of(db, row, lead.number)
        assert found.state == "barred"
        told[lead.number] = found.last_reason
    assert told == {
        number(2): "on_do_not_call_list",
        number(3): "on_global_do_not_call_list",
        number(4): "kill_switch_number",
        number(5): "consent_revoked",
        number(6): "consent_insufficient",
        number(7): "no_consent",
        "+442071234567": "country_not_allowed",
    }


async def test_a_batch_keeps_to_the_budgets_and_leaves_the_other_leads_as_they_are(db: Database) -> None:
    async def halted(terms: Terms = TERMS, **values: Any) -> tuple[int, str | None]:
        name = f"campaign {len(seen)}"
        row = await running(db, *(number(10 * len(seen) + n) for n in range(5)), name=name, **values)
        claimed = await chosen(db, row, terms)
        seen.append(name)
        kept = await Leads(db, TENANT).list(row.id, limit=10, state="ready")
        assert len(kept[0]) == 5 - len(claimed.leads)
        return len(claimed.leads), claimed.halted

    seen: list[str] = []
    assert await halted() == (5, None)
    assert await halted(daily_calls=2) == (2, "daily_calls_exhausted")
    # 170 pay for three calls of at most 50; what was spent is gone.
    assert await halted(spend_cap_minor=170) == (3, "spend_exhausted")
    assert await halted(replace(TERMS, spent_minor=100), spend_cap_minor=170) == (1, "spend_exhausted")
    # The eleven live calls above hold 22 minutes of the plan.
    assert await halted(replace(TERMS, plan_minutes=25)) == (2, "plan_minutes_exhausted")
    assert await halted(replace(TERMS, pick=lambda lead: CallerNumber(None))) == (0, "no_caller_number")


async def test_a_number_of_ours_that_rests_defers_the_lead(db: Database) -> None:
    row = await running(db, number(1))
    tomorrow = START + timedelta(hours=20)
    claimed = await chosen(db, row, replace(TERMS, pick=lambda lead: CallerNumber(None, tomorrow)))
    assert claimed.put_off == {"no_caller_number": 1}
    assert (await lead_of(db, row, number(1))).next_at == START + timedelta(hours=23)  # nine in the morning


async def test_what_stops_a_campaign_says_nothing_about_its_leads(db: Database) -> None:
    row = await running(db, number(1))
    await KillSwitches(db, TENANT).on("campaign", row.id, reason="wrong text", by="test")
    assert (await chosen(db, row)).halted == "kill_switch_campaign"
    await KillSwitches(db, TENANT).off("campaign", row.id, by="test")
    missing = await running(db, number(2), name="no agent", agent_version=7)
    assert (await chosen(db, missing)).halted == NO_AGENT
    unreadable = await running(db, number(3), name="old rules", rules={"timezone": "America/New_York"})
    assert (await chosen(db, unreadable)).halted == RULES_INVALID
    for campaign, to in ((row, number(1)), (missing, number(2)), (unreadable, number(3))):
        assert (await lead_of(db, campaign, to)).state == "ready"


async def no_answer(db: Database, held: ClaimedLead, at: datetime) -> None:
    """The call is placed and nobody answers."""
    attempts = Attempts(db, TENANT, clock=StoppedClock(at))
    (mine,) = await attempts.claim_intended("dialer-1", limit=10, lease_s=0, now=at)
    assert mine.id == held.attempt_id
    assert await attempts.fence_placing(mine.id, mine.epoch)
    assert await end(db, held.call_id, "no_answer", at=at + timedelta(minutes=1))


async def test_caps_count_the_calls_of_all_campaigns(db: Database) -> None:
    """Twice in 24 hours, by two campaigns: then not by a third one either, until the first call is a day old."""
    rules = SERVICE | {"hours": {"mon-sun": ["00:00-24:00"]}}
    rows = [await running(db, number(1), name=name, rules=rules) for name in ("first", "second", "third")]
    for row, hours in zip(rows, (0, 3), strict=False):
        at = START + timedelta(hours=hours)
        (held,) = (await chosen(db, row, replace(TERMS, now=at))).leads
        await no_answer(db, held, at)
    claimed = await chosen(db, rows[2], replace(TERMS, now=START + timedelta(hours=4)))
    assert claimed.put_off == {"rolling_cap": 1}
    assert (await lead_of(db, rows[2], number(1))).next_at == START + timedelta(hours=24)


async def test_no_campaign_calls_a_number_right_after_another_one(db: Database) -> None:
    rows = [await running(db, number(1), name=name) for name in ("first", "second")]
    (held,) = (await chosen(db, rows[0])).leads
    await no_answer(db, held, START)
    claimed = await chosen(db, rows[1], replace(TERMS, now=START + timedelta(minutes=30)))
    assert claimed.put_off == {"too_soon": 1}
    assert (await lead_of(db, rows[1], number(1))).next_at == START + timedelta(hours=2)
