"""A lead of a campaign, decided on in the transaction that claims it: from what SQL knows to the rules' answer.

`LeadChooser` is the `Decide` of `store.lead_claims`. Pure: the time and whatever is not in SQL are told to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from serve_app.dialing.campaign_clock import REAL_TIME, CampaignClock, CampaignTime
from serve_app.dialing.rules import (
    Allow,
    CallingRules,
    Candidate,
    ConsentFact,
    Defer,
    Facts,
    Jurisdictions,
    KillSwitch,
    decide,
)
from serve_app.store.campaign_rows import LeadRow
from serve_app.store.claim_facts import CampaignFacts, NumberFacts
from serve_app.store.lead_claims import Choice, CloseLead, Halt, PlaceCall, PutOff

ALLOWED = "allowed"
NO_AGENT = "no_agent"
RULES_INVALID = "calling_rules_invalid"


@dataclass(frozen=True, slots=True)
class CallerNumber:
    """Which of our numbers would call a lead. `number` None: none now, but one from `free_at` on, if that is known."""

    number: str | None
    free_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is one for all leads of a claim, and not in SQL."""

    now: datetime
    law: Jurisdictions
    ringing_s: int
    """See `Facts.ringing_s`; `single_calls.ringing_margin_s` says it of the settings."""
    simulated_network: bool
    queue_timeout_s: float
    """How long a call waits for a session, at most."""
    pick: Callable[[LeadRow], CallerNumber]
    plan_minutes: float | None
    """Of talk in a month. None: unlimited."""
    reserve_minutes: float
    """What each call that lives or is placed now is taken to need of them."""
    spent_minor: int
    """By the campaign, ended calls only."""
    tenant_spent_minor: int
    """By all of the tenant's calls in the time of its cap, ended calls only."""
    reserve_minor: int
    """What each call that lives or is placed now is taken to cost at most."""
    clock: CampaignClock = REAL_TIME
    """By which the rules are asked. All that goes in and comes out here is real time."""


class LeadChooser:
    """The choices of one claim of one campaign. It counts the calls that it places, so a batch keeps to the budgets."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._placed = 0
        self._rules: CallingRules | None = None

    def __call__(self, lead: LeadRow, facts: CampaignFacts, known: NumberFacts) -> Choice:
        terms = self._terms
        if facts.agent_version is None:
            return Halt(NO_AGENT)
        if self._rules is None:
            try:
                self._rules = CallingRules.model_validate(facts.campaign.calling_rules)
            except ValidationError:
                # They were valid when they were written; nobody is called by rules that cannot be read any more.
                return Halt(RULES_INVALID)
        caller = terms.pick(lead)
        candidate = Candidate(lead.number, tuple(lead.zones or ()), lead.region)
        time = terms.clock.of(facts.campaign.started_at)
        decision = decide(candidate, self._facts(self._rules, lead, facts, known, caller, time), time.shows(terms.now))
        if isinstance(decision, Allow):
            assert caller.number is not None
            self._placed += 1
            give_up_at = terms.now + timedelta(seconds=terms.queue_timeout_s)
            if decision.until is not None:
                give_up_at = min(give_up_at, time.when(decision.until))
            return PlaceCall(caller.number, facts.agent_version, give_up_at, ALLOWED)
        if isinstance(decision, Defer):
            return PutOff(time.when(decision.until), decision.reason)
        closed = decision.reason.closes_lead
        return CloseLead(closed, decision.reason) if closed is not None else Halt(decision.reason)

    def _facts(
        self,
        rules: CallingRules,
        lead: LeadRow,
        facts: CampaignFacts,
        known: NumberFacts,
        caller: CallerNumber,
        time: CampaignTime,
    ) -> Facts:
        terms, campaign = self._terms, facts.campaign
        caller_free_at = terms.now if caller.number is not None else caller.free_at
        switches: set[KillSwitch] = set(facts.switches)
        if known.switched_off:
            switches.add("number")
        return Facts(
            rules=rules,
            law=terms.law,
            ringing_s=math.ceil(time.lasts(terms.ringing_s)),
            simulated_network=terms.simulated_network,
            allowed_numbers=frozenset(),
            switches=frozenset(switches),
            tenant_active=facts.tenant is None or facts.tenant.status == "active",
            campaign_running=campaign.status == "running",
            listed=known.on_list,
            listed_globally=bool(known.registries),
            consents=tuple(
                ConsentFact(c.kind, c.scope, c.given_at, c.expires_at, c.revoked_at) for c in known.consents
            ),
            scrubbed_at=lead.scrubbed_at,
            attempted_at=[time.shows(call.at) for call in known.placed],
            campaign_attempts=sum(call.campaign_id == campaign.id for call in known.placed),
            minutes_left=self._minutes_left(facts),
            spend_left_minor=self._spend_left(facts),
            reserve_minor=terms.reserve_minor,
            calls_left_today=self._calls_left_today(facts),
            caller_free_at=None if caller_free_at is None else time.shows(caller_free_at),
        )

    def _minutes_left(self, facts: CampaignFacts) -> float | None:
        terms = self._terms
        if terms.plan_minutes is None:
            return None
        reserved = (facts.tenant_live + self._placed) * terms.reserve_minutes
        return terms.plan_minutes - facts.tenant_used_month.talk_s / 60 - reserved

    def _spend_left(self, facts: CampaignFacts) -> int | None:
        terms = self._terms
        left = []
        if facts.campaign.spend_cap_minor is not None:
            reserved = (facts.live + self._placed) * terms.reserve_minor
            left.append(facts.campaign.spend_cap_minor - terms.spent_minor - reserved)
        if facts.tenant is not None and facts.tenant.spend_cap_minor is not None:
            reserved = (facts.tenant_live + self._placed) * terms.reserve_minor
            left.append(facts.tenant.spend_cap_minor - terms.tenant_spent_minor - reserved)
        return min(left, default=None)

    def _calls_left_today(self, facts: CampaignFacts) -> int | None:
        left = []
        if facts.campaign.daily_calls is not None:
            left.append(facts.campaign.daily_calls - facts.used_today.calls - facts.live - self._placed)
        if facts.tenant is not None and facts.tenant.daily_calls is not None:
            left.append(facts.tenant.daily_calls - facts.tenant_used_today.calls - facts.tenant_live - self._placed)
        return min(left, default=None)
