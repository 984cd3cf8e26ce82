"""Whose call is placed next: first among tenants, then among the campaigns of one, by their weights. Pure.

Where sessions are scarce, whoever has the fewest live calls for its weight goes first (weighted max-min), so long calls
take no more than their share. Where the rate of new calls is scarce, start-time fair queueing shares it: a dial costs a
flow 1/weight of virtual time, and the flow whose time is earliest goes first (Goyal, Vin, Cheng, SIGCOMM 1996). A flow
that was idle starts at the present virtual time: idleness is not saved up, and a new flow waits for nobody's backlog.
What a flow does not use goes to the others.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Scarce = Literal["sessions", "rate"]


@dataclass(frozen=True, slots=True)
class Flow:
    """A campaign that could place calls now: it runs, and has a lead that is ready."""

    tenant_id: str
    campaign_id: str
    tenant_weight: int
    weight: int
    tenant_live: int
    """Of all calls of the tenant, also of campaigns that could place none now."""
    live: int
    tenant_room: int | None
    """How many more the tenant may have live; None: as many as there are sessions."""
    room: int | None


@dataclass(slots=True)
class _Turn:
    """What a flow has had."""

    virtual: float = 0.0
    last: int = -1
    """Number of its last dial; who was served longer ago wins a tie."""


class _Level:
    """One level of the choice: flows by name, each with a weight."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self._now = 0.0
        self._dials = 0

    def first(self, live_and_weight: Mapping[str, tuple[int, int]], scarce: Scarce) -> str:
        """The flow whose turn it is, of those that can be served."""

        def turn(name: str) -> tuple[float, float, int, str]:
            live, weight = live_and_weight[name]
            had = self._turns.get(name, _Turn())
            share = live / weight if scarce == "sessions" else 0.0
            return share, max(had.virtual, self._now), had.last, name

        return min(live_and_weight, key=turn)

    def serve(self, name: str, weight: int) -> None:
        turn = self._turns.setdefault(name, _Turn())
        self._now = max(turn.virtual, self._now)
        turn.virtual = self._now + 1 / weight
        turn.last = self._dials = self._dials + 1

    def refund(self, name: str, weight: int, dials: int) -> None:
        self._turns[name].virtual -= dials / weight

    def forget(self, kept: Iterable[str]) -> None:
        """Flows that are gone and owe nothing are as good as new ones."""
        names = set(kept)
        self._turns = {n: turn for n, turn in self._turns.items() if n in names or turn.virtual > self._now}


class FairShare:
    """Shares dials out among flows; it remembers only what makes the next choice fair."""

    def __init__(self) -> None:
        self._tenants = _Level()
        self._campaigns: dict[str, _Level] = {}

    def allot(self, flows: Sequence[Flow], dials: int, scarce: Scarce) -> Counter[str]:
        """How many of the next `dials` each campaign may place, by its id. They count as placed; see `refund`."""
        by_id = {flow.campaign_id: flow for flow in flows}
        self._forget(flows)
        allotted: Counter[str] = Counter()
        of_tenant: Counter[str] = Counter()
        for _ in range(dials):
            able = [flow for flow in flows if _has_room(flow, allotted[flow.campaign_id], of_tenant[flow.tenant_id])]
            if not able:
                break
            tenant = self._tenants.first(
                {flow.tenant_id: (flow.tenant_live + of_tenant[flow.tenant_id], flow.tenant_weight) for flow in able},
                scarce,
            )
            campaigns = self._campaigns.setdefault(tenant, _Level())
            mine = [flow for flow in able if flow.tenant_id == tenant]
            chosen = by_id[
                campaigns.first(
                    {flow.campaign_id: (flow.live + allotted[flow.campaign_id], flow.weight) for flow in mine}, scarce
                )
            ]
            self._tenants.serve(tenant, chosen.tenant_weight)
            campaigns.serve(chosen.campaign_id, chosen.weight)
            allotted[chosen.campaign_id] += 1
            of_tenant[tenant] += 1
        return allotted

    def refund(self, flow: Flow, dials: int) -> None:
        """So many of those that were allotted were not placed."""
        self._tenants.refund(flow.tenant_id, flow.tenant_weight, dials)
        self._campaigns[flow.tenant_id].refund(flow.campaign_id, flow.weight, dials)

    def _forget(self, flows: Sequence[Flow]) -> None:
        self._tenants.forget(flow.tenant_id for flow in flows)
        for level in self._campaigns.values():
            level.forget(flow.campaign_id for flow in flows)


class TenantTurns:
    """Whose attempts are claimed: tenants in turn, one call each, from the one after who was served last.

    Among attempts that exist the campaigns' are as many as `FairShare` allotted; single calls nobody allotted, and a
    tenant that asks for many must not keep the others waiting.
    """

    def __init__(self) -> None:
        self._last = ""

    def share(self, due: Mapping[str, int], room: int) -> Counter[str]:
        """How many of its `due` calls each tenant may place now, at most `room` together."""
        able = sorted(tenant for tenant, calls in due.items() if calls > 0)
        turn = deque([tenant for tenant in able if tenant > self._last] + [t for t in able if t <= self._last])
        shares: Counter[str] = Counter()
        while turn and shares.total() < room:
            self._last = turn.popleft()
            shares[self._last] += 1
            if shares[self._last] < due[self._last]:
                turn.append(self._last)
        return shares


def _has_room(flow: Flow, allotted: int, of_tenant: int) -> bool:
    return (flow.room is None or allotted < flow.room) and (flow.tenant_room is None or of_tenant < flow.tenant_room)
