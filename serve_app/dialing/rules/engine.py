"""May this number be called now? One pure function, asked when a call is chosen and again when it is claimed.

It fails closed: what cannot be established is not allowed. The order of the checks is that in which a person would want
to hear of them: the gravest first. Nothing is looked up here: the caller gathers the facts, in the transaction that
acts on the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from serve_app.dialing.numbers import is_valid
from serve_app.dialing.rules.calling_rules import EVERYBODY, CallingRules, ConsentKind
from serve_app.dialing.rules.decisions import Allow, Decision, Defer, Deny, Reason
from serve_app.dialing.rules.jurisdictions import Jurisdictions, LegalRules
from serve_app.dialing.rules.places import Place, place_of
from serve_app.dialing.rules.windows import PAGE_DAYS, Span, is_zone, open_spans, page_of, schedules

KillSwitch = Literal["global", "tenant", "campaign", "number"]

PAGES = 4
"""How far ahead a legal moment is looked for: 32 days. A campaign that calls on Mondays outlives a Monday's holiday."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who is to be called: an E.164 number, and what the lead's record says of the place."""

    number: str
    zones: tuple[str, ...] = ()
    region: str | None = None
    """ISO 3166-1 or -2, from an address."""


@dataclass(frozen=True, slots=True)
class ConsentFact:
    """One recorded consent of the owner of the number. `scope` "*" covers every campaign of the tenant."""

    kind: ConsentKind
    scope: str
    given_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the decision rests on. No field that could allow a call has a default: who asks has to find it out."""

    rules: CallingRules
    law: Jurisdictions
    ringing_s: int
    """From the decision to the last ring, at most: a call must not begin later than this before the end of a window."""
    simulated_network: bool
    allowed_numbers: frozenset[str]
    """Numbers that a real network may dial outside a campaign."""
    switches: frozenset[KillSwitch]
    """Those that are on and concern this call."""
    tenant_active: bool
    campaign_running: bool | None
    """None: a call by itself, of no campaign."""
    listed: bool
    listed_globally: bool
    consents: tuple[ConsentFact, ...]
    scrubbed_at: datetime | None
    attempted_at: Sequence[datetime]
    """When the tenant's calls to this number began, newest first: as many as `history` says, or more."""
    campaign_attempts: int
    """Calls to this number by this campaign, ever."""
    minutes_left: float | None
    """Of the tenant's plan. None: unlimited."""
    spend_left_minor: int | None
    reserve_minor: int
    """What one call may cost at most, in the budget's smallest unit."""
    calls_left_today: int | None
    caller_free_at: datetime | None
    """When a number to call from is free: a moment that has passed if one is. None: there is none."""


@dataclass(frozen=True, slots=True)
class History:
    """How much of a number's past `decide` needs: the newest `calls` of the last `hours`."""

    calls: int
    hours: float


def history(rules: CallingRules, law: Jurisdictions) -> History:
    """What to read before a decision: enough for every cap that may apply."""
    caps = [(1, rules.min_hours_between_calls), *rules.rolling_caps, *law.caps]
    return History(max(calls for calls, _ in caps), max(hours for _, hours in caps))


def decide(candidate: Candidate, facts: Facts, now: datetime) -> Decision:
    """Decide on one call. `now` is aware; raises ValueError if it is not."""
    if now.tzinfo is None:
        raise ValueError("`now` needs a time zone")
    refused = _switched_off(facts) or _not_active(facts)
    if refused is not None:
        return refused
    if facts.simulated_network and facts.campaign_running is None:
        # Nobody is reached: such a call is allowed at any time, as often as one likes.
        return _lists(facts) or _means(facts, None, now) or Allow()
    place = place_of(candidate.number)
    regions = place.regions if candidate.region is None else place.regions | {candidate.region}
    law = [rules for found in facts.law.of(regions) if (rules := found.rules(now.date())) is not None]
    calendar = _Calendar(candidate, place, regions, facts)
    return (
        _destination(candidate, place, facts)
        or _lists(facts)
        or _consent(facts, law, now)
        or _scrub(facts, law, now)
        or _caps(facts, law, calendar, now)
        or _window(calendar, now)
        or _means(facts, calendar, now)
        or Allow(calendar.end_of(now))
    )


