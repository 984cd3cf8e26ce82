"""What a carrier's call status means for our call. Pure; the webhooks (`call_facts`) and the reconciler share it.

A terminal status that says why (busy, timeout) and the `completed` that may follow it agree: the first one ends the
call, whichever it is, and the one that says why explains it.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.conversation.lease import Outcome

RINGING = frozenset({"started", "ringing"})
ANSWERED = frozenset({"answered", "human", "machine"})
TERMINAL = frozenset({"busy", "timeout", "unanswered", "rejected", "failed", "cancelled", "completed"})
MEDIA_FAILED = TERMINAL - {"completed", "cancelled"}
"""Of the leg to our media socket: it could not be connected."""

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


def media_failure(detail: str) -> Ending:
    """The end of a call whose media socket could not be connected."""
    return Ending("media_failure", f"the network could not connect the media socket: {detail}")
