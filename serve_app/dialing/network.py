"""Whether a call can reach a real person at all."""

from __future__ import annotations

from serve_app.settings import Settings


def network_is_simulated(settings: Settings) -> bool:
    """True if no real person can be reached: no Vonage keys, or, in mode `local`, plain HTTP to this very machine.

    The second form is a simulator that somebody runs alone (`parley simulators`). In production plain HTTP on loopback
    may be a sidecar that passes requests on to Vonage: there the rules always apply.
    """
    if "vonage" in settings.simulated:
        return True
    return settings.mode != "production" and settings.telephony.vonage.on_this_machine
