"""What bounds the calls under way beside the sessions: campaign, tenant, ringing phones, lines of the network. Pure.

Each is a scope of `serve_app.store.slots`. A call takes its place in all of them before it is placed; it stops counting
as ringing when it is answered, and leaves the others with its slot.
"""

from __future__ import annotations

from serve_app.dialing.network import network_is_simulated
from serve_app.dialing.plans import Plans, shipped_plans
from serve_app.settings import Settings, VonageSettings
from serve_app.store.rows import ClaimRow
from serve_app.store.slots import SESSIONS, Scope

LINES = "lines"
RINGING = "ringing"
SHARED = frozenset((SESSIONS, LINES, RINGING))
"""Scopes of every outbound call: who waits for one of them waits for all who came before."""


def tenant_scope(tenant_id: str) -> str:
    return f"tenant:{tenant_id}"


def campaign_scope(campaign_id: str) -> str:
    return f"campaign:{campaign_id}"


def scopes_of_answered(network: VonageSettings, tenant_id: str, campaign_id: str | None) -> tuple[str, ...]:
    """Where an outbound call counts that was answered."""
    own = (tenant_scope(tenant_id),) if campaign_id is None else (campaign_scope(campaign_id), tenant_scope(tenant_id))
    return (*own, *scopes_of_inbound(network))


def scopes_of_inbound(network: VonageSettings) -> tuple[str, ...]:
    """It takes a line, and no limit of a tenant: those are of calls that the tenant places."""
    return () if network.channels is None else (LINES,)


def calls_at_once(plans: Plans, plan: str | None, own: int | None) -> int | None:
    """Calls that a tenant of this plan, with this limit of its own, may have live. None: any number.

    `plan` None: nothing is known of the tenant. A plan that is not known allows nothing.
    """
    known = plans.of(plan)
    if known is None:
        return 0
    return min((most for most in (known.concurrent_calls, own) if most is not None), default=None)


class CallLimits:
    """The limits, with what the settings say. `simulated_network` None: derived from them; `plans` None: the shipped.

    On a simulated network single calls of a tenant of whom nothing is known have no limit, as they need no plan.
    """

    def __init__(
        self, settings: Settings, *, simulated_network: bool | None = None, plans: Plans | None = None
    ) -> None:
        self._simulated = network_is_simulated(settings) if simulated_network is None else simulated_network
        self._plans = plans or shipped_plans()
        self._lines = settings.telephony.vonage.channels
        self._ringing = settings.dialing.max_ringing

    def of(self, attempt: ClaimRow) -> tuple[Scope, ...]:
        """What the call of an attempt takes before it is placed. Those of one campaign or tenant are asked first."""
        campaign = None if attempt.campaign_id is None else attempt.campaign_most
        mosts = {
            campaign_scope(attempt.campaign_id or ""): campaign,
            tenant_scope(attempt.tenant_id): self._of_tenant(attempt),
            RINGING: self._ringing,
            LINES: self._lines,
        }
        return tuple(Scope(name, most) for name, most in mosts.items() if most is not None)

    def _of_tenant(self, attempt: ClaimRow) -> int | None:
        if self._simulated and attempt.campaign_id is None and attempt.tenant_plan is None:
            return None
        return calls_at_once(self._plans, attempt.tenant_plan, attempt.tenant_most)


def explained(full: str, waited_s: float) -> str:
    """For people: why a call was not placed that waited so long for a place in this scope."""
    kind = full.partition(":")[0]
    what = {
        SESSIONS: "no session became free",
        LINES: "no line of the network became free (telephony.vonage.channels)",
        RINGING: "as many phones rang as may at once (dialing.max_ringing), and none was answered",
        "tenant": "no call of the tenant ended, which has as many at once as its plan and its own limit allow,",
        "campaign": "no call of the campaign ended, which has as many at once as it may (max_concurrent),",
    }[kind]
    return f"{what} within {waited_s:g} s; the call was not placed"
