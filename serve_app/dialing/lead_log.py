"""What the log of a lead says to people: each decision as a word, its reason explained. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from serve_app.dialing.guarded_choice import UNDECIDED
from serve_app.dialing.lead_choice import ALLOWED
from serve_app.dialing.rules import Reason
from serve_app.store.barring import LEAD_CLOSED
from serve_app.store.campaign_rows import LeadDecisionRow
from serve_app.store.lead_claims import BEING_CALLED
from serve_app.store.rows import AgentAttemptRow

DecisionWord = Literal["allow", "defer", "deny"]


@dataclass(frozen=True, slots=True)
class Words:
    explanation: str
    remedy: str | None
    """None: there is nothing to remedy."""


# Those that are not of the calling rules.
_OTHER: Mapping[str, Words] = MappingProxyType(
    {
        ALLOWED: Words("the calling rules allowed the call", None),
        BEING_CALLED: Words("a call to the number was under way, perhaps of another campaign", "wait"),
        UNDECIDED: Words(
            "deciding on the call met a fault; it is tried again", "look for lead_not_decided in the logs"
        ),
        LEAD_CLOSED: Words("the lead was closed or deleted while its call waited", "reopen it, if it may be called"),
    }
)


def words_for(reason: str) -> Words | None:
    """None: the code is not known (any more)."""
    if reason in _OTHER:
        return _OTHER[reason]
    known = next((known for known in Reason if known == reason), None)
    return None if known is None else Words(known.explanation, known.remedy)


def decision_of(row: LeadDecisionRow | AgentAttemptRow) -> tuple[DecisionWord, str]:
    """The decision and its reason code. An attempt that was stopped before its request is denied by what stopped it."""
    if isinstance(row, LeadDecisionRow):
        return row.decision, row.reason
    stopped = row.disposition == "not_allowed" and row.rules_reason not in (None, ALLOWED)
    return "deny" if stopped else "allow", row.rules_reason or ALLOWED
