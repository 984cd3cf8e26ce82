"""When a lead is tried again, or why it is not: one pure function over a policy that every campaign may change.

The defaults are those of common practice (busy soon, no answer at another part of the day, a person who was reached
much later, and no status of the network terminal on the first try, because what busy or rejected means depends on the
carrier). The calling rules have the last word on the moment: what is scheduled here into the night waits for morning.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serve_app.conversation.results import LATEST_CALLBACK
from serve_app.dialing.dispositions import BARS_LEAD, BARS_NUMBER, DONE, TERMINAL, Disposition

JITTER = (0.8, 1.2)
CALLBACK_JITTER_S = 120.0
"""A callback is wanted within 10 minutes of its time: two of them leave the rest to the queue."""
OPENING_SPREAD_S = 600.0
"""Leads that wait for the same part of a day do not all come in its first minute."""
NOT_PLACED_AFTER_S = 60.0
DAY_PARTS = (time(8), time(12), time(17), time(21))
"""Morning, afternoon and evening, in the callee's time."""

Minutes = Annotated[float, Field(gt=0, le=60 * 24 * 90)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RetryRule(_Document):
    """After the n-th time: `after_minutes[n-1]`, or the last of them; `most` times. `most` 0: no retry."""

    after_minutes: tuple[Minutes, ...] = ()
    most: int = Field(0, ge=0, le=20)
    other_day_part: bool = Field(False, description="not in the part of the day just tried")
    other_number: bool = Field(False, description="from another one of our numbers")

    @model_validator(mode="after")
    def _has_a_delay(self) -> Self:
        if self.most and not self.after_minutes:
            raise ValueError("after_minutes is empty: say after how many minutes to try again, or set most to 0")
        return self


DEFAULT_RULES: Mapping[Disposition, RetryRule] = {
    Disposition.BUSY: RetryRule(after_minutes=(20, 120), most=3),
    Disposition.NO_ANSWER: RetryRule(after_minutes=(240, 1440), most=4, other_day_part=True),
    Disposition.REJECTED: RetryRule(after_minutes=(1440,), most=1),
    Disposition.NETWORK_FAIL: RetryRule(after_minutes=(10,), most=2, other_number=True),
    Disposition.MACHINE: RetryRule(after_minutes=(1440,), most=2),
    Disposition.MESSAGE_LEFT: RetryRule(after_minutes=(4320,), most=2),
    Disposition.HUMAN_SHORT: RetryRule(after_minutes=(1440,), most=1),
    Disposition.REACHED_INCOMPLETE: RetryRule(after_minutes=(1440,), most=1),
    Disposition.CALLBACK: RetryRule(after_minutes=(1440,), most=2),
    Disposition.UNKNOWN: RetryRule(after_minutes=(240,), most=1),
}


class RetryPolicy(_Document):
    """Of one campaign. Rules that are not given are the defaults; what is terminal cannot be given one.

    `version` counts the changes of the policy; it is set by the store, not by who writes it.
    """

    version: int = Field(1, ge=1)
    rules: Mapping[Disposition, RetryRule] = Field(default_factory=dict)
    most_attempts: int = Field(8, ge=1, le=100, description="of one lead, whatever came of them")

    @field_validator("rules")
    @classmethod
    def _are_not_terminal(cls, rules: Mapping[Disposition, RetryRule]) -> Mapping[Disposition, RetryRule]:
        fixed = sorted(set(rules) & (TERMINAL | {Disposition.NOT_PLACED}))
        if fixed:
            raise ValueError(f"{fixed[0]}: this disposition has no retry rule; remove it from the rules")
        return rules

    def rule(self, disposition: Disposition) -> RetryRule:
        return self.rules.get(disposition) or DEFAULT_RULES[disposition]


def policy_from(document: Mapping[str, Any]) -> RetryPolicy:
    """The policy of a campaign as it is stored; an empty document is the default one. Raises ValidationError."""
    return RetryPolicy.model_validate(dict(document))


@dataclass(frozen=True, slots=True)
class LeadHistory:
    """What the policy looks at. The attempt that just ended is included in the counts."""

    attempts: int
    counts: Mapping[Disposition, int]
    called_at: datetime
    """When the attempt that just ended was placed."""
    zones: Sequence[str] = ()
    """IANA zones in which the callee may be; empty: none is known, and UTC stands for it."""
    callback_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    at: datetime
    reason: str
    callback: bool = False
    other_number: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    reason: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    reason: str


@dataclass(frozen=True, slots=True)
class Barred:
    reason: str
    whole_number: bool
    """Every lead of the number, in all campaigns of the tenant, and for good."""


Step = Retry | Done | Exhausted | Barred


def next_step(
    policy: RetryPolicy, lead: LeadHistory, disposition: Disposition, now: datetime, rng: random.Random
) -> Step:
    """What becomes of a lead whose attempt ended with `disposition` at `now`.

    Reasons are `<disposition>`, `retry_<disposition>`, `<disposition>_used_up` and `attempts_used_up`.
    """
    if disposition in BARS_NUMBER or disposition in BARS_LEAD:
        return Barred(str(disposition), whole_number=disposition in BARS_NUMBER)
    if disposition in DONE:
        return Done(str(disposition))
    if disposition is Disposition.NOT_PLACED:
        return Retry(now + timedelta(seconds=NOT_PLACED_AFTER_S * rng.uniform(*JITTER)), f"retry_{disposition}")
    rule = policy.rule(disposition)
    times = lead.counts.get(disposition, 1)
    if times > rule.most:
        return Exhausted(f"{disposition}_used_up")
    if lead.attempts >= policy.most_attempts:
        return Exhausted("attempts_used_up")
    reason = f"retry_{disposition}"
    if disposition is Disposition.CALLBACK and _is_near(lead.callback_at, now):
        assert lead.callback_at is not None
        at = lead.callback_at + timedelta(seconds=rng.uniform(0, CALLBACK_JITTER_S))
        return Retry(max(at, now), reason, callback=True)
    minutes = rule.after_minutes[min(times, len(rule.after_minutes)) - 1]
    at = now + timedelta(minutes=minutes * rng.uniform(*JITTER))
    if rule.other_day_part:
        at = _in_other_day_part(at, lead, rng)
    return Retry(at, reason, other_number=rule.other_number)


def _is_near(callback_at: datetime | None, now: datetime) -> bool:
    """A model that misheard a date must not park a lead for years."""
    return callback_at is not None and callback_at - now <= LATEST_CALLBACK


def _in_other_day_part(at: datetime, lead: LeadHistory, rng: random.Random) -> datetime:
    """The first moment from `at` on in a part of the callee's day that is not the one just tried.

    With several candidate zones: those of the first one in their order, and the calling rules see to the law in all.
    """
    zone = ZoneInfo(min(lead.zones)) if lead.zones else ZoneInfo("UTC")
    tried = _day_part(lead.called_at.astimezone(zone).time())
    for part, start, end in _parts_from(at.astimezone(zone).date(), zone):
        if part != tried and end > at:
            return at if at >= start else start + timedelta(seconds=rng.uniform(0, OPENING_SPREAD_S))
    raise AssertionError("two days have a part of every kind")


def _day_part(local: time) -> int | None:
    """0 morning, 1 afternoon, 2 evening; None at night."""
    for part, (start, end) in enumerate(pairwise(DAY_PARTS)):
        if start <= local < end:
            return part
    return None


def _parts_from(day: date, zone: ZoneInfo) -> Iterator[tuple[int, datetime, datetime]]:
    """The parts of a local day and of the next two, in time."""
    for later in range(3):
        local = (datetime.combine(day + timedelta(days=later), edge, zone) for edge in DAY_PARTS)
        # In UTC: Python compares times of one zone by their wall clocks, which an hour of the year shows twice.
        edges = [moment.astimezone(UTC) for moment in local]
        yield from ((part, start, end) for part, (start, end) in enumerate(pairwise(edges)))
