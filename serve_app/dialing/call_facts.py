"""What a carrier's events say of a call, all of them together: a join of facts, so that their order does not matter.

Webhooks come repeated, late and in any order (Vonage voice guide), and some never come. Each event is a handful of
facts; `CallFacts.join` is commutative, associative and idempotent, and only ever learns. What follows from the facts
(how far the call came, how it ended and why) is derived from their join alone, never from which of them was told last.

Pure, and of no carrier: statuses are the words of `carrier_status`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from serve_app.dialing.carrier_status import ANSWERED, MEDIA_FAILED, RINGING, TERMINAL, Ending, ending_of, media_failure
from serve_app.dialing.dispositions import DEAD_NUMBER_CAUSES
from serve_app.store.rows import Cost

# Of two reasons the one that says more is believed; `completed` says only that it is over.
_TELLING = ("completed", "cancelled", "failed", "unanswered", "timeout", "rejected", "busy")


class Reached(IntEnum):
    """How far a call came before it ended."""

    NOTHING = 0
    RINGING = 1
    ANSWERED = 2


@dataclass(frozen=True, slots=True)
class CarrierEvent:
    """One thing that a carrier said of a call."""

    status: str
    """A word of `carrier_status`; any other says nothing."""
    at: datetime
    detail: str | None = None
    by_callee: bool = False
    """With `completed`: the callee hung up."""
    answered_at: datetime | None = None
    """With `completed`: the talk that is charged for began then."""
    cost: Cost | None = None
    """With the end of the call's own leg: what it cost."""
    of_media: bool = False
    """Of the leg to our media socket, not of the call's own."""


@dataclass(frozen=True, slots=True, order=True)
class Cause:
    """Why a call ended, as a terminal status told it; of two the greater one is believed."""

    dead_number: bool
    """Above all others: it closes the lead for good, whatever else was said."""
    telling: int
    detail: str
    """Empty: none was given."""

    @property
    def status(self) -> str:
        return _TELLING[self.telling]


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What is known. The bottom element is `CallFacts()`: nothing."""

    reached: Reached = Reached.NOTHING
    answered_at: datetime | None = None
    over_at: datetime | None = None
    """When the call's own leg ended, by the first event that says so."""
    cause: Cause | None = None
    by_callee: bool = False
    media_failed_at: datetime | None = None
    media_detail: str = ""
    cost: Cost | None = None
    machine: bool = False
    """The network heard a machine: also where it says elsewhere that it heard a person."""

    def join(self, other: CallFacts) -> CallFacts:
        """The least that says all that both say."""
        return CallFacts(
            reached=max(self.reached, other.reached),
            answered_at=_first(self.answered_at, other.answered_at),
            over_at=_first(self.over_at, other.over_at),
            cause=max((cause for cause in (self.cause, other.cause) if cause is not None), default=None),
            by_callee=self.by_callee or other.by_callee,
            media_failed_at=_first(self.media_failed_at, other.media_failed_at),
            media_detail=max(self.media_detail, other.media_detail),
            cost=max((cost for cost in (self.cost, other.cost) if cost is not None), default=None),
            machine=self.machine or other.machine,
        )

    @property
    def answered(self) -> bool:
        return self.reached is Reached.ANSWERED

    @property
    def ending(self) -> Ending | None:
        """How it ended, if no conversation took place; None: it goes on."""
        dead = self.cause is not None and self.cause.dead_number
        if self.media_failed_at is not None and self.answered and not dead:
            # The socket's leg alone does not end a call, but nobody will talk to whoever picked up.
            return media_failure(self.media_detail)
        if self.cause is None:
            return None
        disconnected_by = "user" if self.by_callee else None
        return ending_of(
            self.cause.status,
            answered=self.answered,
            detail=self.cause.detail or None,
            disconnected_by=disconnected_by,
        )

    @property
    def ended_at(self) -> datetime | None:
        """With an `ending`: when."""
        return _first(self.over_at, self.media_failed_at) if self.answered else self.over_at


def facts_of(event: CarrierEvent) -> CallFacts:
    """The facts in one event."""
    status = event.status
    if event.of_media:
        if status not in MEDIA_FAILED:
            return CallFacts()
        return CallFacts(media_failed_at=event.at, media_detail=event.detail or status)
    if status in RINGING:
        return CallFacts(reached=Reached.RINGING if status == "ringing" else Reached.NOTHING)
    if status in ANSWERED:
        return CallFacts(reached=Reached.ANSWERED, answered_at=event.at, machine=status == "machine")
    if status not in TERMINAL:
        return CallFacts()
    told = event.detail if event.detail is not None and status != "completed" else ""
    talked = event.answered_at is not None
    return CallFacts(
        reached=Reached.ANSWERED if talked else Reached.NOTHING,
        answered_at=event.answered_at,
        over_at=event.at,
        cause=Cause(told in DEAD_NUMBER_CAUSES, _TELLING.index(status), told),
        by_callee=event.by_callee,
        cost=event.cost,
    )


def _first(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)
