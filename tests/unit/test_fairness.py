"""Fair shares: by weight, whatever the backlog and the length of calls; nobody new waits, nothing is left unused."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from serve_app.dialing.fairness import FairShare, Flow, TenantTurns

DIALS = 10_000


def flow(campaign: str, weight: int = 1, *, tenant: str | None = None, **values: int | None) -> Flow:
    """A campaign that is its tenant's only one, unless `tenant` is given; `weight` is then the tenant's."""
    of = {"tenant_weight": 1, "weight": weight} if tenant else {"tenant_weight": weight, "weight": 1}
    whole = {**of, "tenant_live": 0, "live": 0, "tenant_room": None, "room": None, **values}
    return Flow(tenant or campaign, campaign, **whole)  # type: ignore[arg-type]


def jain(shares: list[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def assert_fair(had: Counter[str] | dict[str, float], weights: dict[str, int]) -> None:
    total, weight = sum(had.values()), sum(weights.values())
    errors = [abs(had[name] / total - weights[name] / weight) / (weights[name] / weight) for name in weights]
    assert max(errors) <= 0.02, had
    assert jain([had[name] / weights[name] for name in weights]) >= 0.99


def test_tenants_are_served_in_turn_and_what_one_leaves_goes_to_the_others() -> None:
    turns = TenantTurns()
    assert turns.share({"a": 9, "b": 1, "c": 9, "d": 0}, 6) == {"a": 3, "b": 1, "c": 2}
    served: list[str] = []
    for _ in range(4):
        served += turns.share({"a": 9, "b": 9, "c": 9}, 1)
    assert served == ["b", "c", "a", "b"], "the one after who was served last"
    assert turns.share({"a": 2}, 9) == {"a": 2}
    assert turns.share({"a": 2}, 0) == turns.share({}, 3) == {}


def test_the_rate_is_shared_by_weight() -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    share, had = FairShare(), Counter[str]()
    flows = [flow(name, weight) for name, weight in weights.items()]
    while had.total() < DIALS:
        had += share.allot(flows, 7, "rate")
    assert_fair(had, weights)


def test_sessions_are_shared_by_weight_whatever_the_length_of_the_calls() -> None:
    weights, talk_s = {"a": 1, "b": 2, "c": 5}, {"a": 300, "b": 10, "c": 60}
    share, live, held_s = FairShare(), Counter[str](), dict.fromkeys(weights, 0.0)
    ends: list[tuple[float, str]] = []
    now, dials = 0.0, 0
    while dials < DIALS:
        flows = [flow(name, weights[name], tenant_live=live[name], live=live[name]) for name in weights]
        for name, count in share.allot(flows, 64 - live.total(), "sessions").items():
            live[name] += count
            dials += count
            for _ in range(count):
                heapq.heappush(ends, (now + talk_s[name], name))
        later, over = heapq.heappop(ends)
        for name in weights:
            held_s[name] += live[name] * (later - now)
        now = later
        live[over] -= 1
    assert_fair(held_s, weights)


@given(
    weights=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    rounds=st.lists(st.integers(1, 9), min_size=1, max_size=30),
)
def test_no_flow_is_ever_more_than_a_dial_from_its_share_of_the_rate(weights: list[int], rounds: list[int]) -> None:
    named = {f"t{n}": weight for n, weight in enumerate(weights)}
    share, had = FairShare(), Counter[str]()
    for dials in rounds:
        had += share.allot([flow(name, weight) for name, weight in named.items()], dials, "rate")
        normal = [had[name] / weight for name, weight in named.items()]
        assert max(normal) - min(normal) <= 2 / min(weights)
    assert had.total() == sum(rounds)


def test_a_tenant_with_many_campaigns_gets_no_more_than_one_with_one() -> None:
    flows = [flow(f"big-{n}", n + 1, tenant="big") for n in range(4)] + [flow("small")]
    share, had = FairShare(), Counter[str]()
    for _ in range(2000):
        had += share.allot(flows, 5, "rate")
    assert had["small"] == 5000
    assert [had[f"big-{n}"] for n in range(4)] == [500, 1000, 1500, 2000]


def test_a_new_tenant_is_served_next_and_an_idle_one_saves_nothing_up() -> None:
    share = FairShare()
    busy = [flow("a"), flow("b", 5)]
    share.allot([flow("c"), *busy], 30, "rate")
    share.allot(busy, 3000, "rate")
    assert share.allot([*busy, flow("new")], 1, "rate") == {"new": 1}
    # One that comes back gets its share from now on, not what it did not use.
    back = share.allot([*busy, flow("c")], 70, "rate")
    assert 9 <= back["c"] <= 11
    assert share.allot([flow("x", tenant_live=1), flow("y", tenant_live=0)], 1, "sessions") == {"y": 1}


def test_what_a_flow_cannot_use_goes_to_the_others() -> None:
    share = FairShare()
    flows = [flow("a", room=2), flow("b", tenant_room=3), flow("c")]
    assert share.allot(flows, 20, "rate") == {"a": 2, "b": 3, "c": 15}
    two = [flow("d1", tenant="d", tenant_room=3), flow("d2", tenant="d", tenant_room=3)]
    assert share.allot(two, 20, "sessions").total() == 3
    assert share.allot([], 20, "rate") == {}


def test_dials_that_were_not_placed_do_not_count() -> None:
    share = FairShare()
    flows = [flow("a"), flow("b")]
    for _ in range(100):
        # The leads that "a" had ready turn out not to be callable.
        had = share.allot(flows, 2, "rate")
        share.refund(flows[0], had["a"])
    assert share.allot(flows, 1, "rate") == {"a": 1}
    # Nor are they saved up: what went to the others meanwhile is theirs.
    assert share.allot(flows, 10, "rate")["b"] >= 4


def test_a_scarcity_that_is_over_leaves_no_debt() -> None:
    share, flows = FairShare(), [flow("short"), flow("long", tenant_live=50)]
    assert share.allot(flows, 40, "sessions") == {"short": 40}
    equal = [replace(one, tenant_live=0) for one in flows]
    assert share.allot(equal, 20, "rate")["short"] >= 9
