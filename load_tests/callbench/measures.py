"""The measures that the project promised, against what a run found. An aim that was not measured is told as such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from load_tests.callbench.ladder import Outcome
from load_tests.callbench.quantiles import Distribution
from load_tests.callbench.steps import StepFigures

CAPACITY_SHARE = 0.7
OURS, BARE, PEER = "parley", "bare", "pipecat"


@dataclass(frozen=True, slots=True)
class Measured:
    """`figure` None: not measured. `at_least`: larger is better."""

    name: str
    limit: float
    unit: str
    figure: float | None
    spread: str = ""
    at_least: bool = False

    @property
    def aim(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g} {self.unit}".strip()

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "-"
        good = self.figure >= self.limit if self.at_least else self.figure <= self.limit
        return "PASS" if good else "MISS"


def measures(outcomes: Mapping[str, Outcome]) -> list[Measured]:
    """Of this system, and of it against the others where they ran."""
    ours = _ours(outcomes)
    steps = _counting(ours)
    one, part, full = _at(steps, 1), _near(steps, ours, CAPACITY_SHARE), _near(steps, ours, 1.0)
    found = [
        Measured("calls per core", 100, "calls", float(ours.largest) if ours else None, at_least=True),
        _added("added latency p95 at one call", 10, one),
        _added("added latency p95 at 70 % of capacity", 25, part),
        _clear("clear p95 at one call", 10, one),
        _clear("clear p95 at capacity", 30, full),
        _depth(full),
        Measured("frames after a clear", 0, "", float(sum(step.stale_frames for step in steps)) if steps else None),
        _underruns(steps, ours),
        _memory(full),
        _flatness(steps, ours),
    ]
    return found + _against(outcomes)


def ratios(outcomes: Mapping[str, Outcome]) -> dict[str, float | None]:
    """How this system stands to the others; None where a figure is missing."""
    ours = _ours(outcomes)
    found = {**outcomes, OURS: ours} if ours is not None else outcomes
    cpu = {name: _cost(outcome) for name, outcome in found.items()}
    calls = {name: float(outcome.largest) for name, outcome in found.items()}
    return {
        "calls per core, this system / Pipecat": _ratio(calls.get(OURS), calls.get(PEER)),
        "calls per core, this system / bare": _ratio(calls.get(OURS), calls.get(BARE)),
        "CPU per call-second without base, this system / bare": _ratio(cpu.get(OURS), cpu.get(BARE)),
        "CPU per call-second without base, Pipecat / this system": _ratio(cpu.get(PEER), cpu.get(OURS)),
    }


def _ours(outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """This system's; of several (`parley:5`, `parley:20`: calls per process) the one that carries most."""
    found = [outcome for name, outcome in outcomes.items() if name.partition(":")[0] == OURS]
    return max(found, key=lambda outcome: outcome.largest, default=None)


def _against(outcomes: Mapping[str, Outcome]) -> list[Measured]:
    found = ratios(outcomes)
    against_peer = found["calls per core, this system / Pipecat"]
    against_bare = found["CPU per call-second without base, this system / bare"]
    return [
        Measured("calls per core against Pipecat's", 5, "x", against_peer, at_least=True),
        Measured("CPU per call-second against the bare process", 2.5, "x", against_bare),
    ]


def _counting(outcome: Outcome | None) -> list[StepFigures]:
    return [step for step in outcome.steps if not step.voided] if outcome is not None else []


def _at(steps: list[StepFigures], calls: int) -> StepFigures | None:
    return next((step for step in steps if step.calls == calls), None)


def _near(steps: list[StepFigures], outcome: Outcome | None, share: float) -> StepFigures | None:
    """The largest step up to this share of capacity, but none of a single call."""
    if outcome is None:
        return None
    fitting = [step for step in steps if 1 < step.calls <= share * outcome.largest]
    return max(fitting, key=lambda step: step.calls, default=None)


def _added(name: str, limit: float, step: StepFigures | None) -> Measured:
    return _timed(name, limit, step, None if step is None else step.added_ms)


def _clear(name: str, limit: float, step: StepFigures | None) -> Measured:
    return _timed(name, limit, step, None if step is None else step.barge_in_ms)


def _timed(name: str, limit: float, step: StepFigures | None, times: Distribution | None) -> Measured:
    if step is None or times is None:
        return Measured(name, limit, "ms", None)
    return Measured(f"{name} ({step.calls})", limit, "ms", times.p95, f"p50 {times.p50}, p99 {times.p99}")


def _depth(step: StepFigures | None) -> Measured:
    name = "network's buffer inside an utterance, lowest"
    if step is None:
        return Measured(name, 150, "ms", None, at_least=True)
    depth = step.min_depth_ms
    spread = f"p50 {depth.p50}, {step.utterances_never_150_ms} never held 150"
    return Measured(f"{name} ({step.calls})", 150, "ms", depth.low, spread, at_least=True)


def _underruns(steps: list[StepFigures], outcome: Outcome | None) -> Measured:
    below = [step for step in steps if outcome is not None and step.calls < outcome.largest]
    count = float(sum(step.utterances_with_underrun for step in below)) if below else None
    return Measured("utterances with an underrun below capacity", 0, "", count)


def _memory(step: StepFigures | None) -> Measured:
    name = "memory per call above the base (PSS)"
    if step is None:
        return Measured(name, 1, "MB", None)
    memory = step.memory_per_call
    spread = f"USS {memory.uss_kb / 1024:.2f}, RSS {memory.rss_kb / 1024:.2f}"
    return Measured(f"{name} ({step.calls})", 1, "MB", round(memory.pss_kb / 1024, 2), spread)


def _flatness(steps: list[StepFigures], outcome: Outcome | None) -> Measured:
    name = "cost per call from 10 calls to capacity, largest / smallest"
    costs = [
        step.cpu_total_above_base_ms_per_call_s
        for step in steps
        if outcome is not None and 10 <= step.calls <= outcome.largest
    ]
    if len(costs) < 2:
        return Measured(name, 1.2, "x", None)
    return Measured(name, 1.2, "x", _ratio(max(costs), min(costs)), f"{min(costs):.2f} - {max(costs):.2f} ms")


def _cost(outcome: Outcome) -> float | None:
    """CPU per call-second above the base at the largest step that passed; without one, at the smallest that counts."""
    steps = _counting(outcome)
    fitting = [step for step in steps if step.calls <= outcome.largest] or steps[:1]
    return fitting[-1].cpu_total_above_base_ms_per_call_s if fitting else None


def _ratio(upper: float | None, lower: float | None) -> float | None:
    return round(upper / lower, 3) if upper is not None and lower else None
