"""One system's ladder: what each round saw, and all rounds together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from load_tests.callbench.observed import Base, Observed
from load_tests.callbench.processes import Memory
from load_tests.callbench.search import Capacity, capacity
from load_tests.callbench.steps import StepFigures, pooled


@dataclass(slots=True)
class Round:
    """One climb of one system."""

    base: Base
    steps: list[Observed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fit:
    """What one more call costs, and what remains without a call (of one core)."""

    ms_per_call_s: float
    idle_share: float


@dataclass(slots=True)
class Outcome:
    """One system's run. `steps` by their number of calls."""

    base: Base
    steps: list[StepFigures] = field(default_factory=list)

    @property
    def capacity(self) -> Capacity:
        return capacity([step.verdict for step in self.steps])

    @property
    def largest(self) -> int:
        return self.capacity.passing

    @property
    def cost_by_fit(self) -> Fit | None:
        """CPU over calls, a straight line through the steps that passed: needs no measured base, and so checks it."""
        passed = [step for step in self.steps if step.verdict.passed]
        points = [(step.mean_concurrent, step.cpu_total_ms_per_call_s * step.mean_concurrent) for step in passed]
        if len({calls for calls, _ in points}) < 2:
            return None
        slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
        return Fit(round(slope, 3), round(intercept / 1000, 4))


def merged(rounds: Sequence[Round]) -> Outcome:
    """Samples pooled by step; the base is the rounds' mean. Raises ValueError without a round."""
    if not rounds:
        raise ValueError("no round was run")
    by_calls: dict[int, list[Observed]] = {}
    for each in rounds:
        for seen in each.steps:
            by_calls.setdefault(seen.calls, []).append(seen)
    return Outcome(_mean_base([each.base for each in rounds]), [pooled(by_calls[calls]) for calls in sorted(by_calls)])


def _mean_base(bases: Sequence[Base]) -> Base:
    groups = dict.fromkeys(group for base in bases for group in base.cpu_share)
    memories = dict.fromkeys(group for base in bases for group in base.memory)
    return Base(
        cpu_share={group: statistics.fmean(base.cpu_share.get(group, 0.0) for base in bases) for group in groups},
        memory={group: _mean_memory([base.memory.get(group, Memory()) for base in bases]) for group in memories},
        processes=bases[-1].processes,
        seconds=round(sum(base.seconds for base in bases), 2),
    )


def _mean_memory(parts: Sequence[Memory]) -> Memory:
    return Memory(
        *(round(statistics.fmean(getattr(m, name) for m in parts)) for name in ("rss_kb", "pss_kb", "uss_kb"))
    )
