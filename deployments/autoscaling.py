"""How many session and ingress replicas there should be: numbers in, a target out.

Serve's own policy divides ongoing requests by a target. That is too late for sessions: a slot reserved before dialling
is a call that will attach when somebody picks up, and by then the replica must be there. So their policy counts slots.
And it is too few for the ingress: most of its sockets do not come through Serve.

Serve pickles this module by value into its controller: it imports nothing but the standard library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext


@dataclass(frozen=True)
class SessionDemand:
    """What the decision is made from. Counts of calls, over the whole deployment."""

    calls_per_replica: int
    """`max_calls`: what one replica holds."""
    ongoing: float
    """Open leases, those still waiting for a replica included, as Serve counts them; none of draining replicas."""
    slots_used: float
    """Reserved and held slots, as Redis counts them: calls that ring are in it, calls on draining replicas too."""
    waiting: float
    """Outbound calls that could be placed now if there were slots."""
    spare: float
    """Free slots to keep ahead: the warm pool. With one call per process, that many processes."""
    strained: int
    """Running replicas whose event loop lags: they hold their calls and offer nothing more."""


def sessions_wanted(demand: SessionDemand) -> int:
    """Replicas that hold every open and reserved call, the waiting ones, and the spare slots.

    Lag adds to that, but never feeds on itself: starting processes makes a busy machine lag more, so strain raises the
    target by at most a quarter of what the calls themselves need, and one.
    """
    calls = max(demand.ongoing, demand.slots_used) + demand.waiting
    needed = math.ceil((calls + demand.spare) / demand.calls_per_replica)
    return needed + min(demand.strained, 1 + needed // 4)


def session_policy(ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """The `policy_function` of CallSessions. Serve applies the bounds and the delays of `autoscaling_config` to it."""
    stats = ctx.aggregated_metrics or {}

    def most(name: str) -> float:
        # Every replica reports the same figures of the whole platform; the highest errs to the safe side.
        return max(stats.get(name, {}).values(), default=0.0)

    calls_per_replica = int(most("calls_per_replica"))
    if calls_per_replica < 1:
        # No replica has reported yet: the first ones are starting.
        return ctx.target_num_replicas, {}
    demand = SessionDemand(
        calls_per_replica=calls_per_replica,
        ongoing=ctx.total_num_requests,
        slots_used=most("slots_used"),
        waiting=most("calls_waiting"),
        spare=most("spare_slots"),
        strained=sum(1 for value in stats.get("strained", {}).values() if value),
    )
    return sessions_wanted(demand), {}


def ingress_policy(ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """The `policy_function` of MediaIngress: `target_ongoing_requests` sockets per replica, whichever way they came.

    Serve applies the bounds, the factors and the delays of `autoscaling_config` to it.
    """
    own = sum((ctx.aggregated_metrics or {}).get("own_sockets", {}).values())
    per_replica: float = ctx.config.get_target_ongoing_requests()  # type: ignore[union-attr]
    return max(1, math.ceil((ctx.total_num_requests + own) / per_replica)), {}
