"""The decision: every reason can be reached, the gravest is told first, and what is not known is not allowed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.dialing.rules import (
    EVERYBODY,
    Allow,
    CallingRules,
    Candidate,
    ConsentFact,
    Decision,
    Defer,
    Deny,
    Facts,
    Reason,
    decide,
    history,
    shipped,
)

NOON = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
"""A Friday, one in the afternoon in New York."""
NEW_YORK = Candidate("+12125551234")
FLORIDA = Candidate("+13055551234")
DAY = timedelta(days=1)
CONSENT = ConsentFact("written", EVERYBODY, NOON - 30 * DAY)


def rules(**changes: Any) -> CallingRules:
    return CallingRules.model_validate({"countries": ["US", "CA", "FR", "RU", "GB"]} | changes)


def facts(**changes: Any) -> Facts:
    """A running campaign in which nothing stands against the call."""
    known: dict[str, Any] = {
        "rules": rules(),
        "law": shipped(),
        "ringing_s": 30,
        "simulated_network": False,
        "allowed_numbers": frozenset(),
        "switches": frozenset(),
        "tenant_active": True,
        "campaign_running": True,
        "listed": False,
        "listed_globally": False,
        "consents": (CONSENT,),
        "scrubbed_at": NOON - DAY,
        "attempted_at": (),
        "campaign_attempts": 0,
        "minutes_left": 10.0,
        "spend_left_minor": 1000,
        "reserve_minor": 50,
        "calls_left_today": 5,
        "caller_free_at": NOON - DAY,
    }
    return Facts(**known | changes)


def reason(decision: Decision) -> Reason | None:
    return None if isinstance(decision, Allow) else decision.reason


# What leads to each reason, in the order in which `decide` looks. A later fault never hides an earlier one.
FAULTS: dict[Reason, tuple[dict[str, Any], Candidate, datetime]] = {
    Reason.KILL_SWITCH_GLOBAL: ({"switches": frozenset({"global"})}, NEW_YORK, NOON),
    Reason.KILL_SWITCH_TENANT: ({"switches": frozenset({"tenant"})}, NEW_YORK, NOON),
    Reason.KILL_SWITCH_CAMPAIGN: ({"switches": frozenset({"campaign"})}, NEW_YORK, NOON),
    Reason.KILL_SWITCH_NUMBER: ({"switches": frozenset({"number"})}, NEW_YORK, NOON),
    Reason.TENANT_INACTIVE: ({"tenant_active": False}, NEW_YORK, NOON),
    Reason.CAMPAIGN_NOT_RUNNING: ({"campaign_running": False}, NEW_YORK, NOON),
    Reason.INVALID_NUMBER: ({}, Candidate("+15551234567"), NOON),
    Reason.NOT_ON_ALLOW_LIST: ({"campaign_running": None}, NEW_YORK, NOON),
    Reason.COUNTRY_NOT_ALLOWED: ({"rules": rules(countries=["FR"])}, NEW_YORK, NOON),
    Reason.ON_DO_NOT_CALL_LIST: ({"listed": True}, NEW_YORK, NOON),
    Reason.ON_GLOBAL_DO_NOT_CALL_LIST: ({"listed_globally": True}, NEW_YORK, NOON),
    Reason.CONSENT_REVOKED: ({"consents": (replace(CONSENT, revoked_at=NOON - DAY),)}, NEW_YORK, NOON),
    Reason.NO_CONSENT: ({"consents": ()}, NEW_YORK, NOON),
    Reason.CONSENT_EXPIRED: ({"consents": (replace(CONSENT, expires_at=NOON),)}, NEW_YORK, NOON),
    Reason.CONSENT_INSUFFICIENT: ({"consents": (replace(CONSENT, kind="express"),)}, NEW_YORK, NOON),
    Reason.NOT_SCRUBBED: ({"scrubbed_at": None}, NEW_YORK, NOON),
    Reason.SCRUB_STALE: ({"scrubbed_at": NOON - 32 * DAY}, NEW_YORK, NOON),
    Reason.LIFETIME_CAP: ({"campaign_attempts": 8}, NEW_YORK, NOON),
    Reason.ROLLING_CAP: ({"attempted_at": [NOON - 3 * timedelta(hours=h) for h in (1, 2)]}, NEW_YORK, NOON),
    Reason.LEGAL_CAP: (
        {
            "rules": rules(max_per_24h=None, max_per_7d=None, min_hours_between_calls=0),
            "attempted_at": [NOON - timedelta(hours=h) for h in (1, 2, 3)],
        },
        FLORIDA,
        NOON,
    ),
    Reason.TOO_SOON: ({"attempted_at": [NOON - timedelta(hours=1)]}, NEW_YORK, NOON),
    Reason.ZONE_UNKNOWN: ({}, replace(NEW_YORK, zones=("America/Springfield",)), NOON),
    Reason.NO_LEGAL_WINDOW: (
        {"rules": rules(countries=["RU"], hours={"mon-fri": ["10:00-19:00"]})},
        Candidate("+79161234567"),
        NOON,
    ),
    Reason.OUTSIDE_WINDOW: ({}, NEW_YORK, NOON + timedelta(hours=7)),
    Reason.HOLIDAY: ({}, NEW_YORK, datetime(2026, 11, 26, 18, 0, tzinfo=UTC)),
    Reason.PLAN_MINUTES_EXHAUSTED: ({"minutes_left": 0.0}, NEW_YORK, NOON),
    Reason.SPEND_EXHAUSTED: ({"spend_left_minor": 49}, NEW_YORK, NOON),
    Reason.DAILY_CALLS_EXHAUSTED: ({"calls_left_today": 0}, NEW_YORK, NOON),
    Reason.NO_CALLER_NUMBER: ({"caller_free_at": None}, NEW_YORK, NOON),
}


def test_nothing_stands_against_the_call() -> None:
    assert decide(NEW_YORK, facts(), NOON) == Allow(datetime(2026, 11, 20, 23, 59, 30, tzinfo=UTC))


def test_every_reason_has_its_fault() -> None:
    assert set(FAULTS) == set(Reason)


@pytest.mark.parametrize("code", FAULTS)
def test_every_reason_can_be_reached(code: Reason) -> None:
    changes, candidate, now = FAULTS[code]
    decision = decide(candidate, facts(**changes), now)
    assert reason(decision) == code
    assert not isinstance(decision, Allow)
    assert decision.explanation.startswith(code.explanation)
    assert decision.remedy == code.remedy


def test_the_gravest_reason_is_told_first() -> None:
    """All these faults at once; then one after the other is put right, in the order of the specification."""
    order = [
        Reason.KILL_SWITCH_GLOBAL,
        Reason.TENANT_INACTIVE,
        Reason.CAMPAIGN_NOT_RUNNING,
        Reason.COUNTRY_NOT_ALLOWED,
        Reason.ON_DO_NOT_CALL_LIST,
        Reason.NO_CONSENT,
        Reason.NOT_SCRUBBED,
        Reason.LIFETIME_CAP,
        Reason.SPEND_EXHAUSTED,
        Reason.NO_CALLER_NUMBER,
    ]
    told = []
    for left in range(len(order)):
        changes: dict[str, Any] = {}
        for code in order[left:]:
            changes |= FAULTS[code][0]
        told.append(reason(decide(NEW_YORK, facts(**changes), NOON)))
    assert told == order
    late = NOON + timedelta(hours=7)
    assert reason(decide(NEW_YORK, facts(**FAULTS[Reason.SPEND_EXHAUSTED][0]), late)) == Reason.OUTSIDE_WINDOW
    assert reason(decide(NEW_YORK, facts(**FAULTS[Reason.NO_CONSENT][0]), late)) == Reason.NO_CONSENT


def test_a_call_by_itself_on_a_simulated_network_is_placed_at_any_time_unless_it_is_forbidden() -> None:
    single = {"campaign_running": None, "simulated_network": True, "consents": (), "scrubbed_at": None}
    night = NOON + timedelta(hours=10)
    often = {"attempted_at": [NOON] * 30, "campaign_attempts": 99}
    for number in ("+12025550123", "+80012345678", "+447700900123"):
        assert decide(Candidate(number), facts(**single, **often), night) == Allow()
    assert reason(decide(NEW_YORK, facts(**single, listed=True), NOON)) == Reason.ON_DO_NOT_CALL_LIST
    assert reason(decide(NEW_YORK, facts(**single, switches=frozenset({"tenant"})), NOON)) == Reason.KILL_SWITCH_TENANT
    assert reason(decide(NEW_YORK, facts(**single, minutes_left=0), NOON)) == Reason.PLAN_MINUTES_EXHAUSTED


def test_a_campaign_obeys_the_rules_on_a_simulated_network_too() -> None:
    simulated = facts(simulated_network=True)
    fictional = Candidate("+12025550123")
    assert isinstance(decide(fictional, simulated, NOON), Allow)
    assert reason(decide(fictional, simulated, NOON + timedelta(hours=7))) == Reason.OUTSIDE_WINDOW
    assert reason(decide(fictional, replace(simulated, consents=()), NOON)) == Reason.NO_CONSENT


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        decide(NEW_YORK, facts(), NOON.replace(tzinfo=None))


# --- places ---


def test_all_candidate_zones_have_to_be_open() -> None:
    """+1 208 is Boise and Los Angeles: nine in the evening in Boise is not eight in Los Angeles for this number."""
    idaho, awake = Candidate("+12085551234"), facts(rules=rules(hours={"mon-sun": ["00:00-24:00"]}))
    boise_8_pm, boise_8_30_am = datetime(2026, 11, 21, 3, 0, tzinfo=UTC), datetime(2026, 11, 20, 15, 30, tzinfo=UTC)
    assert decide(idaho, awake, boise_8_pm) == Allow(boise_8_pm + timedelta(minutes=59, seconds=30))
    assert decide(idaho, awake, boise_8_30_am) == Defer(boise_8_30_am + timedelta(minutes=30), Reason.OUTSIDE_WINDOW)
    in_boise = replace(idaho, zones=("America/Boise",))
    assert isinstance(decide(in_boise, awake, boise_8_30_am), Allow)


def test_a_zone_that_contradicts_the_number_adds_to_its_zones() -> None:
    """A wrong column of a file must wake nobody: a call waits until it is late enough in both."""
    awake = facts(rules=rules(hours={"mon-sun": ["00:00-24:00"]}))
    moved = replace(NEW_YORK, zones=("America/Los_Angeles",))
    eight_in_new_york, eight_in_los_angeles = NOON.replace(hour=13), NOON.replace(hour=16)
    assert decide(moved, awake, eight_in_new_york) == Defer(eight_in_los_angeles, Reason.OUTSIDE_WINDOW)
    assert decide(moved, awake, eight_in_los_angeles) == Allow(
        datetime(2026, 11, 21, 1, 59, 30, tzinfo=UTC)  # nine in the evening in New York
    )
    # Another name of the same clock contradicts nothing.
    assert isinstance(decide(replace(NEW_YORK, zones=("US/Eastern",)), awake, eight_in_new_york), Allow)


def test_an_address_adds_the_rules_of_its_state() -> None:
    awake = facts(rules=rules(hours={"mon-sun": ["00:00-24:00"]}, observe_holidays=False))
    sunday = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
    assert isinstance(decide(NEW_YORK, awake, sunday), Allow)
    moved = replace(NEW_YORK, region="US-AL")
    assert decide(moved, awake, sunday) == Defer(datetime(2026, 11, 23, 13, 0, tzinfo=UTC), Reason.OUTSIDE_WINDOW)


def test_a_number_of_no_known_state_has_the_rules_of_all() -> None:
    """Toll-free, with a zone: no state allows a call on Sunday morning that another one forbids."""
    awake = facts(rules=rules(hours={"mon-sun": ["00:00-24:00"]}, observe_holidays=False))
    toll_free = Candidate("+18005551234", zones=("America/New_York",))
    sunday = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
    assert reason(decide(Candidate("+18005551234"), awake, sunday)) == Reason.NO_LEGAL_WINDOW
    # Monday is a holiday in the British Virgin Islands, whose numbers it may be; Kentucky opens at ten.
    assert decide(toll_free, awake, sunday) == Defer(datetime(2026, 11, 24, 15, 0, tzinfo=UTC), Reason.OUTSIDE_WINDOW)


def test_a_mondays_holiday_does_not_end_a_campaign_that_calls_on_mondays() -> None:
    mondays = facts(rules=rules(hours={"mon": ["09:00-12:00"]}), scrubbed_at=datetime(2026, 9, 1, tzinfo=UTC))
    labor_day = datetime(2026, 9, 7, 14, 0, tzinfo=UTC)
    consented = replace(mondays, consents=(replace(CONSENT, given_at=labor_day - DAY),))
    assert decide(NEW_YORK, consented, labor_day) == Defer(datetime(2026, 9, 14, 13, 0, tzinfo=UTC), Reason.HOLIDAY)


# --- consent and scrub ---


def consented(*consents: ConsentFact, now: datetime = NOON, **changes: Any) -> Reason | None:
    return reason(decide(NEW_YORK, facts(consents=consents, rules=rules(**changes)), now))


def test_what_a_consent_has_to_be() -> None:
    assert consented(CONSENT) is None
    assert consented(replace(CONSENT, kind="transactional")) == Reason.CONSENT_INSUFFICIENT
    assert consented(replace(CONSENT, kind="transactional"), purpose="informational") is None
    assert consented(replace(CONSENT, scope="autumn sale")) == Reason.CONSENT_INSUFFICIENT
    assert consented(replace(CONSENT, scope="autumn sale"), consent_scope="autumn sale") is None
    assert consented(replace(CONSENT, scope=""), consent_scope="") == Reason.CONSENT_INSUFFICIENT
    assert consented(replace(CONSENT, given_at=NOON + DAY)) == Reason.NO_CONSENT
    assert consented(CONSENT, consent={"max_age_days": 30}) == Reason.CONSENT_EXPIRED
    assert consented(CONSENT, consent={"max_age_days": 31}) is None
    assert consented(replace(CONSENT, kind="express"), CONSENT) is None


def test_a_consent_that_was_taken_back_counts_against_all_before_it() -> None:
    revoked = replace(CONSENT, given_at=NOON - 60 * DAY, revoked_at=NOON - 10 * DAY)
    assert consented(revoked, CONSENT) == Reason.CONSENT_REVOKED
    anew = replace(CONSENT, given_at=NOON - 5 * DAY)
    assert consented(revoked, CONSENT, anew) is None
    waived = {"required": "none", "reason": "the tenant's own customers, about their orders"}
    assert consented(consent=waived) is None
    assert consented(revoked, consent=waived) == Reason.CONSENT_REVOKED


def test_how_old_a_scrub_may_be() -> None:
    def scrubbed(days: float, **changes: Any) -> Reason | None:
        known = facts(scrubbed_at=NOON - days * DAY, rules=rules(**changes))
        return reason(decide(NEW_YORK, known, NOON))

    assert scrubbed(31) is None
    assert scrubbed(31.01) == Reason.SCRUB_STALE
    assert scrubbed(8, scrub_max_age_days=7) == Reason.SCRUB_STALE
    assert scrubbed(40, scrub_max_age_days=60) == Reason.SCRUB_STALE
    assert scrubbed(40, purpose="informational") is None
    assert reason(decide(NEW_YORK, facts(scrubbed_at=None, rules=rules(purpose="informational")), NOON)) is None


# --- caps ---

TIMES = st.lists(st.integers(0, 40 * 24 * 60).map(lambda minutes: NOON - timedelta(minutes=minutes)), max_size=12)
CAPS = st.fixed_dictionaries(
    {
        "max_per_24h": st.none() | st.integers(1, 4),
        "max_per_7d": st.none() | st.integers(1, 6),
        "min_hours_between_calls": st.sampled_from([0, 0.5, 2, 30]),
    }
)


def breaks_a_cap(times: list[datetime], at: datetime, caps: list[tuple[int, float]]) -> bool:
    """By brute force: some stretch of the length of a cap that ends with this call holds more calls than it may."""
    for calls, hours in caps:
        within = [time for time in times if at - timedelta(hours=hours) < time <= at]
        if len(within) + 1 > calls:
            return True
    return False


@settings(max_examples=60)
@given(TIMES, CAPS, st.sampled_from(["+12125551234", "+13055551234", "+33123456789"]))
def test_no_cap_is_ever_broken_and_no_call_waits_longer_than_it_must(
    times: list[datetime], caps: dict[str, Any], number: str
) -> None:
    legal = {"+13055551234": [(3, 24.0)], "+33123456789": [(4, 720.0)]}.get(number, [])
    own = [(caps["max_per_24h"], 24.0), (caps["max_per_7d"], 168.0), (1, float(caps["min_hours_between_calls"]))]
    all_caps = legal + [(calls, hours) for calls, hours in own if calls is not None]
    # Open at any time that the law allows, so that the caps decide.
    made = rules(hours={"mon-sun": ["00:00-24:00"]}, observe_holidays=False, max_lifetime=None,
                 purpose="informational", **caps)  # fmt: skip
    known = facts(rules=made, attempted_at=sorted(times, reverse=True))
    now = NOON.replace(hour=15)
    past = [time for time in times if time <= now]
    decision = decide(Candidate(number), replace(known, attempted_at=past), now)
    if isinstance(decision, Allow):
        assert not breaks_a_cap(past, now, all_caps)
        return
    assert isinstance(decision, Defer)
    if decision.reason in (Reason.ROLLING_CAP, Reason.LEGAL_CAP, Reason.TOO_SOON):
        assert breaks_a_cap(past, now, all_caps)
        assert not breaks_a_cap(past, decision.until, all_caps)
        # A second before, either a cap or the law's hours still stand against it.
        before = decision.until - timedelta(seconds=1)
        night = decide(Candidate(number), replace(known, attempted_at=()), before)
        assert breaks_a_cap(past, before, all_caps) or isinstance(night, Defer)
    else:
        assert not breaks_a_cap(past, now, all_caps)


@given(TIMES)
def test_the_history_that_is_asked_for_is_enough(times: list[datetime]) -> None:
    """With all the past and with what `history` says of it, the answer is one."""
    made = rules()
    needed = history(made, shipped())
    newest = sorted(times, reverse=True)
    kept = [time for time in newest if time > NOON - timedelta(hours=needed.hours)][: needed.calls]
    for number in ("+12125551234", "+13055551234", "+33123456789"):
        full = decide(Candidate(number), facts(rules=made, attempted_at=newest), NOON)
        assert decide(Candidate(number), facts(rules=made, attempted_at=kept), NOON) == full


def test_a_deferred_call_comes_back_when_calls_are_allowed() -> None:
    """The cap ends at four in the morning of a holiday; the call waits for the next day and nine."""
    at = datetime(2026, 11, 19, 9, 0, tzinfo=UTC)  # four in the morning, by mistake of another system
    known = facts(attempted_at=[at + timedelta(hours=12), at], rules=rules(max_per_24h=None, max_per_7d=2))
    decision = decide(NEW_YORK, known, NOON)
    # A week after the older call it is Thanksgiving; on Friday the campaign opens at nine.
    friday = datetime(2026, 11, 27, 14, 0, tzinfo=UTC)
    assert decision == Defer(friday, Reason.ROLLING_CAP, "2 in 168 hours")


def test_a_caller_number_that_rests_defers_the_call() -> None:
    monday = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)
    known = facts(caller_free_at=datetime(2026, 11, 21, 3, 0, tzinfo=UTC))
    assert decide(NEW_YORK, known, NOON) == Defer(monday, Reason.NO_CALLER_NUMBER)
    assert isinstance(decide(NEW_YORK, replace(known, caller_free_at=NOON), NOON), Allow)


# --- the words for people ---

DOCS = Path(__file__).resolve().parents[2] / "docs" / "calling-rules.md"


def test_every_reason_is_documented_and_no_other() -> None:
    rows = [line.split("|") for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    told = {cells[1].strip(" `"): (cells[2].strip(), cells[3].strip(), cells[4].strip()) for cells in rows
            if len(cells) == 6}  # fmt: skip
    assert told == {code.value: (code.concerns, code.explanation, code.remedy) for code in Reason}


def test_reasons_fit_their_columns_and_their_order_in_the_documents() -> None:
    assert all(len(code) <= 64 and code.islower() for code in Reason)
    assert all(not text.endswith(".") and text for code in Reason for text in (code.explanation, code.remedy))


def test_what_the_platform_lacks_never_closes_a_lead() -> None:
    assert Reason.LIFETIME_CAP.closes_lead == "exhausted"
    assert Reason.ON_DO_NOT_CALL_LIST.closes_lead == "barred"
    assert {code for code in Reason if code.closes_lead is None} == {
        Reason.KILL_SWITCH_GLOBAL,
        Reason.KILL_SWITCH_TENANT,
        Reason.KILL_SWITCH_CAMPAIGN,
        Reason.TENANT_INACTIVE,
        Reason.CAMPAIGN_NOT_RUNNING,
        Reason.PLAN_MINUTES_EXHAUSTED,
        Reason.SPEND_EXHAUSTED,
        Reason.DAILY_CALLS_EXHAUSTED,
        Reason.NO_CALLER_NUMBER,
    }


def test_deny_and_defer_say_the_same_of_a_reason() -> None:
    deny, defer = Deny(Reason.HOLIDAY, "x"), Defer(NOON, Reason.HOLIDAY, "x")
    assert (deny.explanation, deny.remedy) == (defer.explanation, defer.remedy)
    assert deny.explanation == "it is a public holiday where the callee may be (x)"