def _switched_off(facts: Facts) -> Deny | None:
    reasons: dict[KillSwitch, Reason] = {
        "global": Reason.KILL_SWITCH_GLOBAL,
        "tenant": Reason.KILL_SWITCH_TENANT,
        "campaign": Reason.KILL_SWITCH_CAMPAIGN,
        "number": Reason.KILL_SWITCH_NUMBER,
    }
    return next((Deny(reason) for switch, reason in reasons.items() if switch in facts.switches), None)


def _not_active(facts: Facts) -> Deny | None:
    if not facts.tenant_active:
        return Deny(Reason.TENANT_INACTIVE)
    return Deny(Reason.CAMPAIGN_NOT_RUNNING) if facts.campaign_running is False else None


def _destination(candidate: Candidate, place: Place, facts: Facts) -> Deny | None:
    # Numbers that are reserved for tests and fiction are assigned to nobody: a simulated network dials them.
    if not facts.simulated_network and not is_valid(candidate.number):
        return Deny(Reason.INVALID_NUMBER)
    if facts.campaign_running is None and candidate.number not in facts.allowed_numbers:
        return Deny(Reason.NOT_ON_ALLOW_LIST)
    if place.country in facts.rules.countries:
        return None
    return Deny(Reason.COUNTRY_NOT_ALLOWED, place.country or "it belongs to no country")


def _lists(facts: Facts) -> Deny | None:
    if facts.listed:
        return Deny(Reason.ON_DO_NOT_CALL_LIST)
    return Deny(Reason.ON_GLOBAL_DO_NOT_CALL_LIST) if facts.listed_globally else None


def _consent(facts: Facts, law: Sequence[LegalRules], now: datetime) -> Deny | None:
    rule = facts.rules.consent
    revoked = max((c.revoked_at for c in facts.consents if c.revoked_at is not None), default=None)
    given = [c for c in facts.consents if c.revoked_at is None and c.given_at <= now]
    if revoked is not None:
        # Whoever takes one consent back means all that were given before.
        given = [c for c in given if c.given_at > revoked]
        if not given:
            return Deny(Reason.CONSENT_REVOKED)
    if rule.required == "none":
        return None
    if not given:
        return Deny(Reason.NO_CONSENT)
    oldest = now - timedelta(days=rule.max_age_days) if rule.max_age_days is not None else None
    lasting = [c for c in given if (c.expires_at is None or c.expires_at > now) and (not oldest or c.given_at > oldest)]
    if not lasting:
        return Deny(Reason.CONSENT_EXPIRED)
    demands = [set(rules.consent[facts.rules.purpose]) for rules in law if facts.rules.purpose in rules.consent]
    scopes = {EVERYBODY, facts.rules.consent_scope or EVERYBODY}
    if any(c.scope in scopes and demands and all(c.kind in kinds for kinds in demands) for c in lasting):
        return None
    return Deny(Reason.CONSENT_INSUFFICIENT, f"{facts.rules.purpose} calls")


def _scrub(facts: Facts, law: Sequence[LegalRules], now: datetime) -> Deny | None:
    days = [rules.scrub_max_age_days for rules in law] if facts.rules.purpose == "marketing" else []
    limits = [limit for limit in (*days, facts.rules.scrub_max_age_days) if limit is not None]
    if not limits or _named(facts):
        return None
    if facts.scrubbed_at is None:
        return Deny(Reason.NOT_SCRUBBED)
    if now - facts.scrubbed_at > timedelta(days=min(limits)):
        return Deny(Reason.SCRUB_STALE, f"{(now - facts.scrubbed_at).days} days; at most {min(limits)}")
    return None


def _caps(facts: Facts, law: Sequence[LegalRules], calendar: _Calendar, now: datetime) -> Defer | Deny | None:
    rules = facts.rules
    if rules.max_lifetime is not None and facts.campaign_attempts >= rules.max_lifetime:
        return Deny(Reason.LIFETIME_CAP, f"{facts.campaign_attempts} of {rules.max_lifetime}")
    caps = [(Reason.LEGAL_CAP, cap.calls, float(cap.hours)) for legal in law for cap in legal.caps]
    caps += [(Reason.ROLLING_CAP, calls, hours) for calls, hours in rules.rolling_caps]
    caps.append((Reason.TOO_SOON, 1, rules.min_hours_between_calls))
    newest_first = sorted(facts.attempted_at, reverse=True)
    worst: Defer | None = None
    for reason, calls, hours in caps:
        if len(newest_first) < calls:
            continue
        # The call that has to leave the time before another one may enter it.
        free_at = newest_first[calls - 1] + timedelta(hours=hours)
        if free_at > now and (worst is None or free_at > worst.until):
            worst = Defer(free_at, reason, f"{calls} in {hours:g} hours")
    if worst is None:
        return None
    return calendar.deferred(worst)


