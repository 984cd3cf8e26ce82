"""The measures that the project promised, against what a run found. An aim that was not measured is told as such."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from load_tests.callbench.comparison import (
    BARE,
    FLOOR,
    PEER,
    Pair,
    cost_ratios,
    costs,
    counting,
    ours_of,
    ratio,
)
from load_tests.callbench.outcome import Outcome
from load_tests.callbench.quantiles import Distribution
from load_tests.callbench.search import MIN_SAMPLES
from load_tests.callbench.steps import StepFigures

CAPACITY_SHARE = 0.7
FLAT_FROM_CALLS = 10
TimesOf = Callable[[StepFigures], Distribution]


@dataclass(frozen=True, slots=True)
class Measured:
    """`figure` None: not measured. `at_least`: larger is better. `goal`: what is aimed for beyond the limit.

    `too_few`: of too few samples to be judged.
    """

    name: str
    limit: float
    unit: str
    figure: float | None
    spread: str = ""
    at_least: bool = False
    goal: float | None = None
    too_few: bool = False

    @property
    def aim(self) -> str:
        limit = f"{'>=' if self.at_least else '<='} {self.limit:g} {self.unit}".strip()
        return limit if self.goal is None else f"{limit}, better {self.goal:g}"

    @property
    def verdict(self) -> str:
        if self.too_few:
            return "too few"
        if self.figure is None:
            return "-"
        return "PASS" if self._reaches(self.limit, self.figure) else "MISS"

    @property
    def short_of_goal(self) -> bool:
        """It passes, and falls short of what is aimed for beyond the limit."""
        if self.figure is None or self.goal is None or self.verdict != "PASS":
            return False
        return not self._reaches(self.goal, self.figure)

    def _reaches(self, limit: float, figure: float) -> bool:
        return figure >= limit if self.at_least else figure <= limit


def measures(outcomes: Mapping[str, Outcome]) -> list[Measured]:
    """Of this system, and of it against the others where they ran."""
    ours = ours_of(outcomes)
    steps = counting(ours)
    largest = 0 if ours is None else ours.largest
    carried = [step for step in steps if step.calls <= largest]
    many = [step for step in carried if step.calls >= FLAT_FROM_CALLS]
    one = [step for step in steps if step.calls == 1]
    part = max((s for s in steps if 1 < s.calls <= CAPACITY_SHARE * largest), key=lambda s: s.calls, default=None)
    return [
        _calls_per_core(ours),
        _worst("added latency p95 at one call", 10, one, lambda step: step.added_ms),
        _worst("added latency p95 at 70 % of capacity", 25, [part] if part else [], lambda step: step.added_ms),
        _worst("clear p95 at one call", 10, one, lambda step: step.barge_in_ms),
        _worst("clear p95, worst step from 10 calls to capacity", 30, many, lambda step: step.barge_in_ms),
        _counted("frames after a clear", steps, lambda step: step.stale_frames),
        _depth(carried),
        _counted("utterances that never had 150 ms buffered", carried, lambda step: step.utterances_never_150_ms),
        _counted(
            "utterances with an underrun below capacity",
            [step for step in carried if step.calls < largest],
            lambda step: step.utterances_with_underrun,
        ),
        _memory(max(carried, key=lambda step: step.calls, default=None)),
        _flatness(many),
        *_against(outcomes),
    ]


def _against(outcomes: Mapping[str, Outcome]) -> list[Measured]:
    """This system beside the others: what a call costs, how many calls, how fast audio reaches the transcriber."""
    floor, bare, peer = (Pair.of(outcomes, name) for name in (FLOOR, BARE, PEER))
    frame = "frame that {} a turn, phone to transcriber, p95 against Pipecat's"
    return [
        _cost(floor, "CPU per call-second against the featureless floor", 3.5, 2),
        _cost(bare, "CPU per call-second against the bare process", 2.5, 1.5),
        _calls_against(peer),
        _faster(peer, frame.format("ends"), lambda step: step.forwarding_ms),
        _faster(peer, frame.format("begins"), lambda step: step.start_forwarding_ms),
        _faster(peer, "added latency p95 against Pipecat's", lambda step: step.added_ms),
    ]


def _calls_per_core(outcome: Outcome | None) -> Measured:
    if outcome is None:
        return Measured("calls per core", 100, "calls", None, at_least=True)
    return Measured("calls per core", 100, "calls", float(outcome.largest), f"in {outcome.capacity}", at_least=True)


def _calls_against(pair: Pair | None) -> Measured:
    """By the lower end of what the two intervals allow: unknown while no step of the peer's has failed."""
    name = "calls per core against Pipecat's, at least"
    if pair is None:
        return Measured(name, 5, "x", None, at_least=True)
    low, high = pair.calls_ratio
    most = "no bound found" if high is None else f"{high:g} x"
    spread = f"{pair.ours.capacity} : {pair.other.capacity}; at most {most}"
    return Measured(name, 5, "x", low, spread, at_least=True)


