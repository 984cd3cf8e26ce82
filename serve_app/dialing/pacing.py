"""How many calls may be under way, and how long a campaign takes. Pure.

A call that rings needs a line of the network; one that is answered needs a session as well. Every call has its session
before it is placed, so nobody who answers is ever met by silence. How many ring at once can be bounded by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.dialing.fairness import Scarce
from serve_app.dialing.slowness import ReplyTroubles, RequestTimes

SLOW_REQUEST_S = 2.0
LONGEST_PACE_S = 5.0
"""What the rate of the network lets through in this time may wait for it."""
LEAST_WAITING = 4

# Additive increase, multiplicative decrease, as TCP does it: from one failure to the next probe is half a minute.
DECREASE = 0.5
LEAST_SHARE = 0.1
INCREASE_PER_S = 0.01
DEAF_S = 5.0
"""Failures that come together are one sign, not many."""


def most_waiting(calls_per_second: float) -> int:
    """Calls that may wait for the network's rate: half of what it passes in `LONGEST_PACE_S`.

    So two dialers together mostly stay within it.
    """
    return max(LEAST_WAITING, math.ceil(calls_per_second * LONGEST_PACE_S / 2))


@dataclass(frozen=True, slots=True)
class Load:
    """What there is and what is used now."""

    sessions: int
    sessions_taken: int
    """Reserved, or needed by a call that is decided on and has none yet."""
    lines: int | None
    """Calls that the network carries at once; None: it states no limit."""
    lines_taken: int
    """Calls that wait, ring or talk."""
    waiting: int
    """Calls that are decided on and not placed yet."""
    most_waiting: int
    ringing: int = 0
    """Calls that wait, are being placed, or ring."""
    most_ringing: int | None = None


def room(load: Load, share: float) -> tuple[int, Scarce]:
    """How many more calls may be decided on, and what limits them. Each finds a session, a line, a place in the rate.

    `share`: what `Backpressure` leaves of the sessions. What rings or talks is never ended for it.
    """
    sessions = math.floor(load.sessions * share) - load.sessions_taken
    if load.lines is not None:
        sessions = min(sessions, load.lines - load.lines_taken)
    if load.most_ringing is not None:
        sessions = min(sessions, load.most_ringing - load.ringing)
    rate = load.most_waiting - load.waiting
    return max(0, min(sessions, rate)), "sessions" if sessions < rate else "rate"


class Backpressure:
    """The share of the capacity that is used while a provider is in trouble: halved by a failure, regained slowly.

    Slowness is trouble too: it comes before the failures, and is what more calls would make worse. `slow_request_s`: a
    create-call request that takes longer is slow, whatever is usual.
    """

    def __init__(self, slow_request_s: float = SLOW_REQUEST_S) -> None:
        self._requests = RequestTimes(slow_request_s)
        self._replies = ReplyTroubles()
        self._share = 1.0
        self._at_s = -math.inf
        self._refusal: str | None = None

    def share(self, now_s: float) -> float:
        """Of the capacity, from `LEAST_SHARE` to 1. `now_s` is monotonic."""
        if self._share == 1.0:
            return 1.0
        return min(1.0, self._share + max(0.0, now_s - self._at_s) * INCREASE_PER_S)

    def failed(self, now_s: float) -> None:
        """A provider refused for its load, failed, or did not answer."""
        if now_s - self._at_s < DEAF_S:
            return
        self._share = max(LEAST_SHARE, self.share(now_s) * DECREASE)
        self._at_s = now_s

    def answered(self, seconds: float, now_s: float) -> bool:
        """The network took a call `seconds` after it was asked. True: its requests are slow, which is a failure."""
        slow = self._requests.took(seconds, now_s)
        if slow:
            self.failed(now_s)
        return slow

    def replied(self, reports: Mapping[str, Mapping[str, Any]], now_s: float) -> bool:
        """What session replicas report of their calls' replies. True: they tell of trouble, which is a failure."""
        bad = self._replies.look(reports, now_s)
        if bad:
            self.failed(now_s)
        return bad

    def account_refused(self, why: str, now_s: float) -> None:
        """The network takes no call of this account at all (key, balance, rights): a failure, and told once more."""
        self._refusal = why
        self.failed(now_s)

    def take_refusal(self) -> str | None:
        """Why the account was refused since this was last asked; None: it was not."""
        why, self._refusal = self._refusal, None
        return why


USUAL_ANSWER_RATE = 0.3
USUAL_TALK_S = 90.0
RING_S = 20.0
"""Until a campaign has figures of its own. Ringing is not measured: this is a usual mean of it."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one pass over the open leads of a campaign depends on."""

    leads: int
    calls_per_second: float
    sessions: int
    answer_rate: float
    """Share of the calls that are answered, 0 to 1."""
    talk_s: float
    """Mean of the answered calls."""


def pass_s(outlook: Outlook) -> float | None:
    """Seconds of dialing until each lead was called once, if nothing else is called. None: it cannot be called at all.

    By Little's law: each call holds its session while it rings and talks, so sessions bound the rate of calls, too.
    """
    if outlook.leads == 0:
        return 0.0
    rate = min(outlook.calls_per_second, outlook.sessions / (RING_S + outlook.answer_rate * outlook.talk_s))
    return outlook.leads / rate if rate > 0 else None
