"""The capacity model: its page matches its inputs, its simulation matches the theory, more calls never need less."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from load_tests.capacity import model, simulation
from load_tests.capacity.document import DOCUMENT, fill, tables
from load_tests.capacity.inputs import INPUTS, Given, load_inputs
from load_tests.capacity.measured import from_callbench, rewrite

ROOT = Path(__file__).resolve().parents[2]
GIVEN = load_inputs()


def test_the_page_is_what_the_inputs_give() -> None:
    page = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    assert fill(page, tables(GIVEN)) == page, "run `python -m load_tests.capacity --write-docs`"


def test_every_input_says_where_it_comes_from() -> None:
    names = dict(GIVEN.given())
    assert len(names) > 40
    assert all(item.source for item in names.values())


def test_an_input_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(INPUTS.read_text(encoding="utf-8"))
    document["limits"]["vonage_channels"] = {"value": 1, "status": "assumed", "source": "x"}
    file = tmp_path / "inputs.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ValidationError, match="vonage_channels"):
        load_inputs(file)


def test_measured_values_take_their_place_and_nothing_else_changes(tmp_path: Path) -> None:
    step = {
        "calls": 40,
        "passed": True,
        "cpu_above_base_ms_per_call_s": {"HAProxy": 1.0, "MediaIngress": 2.0, "CallSessions": 3.0, "rest of Ray": 0.5},
        "memory_per_call": {"pss_kb": 512},
    }
    base = {
        "memory": {"CallSessions": {"pss_kb": 400 * 1024}, "rest of Ray": {"pss_kb": 1000 * 1024}},
        "processes": {"CallSessions": 4},
        "cpu_share": {"rest of Ray": 0.1, "CallSessions": 0.02},
    }
    system = {"steps": [step, {**step, "calls": 60, "passed": False}], "base": base, "about": {"calls_per_process": 20}}
    system["largest_passing_calls"] = 40
    result = tmp_path / "result.json"
    document = {"systems": {"bare": {}, "parley:20": system}, "started_at": "2026-01-02T03:04:05", "commit": "abc"}
    result.write_text(json.dumps(document), "utf-8")
    text = INPUTS.read_text(encoding="utf-8")
    file = tmp_path / "inputs.yaml"
    file.write_text(rewrite(text, from_callbench(result)), encoding="utf-8")
    taken = load_inputs(file)
    assert taken.cpu_ms_per_call_second.total_ms == 6.5
    assert taken.cpu_ms_per_call_second.other.value == 0.5
    assert (taken.memory.call_mb.value, taken.memory.session_process_mb.value) == (0.5, 100)
    assert taken.platform.node_base_cores.value == 0.12
    assert taken.platform.calls_per_session_process.value == 20
    assert taken.memory.call_mb.source == "callbench at 40 calls, 2026-01-02, commit abc"
    assert taken.limits == GIVEN.limits and taken.prices_usd == GIVEN.prices_usd
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(text.splitlines())


def test_the_carrier_sends_what_its_frames_weigh() -> None:
    # 50 frames of 640 bytes with 8 of WebSocket and 66 of packet headers.
    assert model.bandwidth(GIVEN).carrier_in == pytest.approx(50 * 714 * 8 / 1e6)


def test_the_dialer_replaces_what_ends() -> None:
    flow = model.flow(GIVEN, 900)
    assert flow.ended_per_s == pytest.approx(900 / GIVEN.workload.talk_time_s.value)
    assert flow.dialled_per_s * GIVEN.workload.answer_rate.value == pytest.approx(flow.ended_per_s)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_more_calls_never_need_less(one: int, other: int) -> None:
    few, many = sorted((one, other))
    shape = GIVEN.nodes.small
    assert model.node_plan(GIVEN, shape, 1, few).nodes <= model.node_plan(GIVEN, shape, 1, many).nodes
    assert model.redis_busy(GIVEN, few) <= model.redis_busy(GIVEN, many)
    assert model.providers(GIVEN, few).cps <= model.providers(GIVEN, many).cps


def test_a_node_holds_the_calls_that_its_tightest_part_holds() -> None:
    plan = model.node_plan(GIVEN, GIVEN.nodes.small, 1, 1000)
    crowded = GIVEN.memory.model_copy(update={"call_mb": Given(value=1000, status="assumed", source="a test")})
    by_memory = model.node_plan(GIVEN.model_copy(update={"memory": crowded}), GIVEN.nodes.small, 1, 1000)
    assert by_memory.bound_by == "memory"
    assert by_memory.calls_per_node < plan.calls_per_node
    assert by_memory.nodes > plan.nodes


def test_breaking_points_are_where_the_limit_is_crossed() -> None:
    found = dict(model.breaking_points(GIVEN))
    calls = found["Vonage: calls per second of one account"]
    assert model.providers(GIVEN, calls).cps_ratio > 1 >= model.providers(GIVEN, calls - 1).cps_ratio


def test_erlang_b_against_its_textbook_values() -> None:
    # 10 erlang on 10 lines: 21.46 %; on 18 lines: 0.71 %.
    assert simulation.erlang_b(10, 10) == pytest.approx(0.2146, abs=1e-4)
    assert simulation.erlang_b(10, 18) == pytest.approx(0.0071, abs=1e-4)
    assert simulation.slots_for(10, 0.01) == 18


def test_the_simulation_agrees_with_the_formula_whatever_the_distribution_of_lengths() -> None:
    """Blocking depends on the mean length only, so the simulation of log-normal calls must come to Erlang's figure."""
    refused = simulation.refused_share(
        offered_erlang=50, slots=50, durations=simulation.Durations(90, 420), calls=40_000, seed=3
    )
    assert refused == pytest.approx(simulation.erlang_b(50, 50), abs=0.012)


def test_lengths_have_the_mean_and_percentile_that_were_asked_for() -> None:
    drawn = simulation.Durations(90, 420).draw(np.random.default_rng(1), 400_000)
    assert drawn.mean() == pytest.approx(90, rel=0.02)
    assert np.percentile(drawn, 99) == pytest.approx(420, rel=0.03)
    with pytest.raises(ValueError, match="no log-normal"):
        _ = simulation.Durations(90, 80).parameters


def test_spare_slots_and_faster_starts_refuse_fewer_calls_of_a_burst() -> None:
    burst, durations = simulation.Burst(300, 4.0, 60), simulation.Durations(90, 420)

    def refused(spare: float, start_s: float) -> float:
        return simulation.burst_refused(
            burst, durations, spare=spare, replica_start_s=start_s, calls_per_replica=10, seed=5
        )

    assert refused(0.5, 8) < refused(0.1, 8) < refused(0.0, 8)
    assert refused(0.1, 2) < refused(0.1, 30)


def test_draining_takes_as_long_as_the_longest_call() -> None:
    durations = simulation.Durations(90, 420)
    most, nearly_all, all_calls = (
        simulation.drain_s(durations, calls=1000, left_share=left) for left in (0.1, 0.01, 0)
    )
    assert most < nearly_all < all_calls
    assert math.isfinite(all_calls)