def _worst(name: str, limit: float, steps: Sequence[StepFigures], times_of: TimesOf) -> Measured:
    """The largest p95 of the steps with enough samples; of all of them, unjudged, where none has."""
    told = [(step.calls, times_of(step)) for step in steps]
    enough = [(calls, times) for calls, times in told if times.n >= MIN_SAMPLES]
    few = [f"too few at {calls}: n={times.n}" for calls, times in told if times.n < MIN_SAMPLES]
    known = [(times.p95, calls, times) for calls, times in enough or told if times.p95 is not None]
    if not known:
        return Measured(name, limit, "ms", None, "; ".join(few))
    p95, calls, times = max(known, key=lambda found: found[0])
    spread = "; ".join([f"n={times.n}, p50 {times.p50}, p99 {times.p99}", *(few if enough else [])])
    return Measured(f"{name} ({calls})", limit, "ms", p95, spread, too_few=not enough)


def _counted(name: str, steps: Sequence[StepFigures], count_of: Callable[[StepFigures], int]) -> Measured:
    """What must never happen, summed over steps."""
    if not steps:
        return Measured(name, 0, "", None)
    counts = [count_of(step) for step in steps]
    return Measured(name, 0, "", float(sum(counts)), f"{min(counts)} - {max(counts)} per step")


def _depth(steps: Sequence[StepFigures]) -> Measured:
    name = "network's buffer inside an utterance, lowest up to capacity"
    lows = [step.min_depth_ms.low for step in steps if step.min_depth_ms.low is not None]
    if not lows:
        return Measured(name, 150, "ms", None, at_least=True)
    medians = [step.min_depth_ms.p50 for step in steps if step.min_depth_ms.p50 is not None]
    spread = f"lowest {min(lows):g} - {max(lows):g} by step, p50 {min(medians):g} - {max(medians):g}"
    return Measured(name, 150, "ms", min(lows), spread, at_least=True)


def _memory(step: StepFigures | None) -> Measured:
    name = "memory per call above the base (PSS)"
    if step is None:
        return Measured(name, 1, "MB", None)
    memory = step.memory_per_call
    spread = f"USS {memory.uss_kb / 1024:.2f}, RSS {memory.rss_kb / 1024:.2f}; of {step.mean_concurrent:g} that were up"
    return Measured(f"{name} ({step.calls})", 1, "MB", round(memory.pss_kb / 1024, 2), spread)


def _flatness(steps: Sequence[StepFigures]) -> Measured:
    name = "cost per call from 10 calls to capacity, largest / smallest"
    found = [step.cpu_total_above_base_ms_per_call_s for step in steps]
    if len(found) < 2:
        return Measured(name, 1.2, "x", None)
    return Measured(name, 1.2, "x", ratio(max(found), min(found)), f"{min(found):.2f} - {max(found):.2f} ms")


def _cost(pair: Pair | None, name: str, limit: float, goal: float) -> Measured:
    """The worst common step from 10 calls on: below, the noise of the base is larger than what the calls cost."""
    common = [] if pair is None else [steps for steps in pair.common() if steps[0].calls >= FLAT_FROM_CALLS]
    known = [(found, *steps) for steps in common if (found := ratio(*costs(*steps))) is not None]
    if not known:
        return Measured(name, limit, "x", None, goal=goal)
    worst, ours, other = max(known, key=lambda found: found[0])
    mine, theirs = costs(ours, other)
    by_calls = ", ".join(f"{calls}: {text}" for calls, text in cost_ratios(pair).items())
    spread = f"{mine:.2f} : {theirs:.2f} ms; by calls {by_calls}"
    return Measured(f"{name} ({ours.calls})", limit, "x", worst, spread, goal=goal)


def _faster(pair: Pair | None, name: str, times_of: TimesOf) -> Measured:
    """A time that must not be longer than the other's, at any number of calls at which both counted."""
    told = [] if pair is None else [(ours.calls, times_of(ours), times_of(other)) for ours, other in pair.common()]
    enough = [(calls, a, b) for calls, a, b in told if min(a.n, b.n) >= MIN_SAMPLES]
    known = [(found, calls) for calls, a, b in enough or told if (found := ratio(a.p95, b.p95)) is not None]
    if not known:
        return Measured(name, 1, "x", None)
    worst, calls = max(known)
    spread = ", ".join(
        f"{calls}: {a.p95} : {b.p95} ms" + ("" if min(a.n, b.n) >= MIN_SAMPLES else " (too few)")
        for calls, a, b in told
    )
    return Measured(f"{name} ({calls})", 1, "x", worst, spread, too_few=not enough)
