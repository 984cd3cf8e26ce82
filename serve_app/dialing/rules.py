"""May this number be called now? One pure function, asked when a call is requested and again before it is dialled.

It fails closed: what cannot be established is denied. The order of the checks is the order in which a person would
want to hear about them; reason codes are stable and go to the attempt's record.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from serve_app.dialing.numbers import is_valid
from serve_app.settings import Settings


@dataclass(frozen=True, slots=True)
class DialingFacts:
    """What the rules know besides the number. Gathered by the caller; the rules look nothing up."""

    simulated_network: bool
    allowed_numbers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Allow:
    pass


@dataclass(frozen=True, slots=True)
class Deny:
    """`reason` is a stable code; `explanation` and `remedy` are for people."""

    reason: str
    explanation: str
    remedy: str


Decision = Allow | Deny

ON_DO_NOT_CALL_LIST = Deny(
    "on_do_not_call_list",
    "the number is on the do-not-call list",
    "do not call it; if its owner agreed anew, take it off the list with that as the stated reason",
)
"""What the store's own check means. It is no matter of facts gathered before: whoever queues, claims or places a call
asks for it in the same transaction."""


def decide(to_number: str, facts: DialingFacts) -> Decision:
    """Decide on one E.164 number."""
    if facts.simulated_network:
        return Allow()
    if not is_valid(to_number):
        return Deny("invalid_number", "no country has assigned this number", "check its digits")
    if to_number not in facts.allowed_numbers:
        return Deny(
            "not_on_allow_list",
            "a real network dials only the numbers that are allowed by name",
            "add the number to dialing.allowed_numbers, if its owner agreed to be called by an AI voice",
        )
    return Allow()


def facts_from(settings: Settings, *, simulated_network: bool | None = None) -> DialingFacts:
    """The facts that the settings hold. `simulated_network` None: derived by `network_is_simulated`."""
    simulated = network_is_simulated(settings) if simulated_network is None else simulated_network
    return DialingFacts(simulated_network=simulated, allowed_numbers=frozenset(settings.dialing.allowed_numbers))


def network_is_simulated(settings: Settings) -> bool:
    """True if no real person can be reached: no Vonage keys, or, in mode `local`, plain HTTP to this very machine.

    The second form is a simulator that somebody runs alone (`parley simulators`). In production plain HTTP on loopback
    may be a sidecar that passes requests on to Vonage: there the rules always apply.
    """
    if "vonage" in settings.simulated:
        return True
    if settings.mode == "production":
        return False
    url = urlsplit(settings.telephony.vonage.base_url)
    if url.scheme != "http" or url.hostname is None:
        return False
    try:
        return url.hostname == "localhost" or ipaddress.ip_address(url.hostname).is_loopback
    except ValueError:
        return False
