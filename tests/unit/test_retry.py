"""The retry policy: what is terminal stays terminal, every chain of attempts ends, and times are where they belong."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.conversation.lease import Outcome
from serve_app.dialing.dispositions import (
    BARS_LEAD,
    BARS_NUMBER,
    CALL_OUTCOMES,
    DONE,
    HUMAN,
    JOB_STATUSES,
    LEAD_STATUSES,
    REPORTABLE,
    TERMINAL,
    TO_CALL_OUTCOME,
    TO_LEAD_STATUS,
    Disposition,
    disposition_of,
    job_status,
    last_call_result,
)
from serve_app.dialing.retry import (
    CALLBACK_JITTER_S,
    DEFAULT_RULES,
    Barred,
    Done,
    Exhausted,
    LeadHistory,
    Retry,
    RetryPolicy,
    next_step,
    policy_from,
)

# Monday, 10:00 in New York.
NOW = datetime(2026, 11, 23, 15, tzinfo=UTC)
POLICY = RetryPolicy()
RETRYABLE = sorted(set(Disposition) - TERMINAL - {Disposition.NOT_PLACED})


def history(disposition: Disposition, times: int = 1, **changes: object) -> LeadHistory:
    values: dict[str, object] = {"attempts": times, "counts": {disposition: times}, "called_at": NOW}
    return LeadHistory(**{**values, **changes})  # type: ignore[arg-type]


def step(disposition: Disposition, times: int = 1, seed: int = 0, **changes: object) -> object:
    return next_step(POLICY, history(disposition, times, **changes), disposition, NOW, random.Random(seed))


def test_every_disposition_has_exactly_one_fate() -> None:
    assert set(DEFAULT_RULES) == set(RETRYABLE)
    assert not DONE & BARS_NUMBER and not DONE & BARS_LEAD and not BARS_LEAD & BARS_NUMBER
    for disposition in Disposition:
        found = step(disposition)
        if disposition in DONE:
            assert found == Done(disposition)
        elif disposition in TERMINAL:
            assert found == Barred(disposition, whole_number=disposition in BARS_NUMBER)
        else:
            assert isinstance(found, Retry) and found.at > NOW


@pytest.mark.parametrize(
    ("disposition", "minutes"),
    [
        (Disposition.BUSY, [20, 120, 120]),
        (Disposition.REJECTED, [1440]),
        (Disposition.NETWORK_FAIL, [10, 10]),
        (Disposition.MACHINE, [1440, 1440]),
        (Disposition.MESSAGE_LEFT, [4320, 4320]),
        (Disposition.HUMAN_SHORT, [1440]),
        (Disposition.REACHED_INCOMPLETE, [1440]),
        (Disposition.UNKNOWN, [240]),
    ],
)
def test_the_delays_and_how_often(disposition: Disposition, minutes: list[int]) -> None:
    for times, delay in enumerate(minutes, 1):
        found = step(disposition, times)
        assert isinstance(found, Retry)
        assert timedelta(minutes=0.8 * delay) <= found.at - NOW <= timedelta(minutes=1.2 * delay)
    assert step(disposition, len(minutes) + 1) == Exhausted(f"{disposition}_used_up")


def test_a_network_failure_is_tried_from_another_number() -> None:
    assert {d for d in RETRYABLE if getattr(step(d), "other_number", False)} == {Disposition.NETWORK_FAIL}


ZONES = ["America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Europe/Dublin", "Pacific/Chatham"]


@settings(deadline=None)
@given(
    seed=st.integers(),
    times=st.integers(1, 4),
    zone=st.sampled_from(ZONES),
    minutes=st.integers(0, 3 * 365 * 24 * 60),
)
def test_no_answer_is_tried_in_another_part_of_the_callees_day(seed: int, times: int, zone: str, minutes: int) -> None:
    called_at = NOW + timedelta(minutes=minutes)

    def part(moment: datetime) -> int | None:
        local = moment.astimezone(ZoneInfo(zone)).time()
        edges = (time(8), time(12), time(17), time(21))
        return next((i for i in range(3) if edges[i] <= local < edges[i + 1]), None)

    ended_at = called_at + timedelta(seconds=30)
    lead = history(Disposition.NO_ANSWER, times, called_at=called_at, zones=(zone,))
    found = next_step(POLICY, lead, Disposition.NO_ANSWER, ended_at, random.Random(seed))
    assert isinstance(found, Retry)
    assert part(found.at) is not None and part(found.at) != part(called_at)
    least = timedelta(minutes=0.8 * (240 if times == 1 else 1440))
    assert least <= found.at - ended_at <= least * 1.5 + timedelta(hours=36)


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(set(Disposition) - {Disposition.NOT_PLACED})), min_size=30), st.integers())
def test_every_chain_of_attempts_ends_within_the_lifetime_cap(chain: list[Disposition], seed: int) -> None:
    counts: Counter[Disposition] = Counter()
    now = NOW
    for attempts, disposition in enumerate(chain, 1):
        counts[disposition] += 1
        found = next_step(POLICY, LeadHistory(attempts, counts, now), disposition, now, random.Random(seed))
        if not isinstance(found, Retry):
            break
        assert found.at >= now
        now = found.at
    assert attempts <= POLICY.most_attempts


def test_what_was_not_placed_comes_back_soon_and_without_end() -> None:
    found = step(Disposition.NOT_PLACED, 1, attempts=POLICY.most_attempts)
    assert isinstance(found, Retry) and found.at - NOW < timedelta(minutes=2)


def test_a_callback_comes_at_its_time_and_first() -> None:
    asked = NOW + timedelta(days=2)
    found = step(Disposition.CALLBACK, callback_at=asked)
    assert isinstance(found, Retry) and found.callback
    assert asked <= found.at <= asked + timedelta(seconds=CALLBACK_JITTER_S)
    overdue = step(Disposition.CALLBACK, callback_at=NOW - timedelta(hours=1))
    assert isinstance(overdue, Retry) and overdue.callback and overdue.at == NOW
    for unusable in (None, NOW + timedelta(days=4000)):
        later = step(Disposition.CALLBACK, callback_at=unusable)
        assert isinstance(later, Retry) and not later.callback
        assert timedelta(hours=19) < later.at - NOW < timedelta(hours=29)
    assert step(Disposition.CALLBACK, 3, callback_at=asked) == Exhausted("callback_used_up")


def test_a_policy_may_change_what_is_not_terminal() -> None:
    policy = policy_from({"rules": {"busy": {"after_minutes": [5], "most": 1}}, "most_attempts": 2})
    again = next_step(policy, history(Disposition.BUSY), Disposition.BUSY, NOW, random.Random(1))
    assert isinstance(again, Retry) and again.at - NOW <= timedelta(minutes=6)
    assert policy.rule(Disposition.NO_ANSWER) == DEFAULT_RULES[Disposition.NO_ANSWER]
    second = history(Disposition.NO_ANSWER, 1, attempts=2)
    assert next_step(policy, second, Disposition.NO_ANSWER, NOW, random.Random(1)) == Exhausted("attempts_used_up")
    assert policy_from({}) == RetryPolicy()
    for fixed in sorted(TERMINAL | {Disposition.NOT_PLACED}):
        with pytest.raises(ValidationError, match="no retry rule"):
            policy_from({"rules": {fixed: {"after_minutes": [5], "most": 1}}})
    with pytest.raises(ValidationError, match="after_minutes"):
        policy_from({"rules": {"busy": {"most": 1}}})


# --- dispositions


def ended(outcome: str, **changes: object) -> Disposition:
    values: dict[str, object] = {"sent": True, "answered": False, "duration_s": 60.0}
    return disposition_of(outcome, **{**values, **changes})  # type: ignore[arg-type]


AFTER_ANSWER = set(Outcome.__args__) - {  # type: ignore[attr-defined]
    *("not_answered", "busy", "rejected", "failed", "no_capacity", "not_allowed", "not_placed"),
    *("agent_hung_up", "opted_out"),
}


@pytest.mark.parametrize("outcome", [*Outcome.__args__, "unknown"])  # type: ignore[attr-defined]
@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("sent", [True, False])
def test_every_outcome_has_a_disposition(outcome: str, answered: bool, sent: bool) -> None:
    found = ended(outcome, sent=sent, answered=answered)
    if outcome == "opted_out":
        assert found is Disposition.OPT_OUT
    elif not sent or outcome in ("no_capacity", "not_allowed", "not_placed"):
        assert found is Disposition.NOT_PLACED
    elif answered or outcome in AFTER_ANSWER:
        assert found in HUMAN
    else:
        assert found not in HUMAN and found not in TERMINAL, "no word of a network is terminal without a cause"


def test_what_was_proven_not_placed_is_no_attempt_unless_the_number_is_dead() -> None:
    assert ended("not_placed", cause="the network refused the call: HTTP 401") is Disposition.NOT_PLACED
    assert ended("not_placed", cause="invalid_number") is Disposition.INVALID_NUMBER


def test_how_long_the_callee_stayed_and_what_was_reported() -> None:
    assert ended("callee_hung_up", answered=True, duration_s=5.9) is Disposition.HUMAN_SHORT
    assert ended("callee_hung_up", answered=True, duration_s=6.0) is Disposition.REACHED_INCOMPLETE
    assert ended("session_lost", answered=True, duration_s=None) is Disposition.HUMAN_SHORT
    assert ended("completed", answered=True) is Disposition.COMPLETED
    for reported in REPORTABLE:
        assert ended("completed", answered=True, reported=reported) is reported
        assert ended("opted_out", answered=True, reported=reported) is Disposition.OPT_OUT
        assert ended("busy", answered=False, reported=reported) is Disposition.BUSY
    for nonsense in ("opt_out", "busy", "sold!", ""):
        assert ended("completed", answered=True, reported=nonsense) is Disposition.COMPLETED


def test_only_a_cause_makes_a_number_invalid() -> None:
    assert ended("failed", cause="number_out_of_service") is Disposition.INVALID_NUMBER
    assert ended("failed", cause="cannot_route") is Disposition.NETWORK_FAIL
    assert ended("completed", answered=True, cause="number_out_of_service") is Disposition.COMPLETED


# --- the vocabularies of the older systems, as they were

OLD_JOB_STATUS = {
    *("pending", "processing", "completed", "failed"),
    *("retry_scheduled", "skipped", "goal_achieved", "non_retryable"),
}
OLD_CALL_OUTCOME = {
    *("answered", "no_answer", "busy", "failed", "timeout", "spam", "invalid", "unavailable", "disconnected"),
    *("goal_achieved", "goal_not_achieved", "voicemail", "rejected"),
}
OLD_LEAD_STATUS = {"pending", "calling", "called", "contacted", "completed", "dnc", "deleted"}
STATES = {"ready", "deferred", "leased", "done", "exhausted", "barred", "deleted"}


def test_every_old_word_has_one_of_ours_and_back() -> None:
    assert set(CALL_OUTCOMES) == OLD_CALL_OUTCOME
    assert set(JOB_STATUSES) == OLD_JOB_STATUS and set(JOB_STATUSES.values()) <= STATES
    assert set(LEAD_STATUSES) == OLD_LEAD_STATUS and set(LEAD_STATUSES.values()) <= STATES
    assert set(TO_LEAD_STATUS) == STATES and set(TO_LEAD_STATUS.values()) <= OLD_LEAD_STATUS
    assert set(TO_CALL_OUTCOME) == set(Disposition) - {Disposition.NOT_PLACED}
    assert set(TO_CALL_OUTCOME.values()) <= OLD_CALL_OUTCOME
    for state in STATES:
        for result in (None, *Disposition):
            assert job_status(state, result) in OLD_JOB_STATUS
            assert last_call_result(result) in {*OLD_CALL_OUTCOME, "pending"}


def test_what_was_terminal_there_and_barred_stays_so_on_the_way_and_back() -> None:
    for word, ours in CALL_OUTCOMES.items():
        back = CALL_OUTCOMES[TO_CALL_OUTCOME[ours]]
        assert (back in TERMINAL) == (ours in TERMINAL), word
        assert (back in BARS_NUMBER | BARS_LEAD) == (ours in BARS_NUMBER | BARS_LEAD), word
    for word, state in LEAD_STATUSES.items():
        assert LEAD_STATUSES[TO_LEAD_STATUS[state]] == state, word
    for word, state in JOB_STATUSES.items():
        success = Disposition.SUCCESS if word == "goal_achieved" else None
        assert JOB_STATUSES[job_status(state, success)] == state, word
    # Theirs became permanent after one event; the network's word alone is not enough here.
    assert CALL_OUTCOMES["rejected"] not in TERMINAL and CALL_OUTCOMES["unavailable"] not in TERMINAL
