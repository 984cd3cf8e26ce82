"""Campaigns and leads in SQL, on SQLite and PostgreSQL: claims, settlements, what bars a number, and the states."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.dialing.rules import Reason
from serve_app.dialing.settling import settle_lead
from serve_app.store.attempts import Attempts
from serve_app.store.call_folding import CallFolding, CallState
from serve_app.store.calls import Calls
from serve_app.store.campaign_models import EVERYBODY
from serve_app.store.campaign_rows import LeadRow
from serve_app.store.campaign_upkeep import complete_finished, start_scheduled
from serve_app.store.campaigns import (
    TRANSITIONS,
    CampaignNameTaken,
    Campaigns,
    CampaignStateConflict,
)
from serve_app.store.claim_facts import CampaignFacts, NumberFacts
from serve_app.store.consents import WITHOUT_CONSENT, Consents
from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall
from serve_app.store.kill_switches import NUMBER_SWITCHED_OFF, KillSwitches
from serve_app.store.lead_claims import BEING_CALLED, Choice, CloseLead, Halt, PutOff
from serve_app.store.lead_upkeep import heal, next_due, promote, settle_ended
from serve_app.store.leads import Leads, NewLead, insert_leads
from tests.unit.campaign_support import RULES, START, TENANT, allow, campaign, claim, end, lead_of, number, send
from tests.unit.store_fixtures import outbound

pytest_plugins = ("tests.unit.store_fixtures",)


def later(**delay: float) -> datetime:
    return datetime.now(UTC) + timedelta(**delay)


# --- claiming


async def test_a_claim_gives_each_lead_a_call_and_an_attempt(db: Database) -> None:
    row = await campaign(db, leads=[number(1), number(2), number(3)])
    claimed = await claim(db, row, limit=2)
    assert (len(claimed.leads), claimed.looked_at, claimed.halted) == (2, 2, None)
    for held in claimed.leads:
        attempt = await Attempts(db, TENANT).get(held.attempt_id)
        lead = await Leads(db, TENANT).get(held.lead.id)
        call = await Calls(db, TENANT).get(held.call_id)
        assert attempt is not None and lead is not None and call is not None
        assert (attempt.lead_id, attempt.campaign_id, attempt.number_in_lead) == (lead.id, row.id, lead.epoch)
        assert (attempt.status, attempt.to_number, attempt.rules_reason) == ("intended", lead.number, "allowed")
        assert (call.status, call.agent_name, call.agent_version) == ("queued", "front-desk", 1)
        assert (lead.state, lead.lease_owner, lead.attempts) == ("leased", "feeder-1", 0)
    rest = await claim(db, row)
    assert (len(rest.leads), rest.looked_at) == (1, 1)
    assert (await claim(db, row)).looked_at == 0


async def test_two_feeders_never_get_the_same_lead(db: Database) -> None:
    row = await campaign(db, leads=[number(i) for i in range(30)])
    rounds = await asyncio.gather(*(claim(db, row, limit=5) for _ in range(8)))
    got = [held.lead.id for claimed in rounds for held in claimed.leads]
    assert len(got) == len(set(got)) == 30


async def test_one_number_in_two_campaigns_is_called_by_one_of_them_at_a_time(db: Database) -> None:
    spring = await campaign(db, leads=[number(i) for i in range(10)])
    summer = await campaign(db, leads=[number(i) for i in range(10)], name="summer")
    single, _ = await outbound(db, number=number(0))
    rounds = await asyncio.gather(*(claim(db, row, limit=3) for row in (spring, summer) * 4))
    called = Counter(held.lead.number for claimed in rounds for held in claimed.leads)
    assert called == Counter(number(i) for i in range(1, 10))
    put_off = sum((claimed.put_off for claimed in rounds), Counter[str]())
    assert put_off == Counter({BEING_CALLED: 11})
    busy = await lead_of(db, spring, number(0))
    assert (busy.state, busy.last_reason, busy.attempts) == ("deferred", BEING_CALLED, 0)
    assert busy.next_at > datetime.now(UTC)
    assert single.to_number == number(0)


async def test_a_decision_may_put_off_close_or_halt(db: Database) -> None:
    row = await campaign(db, leads=[NewLead(number(i), priority=10 - i) for i in range(5)])
    until = later(hours=3)

    def decide(lead: LeadRow, facts: CampaignFacts, known: NumberFacts) -> Choice:
        choices: dict[str, Choice] = {
            number(0): PutOff(until, "outside_window"),
            number(1): CloseLead("barred", "no_consent"),
            number(2): CloseLead("exhausted", "lifetime_cap"),
            number(3): Halt("spend_exhausted"),
        }
        return choices[lead.number]

    claimed = await claim(db, row, decide)
    assert (list(claimed.leads), claimed.halted) == ([], "spend_exhausted")
    assert (claimed.put_off, claimed.closed) == (
        Counter({"outside_window": 1}),
        Counter({"no_consent": 1, "lifetime_cap": 1}),
    )
    states = [(lead.state, lead.last_reason) for lead in [await lead_of(db, row, number(i)) for i in range(5)]]
    assert states == [
        ("deferred", "outside_window"),
        ("barred", "no_consent"),
        ("exhausted", "lifetime_cap"),
        ("ready", None),
        ("ready", None),
    ]
    assert (await lead_of(db, row, number(0))).next_at == until
    assert await promote(db, until - timedelta(seconds=1), limit=9) == 0
    assert await next_due(db) == until
    assert await promote(db, until, limit=9) == 1
    assert (await lead_of(db, row, number(0))).state == "ready"


async def test_who_is_worth_more_goes_first_and_who_waited_long_enough_before_all(db: Database) -> None:
    row = await campaign(db, leads=[number(0)])
    leads = Leads(db, TENANT)
    await leads.add(row.id, [NewLead(number(1), priority=9), NewLead(number(2), tags=["hot"])])
    await leads.add(row.id, [NewLead(number(3), high_value=True), NewLead(number(4), priority=1)])
    order = [held.lead.number for held in (await claim(db, row)).leads]
    assert order == [number(2), number(1), number(3), number(0), number(4)]


async def test_the_facts_of_a_claim_are_those_of_its_transaction(db: Database) -> None:
    row = await campaign(db, leads=[number(1), number(2)], daily_calls=10)
    first = (await claim(db, row, limit=1)).leads[0]
    assert first.lead.number == number(1)
    assert await send(db, first.attempt_id)
    await end(db, first.call_id, "callee_hung_up", talked_s=42.0)
    await DoNotCall(db, TENANT).add(number(2), "by letter")
    assert await Leads(db, TENANT).reopen(row.id, reason="on_do_not_call_list") == 1
    await KillSwitches(db, TENANT).on("number", number(2), reason="complaint", by="tester")
    seen: list[tuple[CampaignFacts, NumberFacts]] = []

    def decide(lead: LeadRow, facts: CampaignFacts, known: NumberFacts) -> Choice:
        seen.append((facts, known))
        return allow(lead, facts, known)

    claimed = await claim(db, row, decide)
    assert claimed.closed == Counter({"on_do_not_call_list": 1})
    ((facts, known),) = seen
    assert (known.on_list, known.switched_off, known.busy, known.placed) == (True, True, False, ())
    assert (facts.used_today.calls, facts.used_today.answered, facts.used_today.talk_s) == (1, 1, 42.0)
    assert facts.tenant_used_month == facts.tenant_used_today == facts.used_ever == facts.used_today
    assert (facts.live, facts.tenant_live, facts.switches, facts.tenant) == (0, 0, frozenset(), None)


async def test_calls_of_all_campaigns_count_for_a_number_unless_they_were_never_sent(db: Database) -> None:
    spring = await campaign(db, leads=[number(1)])
    summer = await campaign(db, leads=[number(1)], name="summer")
    (unsent,) = (await claim(db, spring)).leads
    await end(db, unsent.call_id, "no_capacity")
    (sent,) = (await claim(db, summer)).leads
    assert await send(db, sent.attempt_id)
    await end(db, sent.call_id, "busy")
    await promote(db, later(days=1), limit=9)
    seen: list[NumberFacts] = []

    def decide(lead: LeadRow, facts: CampaignFacts, known: NumberFacts) -> Choice:
        seen.append(known)
        return Halt("enough")

    await claim(db, spring, decide)
    (placed,) = seen[0].placed
    assert placed.campaign_id == summer.id


# --- what stops attempts that wait


@pytest.mark.parametrize("how", ["pause", "cancel", "number", "campaign", "tenant", "global", "list", "delete"])
async def test_what_is_stopped_does_not_pass_its_fence(db: Database, how: str) -> None:
    row = await campaign(db, leads=[number(1), number(2)])
    waiting, held = (await claim(db, row)).leads
    attempts = Attempts(db, TENANT)
    claims = {c.id: c for c in await attempts.claim_intended("dialer-1", limit=9, lease_s=60, now=datetime.now(UTC))}
    switches = KillSwitches(db, TENANT)
    if how == "pause":
        await Campaigns(db, TENANT).pause(row.id)
    elif how == "cancel":
        await Campaigns(db, TENANT).cancel(row.id)
    elif how == "number":
        await switches.on("number", held.lead.number, reason="complaint", by="tester")
    elif how == "campaign":
        await switches.on("campaign", row.id, reason="wrong script", by="tester")
    elif how == "tenant":
        await switches.on("tenant", "", reason="unpaid", by="tester")
    elif how == "global":
        await KillSwitches(db, EVERYBODY).on("global", "", reason="storm", by="tester")
    elif how == "list":
        await DoNotCall(db, TENANT).add(held.lead.number, "by letter")
    else:
        assert await Leads(db, TENANT).delete(held.lead.id)
    assert not await attempts.fence_placing(held.attempt_id, claims[held.attempt_id].epoch)
    others_go_on = how in ("number", "list", "delete")
    barred = {found.id: found.rules_reason for found in await attempts.barred(limit=9)}
    assert set(barred) == ({held.attempt_id} if others_go_on else {held.attempt_id, waiting.attempt_id})
    assert barred[held.attempt_id] == {
        "pause": "campaign_not_running",
        "cancel": "campaign_not_running",
        "list": "on_do_not_call_list",
        "delete": "lead_closed",
    }.get(how, f"kill_switch_{how}")
    assert await attempts.fence_placing(waiting.attempt_id, claims[waiting.attempt_id].epoch) is others_go_on
    assert await end(db, held.call_id, "not_allowed")
    lead = await Leads(db, TENANT).get(held.lead.id)
    assert lead is not None and lead.attempts == 0
    assert lead.state == {"list": "barred", "delete": "deleted"}.get(how, "deferred")


async def test_a_campaign_that_does_not_run_is_not_claimed_from(db: Database) -> None:
    row = await campaign(db, leads=[number(1)])
    await Campaigns(db, TENANT).pause(row.id)
    assert await claim(db, row) == await claim(db, row)
    assert (await claim(db, row)).halted == "campaign_not_running"
    await Campaigns(db, TENANT).resume(row.id)
    assert len((await claim(db, row)).leads) == 1


async def test_a_switch_is_lifted_and_stays_on_record(db: Database) -> None:
    switches = KillSwitches(db, TENANT)
    first = await switches.on("tenant", "", reason="unpaid", by="ann")
    assert await switches.on("tenant", "ignored", reason="again", by="bob") == first
    assert await switches.list() == [first]
    assert await KillSwitches(db, "globex").list() == []
    off = await switches.off("tenant", "", by="bob")
    assert off is not None and (off.id, off.off_by) == (first.id, "bob")
    assert await switches.off("tenant", "", by="bob") is None
    assert (await switches.list(), await switches.list(lifted=True)) == ([], [off])
    for scope, key, who in (("global", "", TENANT), ("tenant", "", EVERYBODY), ("number", "", TENANT)):
        with pytest.raises(ValueError, match="scope"):
            await KillSwitches(db, who).on(scope, key, reason="x", by="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reason"):
        await switches.on("tenant", "", reason=" ", by="x")


# --- settling


async def test_the_end_of_an_attempt_settles_its_lead_in_the_same_transaction(db: Database) -> None:
    row = await campaign(db, leads=[number(1)])
    for times in range(1, 5):
        (held,) = (await claim(db, row)).leads
        assert await send(db, held.attempt_id)
        ended = datetime.now(UTC)
        assert await end(db, held.call_id, "busy", at=ended)
        lead = await lead_of(db, row, number(1))
        attempt = await Attempts(db, TENANT).get(held.attempt_id)
        assert attempt is not None and (attempt.result, attempt.disposition) == ("busy", "busy")
        assert (lead.attempts, lead.epoch, lead.last_result) == (times, times, "busy")
        assert (lead.last_called_at, lead.caller_id) == (attempt.placing_at, attempt.from_number)
        assert lead.lease_owner is None and lead.lease_until is None
        if times < 4:
            assert (lead.state, lead.last_reason) == ("deferred", "retry_busy")
            assert lead.next_at - ended >= timedelta(minutes=16 if times == 1 else 96)
            await promote(db, lead.next_at, limit=9)
    assert (lead.state, lead.last_reason) == ("exhausted", "busy_used_up")


async def test_what_was_not_placed_comes_back_and_does_not_count(db: Database) -> None:
    row = await campaign(db, leads=[number(1)])
    (held,) = (await claim(db, row)).leads
    await end(db, held.call_id, "no_capacity")
    lead = await lead_of(db, row, number(1))
    assert (lead.state, lead.attempts, lead.last_called_at, lead.caller_id) == ("deferred", 0, None, None)
    assert lead.next_at - datetime.now(UTC) < timedelta(minutes=2)


async def test_an_attempt_that_ended_without_a_verdict_is_settled_by_the_upkeep(db: Database) -> None:
    row = await campaign(db, leads=[number(1)])
    (held,) = (await claim(db, row, lease_s=1)).leads
    assert await send(db, held.attempt_id)
    await end(db, held.call_id, "busy", settled=False)
    assert (await lead_of(db, row, number(1))).state == "leased"
    await heal(db, later(hours=1), limit=9)
    assert (await lead_of(db, row, number(1))).state == "leased", "it waits for the verdict"
    assert await settle_ended(db, settle_lead, datetime.now(UTC), limit=9) == 1
    lead = await lead_of(db, row, number(1))
    assert (lead.state, lead.attempts, lead.last_reason) == ("deferred", 1, "retry_busy")
    assert await settle_ended(db, settle_lead, datetime.now(UTC), limit=9) == 0


async def test_a_reason_that_comes_late_gives_the_same_state_as_one_that_comes_first(db: Database) -> None:
    vague = "the network ended the call before it was answered"
    row = await campaign(db, leads=[number(1), number(2)])
    first, second = (await claim(db, row)).leads
    ended = datetime.now(UTC)
    for held in (first, second):
        assert await send(db, held.attempt_id)
    await end(db, first.call_id, "busy", at=ended, detail="the network reported busy")
    await end(db, second.call_id, "not_answered", at=ended, detail=vague)
    assert (await lead_of(db, row, number(2))).last_reason == "retry_no_answer"
    folding = CallFolding(db, TENANT)
    busy = CallState("busy", "the network reported busy", ended, None)
    assert (await folding.fold(second.call_id, None, lambda *_: busy, settle_lead))[0] == "corrected"
    one, two = [await lead_of(db, row, number(i)) for i in (1, 2)]
    assert (one.state, one.attempts, one.last_result, one.last_reason) == ("deferred", 1, "busy", "retry_busy")
    assert (two.state, two.attempts, two.last_result, two.last_reason) == ("deferred", 1, "busy", "retry_busy")
    assert abs(one.next_at - two.next_at) <= timedelta(minutes=8), "both from the same end, with a jitter"
    # Once the lead is called again, late news of an older attempt changes its record only.
    await promote(db, later(hours=3), limit=9)
    again = {held.lead.id: held for held in (await claim(db, row)).leads}
    assert await Attempts(db, TENANT).get(again[two.id].attempt_id) is not None
    late = CallState("rejected", "late", ended, None)
    assert (await folding.fold(second.call_id, None, lambda *_: late, settle_lead))[0] == "corrected"
    leased = await lead_of(db, row, number(2))
    assert (leased.state, leased.last_result, leased.attempts) == ("leased", "busy", 1)


@pytest.mark.parametrize("how", ["heard", "reported"])
async def test_what_bars_a_number_closes_its_leads_in_all_campaigns(db: Database, how: str) -> None:
    spring = await campaign(db, leads=[number(1), number(2)])
    summer = await campaign(db, leads=[number(1)], name="summer")
    theirs = await campaign(db, leads=[number(1)], tenant="globex")
    (held,) = (await claim(db, spring, limit=1)).leads
    assert held.lead.number == number(1) and await send(db, held.attempt_id)
    if how == "heard":
        await DoNotCall(db, TENANT).opt_out(held.call_id, number(1), "phrase", "never again")
        assert (await lead_of(db, spring, number(1))).state == "barred"
        assert (await lead_of(db, summer, number(1))).state == "barred", "before the call is over"
        await end(db, held.call_id, "opted_out", talked_s=20.0)
        result = "opt_out"
    else:
        result = "wrong_number"
        assert await Attempts(db, TENANT).report(held.call_id, result)
        await end(db, held.call_id, "completed", talked_s=20.0)
    mine = await lead_of(db, spring, number(1))
    assert (mine.state, mine.last_result, mine.attempts) == ("barred", result, 1)
    assert (await lead_of(db, summer, number(1))).state == "barred"
    assert (await lead_of(db, spring, number(2))).state == "ready"
    assert (await lead_of(db, theirs, number(1))).state == "ready", "another tenant's leads are its own"
    assert await DoNotCall(db, TENANT).contains(number(1))
    assert not await DoNotCall(db, "globex").contains(number(1))


async def test_a_callback_that_was_promised_comes_at_its_time_before_all_others(db: Database) -> None:
    row = await campaign(db, leads=[NewLead(number(1), priority=1), NewLead(number(2), priority=10, tags=["hot"])])
    held = {found.lead.number: found for found in (await claim(db, row)).leads}
    asked = later(days=1)
    for to in (number(1), number(2)):
        assert await send(db, held[to].attempt_id)
    assert await Attempts(db, TENANT).report(held[number(1)].call_id, "callback", callback_at=asked)
    await end(db, held[number(1)].call_id, "completed", talked_s=30.0)
    await end(db, held[number(2)].call_id, "busy")
    called_back = await lead_of(db, row, number(1))
    assert asked <= called_back.next_at <= asked + timedelta(minutes=3)
    await promote(db, asked + timedelta(minutes=5), limit=9)
    order = [found.lead.number for found in (await claim(db, row)).leads]
    assert order == [number(1), number(2)]


async def test_what_a_call_came_to_may_be_told_after_its_end(db: Database) -> None:
    row = await campaign(db, leads=[number(1)])
    (held,) = (await claim(db, row)).leads
    assert await send(db, held.attempt_id)
    await end(db, held.call_id, "callee_hung_up", talked_s=40.0)
    assert (await lead_of(db, row, number(1))).last_reason == "retry_reached_incomplete"
    assert await Attempts(db, TENANT).report(held.call_id, "success")
    assert await settle_ended(db, settle_lead, datetime.now(UTC), limit=9) == 1
    lead = await lead_of(db, row, number(1))
    assert (lead.state, lead.last_result, lead.attempts) == ("done", "success", 1)
    assert not await Attempts(db, TENANT).report("no such call", "success")


async def test_a_policy_that_cannot_be_read_any_more_does_not_keep_a_call_from_ending(db: Database) -> None:
    row = await campaign(db, leads=[NewLead(number(1), zones=["Mars/Olympus"])], retry_policy={"rules": {"busy": 7}})
    (held,) = (await claim(db, row)).leads
    assert await send(db, held.attempt_id)
    assert await end(db, held.call_id, "not_answered")
    lead = await lead_of(db, row, number(1))
    assert (lead.state, lead.last_reason) == ("deferred", "retry_no_answer")


async def test_only_calls_that_were_asked_of_the_network_are_used(db: Database) -> None:
    row = await campaign(db, leads=[number(i) for i in range(4)])
    seen: list[CampaignFacts] = []
    for outcome, sent in (("busy", True), ("no_capacity", True), ("agent_hung_up", False)):
        (held,) = (await claim(db, row, limit=1)).leads
        assert not sent or await send(db, held.attempt_id)
        await end(db, held.call_id, outcome)

    def look(lead: LeadRow, facts: CampaignFacts, known: NumberFacts) -> Choice:
        seen.append(facts)
        return Halt("enough")

    await claim(db, row, look)
    assert (seen[0].used_today.calls, seen[0].used_today.answered) == (1, 0)


async def test_a_lead_whose_dialer_died_goes_back(db: Database) -> None:
    row = await campaign(db, leads=[number(1)])
    (held,) = (await claim(db, row, lease_s=60)).leads
    assert await heal(db, later(seconds=50), limit=9) == 0
    assert await heal(db, later(seconds=70), limit=9) == 1
    assert (await lead_of(db, row, number(1))).state == "leased", "its attempt is alive: any dialer claims it"
    assert await send(db, held.attempt_id, now=later(seconds=80))


# --- leads


async def test_a_number_is_one_lead_of_a_campaign_until_it_is_deleted(db: Database) -> None:
    row = await campaign(db)
    leads = Leads(db, TENANT)
    both = [NewLead(number(1), first_name="Ann", custom_fields={"order": 7}), NewLead(number(1), first_name="Bob")]
    assert await leads.add(row.id, both) == {number(1)}
    assert await leads.add(row.id, both) == set()
    first = await lead_of(db, row, number(1))
    assert (first.first_name, first.custom_fields, first.priority, first.zones) == ("Ann", {"order": 7}, 5, None)
    assert await leads.delete(first.id) and not await leads.delete(first.id)
    assert await leads.add(row.id, both) == {number(1)}
    assert (await lead_of(db, row, number(1))).id != first.id
    assert [lead.id for lead in (await leads.list(row.id, limit=9, state="deleted"))[0]] == [first.id]
    with pytest.raises(LookupError):
        await Leads(db, "globex").add(row.id, both)
    many = await asyncio.gather(*(leads.add(row.id, [NewLead(number(i)) for i in range(2, 40)]) for _ in range(4)))
    assert sum(map(len, many)) == 38


async def test_leads_are_listed_in_pages(db: Database) -> None:
    row = await campaign(db, leads=[number(i) for i in range(5)])
    found, cursor = [], None
    for expected in (2, 2, 1):
        page, cursor = await Leads(db, TENANT).list(row.id, limit=2, after=cursor)
        assert len(page) == expected
        found += [lead.number for lead in page]
    assert cursor is None and found == [number(i) for i in range(5)]
    assert [lead.number for lead in await Leads(db, TENANT).of_number(number(3))] == [number(3)]


async def test_leads_are_found_by_their_tags_and_reasons(db: Database) -> None:
    tags: list[list[str]] = [[], ["warm"], ["warm", 'x"y'], ["lukewarm"]]
    row = await campaign(db, leads=[NewLead(number(i), tags=words) for i, words in enumerate(tags)])

    async def found(**wanted: str) -> list[str]:
        return [lead.number for lead in (await Leads(db, TENANT).list(row.id, limit=9, **wanted))[0]]  # type: ignore[arg-type]

    assert await found(tag="warm") == [number(1), number(2)]
    assert await found(tag='x"y') == [number(2)]
    assert await found(tag="cold") == await found(reason="not_scrubbed") == []
    await claim(db, row, lambda lead, facts, known: CloseLead("barred", "not_scrubbed"), limit=1)
    assert len(await found(reason="not_scrubbed")) == 1


async def test_what_was_scrubbed_is_recorded_and_opens_what_was_closed_for_want_of_it(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.store.leads.AT_ONCE", 2)
    row = await campaign(db, leads=[number(i) for i in range(5)])
    reasons = iter(["not_scrubbed", "scrub_stale", "no_consent"])
    await claim(db, row, lambda lead, facts, known: CloseLead("barred", next(reasons)), limit=3)
    at = datetime.now(UTC)
    await Leads(db, TENANT).add(row.id, [NewLead(number(5))])
    other = await campaign(db, leads=[number(0)], name="other")
    assert await Leads(db, TENANT).scrubbed(row.id, at) == (5, 2)
    leads = {lead.number: lead for lead in (await Leads(db, TENANT).list(row.id, limit=9))[0]}
    assert [leads[number(i)].state for i in range(6)] == ["ready"] * 2 + ["barred"] + ["ready"] * 3
    assert [leads[number(i)].scrubbed_at for i in range(6)] == [at] * 5 + [None], "who came later was not compared"
    assert (await lead_of(db, other, number(0))).scrubbed_at is None
    assert await Leads(db, TENANT).scrubbed(row.id, at - timedelta(days=1)) == (0, 0), "an older date is no news"


# --- campaigns


async def test_starting_twice_changes_nothing(db: Database) -> None:
    row = await campaign(db, leads=[number(1)])
    campaigns = Campaigns(db, TENANT)
    assert await asyncio.gather(*(campaigns.start(row.id) for _ in range(4))) == [(row, False)] * 4
    assert row.epoch == 1 and row.started_at is not None


async def test_every_change_of_status_is_allowed_or_refused_as_the_table_says(db: Database) -> None:
    campaigns = Campaigns(db, TENANT)
    steps = {
        "running": campaigns.start,
        "scheduled": lambda i: campaigns.schedule(i, START),
        "draft": campaigns.unschedule,
        "paused": campaigns.pause,
        "cancelled": campaigns.cancel,
    }
    paths = {
        "draft": [],
        "scheduled": ["scheduled"],
        "running": ["running"],
        "paused": ["running", "paused"],
        "cancelled": ["cancelled"],
    }
    for index, (before, path) in enumerate(paths.items()):
        for after, step in steps.items():
            row = await campaigns.create(f"{index} {after}", "front-desk", calling_rules=RULES)
            for each in path:
                await steps[each](row.id)
            now = await campaigns.get(row.id)
            assert now is not None and now.status == before
            if before == after:
                changed = await step(row.id)
                assert changed is not None and changed[1] is (after == "scheduled")
            elif before in TRANSITIONS[after] and (before, after) != ("paused", "running"):
                changed = await step(row.id)
                assert changed is not None and changed[1]
                assert (changed[0].status, changed[0].epoch) == (after, now.epoch + 1)
            else:
                with pytest.raises(CampaignStateConflict, match=before):
                    await step(row.id)
                assert await campaigns.get(row.id) == now
    with pytest.raises(CampaignStateConflict):
        await campaigns.resume((await campaigns.create("never started", "front-desk", calling_rules=RULES)).id)
    assert await campaigns.start("no such campaign") is None


async def test_a_scheduled_campaign_starts_at_its_time_and_one_without_leads_left_is_completed(db: Database) -> None:
    campaigns = Campaigns(db, TENANT)
    row = await campaigns.create("autumn", "front-desk", calling_rules=RULES)
    await campaigns.schedule(row.id, START)
    assert await start_scheduled(db, START - timedelta(seconds=1)) == 0
    assert await start_scheduled(db, START) == 1 and await start_scheduled(db, START) == 0
    assert await complete_finished(db, START) == 0, "it has had no leads yet"
    running = await campaign(db, leads=[number(1)])
    (held,) = (await claim(db, running)).leads
    assert await complete_finished(db, START) == 0
    assert await send(db, held.attempt_id)
    await end(db, held.call_id, "completed", talked_s=60.0)
    assert await complete_finished(db, START) == 1
    over = await campaigns.get(running.id)
    assert over is not None and (over.status, over.completed_at) == ("completed", START)
    assert await Leads(db, TENANT).add(running.id, [NewLead(number(1))]) == set()
    assert await campaigns.get(running.id) == over, "it has this lead already"
    await Leads(db, TENANT).add(running.id, [NewLead(number(2))])
    again = await campaigns.get(running.id)
    assert again is not None and (again.status, again.completed_at) == ("running", None)
    assert again.epoch == over.epoch + 1
    assert await complete_finished(db, START) == 0
    await campaigns.cancel(running.id)
    with pytest.raises(CampaignStateConflict):
        await campaigns.update(running.id, goal="another")


@pytest.mark.parametrize("way", ["consent", "switch", "scrub", "reopened", "reported"])
async def test_a_completed_campaign_runs_again_when_one_of_its_leads_may_be_called(db: Database, way: str) -> None:
    row = await campaign(db, leads=[number(1)])
    if way == "reported":
        (held,) = (await claim(db, row)).leads
        assert await send(db, held.attempt_id)
        await end(db, held.call_id, "completed", talked_s=60.0)
    else:
        why = {"consent": "no_consent", "switch": "kill_switch_number", "scrub": "not_scrubbed"}.get(way, "no_agent")
        await claim(db, row, lambda lead, facts, known: CloseLead("barred", why))
    assert await complete_finished(db, START) == 1
    if way == "consent":
        await Consents(db, TENANT).record(number(1), "written", scope="*", source="web form", given_at=later(days=-1))
    elif way == "switch":
        await KillSwitches(db, TENANT).on("number", number(1), reason="complaint", by="ann")
        await KillSwitches(db, TENANT).off("number", number(1), by="ann")
    elif way == "scrub":
        assert await Leads(db, TENANT).scrubbed(row.id, later()) == (1, 1)
    elif way == "reopened":
        assert await Leads(db, TENANT).reopen(row.id, reason=why) == 1
    else:
        asked = {"callback_at": later(days=1), "verdict": settle_lead}
        assert await Attempts(db, TENANT).report(held.call_id, "callback", **asked)
    assert (await lead_of(db, row, number(1))).state == ("deferred" if way == "reported" else "ready")
    again = await Campaigns(db, TENANT).get(row.id)
    assert again is not None and (again.status, again.completed_at) == ("running", None)
    assert await complete_finished(db, START) == 0


async def test_a_campaign_that_a_person_stopped_stays_as_it_is(db: Database) -> None:
    paused, over = await campaign(db, leads=[number(1)]), await campaign(db, name="autumn", leads=[number(1)])
    for row in (paused, over):
        await claim(db, row, lambda lead, facts, known: CloseLead("barred", "no_consent"))
    await Campaigns(db, TENANT).pause(paused.id)
    await Campaigns(db, TENANT).cancel(over.id)
    await Consents(db, TENANT).record(number(1), "written", scope="*", source="web form", given_at=later(days=-1))
    found = [await Campaigns(db, TENANT).get(row.id) for row in (paused, over)]
    assert [row.status for row in found if row is not None] == ["paused", "cancelled"]


async def test_a_lead_that_is_added_at_the_moment_of_completion_is_not_left_behind(db: Database) -> None:
    row = await campaign(db, leads=[number(1)])
    await claim(db, row, lambda lead, facts, known: CloseLead("barred", "no_consent"))
    async with db.transaction() as session:
        await insert_leads(session, TENANT, row.id, [NewLead(number(2))], now=START)
        completing = asyncio.create_task(complete_finished(db, START))
        for _ in range(20):  # it finds the campaign without a lead to call, as far as is committed
            await asyncio.sleep(0.005)
    await completing
    assert await complete_finished(db, START) == 0
    found = await Campaigns(db, TENANT).get(row.id)
    assert found is not None and found.status == "running"


async def test_what_closed_a_lead_and_is_taken_away_opens_it_again(db: Database) -> None:
    row = await campaign(db, leads=[NewLead(number(1), priority=9), number(2), number(3), number(4)])
    why = ("no_consent", "kill_switch_number", "not_scrubbed", "no_consent")
    reasons = {number(index): reason for index, reason in enumerate(why, 1)}
    await claim(db, row, lambda lead, facts, known: CloseLead("barred", reasons[lead.number]))
    assert {(await lead_of(db, row, to)).state for to in reasons} == {"barred"}
    consents = Consents(db, TENANT)
    given: dict[str, Any] = {"scope": "*", "source": "web form", "given_at": START - timedelta(days=30)}
    await consents.record(number(1), "written", **given)
    await KillSwitches(db, TENANT).on("number", number(2), reason="complaint", by="ann")
    await KillSwitches(db, TENANT).off("number", number(2), by="ann")
    assert await Leads(db, TENANT).reopen(row.id, reason="not_scrubbed") == 1
    opened = [(await lead_of(db, row, to)) for to in reasons]
    assert [lead.state for lead in opened] == ["ready", "ready", "ready", "barred"]
    assert [lead.last_reason for lead in opened] == ["reopened", "reopened", "reopened", "no_consent"]
    assert opened[0].queue_at < opened[1].queue_at, "at the place that it is worth"
    assert await consents.revoke(number(1)) == 1 and await consents.revoke(number(1)) == 0
    (kept,) = await consents.of(number(1))
    assert (kept.kind, kept.source, kept.given_at) == ("written", "web form", given["given_at"])
    assert kept.revoked_at is not None
    assert set(WITHOUT_CONSENT) | {NUMBER_SWITCHED_OFF} <= set(Reason)
    wrongs: list[dict[str, Any]] = [{"source": " "}, {"given_at": later(days=1)}, {"expires_at": given["given_at"]}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            await consents.record(number(1), "written", **{**given, **wrong})


async def test_a_campaign_is_changed_and_its_policy_counts_its_versions(db: Database) -> None:
    campaigns = Campaigns(db, TENANT)
    row = await campaigns.create("spring", "front-desk", calling_rules=RULES)
    with pytest.raises(CampaignNameTaken):
        await campaigns.create("spring", "front-desk", calling_rules=RULES)
    assert row.retry_policy == {"version": 1}
    changed = await campaigns.update(row.id, goal="sell", weight=3, retry_policy={"most_attempts": 2, "version": 9})
    assert changed is not None
    assert (changed.goal, changed.weight, changed.retry_policy) == ("sell", 3, {"most_attempts": 2, "version": 2})
    with pytest.raises(ValueError, match="status"):
        await campaigns.update(row.id, status="running")
    await campaigns.create("summer", "front-desk", calling_rules=RULES)
    with pytest.raises(CampaignNameTaken):
        await campaigns.update(row.id, name="summer")
    assert await campaigns.update("no such campaign", goal="x") is None
    assert [found.name for found in (await campaigns.list(limit=9, status="draft"))[0]] == ["summer", "spring"]


async def test_the_statistics_add_up(db: Database) -> None:
    row = await campaign(db, leads=[number(i) for i in range(6)])
    held = (await claim(db, row, limit=4)).leads
    for found, outcome in zip(held, ("busy", "not_answered", "no_capacity"), strict=False):
        if outcome != "no_capacity":
            assert await send(db, found.attempt_id)
        await end(db, found.call_id, outcome)
    stats = await Campaigns(db, TENANT).stats(row.id)
    assert stats.leads == {"deferred": 3, "leased": 1, "ready": 2}
    assert (stats.attempted, stats.live) == (2, 1)
    assert stats.results == {"busy": 1, "no_answer": 1, "not_placed": 1}
    page, cursor = await Campaigns(db, TENANT).attempts(row.id, limit=3)
    rest, end_of_list = await Campaigns(db, TENANT).attempts(row.id, limit=3, before=cursor)
    assert [a.id for a in (*page, *rest)] == sorted((f.attempt_id for f in held), reverse=True)
    assert end_of_list is None
    assert [a.id for a in (await Campaigns(db, TENANT).attempts(row.id, limit=9, live=True))[0]] == [held[3].attempt_id]
    nobody = await Campaigns(db, "globex").stats(row.id)
    assert (nobody.leads, nobody.results, nobody.attempted, nobody.live) == ({}, {}, 0, 0)
