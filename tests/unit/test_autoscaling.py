"""The scaling decision: numbers in, a target out. No Ray."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingConfig

from deployments.autoscaling import SessionDemand, ingress_policy, session_policy, sessions_wanted

calls = st.integers(0, 5000)
demands = st.builds(
    SessionDemand,
    calls_per_replica=st.integers(1, 200),
    ongoing=calls,
    slots_used=calls,
    waiting=calls,
    spare=st.integers(0, 200),
    strained=st.integers(0, 500),
)


@given(demands)
def test_every_open_and_reserved_call_has_its_place_and_the_spare_is_free(demand: SessionDemand) -> None:
    room = sessions_wanted(demand) * demand.calls_per_replica
    held = max(demand.ongoing, demand.slots_used)
    assert room >= held + demand.waiting + demand.spare


@given(demands, st.sampled_from(["ongoing", "slots_used", "waiting", "spare", "strained"]), st.integers(0, 500))
def test_more_demand_never_asks_for_fewer_replicas(demand: SessionDemand, name: str, more: int) -> None:
    grown = dataclasses.replace(demand, **{name: getattr(demand, name) + more})
    assert sessions_wanted(grown) >= sessions_wanted(demand)


@given(demands)
def test_the_target_is_bounded_by_the_calls_whatever_the_lag(demand: SessionDemand) -> None:
    """Starting processes makes a busy machine lag: strain that fed on itself would start them all."""
    needed = math.ceil(
        (max(demand.ongoing, demand.slots_used) + demand.waiting + demand.spare) / demand.calls_per_replica
    )
    assert needed <= sessions_wanted(demand) <= needed + 1 + needed // 4


def context(metrics: dict[str, dict[str, float]], *, ongoing: float = 0, target: int = 1) -> Any:
    return SimpleNamespace(aggregated_metrics=metrics, total_num_requests=ongoing, target_num_replicas=target)


def reported(**figures: float) -> dict[str, dict[str, float]]:
    return {name: {"a": value, "b": value} for name, value in figures.items()}


def test_slots_reserved_before_the_dial_pull_replicas_up() -> None:
    """Nobody has picked up yet: Serve sees not one ongoing request."""
    metrics = reported(calls_per_replica=4, spare_slots=2, slots_used=9, calls_waiting=0, strained=0)
    assert session_policy(context(metrics))[0] == 3


def test_one_call_per_process_keeps_a_warm_pool() -> None:
    metrics = reported(calls_per_replica=1, spare_slots=3, slots_used=5, calls_waiting=0, strained=0)
    assert session_policy(context(metrics, ongoing=5))[0] == 8


def test_calls_that_wait_for_slots_count_before_they_hold_any() -> None:
    metrics = reported(calls_per_replica=4, spare_slots=0, slots_used=4, calls_waiting=12, strained=0)
    assert session_policy(context(metrics, ongoing=4))[0] == 4


def test_each_strained_replica_counts_once() -> None:
    metrics = reported(calls_per_replica=10, spare_slots=0, slots_used=10, calls_waiting=0)
    metrics["strained"] = {"a": 1, "b": 0}
    assert session_policy(context(metrics, ongoing=10))[0] == 2


def test_before_the_first_report_the_target_stays() -> None:
    assert session_policy(context({}, ongoing=7, target=2)) == (2, {})


def test_serve_can_pickle_the_policy_by_value() -> None:
    """It goes into the controller, which may not have this package: nothing but the standard library is imported."""
    code = "import deployments.autoscaling, sys; print({'ray', 'serve_app', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("through_serve", "own", "wanted"),
    [(0, {}, 1), (150, {}, 1), (151, {}, 2), (0, {"a": 100.0, "b": 51.0}, 2), (150, {"a": 150.0}, 2)],
)
def test_ingress_replicas_follow_sockets_whichever_way_they_came(
    through_serve: int, own: dict[str, float], wanted: int
) -> None:
    ctx = context({"own_sockets": own} if own else {}, ongoing=through_serve)
    ctx.config = AutoscalingConfig(target_ongoing_requests=150)
    assert ingress_policy(ctx) == (wanted, {})