def _window(calendar: _Calendar, now: datetime) -> Defer | Deny | None:
    if not calendar.zones_known:
        return Deny(Reason.ZONE_UNKNOWN)
    begin = calendar.earliest(now)
    if begin is None:
        return Deny(Reason.NO_LEGAL_WINDOW)
    if begin <= now:
        return None
    return Defer(begin, Reason.HOLIDAY if calendar.open_but_for_holidays(now) else Reason.OUTSIDE_WINDOW)


def _means(facts: Facts, calendar: _Calendar | None, now: datetime) -> Defer | Deny | None:
    if facts.minutes_left is not None and facts.minutes_left <= 0:
        return Deny(Reason.PLAN_MINUTES_EXHAUSTED)
    if facts.spend_left_minor is not None and facts.spend_left_minor < facts.reserve_minor:
        return Deny(Reason.SPEND_EXHAUSTED)
    if facts.calls_left_today is not None and facts.calls_left_today <= 0:
        return Deny(Reason.DAILY_CALLS_EXHAUSTED)
    if facts.caller_free_at is None:
        return Deny(Reason.NO_CALLER_NUMBER)
    if facts.caller_free_at <= now:
        return None
    later = Defer(facts.caller_free_at, Reason.NO_CALLER_NUMBER)
    return later if calendar is None else calendar.deferred(later)


def _named(facts: Facts) -> bool:
    """A call by itself goes to a number that the operator allowed by name, which no list of leads is compared for."""
    return facts.campaign_running is None


class _Calendar:
    """When this callee may be called, whatever else may be."""

    def __init__(self, candidate: Candidate, place: Place, regions: frozenset[str], facts: Facts) -> None:
        self._lead_zones = frozenset(candidate.zones)
        self._number_zones = place.zones
        self._regions = regions
        self._facts = facts

    @property
    def zones_known(self) -> bool:
        zones = self._lead_zones | self._number_zones
        return bool(zones) and all(map(is_zone, zones))

    def earliest(self, at: datetime) -> datetime | None:
        """The first moment from `at` on when a call may begin. None: there is none in the coming weeks."""
        span = self._span(at, with_holidays=True)
        return max(_time(span[0]), at) if span is not None else None

    def end_of(self, now: datetime) -> datetime | None:
        """When the time that is open now is over for calls that begin."""
        span = self._span(now, with_holidays=True)
        return _time(span[1]) if span is not None else None

    def open_but_for_holidays(self, now: datetime) -> bool:
        span = self._span(now, with_holidays=False)
        return span is not None and _time(span[0]) <= now

    def deferred(self, later: Defer) -> Defer | Deny:
        """The same, but to a moment when calls are allowed."""
        if not self.zones_known:
            return Deny(Reason.ZONE_UNKNOWN)
        begin = self.earliest(later.until)
        return Defer(begin, later.reason, later.detail) if begin is not None else Deny(Reason.NO_LEGAL_WINDOW)

    def _span(self, at: datetime, *, with_holidays: bool) -> Span | None:
        """The first span from `at` on in which a call may begin: it rings out before the hours end."""
        rules, second = self._facts.rules, _second(at)
        plans = schedules(
            self._facts.law,
            self._regions,
            rules.week,
            observe_holidays=rules.observe_holidays,
            with_holidays=with_holidays,
        )
        for page in range(page_of(second), page_of(second) + PAGES * PAGE_DAYS, PAGE_DAYS):
            for start, end in open_spans(self._lead_zones, self._number_zones, plans, page):
                # A span that is cut off by its page goes on in the next one.
                last = end if page_of(end) == page + PAGE_DAYS else end - self._facts.ringing_s
                if last > max(start, second):
                    return max(start, second), last
        return None


def _second(at: datetime) -> int:
    return math.floor(at.timestamp())


def _time(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)
