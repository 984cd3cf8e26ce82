"""What an attempt came to, in the words that the retry policy, the statistics and people use.

Three layers of words meet here. A carrier reports a *status* (`carrier_status`), a call ends with an *outcome*
(`conversation.lease.Outcome`), and from the outcome, what the conversation reported and how long it lasted, an attempt
of a campaign gets one *disposition*. The vocabularies of the older systems (JobStatus, CallOutcome, lead status,
last_call_result) are mapped at the end, for data that comes from them and for those who know their words.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

HUMAN_SHORT_S = 6.0
"""A callee who leaves sooner than this has not heard what the call is about."""

# Causes with which a network says that nobody has this number, which busy, rejected and failed alone never say.
DEAD_NUMBER = "invalid_number"
DEAD_NUMBER_CAUSES = frozenset({"number_out_of_service", "unallocated_number", DEAD_NUMBER})


class Disposition(StrEnum):
    """One per attempt that has ended."""

    BUSY = "busy"
    NO_ANSWER = "no_answer"
    REJECTED = "rejected"
    NETWORK_FAIL = "network_fail"
    INVALID_NUMBER = "invalid_number"
    MACHINE = "machine"
    MESSAGE_LEFT = "message_left"
    HUMAN_SHORT = "human_short"
    REACHED_INCOMPLETE = "reached_incomplete"
    CALLBACK = "callback"
    SUCCESS = "success"
    NOT_INTERESTED = "not_interested"
    COMPLETED = "completed"
    """The conversation came to its end, and nothing tells whether the goal was reached."""
    OPT_OUT = "opt_out"
    WRONG_NUMBER = "wrong_number"
    LITIGATOR = "litigator"
    UNKNOWN = "unknown"
    """The request got no answer and the network does not know the call: it counts, for it may have rung."""
    NOT_PLACED = "not_placed"
    """Proven: nothing rang. It does not count as an attempt."""


REPORTABLE = frozenset(
    {
        Disposition.SUCCESS,
        Disposition.NOT_INTERESTED,
        Disposition.CALLBACK,
        Disposition.REACHED_INCOMPLETE,
        Disposition.MACHINE,
        Disposition.MESSAGE_LEFT,
        Disposition.WRONG_NUMBER,
        Disposition.LITIGATOR,
    }
)
"""What a conversation (or a person who listens to it) can report of itself."""
DONE = frozenset({Disposition.SUCCESS, Disposition.NOT_INTERESTED, Disposition.COMPLETED})
"""The lead is closed, in this campaign."""
BARS_NUMBER = frozenset({Disposition.OPT_OUT, Disposition.WRONG_NUMBER, Disposition.LITIGATOR})
"""Terminal for the number, in all campaigns of the tenant, for good: the number goes on the do-not-call list."""
BARS_LEAD = frozenset({Disposition.INVALID_NUMBER})
TERMINAL = DONE | BARS_NUMBER | BARS_LEAD
HUMAN = DONE | BARS_NUMBER | {Disposition.HUMAN_SHORT, Disposition.REACHED_INCOMPLETE, Disposition.CALLBACK}
"""A person answered: a contact."""

# A call that ends so was answered, though the event that says it may never have come.
_AFTER_ANSWER = frozenset(
    {"completed", "callee_hung_up", "silence", "max_duration", "max_turns", "provider_failure", "media_failure"}
    | {"session_lost"}
)
_BEFORE_ANSWER: Mapping[str, Disposition] = MappingProxyType(
    {
        "busy": Disposition.BUSY,
        "not_answered": Disposition.NO_ANSWER,
        "rejected": Disposition.REJECTED,
        "failed": Disposition.NETWORK_FAIL,
        "unknown": Disposition.UNKNOWN,
        "no_capacity": Disposition.NOT_PLACED,
        "not_allowed": Disposition.NOT_PLACED,
        "not_placed": Disposition.NOT_PLACED,
    }
)


def disposition_of(
    outcome: str,
    *,
    sent: bool,
    answered: bool,
    duration_s: float | None = None,
    cause: str | None = None,
    reported: str | None = None,
) -> Disposition:
    """The disposition of an ended attempt.

    `outcome`: the disposition column of the attempt, an `Outcome` or `unknown`. `sent`: the network was asked.
    `cause`: the network's own word for a failure. `reported`: by the conversation; anything else than one of
    `REPORTABLE` is ignored. A wish not to be called again comes before everything.
    """
    if outcome == "opted_out":
        return Disposition.OPT_OUT
    answered = answered or outcome in _AFTER_ANSWER
    if answered and reported in REPORTABLE:
        return Disposition(reported)
    if outcome in ("no_capacity", "not_allowed") or not sent:
        return Disposition.NOT_PLACED
    if outcome == "not_placed":
        # Nothing rang, whatever else is claimed; a number that the network refuses as such is dead all the same.
        return Disposition.INVALID_NUMBER if cause in DEAD_NUMBER_CAUSES else Disposition.NOT_PLACED
    if cause in DEAD_NUMBER_CAUSES and outcome in _BEFORE_ANSWER:
        # Also where another event claims that it was answered: what closes a lead does not depend on what comes later.
        return Disposition.INVALID_NUMBER
    if not answered:
        # Hung up by command while it rang, or a fault of ours before anybody answered: it did ring.
        return _BEFORE_ANSWER.get(outcome, Disposition.NO_ANSWER)
    if outcome == "completed":
        return Disposition.COMPLETED
    if (duration_s or 0.0) < HUMAN_SHORT_S:
        return Disposition.HUMAN_SHORT
    return Disposition.REACHED_INCOMPLETE


# --- the vocabularies of the older systems

CALL_OUTCOMES: Mapping[str, Disposition] = MappingProxyType(
    {
        "answered": Disposition.COMPLETED,
        "no_answer": Disposition.NO_ANSWER,
        "busy": Disposition.BUSY,
        "failed": Disposition.NETWORK_FAIL,
        "timeout": Disposition.NO_ANSWER,
        # There a person or a carrier had marked the number; here that is a wish not to be called.
        "spam": Disposition.OPT_OUT,
        "invalid": Disposition.INVALID_NUMBER,
        "unavailable": Disposition.NETWORK_FAIL,
        "disconnected": Disposition.INVALID_NUMBER,
        "goal_achieved": Disposition.SUCCESS,
        "goal_not_achieved": Disposition.REACHED_INCOMPLETE,
        "voicemail": Disposition.MACHINE,
        "rejected": Disposition.REJECTED,
    }
)
"""CallOutcome, which is also last_call_result (there with `pending`: no call yet)."""

TO_CALL_OUTCOME: Mapping[Disposition, str] = MappingProxyType(
    {
        Disposition.BUSY: "busy",
        Disposition.NO_ANSWER: "no_answer",
        Disposition.REJECTED: "rejected",
        Disposition.NETWORK_FAIL: "failed",
        Disposition.INVALID_NUMBER: "invalid",
        Disposition.MACHINE: "voicemail",
        Disposition.MESSAGE_LEFT: "voicemail",
        Disposition.HUMAN_SHORT: "goal_not_achieved",
        Disposition.REACHED_INCOMPLETE: "goal_not_achieved",
        Disposition.CALLBACK: "goal_not_achieved",
        Disposition.SUCCESS: "goal_achieved",
        Disposition.NOT_INTERESTED: "goal_not_achieved",
        Disposition.COMPLETED: "answered",
        Disposition.OPT_OUT: "spam",
        Disposition.WRONG_NUMBER: "invalid",
        Disposition.LITIGATOR: "spam",
        Disposition.UNKNOWN: "failed",
    }
)
"""Every disposition of an attempt that counts. NOT_PLACED has no CallOutcome: there was no call."""

LEAD_STATUSES: Mapping[str, str] = MappingProxyType(
    {
        "pending": "ready",
        "calling": "leased",
        "called": "deferred",
        "contacted": "deferred",
        "completed": "done",
        "dnc": "barred",
        "deleted": "deleted",
    }
)
"""Lead status -> the state of a lead."""

TO_LEAD_STATUS: Mapping[str, str] = MappingProxyType(
    {
        "ready": "pending",
        "deferred": "called",
        "leased": "calling",
        "done": "completed",
        "exhausted": "called",
        "barred": "dnc",
        "deleted": "deleted",
    }
)

JOB_STATUSES: Mapping[str, str] = MappingProxyType(
    {
        "pending": "ready",
        "processing": "leased",
        "completed": "done",
        "failed": "exhausted",
        "retry_scheduled": "deferred",
        "skipped": "deferred",
        "goal_achieved": "done",
        "non_retryable": "barred",
    }
)
"""JobStatus -> the state of a lead: a job there is a lead here, whose attempts are rows of their own."""


def job_status(state: str, result: str | None) -> str:
    """The JobStatus of a lead in `state` whose last disposition is `result`."""
    if state == "done":
        return "goal_achieved" if result == Disposition.SUCCESS else "completed"
    if state == "deferred":
        return "skipped" if result is None or result == Disposition.NOT_PLACED else "retry_scheduled"
    return {
        "ready": "pending",
        "leased": "processing",
        "exhausted": "failed",
        "barred": "non_retryable",
        "deleted": "skipped",
    }[state]


def last_call_result(result: str | None) -> str:
    """The last_call_result of a lead whose last disposition is `result`."""
    if result is None or result == Disposition.NOT_PLACED:
        return "pending"
    return TO_CALL_OUTCOME[Disposition(result)]
