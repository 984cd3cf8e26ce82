"""May a call by itself, of no campaign, be placed now?

Asked by the API before it queues one, and by the dialer before it dials. On a real network such a call goes to a number
that the operator allowed by name, which states the owner's consent; the law's hours and caps, public registries, the
kill switches, what the tenant's plan and limits leave, and a cap of calls per day apply. On a simulated network it may
be placed at any time, as often as one likes; but not for a tenant that is suspended, nor to a number on a registry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from serve_app.dialing.network import network_is_simulated
from serve_app.dialing.plans import Plans, shipped_plans
from serve_app.dialing.rules import (
    CallingRules,
    Candidate,
    ConsentRule,
    Decision,
    Facts,
    decide,
    history,
    place_of,
    shipped,
)
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.repositories import Attempts
from serve_app.store.standing import Standing, standing_of
from serve_app.store.usage import Used

# No number of a country's own: its rules are never asked for, because the number is not on the list of allowed ones.
NOWHERE = "ZZ"
COMMIT_S = 5  # and a busy event loop


@dataclass(frozen=True, slots=True)
class _Means:
    """What is left; None: without limit."""

    minutes: float | None = None
    spend_minor: int | None = None
    calls: int | None = None


_NO_LIMIT = _Means()
_UNREMARKABLE = Standing(None, None, None, None, registered=False, live=0, calls_today=0, used=Used())


def ringing_margin_s(settings: Settings) -> int:
    """From the last check of the time to the last ring: a commit, the request, the ringing."""
    network = settings.telephony.vonage
    return network.ringing_timer_s + math.ceil(network.request_timeout_s) + COMMIT_S


class SingleCalls:
    """The rules for calls by themselves, with what the settings say.

    `simulated_network` None: derived from them. `plans` None: those that come with Parley.
    """

    def __init__(
        self, settings: Settings, *, simulated_network: bool | None = None, plans: Plans | None = None
    ) -> None:
        dialing = settings.dialing
        self.simulated_network = network_is_simulated(settings) if simulated_network is None else simulated_network
        self._allowed = frozenset(dialing.allowed_numbers)
        self._ringing_s = ringing_margin_s(settings)
        self._law = shipped()
        self._plans = plans or shipped_plans()
        self._rules = CallingRules(
            countries=tuple(sorted({place_of(number).country or NOWHERE for number in self._allowed})) or (NOWHERE,),
            hours={"mon-sun": ("00:00-24:00",)},
            observe_holidays=False,
            min_hours_between_calls=0,
            max_per_24h=dialing.max_calls_per_24h,
            max_per_7d=None,
            max_lifetime=None,
            consent=ConsentRule(required="none", reason="the number is allowed by name in dialing.allowed_numbers"),
        )

    async def decide(
        self, db: Database, tenant_id: str, number: str, now: datetime, *, queued: bool = False
    ) -> Decision:
        """Decide on one E.164 number; `queued`: of a call that waits already. Raises UnavailableError.

        Do-not-call list and kill switches are not asked here: the store asks for them in the transactions that queue,
        claim and place a call.
        """
        attempted_at: list[datetime] = []
        if not self.simulated_network and number in self._allowed:
            needed = history(self._rules, self._law)
            since = now - timedelta(hours=needed.hours)
            attempted_at = await Attempts(db, tenant_id).placed_at(number, since=since, limit=needed.calls)
        # The store bars a queued call of a suspended tenant, or to a registered number, in its claim and its fence.
        told = queued and self.simulated_network
        standing = _UNREMARKABLE if told else await standing_of(db, tenant_id, number, now)
        means = _NO_LIMIT if self.simulated_network else self._means(standing, queued=queued)
        facts = Facts(
            rules=self._rules,
            law=self._law,
            ringing_s=self._ringing_s,
            simulated_network=self.simulated_network,
            allowed_numbers=self._allowed,
            switches=frozenset(),
            tenant_active=standing.status in (None, "active"),
            campaign_running=None,
            listed=False,
            listed_globally=standing.registered,
            consents=(),
            scrubbed_at=None,
            attempted_at=attempted_at,
            campaign_attempts=0,
            minutes_left=means.minutes,
            spend_left_minor=means.spend_minor,
            reserve_minor=self._plans.reserve_minor,
            calls_left_today=means.calls,
            caller_free_at=now,
        )
        return decide(Candidate(number), facts, now)

    def _means(self, standing: Standing, *, queued: bool) -> _Means:
        """What plan and limits leave; each call that lives, but for this one, is taken to need its reserve."""
        others = standing.live - queued
        plan, plans = self._plans.of(standing.plan), self._plans
        minutes: float | None = 0.0  # a plan that is not known allows nothing
        if plan is not None:
            reserved = others * plans.reserve_minutes
            minutes = None if plan.minutes is None else plan.minutes - standing.used.talk_s / 60 - reserved
        spend, calls = standing.spend_cap_minor, standing.daily_calls
        if spend is not None:
            spend -= plans.spent_minor(standing.used) + others * plans.reserve_minor
        if calls is not None:
            calls -= standing.calls_today + others
        return _Means(minutes, spend, calls)
