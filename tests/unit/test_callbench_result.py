"""callbench's results, on samples that are made up: steps, rounds, capacity, measures, what is written."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from load_tests.callbench.__main__ import publish, run_round
from load_tests.callbench.comparison import Pair, bounds, ours_in, ratios
from load_tests.callbench.measures import Measured, measures
from load_tests.callbench.outcome import Fit, Outcome, Round, merged
from load_tests.callbench.plots import draw
from load_tests.callbench.processes import Memory
from load_tests.callbench.quantiles import Distribution
from load_tests.callbench.report import SystemResult, document, markdown, print_tables, write_json
from load_tests.callbench.search import Capacity, Verdict, capacity
from load_tests.callbench.steps import LagFigures, pooled
from serve_app.errors import UnavailableError
from tests.unit.callbench_samples import BASE, a_call, a_numbered_step, a_round, a_step, an_outcome, many

# --- what passes ------------------------------------------------------------------------------------------------------

PASSING = Verdict(calls=10, mean_concurrent=9.7, turns=100, added_p95_ms=150.0, underrun_share=0.009)


def test_a_step_at_every_limit_passes() -> None:
    at_limit = dataclasses.replace(PASSING, set_ups=20, set_up_p95_s=5.0, error_share=0.0099, late_set_up_share=0.0099)
    assert at_limit.misses == [] and at_limit.status == "PASS"


@pytest.mark.parametrize(
    ("changed", "said", "far"),
    [
        ({"mean_concurrent": 9.69}, "9.7 calls were up (of 10)", False),
        ({"added_p95_ms": 150.1}, "p95 150 ms", False),
        ({"added_p95_ms": 451.0}, "p95 451 ms", True),
        ({"added_p95_ms": math.inf}, "p95 inf ms", True),
        ({"underrun_share": 0.01}, "1.0% of utterances", False),
        ({"error_share": 0.05}, "5.0% of calls failed", False),
        ({"error_share": 0.2}, "20.0% of calls failed", True),
        ({"late_set_up_share": 0.2}, "20.0% of set-ups", True),
        ({"set_ups": 20, "set_up_p95_s": 5.1}, "set-up p95 5.1 s", False),
        ({"unanswered": 1}, "1 turns unanswered", False),
        ({"barge_ins_missed": 1}, "1 barge-ins missed", False),
    ],
)
def test_each_rule_fails_alone(changed: dict[str, float], said: str, far: bool) -> None:
    verdict = dataclasses.replace(PASSING, **changed)  # type: ignore[arg-type]  # one field each
    (miss,) = verdict.misses
    assert said in miss
    assert (verdict.status, verdict.failed_by_far) == ("MISS", far)


def test_no_quantile_is_judged_below_twenty_samples() -> None:
    few = dataclasses.replace(PASSING, turns=19, added_p95_ms=400.0, underrun_share=0.1, set_ups=19, set_up_p95_s=9.0)
    assert few.status == "too few" and not few.passed
    # What must not happen at all is judged by one.
    assert dataclasses.replace(few, unanswered=1).status == "MISS"
    assert dataclasses.replace(few, mean_concurrent=5.0).status == "MISS"


def test_a_void_step_is_no_miss() -> None:
    assert dataclasses.replace(PASSING, added_p95_ms=900.0, voided=True).status == "VOID"


def verdicts(**statuses: str) -> list[Verdict]:
    """`c10="PASS"`: ten calls passed."""
    changes: dict[str, dict[str, float | bool]] = {
        "PASS": {},
        "MISS": {"added_p95_ms": 200.0},
        "VOID": {"voided": True},
        "few": {"turns": 3},
    }
    return [
        dataclasses.replace(PASSING, calls=int(name[1:]), mean_concurrent=float(name[1:]), **changes[status])  # type: ignore[arg-type]
        for name, status in statuses.items()
    ]


def test_capacity_lies_between_what_passed_and_what_failed() -> None:
    assert capacity(verdicts(c60="PASS", c40="MISS", c10="PASS", c20="VOID", c1="few")) == Capacity(10, 40)
    assert capacity(verdicts(c1="PASS", c60="PASS", c80="VOID")) == Capacity(60, None)
    assert capacity(verdicts(c40="MISS")) == Capacity(0, 40)
    assert capacity([]) == capacity(verdicts(c20="VOID")) == Capacity(0, None)
    assert (str(Capacity(60, 70)), str(Capacity(60, None))) == ("[60, 70)", "[60, ?)")


# --- a step -----------------------------------------------------------------------------------------------------------


def test_a_step_counts_what_happened_inside_it() -> None:
    step = a_step([a_call(1), a_call(2, underruns=2), a_call(3, at=120)])
    # Two calls of 10 s inside; the third was asked for after the end.
    assert step.call_seconds == 20
    assert (step.turns, step.turns_unanswered, step.utterances, step.utterances_with_underrun) == (4, 0, 4, 1)
    assert step.added_ms.p95 == pytest.approx(10)
    assert step.cpu_ms_per_call_s == {"server": 125.0, "idle": 25.0}
    assert step.cpu_above_base_ms_per_call_s == {"server": 100.0, "idle": 0.0}
    assert step.cpu_total_above_base_ms_per_call_s == 100.0
    assert step.min_depth_ms.low == 280
    assert step.loop_lag == {"server": LagFigures(1.0, 3.0, 5.0)}
    # By the processes' own times: 3 s of 10, whatever the core says.
    assert (step.system_core_share, step.load_cpu_ms_per_call_s) == (0.3, {"legs": 50.0})


def test_calls_that_are_not_up_fail_the_step_and_share_no_memory() -> None:
    seen = a_round([a_call(1), a_call(2)], asked_for=3)
    step = pooled([seen])
    assert (step.calls, step.mean_concurrent) == (3, 2.0)
    assert step.memory_per_call == Memory(round(2000 / 2), round(1600 / 2), round(1200 / 2))
    assert "2.0 calls were up (of 3)" in step.verdict.misses


def test_an_unanswered_turn_is_infinitely_late_and_fails_the_step() -> None:
    step = a_step([*many(11), a_call(12, answer_ms=None)])
    assert (step.turns, step.turns_unanswered, step.added_ms.n) == (24, 1, 24)
    assert step.added_ms.high == math.inf and step.added_ms.p50 == pytest.approx(10)
    assert step.verdict.misses == ["1 turns unanswered"]
    assert a_step(many(11)).verdict.misses == []


def test_a_missed_barge_in_is_infinitely_slow_and_fails_the_step() -> None:
    step = a_step([*many(11), a_call(12, clear_ms=None)])
    assert (step.barge_in_ms.n, step.barge_ins_missed, step.barge_in_ms.high) == (12, 1, math.inf)
    assert step.verdict.misses == ["1 barge-ins missed"]
    # A clear after two seconds belongs to nothing.
    assert a_step([*many(11), a_call(12, clear_ms=2500)]).barge_ins_missed == 1


def test_set_ups_are_counted_by_when_they_were_asked_for() -> None:
    early, inside = a_call(1, set_up_s=9), a_call(2, at=106, set_up_s=1.5)
    step = a_step([early, inside])
    assert (step.set_up_s.n, step.set_up_s.p50, step.set_ups_late) == (1, 1.5, 0)


def test_a_late_set_up_and_one_that_never_came_fail_the_step() -> None:
    late, refused = a_call(1, at=110, set_up_s=5.5), a_call(2, at=108, error="refused: HTTP 503")
    unheard = dataclasses.replace(refused[0], utterances=(), turns=(), connected_at=None)
    step = a_step([*many(11), late, (unheard, [])])
    assert (step.set_up_s.n, step.set_ups_late, step.set_up_s.high) == (2, 2, math.inf)
    assert "100.0% of set-ups took over 5 s" in step.verdict.misses


def test_failed_calls_are_told_by_reason() -> None:
    step = a_step([a_call(1), a_call(2, error="refused: HTTP 503")])
    assert (step.calls_ended, step.calls_failed, step.errors) == (2, 1, {"refused: HTTP 503": 1})
    assert step.error_share == 0.5


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_the_samples_of_all_rounds_are_pooled_and_their_cost_is_told_apart() -> None:
    quick, slow = a_round(many(12)), a_round(many(10, answer_ms=500))
    cheaper = dataclasses.replace(slow, cpu_s={"server": 2.0, "idle": 0.5})
    step = pooled([quick, cheaper])
    assert [step.added_ms.p50, step.added_ms.p95] == pytest.approx([10, 100])
    assert (step.turns, step.call_seconds) == (44, 220)
    assert step.cpu_total_above_base_ms_per_call_s == pytest.approx((2.0 + 1.5) * 1000 / 220, abs=0.001)
    assert [seen.cpu_above_base_ms_per_call_s for seen in step.rounds] == [16.667, 15.0]


def test_a_void_round_is_left_out_and_told() -> None:
    good, late = a_round(many(12)), a_round(many(12, answer_ms=900), leg_lateness_p99_ms=7.0)
    step = pooled([good, late])
    assert (step.turns, step.voided, step.verdict.status) == (24, [], "PASS")
    assert "legs were late" in step.rounds[1].voided[0]
    both = pooled([late, late])
    assert both.verdict.status == "VOID" and len(both.voided) == 1


def test_rounds_are_merged_by_step() -> None:
    first, second = Round(BASE, [a_round(many(2))]), Round(BASE, [a_round(many(2)), a_round(many(1))])
    outcome = merged([first, second])
    assert [(step.calls, len(step.rounds)) for step in outcome.steps] == [(1, 1), (2, 2)]
    assert outcome.base.cpu_share == BASE.cpu_share and outcome.base.seconds == 40
    with pytest.raises(ValueError, match="no round"):
        merged([])


@pytest.mark.parametrize(
    ("failures", "rounds", "errors", "failed_starts"),
    [
        ([], 1, 0, 0),
        ([UnavailableError("no port")], 1, 0, 1),
        ([UnavailableError("no port"), UnavailableError("no port")], 0, 1, 1),
        ([RuntimeError("a warm-up call failed")], 0, 1, 0),
    ],
)
def test_a_system_that_does_not_start_is_started_once_more(
    failures: list[Exception], rounds: int, errors: int, failed_starts: int
) -> None:
    result = SystemResult("parley:5", ("server",))
    folders = []

    def climb(to: SystemResult, logs: str) -> None:
        folders.append(logs)
        if failures:
            raise failures.pop(0)
        to.rounds.append(Round(BASE))

    run_round(result, climb)
    assert (len(result.rounds), len(result.errors), len(result.failed_starts)) == (rounds, errors, failed_starts)
    assert set(folders) == {"parley-5-logs-1"}


def test_the_cost_of_one_more_call_needs_no_base() -> None:
    first, second = a_numbered_step(10), a_numbered_step(40)
    first = dataclasses.replace(first, cpu_total_ms_per_call_s=28.0)  # 200 + 10 * 8
    second = dataclasses.replace(second, cpu_total_ms_per_call_s=13.0)  # 200 + 40 * 8
    assert Outcome(BASE, [first, second]).cost_by_fit == Fit(8.0, 0.2)
    assert Outcome(BASE, [first]).cost_by_fit is None


# --- measures ---------------------------------------------------------------------------------------------------------


def told(outcomes: dict[str, Outcome]) -> dict[str, Measured]:
    """By name, without the number of calls."""
    return {measure.name.partition(" (")[0]: measure for measure in measures(outcomes)}


CLEAR = "clear p95, worst step from 10 calls to capacity"


def test_the_capacity_against_a_peer_is_judged_by_its_lower_end() -> None:
    assert bounds(Capacity(60, 70), Capacity(16, 18)) == (3.333, 4.375)
    assert bounds(Capacity(60, None), Capacity(10, None)) == (None, None)
    outcomes = {
        "parley": an_outcome(cost_ms=9, largest=60, fails_at=70),
        "pipecat": an_outcome(cost_ms=48, largest=10, fails_at=20),
    }
    measure = told(outcomes)["calls per core against Pipecat's, at least"]
    assert (measure.figure, measure.verdict) == (3.0, "MISS")
    assert measure.spread == "[60, 70) : [10, 20); at most 7 x"
    outcomes["pipecat"] = an_outcome(cost_ms=48, largest=10, fails_at=12)
    assert told(outcomes)["calls per core against Pipecat's, at least"].verdict == "PASS"


def test_a_peer_that_never_failed_gives_no_ratio() -> None:
    peer = an_outcome(cost_ms=48, largest=10)
    peer.steps.pop()
    measure = told({"parley": an_outcome(cost_ms=9, largest=60), "pipecat": peer})
    assert measure["calls per core against Pipecat's, at least"].verdict == "-"


def test_the_systems_are_compared_where_they_ran() -> None:
    outcomes = {
        "parley:5": an_outcome(cost_ms=12, largest=30),
        "parley:20": an_outcome(cost_ms=8, largest=60, passing=(10,)),
        "bare": an_outcome(cost_ms=4, largest=100, passing=(10,)),
    }
    found = ratios(outcomes)
    assert found["calls per core, this system / bare, at least"] == 0.3
    assert found["calls per core, this system / bare, at most"] == 1.2
    assert found["CPU per call-second without base, this system / bare, by calls"] == {1: "2", 10: "2"}
    assert found["calls per core, this system / pipecat, at least"] is None
    shown = {name: (measure.figure, measure.verdict) for name, measure in told(outcomes).items()}
    expected = {
        "calls per core": (60, "MISS"),
        "added latency p95 at one call": (10, "PASS"),
        "added latency p95 at 70 % of capacity": (10, "PASS"),
        "CPU per call-second against the bare process": (2, "PASS"),
        "CPU per call-second against the featureless floor": (None, "-"),
    }
    assert {name: shown[name] for name in expected} == expected


def test_cost_is_judged_at_the_worst_common_step_from_ten_calls_on() -> None:
    ours, floor = an_outcome(cost_ms=9, largest=40, passing=(20,)), an_outcome(cost_ms=3, largest=200, passing=(20, 40))
    # Not compared: dearer at one call, where the base is noise, and cheaper where ours did not run.
    ours.steps[0] = dataclasses.replace(ours.steps[0], cpu_total_above_base_ms_per_call_s=30.0)
    floor.steps[3] = dataclasses.replace(floor.steps[3], cpu_total_above_base_ms_per_call_s=1.0)
    ours.steps[1] = dataclasses.replace(ours.steps[1], cpu_total_above_base_ms_per_call_s=10.5)
    measure = told({"parley": ours, "floor": floor})["CPU per call-second against the featureless floor"]
    assert (measure.figure, measure.verdict, measure.short_of_goal) == (3.5, "PASS", True)
    assert measure.aim == "<= 3.5 x, better 2" and measure.name.endswith("(20)")
    assert "1: 10, 20: 3.5, 40: 3" in measure.spread


def test_the_ratio_of_costs_is_told_with_its_range_over_the_rounds() -> None:
    first, second = a_round(many(2)), dataclasses.replace(a_round(many(2)), cpu_s={"server": 4.5, "idle": 0.5})
    ours, bare = (merged([Round(BASE, [one]), Round(BASE, [two])]) for one, two in ((first, second), (first, first)))
    found = ratios({"parley": ours, "bare": bare})
    by_calls = found["CPU per call-second without base, this system / bare, by calls"]
    assert by_calls == {2: "1.5 (1 - 2)"}


def test_a_time_is_compared_with_the_peer_s_at_every_common_step() -> None:
    ours = [a_numbered_step(10), a_numbered_step(20, answer_ms=440, to_stt_ms=6)]
    peers = [a_numbered_step(10, answer_ms=420, to_stt_ms=4), a_numbered_step(20, answer_ms=425, to_stt_ms=4)]
    found = told({"parley": Outcome(BASE, ours), "pipecat": Outcome(BASE, peers)})
    added = found["added latency p95 against Pipecat's"]
    assert (added.figure, added.verdict) == (1.6, "MISS") and added.name.endswith("(20)")
    assert added.spread == "10: 10.0 : 20.0 ms, 20: 40.0 : 25.0 ms"
    for frame in ("ends", "begins"):
        measure = found[f"frame that {frame} a turn, phone to transcriber, p95 against Pipecat's"]
        assert (measure.figure, measure.verdict) == (1.5, "MISS")
    peers[1] = dataclasses.replace(peers[1], voided=["it rained"])
    better = told({"parley": Outcome(BASE, ours), "pipecat": Outcome(BASE, peers)})
    assert better["added latency p95 against Pipecat's"].figure == 0.5


def test_clear_is_judged_at_the_worst_step_up_to_capacity() -> None:
    steps = [
        a_numbered_step(1, clear_ms=60),  # judged apart
        a_numbered_step(10),
        a_numbered_step(40, clear_ms=104),
        a_numbered_step(60, clear_ms=29),
        a_numbered_step(70, answer_ms=700, clear_ms=500),  # beyond capacity
    ]
    found = told({"parley": Outcome(BASE, steps)})[CLEAR]
    assert (found.figure, found.verdict) == (104, "MISS") and found.name.endswith("(40)")
    steps[2] = dataclasses.replace(steps[2], barge_in_ms=Distribution.of([104.0] * 19))
    found = told({"parley": Outcome(BASE, steps)})[CLEAR]
    assert (found.figure, found.verdict) == (29, "PASS")
    assert "too few at 40: n=19" in found.spread


def test_nothing_is_judged_of_too_few_samples() -> None:
    one = dataclasses.replace(a_numbered_step(1), barge_in_ms=Distribution.of([1.6]))
    found = told({"parley": Outcome(BASE, [one, a_numbered_step(10)])})["clear p95 at one call"]
    assert (found.figure, found.verdict, found.short_of_goal) == (1.6, "too few", False)


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


# --- what is written --------------------------------------------------------------------------------------------------


def two_results() -> list[SystemResult]:
    good, broken = a_round(many(12)), a_round([*many(11), a_call(12, answer_ms=None)], asked_for=13)
    return [
        SystemResult("parley", ("server",), {"processes": 1}, [Round(BASE, [good, broken]), Round(BASE, [good])]),
        SystemResult("pipecat", ("server",), errors=["round 1: it did not start"]),
    ]


def test_a_result_is_strict_json_and_small(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_json(document(two_results(), command={}, started_at="2026-01-01T00:00:00+00:00"), file)

    def no_constants(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    text = json.loads(file.read_text(encoding="utf-8"), parse_constant=no_constants)
    system = text["systems"]["parley"]
    assert (system["largest_passing_calls"], system["smallest_failing_calls"], system["rounds"]) == (12, 13, 2)
    assert [(step["status"], len(step["rounds"])) for step in system["steps"]] == [("PASS", 2), ("MISS", 1)]
    assert system["steps"][1]["added_ms"]["high"] == "never"
    assert system["steps"][1]["misses"] == ["12.0 calls were up (of 13)", "1 turns unanswered"]
    assert text["systems"]["pipecat"]["errors"] == ["round 1: it did not start"]
    assert ours_in(text) == system
    assert file.stat().st_size < 8000 + 2 * 3000  # the rest, and two steps


def test_the_tables_tell_what_failed_and_of_how_many_samples() -> None:
    console = Console(record=True, width=250, file=io.StringIO())
    print_tables(two_results(), console)
    shown = console.export_text()
    for text in ("it did not start", "1 turns unanswered", "n=48", "n=12, too few", "[12, 13)", "not measured"):
        assert text in shown
    written = markdown(two_results())
    for text in (
        "loop lag p95, ms",
        "RSS of all, MB",
        "load side ms/call-s",
        "frame late p50",
        "10.0/10.0/never (n=24)",
    ):
        assert text in written
    assert "| server 1.0 |" in written


def test_plots_are_drawn_and_what_the_docs_show_is_copied(tmp_path: Path) -> None:
    names = sorted(file.name for file in draw(two_results(), tmp_path))
    assert names == ["cost.png", "cost.svg", "latency.png", "latency.svg"]
    assert all(file.stat().st_size > 1000 for file in tmp_path.iterdir())
    write_json({"a": 1}, tmp_path / "result.json")
    folder = tmp_path / "figures"
    folder.mkdir()
    publish(tmp_path, folder)
    assert sorted(file.name for file in folder.iterdir()) == ["callbench.json", "calls-cost.png", "calls-latency.png"]


def test_a_pair_is_compared_at_steps_that_are_void_for_neither() -> None:
    ours, other = an_outcome(cost_ms=9, largest=40, passing=(10, 20)), an_outcome(cost_ms=3, largest=20, passing=(10,))
    other.steps[1] = dataclasses.replace(other.steps[1], voided=["steal"])
    pair = Pair.of({"parley": ours, "floor": other}, "floor")
    assert pair is not None
    # 40: ours passed, the other did not; both were measured.
    assert [step.calls for step, _ in pair.common()] == [1, 20, 40]
    assert Pair.of({"parley": ours}, "floor") is None
