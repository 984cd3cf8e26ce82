"""What events say of a call does not depend on their order, nor on how often they come."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.dialing.call_facts import CallFacts, CarrierEvent, facts_of
from serve_app.dialing.carrier_events import facts_in
from serve_app.dialing.carrier_status import ANSWERED, CALLEE_LEFT, NETWORK_LEFT, RINGING, TERMINAL, UNANSWERED
from serve_app.store.rows import Cost, RawEvent

T = datetime(2026, 11, 23, 15, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def joined(events: Iterable[CarrierEvent]) -> CallFacts:
    return reduce(CallFacts.join, map(facts_of, events), CallFacts())


TIMES = st.integers(0, 40).map(at)
EVENTS = st.builds(
    CarrierEvent,
    status=st.sampled_from([*sorted(RINGING | ANSWERED | TERMINAL), "a status of tomorrow"]),
    at=TIMES,
    detail=st.sampled_from([None, "declined", "unavailable", "invalid_number", "number_out_of_service"]),
    by_callee=st.booleans(),
    answered_at=st.none() | TIMES,
    cost=st.none() | st.builds(Cost, st.integers(0, 3), st.just("EUR")),
    of_media=st.booleans(),
)
FACTS = st.lists(EVENTS, max_size=4).map(joined)


@given(FACTS, FACTS, FACTS)
def test_the_join_is_commutative_associative_and_idempotent(a: CallFacts, b: CallFacts, c: CallFacts) -> None:
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a
    assert a.join(CallFacts()) == a


@given(FACTS, FACTS)
def test_what_is_known_is_never_forgotten(a: CallFacts, b: CallFacts) -> None:
    both = a.join(b)
    assert both.join(a) == both
    assert both.reached >= a.reached
    if a.cost is not None:
        assert both.cost is not None and both.cost >= a.cost
    if a.ending is not None:
        assert both.ending is not None
        assert both.ended_at is not None and a.ended_at is not None and both.ended_at <= a.ended_at


STORY = [
    CarrierEvent("started", at(0)),
    CarrierEvent("ringing", at(1)),
    CarrierEvent("answered", at(5)),
    CarrierEvent("machine", at(8)),
    CarrierEvent("busy", at(9), detail="user_busy"),
    CarrierEvent("timeout", at(10)),
    CarrierEvent("rejected", at(11), detail="declined"),
    CarrierEvent("failed", at(12), detail="number_out_of_service"),
    CarrierEvent("cancelled", at(13)),
    CarrierEvent("completed", at(14), by_callee=True, cost=Cost(834, "EUR")),
    CarrierEvent("completed", at(15), answered_at=at(4), cost=Cost(1250, "EUR")),
    CarrierEvent("failed", at(6), detail="refused", of_media=True),
]


def test_every_order_of_up_to_five_events_ends_in_one_state() -> None:
    facts = [facts_of(event) for event in STORY]
    states = 0
    for size in range(1, 6):
        for chosen in itertools.combinations(facts, size):
            expected = reduce(CallFacts.join, chosen)
            states += 1
            for order in itertools.permutations(chosen):
                assert reduce(CallFacts.join, order) == expected
            for repeated in chosen:
                # Wherever it comes again, it says nothing new.
                assert expected.join(repeated) == expected
            told = [one.cost for one in chosen if one.cost is not None]
            assert expected.cost == max(told, default=None)
    assert states == 1585


@pytest.mark.parametrize(
    ("statuses", "outcome", "detail"),
    [
        (["busy", "completed"], "busy", "the network reported busy"),
        (["timeout"], "not_answered", "the network reported timeout"),
        (["rejected", "failed"], "rejected", "the network reported rejected"),
        (["cancelled", "completed"], "not_answered", "the network reported cancelled"),
        (["ringing", "completed"], "not_answered", UNANSWERED),
        (["human", "completed"], "media_failure", NETWORK_LEFT),
    ],
)
def test_the_cause_that_says_most_is_believed(statuses: list[str], outcome: str, detail: str) -> None:
    ending = joined(CarrierEvent(status, at(n)) for n, status in enumerate(statuses)).ending
    assert ending is not None
    assert (ending.outcome, ending.detail) == (outcome, detail)


def test_a_cause_that_nobody_has_the_number_stands_above_all() -> None:
    dead = CarrierEvent("failed", at(1), detail="number_out_of_service")
    for other in (CarrierEvent("busy", at(2)), CarrierEvent("answered", at(2)), STORY[-1]):
        ending = joined([CarrierEvent("answered", at(0)), other, dead]).ending
        assert ending is not None and ending.detail == "number_out_of_service"


def test_a_call_ends_when_it_was_first_said_to() -> None:
    facts = joined([CarrierEvent("busy", at(9)), CarrierEvent("completed", at(8)), CarrierEvent("completed", at(10))])
    assert facts.ended_at == at(8)


def test_talk_that_is_charged_for_proves_the_answer() -> None:
    facts = joined([CarrierEvent("completed", at(20), by_callee=True, answered_at=at(4))])
    assert facts.answered and facts.answered_at == at(4)
    assert facts.ending is not None and facts.ending.detail == CALLEE_LEFT


PRICES: list[tuple[dict[str, Any], int | None]] = [
    # What the network says, and what of it is known, in millionths of a euro.
    ({"price": "0.00083333"}, 834),
    ({"price": "0.00000000"}, 0),
    ({"price": 0.0125}, 12_500),
    ({"price": "0.00001000", "rate": "9.9", "duration": "60"}, 10),
    ({"rate": "0.01250000", "duration": "5"}, 1042),
    ({"price": "", "rate": "0.01250000", "duration": "60"}, 12_500),
    ({"price": "free", "rate": "0.5", "duration": "0"}, 0),
    ({}, None),
    ({"rate": "0.01250000"}, None),
    ({"price": None, "duration": "60"}, None),
    *(({"price": nonsense}, None) for nonsense in ("-1", "NaN", "Infinity", "1e30", "10001", "0,5", {"eur": 1})),
]


@pytest.mark.parametrize(("fields", "micros"), PRICES)
def test_the_price_is_read_as_the_network_tells_it(fields: dict[str, Any], micros: int | None) -> None:
    for status, known in (("completed", micros), ("ringing", None)):
        raw = RawEvent("key", "vonage", "event", "uuid", {"uuid": "uuid", "status": status, **fields}, T)
        assert facts_in(raw, "outbound").cost == (None if known is None else Cost(known, "EUR"))


def test_what_the_sockets_leg_costs_is_not_taken_for_the_calls_price() -> None:
    body = {"uuid": "leg", "to": "wss://parley.example/media/1", "status": "completed", "price": "0.1"}
    assert facts_in(RawEvent("key", "vonage", "event", "leg", body, T), "outbound") == CallFacts()


def test_a_cost_is_shown_without_loss() -> None:
    assert [Cost(micros, "EUR").amount for micros in (0, 834, 12_345_678)] == ["0.000000", "0.000834", "12.345678"]


def test_a_socket_that_failed_ends_an_answered_call_only() -> None:
    failed = CarrierEvent("failed", at(6), detail="refused", of_media=True)
    assert joined([failed]).ending is None
    ended = joined([failed, CarrierEvent("answered", at(5)), CarrierEvent("completed", at(7))])
    assert ended.ending is not None and ended.ended_at == at(6)
    assert ended.ending.outcome == "media_failure" and "refused" in ended.ending.detail


def test_the_end_of_the_sockets_leg_says_nothing_of_the_call() -> None:
    for status in ("completed", "cancelled", "answered", "ringing", "disconnected"):
        assert facts_of(CarrierEvent(status, at(1), of_media=True)) == CallFacts()
