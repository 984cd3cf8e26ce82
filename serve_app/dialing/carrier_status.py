"""What a carrier's call status means for our call. Pure; the webhooks and the reconciler share it.

Statuses arrive repeated, late and out of order (Vonage voice guide), so they are ranked and the store only ever moves
a call forward. A terminal status that says why (busy, timeout) and the `completed` that may follow it agree: the
first one ends the call, whichever it is, and the one that says why explains it.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.conversation.lease import Outcome

RINGING = frozenset({"started", "ringing"})
ANSWERED = frozenset({"answered", "human", "machine"})
TERMINAL = frozenset({"busy", "timeout", "unanswered", "rejected", "failed", "cancelled", "completed"})

# What `completed` alone tells. A status that says more may still arrive, and then replaces these.
UNANSWERED = "the network ended the call before it was answered"
CALLEE_LEFT = "the callee hung up before the conversation began"
NETWORK_LEFT = "the network ended the call before its media socket was connected"
VAGUE = frozenset({UNANSWERED, CALLEE_LEFT, NETWORK_LEFT})

_OUTCOMES: dict[str, Outcome] = {
    "busy": "busy",
    "timeout": "not_answered",
    "unanswered": "not_answered",
    "rejected": "rejected",
    "failed": "failed",
    "cancelled": "not_answered",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended that had no conversation."""

    outcome: Outcome
    detail: str


def ending_of(
    status: str, *, answered: bool, detail: str | None = None, disconnected_by: str | None = None
) -> Ending | None:
    """The end of a call that no session has taken, or None if `status` does not end a call.

    `answered`: the callee is known to have picked up. Then only the socket can have been missing, unless the callee
    hung up first.
    """
    if status not in TERMINAL:
        return None
    if status != "completed":
        return Ending(_OUTCOMES[status], detail or f"the network reported {status}")
    if not answered:
        return Ending("not_answered", UNANSWERED)
    if disconnected_by == "user":
        return Ending("callee_hung_up", CALLEE_LEFT)
    return Ending("media_failure", NETWORK_LEFT)


def explanation_of(status: str, known: str | None, *, detail: str | None = None) -> Ending | None:
    """What a late status adds to an ended call whose detail is `known`; None if it adds nothing."""
    if known not in VAGUE:
        return None
    if status in ANSWERED:
        return Ending("media_failure", NETWORK_LEFT) if known == UNANSWERED else None
    return None if status == "completed" else ending_of(status, answered=False, detail=detail)


def media_failure(status: str, detail: str | None) -> Ending | None:
    """The end of a call whose media socket could not be connected; None if the leg's status does not say so."""
    if status not in TERMINAL - {"completed", "cancelled"}:
        return None
    return Ending("media_failure", f"the network could not connect the media socket: {detail or status}")
