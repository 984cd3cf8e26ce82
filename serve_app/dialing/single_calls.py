"""May a call by itself, of no campaign, be placed now?

Asked by the API before it queues one, and by the dialer before it dials. On a real network such a call goes to a number
that the operator allowed by name, which states the owner's consent; the law's hours and caps, the kill switches and a
cap of calls per day apply. On a simulated network it may be placed at any time.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from serve_app.dialing.network import network_is_simulated
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

# No number of a country's own: its rules are never asked for, because the number is not on the list of allowed ones.
NOWHERE = "ZZ"
COMMIT_S = 5  # and a busy event loop


def ringing_margin_s(settings: Settings) -> int:
    """From the last check of the time to the last ring: a commit, the request, the ringing."""
    network = settings.telephony.vonage
    return network.ringing_timer_s + math.ceil(network.request_timeout_s) + COMMIT_S


class SingleCalls:
    """The rules for calls by themselves, with what the settings say. `simulated_network` None: derived from them."""

    def __init__(self, settings: Settings, *, simulated_network: bool | None = None) -> None:
        dialing = settings.dialing
        self.simulated_network = network_is_simulated(settings) if simulated_network is None else simulated_network
        self._allowed = frozenset(dialing.allowed_numbers)
        self._ringing_s = ringing_margin_s(settings)
        self._law = shipped()
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

    async def decide(self, db: Database, tenant_id: str, number: str, now: datetime) -> Decision:
        """Decide on one E.164 number. Raises UnavailableError.

        Do-not-call list and kill switches are not asked here: the store asks for them in the transactions that queue,
        claim and place a call.
        """
        attempted_at: list[datetime] = []
        if not self.simulated_network and number in self._allowed:
            needed = history(self._rules, self._law)
            since = now - timedelta(hours=needed.hours)
            attempted_at = await Attempts(db, tenant_id).placed_at(number, since=since, limit=needed.calls)
        facts = Facts(
            rules=self._rules,
            law=self._law,
            ringing_s=self._ringing_s,
            simulated_network=self.simulated_network,
            allowed_numbers=self._allowed,
            switches=frozenset(),
            tenant_active=True,
            campaign_running=None,
            listed=False,
            listed_globally=False,
            consents=(),
            scrubbed_at=None,
            attempted_at=attempted_at,
            campaign_attempts=0,
            minutes_left=None,
            spend_left_minor=None,
            reserve_minor=0,
            calls_left_today=None,
            caller_free_at=now,
        )
        return decide(Candidate(number), facts, now)
