"""The record of a call by what its carrier's raw events say, all of them together: the `Judge` of webhooks. Pure.

The only place that knows how each carrier spells its events; what follows from them is `call_facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from functools import reduce
from types import MappingProxyType

from serve_app.dialing.call_facts import CallFacts, CarrierEvent, Reached, facts_of
from serve_app.dialing.carrier_status import CALLEE_LEFT, UNANSWERED, VAGUE
from serve_app.store.call_folding import CallState
from serve_app.store.rows import CallRow, Cost, RawEvent
from serve_app.telephony.vonage.webhooks import MalformedEvent, VonageEvent, read_event

# An event's own time does not depend on when it arrives. One that cannot be right is replaced by that of its arrival.
LONGEST_ON_ITS_WAY = timedelta(hours=1)
CLOCKS_APART = timedelta(minutes=1)
# Vonage's prices and rates are in euros (its Voice API reference: "the total price charged for this call, in EUR").
CURRENCY = "EUR"
# Whatever says more is no price. It also keeps sums within what a column holds.
MOST_A_CALL_COSTS = Decimal(10_000)
LARGEST_NUMBER = Decimal(10**9)


def read_vonage(raw: RawEvent, direction: str) -> CarrierEvent | None:
    """One webhook of Vonage's; None: it says nothing of a call's life.

    The answer webhook of a call that we placed comes because it was answered. One that came in is answered by what we
    reply: until then it rings.
    """
    try:
        event = read_event(raw.body)
    except MalformedEvent:
        return None
    at = _likely(event.occurred_at, raw.received_at)
    if raw.kind.split(":")[0] == "answer":
        return CarrierEvent("answered" if direction == "outbound" else "ringing", at)
    if event.status is None:
        return None
    talk_began_at = event.talk_began_at if event.status == "completed" else None
    return CarrierEvent(
        status=event.status,
        at=at,
        detail=event.detail,
        by_callee=event.disconnected_by == "user",
        answered_at=None if talk_began_at is None else min(_likely(talk_began_at, at), at),
        cost=_cost(event),
        of_media=event.of_media_leg,
    )


def _cost(event: VonageEvent) -> Cost | None:
    """The price, or what rate and duration make where it is missing. None: neither is there, or neither an amount."""
    told = _amount(event.price)
    if told is None:
        per_minute, seconds = _amount(event.rate), _amount(event.duration)
        told = None if per_minute is None or seconds is None else per_minute * seconds / 60
    if told is None or told > MOST_A_CALL_COSTS:
        return None
    return Cost(int((told * 1_000_000).to_integral_value(ROUND_CEILING)), CURRENCY)


def _amount(text: str | None) -> Decimal | None:
    try:
        amount = Decimal(text or "")
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and 0 <= amount <= LARGEST_NUMBER else None


READERS: Mapping[str, Callable[[RawEvent, str], CarrierEvent | None]] = MappingProxyType({"vonage": read_vonage})
"""By the source of the raw event."""


def facts_in(raw: RawEvent, direction: str) -> CallFacts:
    """What one raw event says; nothing where its source is not known."""
    read = READERS.get(raw.source)
    event = None if read is None else read(raw, direction)
    return CallFacts() if event is None else facts_of(event)


def judge(call: CallRow, events: Sequence[RawEvent]) -> CallState | None:
    """The end of a call without a conversation, by all its events.

    None: it goes on; or a session has or had it, and writes its end; or it was ended by somebody else (a person, the
    dialer, the reconciler, want of capacity), which stays.
    """
    if call.started_at is not None:
        return None
    said = [facts_in(raw, call.direction) for raw in events]
    if call.over and call.detail not in VAGUE and (call.outcome, call.detail) not in _endings(said):
        return None
    facts = reduce(CallFacts.join, said, _row_facts(call))
    if facts.ending is None or facts.ended_at is None:
        return None
    return CallState(facts.ending.outcome, facts.ending.detail, facts.ended_at, facts.answered_at)


def _endings(said: Sequence[CallFacts]) -> set[tuple[str, str]]:
    """What may have been made of some of the events: an end that is none of it was not theirs."""
    answered = CallFacts(reached=Reached.ANSWERED)
    every = [facts.join(more) for facts in said for more in (CallFacts(), answered)]
    return {(facts.ending.outcome, facts.ending.detail) for facts in every if facts.ending is not None}


def _row_facts(call: CallRow) -> CallFacts:
    """What the row says besides: an answer that no event told, and an end that the reconciler saw at the network."""
    facts = CallFacts()
    if call.answered_at is not None:
        facts = facts_of(CarrierEvent("answered", call.answered_at))
    if call.over and call.detail in VAGUE and call.ended_at is not None:
        facts = facts.join(facts_of(CarrierEvent("completed", call.ended_at, by_callee=call.detail == CALLEE_LEFT)))
        if call.detail != UNANSWERED:
            facts = facts.join(CallFacts(reached=Reached.ANSWERED))
    return facts


def is_news(call: CallRow, facts: CallFacts) -> bool:
    """Whether a live call moves on with these facts. A row that is a moment old may say yes in vain, never no."""
    if facts.reached is Reached.RINGING:
        return call.status in ("queued", "dialing")
    if facts.answered_at is None:
        return False
    earlier = call.answered_at is None or facts.answered_at < call.answered_at
    return earlier or call.status in ("queued", "dialing", "ringing")


def _likely(told: datetime | None, received_at: datetime) -> datetime:
    if told is None or not received_at - LONGEST_ON_ITS_WAY <= told <= received_at + CLOCKS_APART:
        return received_at
    return told
