"""The calling rules: who may be called, when, how often. Pure but for reading the data of the law once."""

from serve_app.dialing.rules.calling_rules import EVERYBODY, CallingRules, ConsentKind, ConsentRule, Purpose
from serve_app.dialing.rules.decisions import Allow, Concerns, Decision, Defer, Deny, Reason
from serve_app.dialing.rules.engine import Candidate, ConsentFact, Facts, History, KillSwitch, decide, history
from serve_app.dialing.rules.jurisdictions import Jurisdictions, shipped
from serve_app.dialing.rules.places import Place, place_of
from serve_app.dialing.rules.windows import is_zone

__all__ = [
    "EVERYBODY",
    "Allow",
    "CallingRules",
    "Candidate",
    "Concerns",
    "ConsentFact",
    "ConsentKind",
    "ConsentRule",
    "Decision",
    "Defer",
    "Deny",
    "Facts",
    "History",
    "Jurisdictions",
    "KillSwitch",
    "Place",
    "Purpose",
    "Reason",
    "decide",
    "history",
    "is_zone",
    "place_of",
    "shipped",
]
