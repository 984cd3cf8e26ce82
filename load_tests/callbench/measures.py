"""The measures that the project promised, against what a run found. An aim that was not measured is told as such."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from load_tests.callbench.comparison import BARE, FLOOR, PEER, Pair, costs, counting, ours_of, ratio
from load_tests.callbench.ladder import Outcome
from load_tests.callbench.quantiles import Distribution
from load_tests.callbench.steps import StepFigures

CAPACITY_SHARE = 0.7
FLAT_FROM_CALLS = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """`figure` None: not measured. `at_least`: larger is better. `goal`: what is aimed for beyond the limit."""

    name: str
    limit: float
    unit: str
    figure: float | None
    spread: str = ""
    at_least: bool = False
    goal: float | None = None

    @property
    def aim(self) -> str:
        limit = f"{'>=' if self.at_least else '<='} {self.limit:g} {self.unit}".strip()
        return limit if self.goal is None else f"{limit}, better {self.goal:g}"

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "-"
        return "PASS" if self._reaches(self.limit, self.figure) else "MISS"

    @property
    def short_of_goal(self) -> bool:
        """It passes, and falls short of what is aimed for beyond the limit."""
        if self.figure is None or self.goal is None or self.verdict == "MISS":
            return False
        return not self._reaches(self.goal, self.figure)

    def _reaches(self, limit: float, figure: float) -> bool:
        return figure >= limit if self.at_least else figure <= limit


def measures(outcomes: Mapping[str, Outcome]) -> list[Measured]:
    """Of this system, and of it against the others where they ran."""
    ours = ours_of(outcomes)
    steps = counting(ours)
    carried = [step for step in steps if ours is not None and step.calls <= ours.largest]
    one = next((step for step in steps if step.calls == 1), None)
    part, full = _near(steps, ours, CAPACITY_SHARE), _near(steps, ours, 1.0)
    return [
        _calls_per_core(ours),
        _timed("added latency p95 at one call", 10, one, lambda step: step.added_ms),
        _timed("added latency p95 at 70 % of capacity", 25, part, lambda step: step.added_ms),
        _timed("clear p95 at one call", 10, one, lambda step: step.barge_in_ms),
        _timed("clear p95 at capacity", 30, full, lambda step: step.barge_in_ms),
        _counted("frames after a clear", steps, lambda step: step.stale_frames),
        _depth(carried),
        _counted("utterances that never had 150 ms buffered", carried, lambda step: step.utterances_never_150_ms),
        _counted(
            "utterances with an underrun below capacity",
            [step for step in carried if ours is not None and step.calls < ours.largest],
            lambda step: step.utterances_with_underrun,
        ),
        _memory(full),
        _flatness(carried),
        *_against(outcomes),
    ]


def _against(outcomes: Mapping[str, Outcome]) -> list[Measured]:
    """This system beside the others: what a call costs, how many calls, how fast audio reaches the transcriber."""
    floor, bare, peer = (Pair.of(outcomes, name) for name in (FLOOR, BARE, PEER))
    return [
        _cost(floor, "CPU per call-second against the featureless floor", 3.5, 2),
        _cost(bare, "CPU per call-second against the bare process", 2.5, 1.5),
        Measured(
            "calls per core against Pipecat's",
            5,
            "x",
            None if peer is None else ratio(peer.ours.largest, peer.other.largest),
            "" if peer is None else f"{peer.ours.largest} : {peer.other.largest}",
            at_least=True,
        ),
        _faster(peer, "frame that ends a turn, phone to transcriber, p95 against Pipecat's", lambda s: s.forwarding_ms),
        _faster(
            peer,
            "frame that begins a turn, phone to transcriber, p95 against Pipecat's",
            lambda s: s.start_forwarding_ms,
        ),
        _faster(peer, "added latency p95 against Pipecat's", lambda s: s.added_ms),
    ]


def _near(steps: Sequence[StepFigures], outcome: Outcome | None, share: float) -> StepFigures | None:
    """The largest step up to this share of capacity, but none of a single call."""
    if outcome is None:
        return None
    fitting = [step for step in steps if 1 < step.calls <= share * outcome.largest]
    return max(fitting, key=lambda step: step.calls, default=None)


def _calls_per_core(outcome: Outcome | None) -> Measured:
    if outcome is None:
        return Measured("calls per core", 100, "calls", None, at_least=True)
    failed = min(
        (s.calls for s in counting(outcome) if s.calls > outcome.largest and not s.verdict.passed), default=None
    )
    spread = "no larger step failed" if failed is None else f"{failed} failed"
    return Measured("calls per core", 100, "calls", float(outcome.largest), spread, at_least=True)


def _timed(
    name: str, limit: float, step: StepFigures | None, times_of: Callable[[StepFigures], Distribution]
) -> Measured:
    if step is None:
        return Measured(name, limit, "ms", None)
    times = times_of(step)
    return Measured(f"{name} ({step.calls})", limit, "ms", times.p95, f"p50 {times.p50}, p99 {times.p99}")


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
    spread = f"USS {memory.uss_kb / 1024:.2f}, RSS {memory.rss_kb / 1024:.2f}"
    return Measured(f"{name} ({step.calls})", 1, "MB", round(memory.pss_kb / 1024, 2), spread)


def _flatness(carried: Sequence[StepFigures]) -> Measured:
    name = "cost per call from 10 calls to capacity, largest / smallest"
    found = [step.cpu_total_above_base_ms_per_call_s for step in carried if step.calls >= FLAT_FROM_CALLS]
    if len(found) < 2:
        return Measured(name, 1.2, "x", None)
    return Measured(name, 1.2, "x", ratio(max(found), min(found)), f"{min(found):.2f} - {max(found):.2f} ms")


def _cost(pair: Pair | None, name: str, limit: float, goal: float) -> Measured:
    """At the largest number of calls that both carried; the spread is that of all such numbers."""
    step = None if pair is None else pair.largest_common()
    if pair is None or step is None:
        return Measured(name, limit, "x", None, goal=goal)
    ours, other = costs(*step)
    by_step = [found for pair_of_steps in pair.common() if (found := ratio(*costs(*pair_of_steps))) is not None]
    spread = f"{ours:.2f} : {other:.2f} ms; {min(by_step):g} - {max(by_step):g} by step" if by_step else ""
    return Measured(f"{name} ({step[0].calls})", limit, "x", ratio(ours, other), spread, goal=goal)


def _faster(pair: Pair | None, name: str, times_of: Callable[[StepFigures], Distribution]) -> Measured:
    """A time that must not be longer than the other's, at the largest number of calls that both carried."""
    step = None if pair is None else pair.largest_common()
    if step is None:
        return Measured(name, 1, "x", None)
    ours, other = (times_of(one) for one in step)
    spread = f"p50 {ours.p50} : {other.p50}, p95 {ours.p95} : {other.p95} ms"
    return Measured(f"{name} ({step[0].calls})", 1, "x", ratio(ours.p95, other.p95), spread)
