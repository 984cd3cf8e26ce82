"""The choices of one claim: the rules, within the plan of the tenant, from numbers of its own. Pure.

Plan, budgets, calls under way and from which number are those that the claim's own transaction reads.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from serve_app.dialing.caller_ids import CallerIds
from serve_app.dialing.campaign_clock import REAL_TIME, CampaignClock
from serve_app.dialing.lead_choice import LeadChooser, Terms
from serve_app.dialing.plans import Plan, Plans
from serve_app.dialing.retry import OPENING_SPREAD_S
from serve_app.dialing.rules import Jurisdictions, Reason
from serve_app.store.campaign_rows import LeadRow
from serve_app.store.claim_facts import CampaignFacts, NumberFacts
from serve_app.store.lead_claims import Choice, Halt, PlaceCall, PutOff
from serve_app.store.queue_order import CALLBACK

ENOUGH = "enough"
"""As many calls are placed as this claim may place: no reason to wait."""
PLAN_UNKNOWN = "plan_unknown"
CALLS_AT_ONCE = "calls_at_once"

OPENS = frozenset({Reason.OUTSIDE_WINDOW, Reason.HOLIDAY})


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is one for all claims of a process."""

    law: Jurisdictions
    plans: Plans
    ringing_s: int
    simulated_network: bool
    queue_timeout_s: float
    own_number: str | None
    """The account's own: the caller id of tenants that have no numbers, in campaigns without a pool. None: they cannot
    call."""
    clock: CampaignClock = REAL_TIME


class BatchChooser:
    """The `Decide` of one claim that places at most `quota` calls. `placed`: how many it chose to place."""

    def __init__(self, conditions: Conditions, quota: int, now: datetime) -> None:
        self._conditions = conditions
        self._quota = quota
        self._now = now
        self._chooser: tuple[LeadChooser, CallerIds] | None = None
        self.placed = 0

    def __call__(self, lead: LeadRow, facts: CampaignFacts, known: NumberFacts) -> Choice:
        if self.placed >= self._quota:
            return Halt(ENOUGH)
        plan = self._conditions.plans.of(None if facts.tenant is None else facts.tenant.plan)
        if plan is None:
            return Halt(PLAN_UNKNOWN)
        if self._full(plan, facts):
            return Halt(CALLS_AT_ONCE)
        if self._chooser is None:
            # Whoever names a pool, or has numbers, calls from these or not at all.
            on_its_own = facts.has_numbers or facts.campaign.number_pool is not None
            fallback = None if on_its_own else self._conditions.own_number
            caller_ids = CallerIds(facts.numbers, self._now, fallback=fallback)
            self._chooser = LeadChooser(self._terms(plan, facts, caller_ids)), caller_ids
        choose, caller_ids = self._chooser
        choice = choose(lead, facts, known)
        if isinstance(choice, PlaceCall):
            self.placed += 1
            caller_ids.take(choice.from_number)
        elif isinstance(choice, PutOff) and choice.reason in OPENS:
            return self._spread(lead, choice)
        return choice

    def _terms(self, plan: Plan, facts: CampaignFacts, caller_ids: CallerIds) -> Terms:
        conditions, plans = self._conditions, self._conditions.plans
        return Terms(
            now=self._now,
            law=conditions.law,
            ringing_s=conditions.ringing_s,
            simulated_network=conditions.simulated_network,
            queue_timeout_s=conditions.queue_timeout_s,
            pick=caller_ids.pick,
            plan_minutes=plan.minutes,
            reserve_minutes=plans.reserve_minutes,
            spent_minor=plans.spent_minor(facts.used_ever),
            tenant_spent_minor=plans.spent_minor(facts.tenant_used_month),
            reserve_minor=plans.reserve_minor,
            clock=conditions.clock,
        )

    def _full(self, plan: Plan, facts: CampaignFacts) -> bool:
        own = facts.campaign.max_concurrent
        limits = [plan.concurrent_calls, None if facts.tenant is None else facts.tenant.max_concurrent]
        return (own is not None and facts.live + self.placed >= own) or any(
            most is not None and facts.tenant_live + self.placed >= most for most in limits
        )

    def _spread(self, lead: LeadRow, wait: PutOff) -> PutOff:
        """Not everybody in the first minute of a window; always the same moment for the same lead.

        A lead that was put off so and came too late all the same, because its window is short, comes at its very
        beginning the next time; so does a callback, which somebody waits for.
        """
        promised = lead.next_at - lead.queue_at >= CALLBACK
        if promised or lead.last_reason in OPENS:
            return wait
        after_s = random.Random(lead.id).uniform(0, OPENING_SPREAD_S) / self._conditions.clock.speed
        return replace(wait, until=wait.until + timedelta(seconds=after_s))
