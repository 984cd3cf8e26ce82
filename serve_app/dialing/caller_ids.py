"""Which of our numbers calls a lead, and which has to rest. Pure.

The one that the lead knows, else one of the lead's own area, else the one with the most left of its day. A number that
is new calls little at first; one that people stopped answering rests, because carriers label it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from serve_app.dialing.lead_choice import CallerNumber
from serve_app.store.campaign_rows import LeadRow, NumberRow
from serve_app.store.numbers import NumberHealth, NumberUse

WARM_UP = timedelta(days=14)
FIRST_DAY_SHARE = 0.2
"""Of the daily cap; it grows evenly until the number is warm."""
AGAIN = timedelta(hours=1)
"""When all have called enough for a day, the oldest calls leave the count little by little."""

NEWEST_CALLS = 100
LEAST_CALLS = 50
"""Fewer than these say nothing of a number."""
FEWER_ANSWERS = 0.6
"""Of the answer rate of its pool: below this share the number is probably labelled as spam."""
MOST_SHORT = 0.6
"""Of the answered calls; people who hang up at once have seen something on their screen."""
REST = timedelta(days=60)


def allowance(number: NumberRow, now: datetime) -> int:
    """How many calls it may place in 24 hours: at least one while it is active, none while it rests."""
    if number.state == "retired" or (
        number.state == "cooling" and (number.cool_until is None or now < number.cool_until)
    ):
        return 0
    if number.warmup_from is None:
        return number.daily_cap
    warm = max(0.0, min(1.0, (now - number.warmup_from) / WARM_UP))
    return min(number.daily_cap, max(1, int(number.daily_cap * (FIRST_DAY_SHARE + (1 - FIRST_DAY_SHARE) * warm))))


class CallerIds:
    """The numbers for the leads of one claim. What it gives away counts, so a batch keeps to the caps.

    `fallback`: the account's own number, for who has no numbers and names no pool; None: without a pool nobody calls.
    """

    def __init__(self, pool: Sequence[NumberUse], now: datetime, *, fallback: str | None) -> None:
        self._now = now
        self._fallback = fallback if not pool else None
        self._numbers = {use.number.e164: use.number for use in pool}
        self._most = {use.number.e164: allowance(use.number, now) for use in pool}
        self._calls = Counter({use.number.e164: use.calls for use in pool})
        self._rests = [
            use.number.cool_until for use in pool if use.number.state == "cooling" and use.number.cool_until is not None
        ]

    def pick(self, lead: LeadRow) -> CallerNumber:
        """The number that would call this lead; nothing is counted until `take`."""
        if self._fallback is not None:
            return CallerNumber(self._fallback)
        free = [e164 for e164, most in self._most.items() if self._calls[e164] < most]
        if lead.caller_id in free:
            return CallerNumber(lead.caller_id)
        if free:
            return CallerNumber(min(free, key=lambda e164: (-self._nearness(e164, lead), self._used(e164), e164)))
        return CallerNumber(None, self._free_at())

    def take(self, e164: str) -> None:
        """A call is placed from it."""
        self._calls[e164] += 1

    def _used(self, e164: str) -> float:
        return self._calls[e164] / self._most[e164]

    def _nearness(self, e164: str, lead: LeadRow) -> int:
        """2: the same area code of the North American plan; 1: the region that the lead states; 0 otherwise."""
        if e164.startswith("+1") and e164[:5] == lead.number[:5]:
            return 2
        return int(lead.region is not None and self._numbers[e164].region == lead.region)

    def _free_at(self) -> datetime | None:
        """When one may call again, as far as is known; None: there is no number, or its rest has no end."""
        if any(self._most.values()):
            return self._now + AGAIN
        return min((rest for rest in self._rests if rest > self._now), default=None)


@dataclass(frozen=True, slots=True)
class Rest:
    e164: str
    until: datetime
    reason: str


def tired(pool: Sequence[NumberHealth], now: datetime) -> list[Rest]:
    """The numbers of a pool that should rest, by the newest calls of each. The healthiest one is never among them."""
    known = [number for number in pool if number.calls >= LEAST_CALLS]
    calls = sum(number.calls for number in known)
    if not calls:
        return []
    usual = sum(number.answered for number in known) / calls
    found = []
    for number in known:
        rate = number.answered / number.calls
        if rate < FEWER_ANSWERS * usual:
            found.append(Rest(number.e164, now + REST, f"answered {rate:.0%} of its calls, its pool {usual:.0%}"))
        elif number.answered and number.short / number.answered > MOST_SHORT:
            share = number.short / number.answered
            found.append(Rest(number.e164, now + REST, f"{share:.0%} of the answered calls were over at once"))
    best = max(known, key=lambda number: (number.answered - number.short) / number.calls)
    return [rest for rest in found if rest.e164 != best.e164]
