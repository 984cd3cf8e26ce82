"""This system beside another one that ran in the same run: compared at every number of calls at which both counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from load_tests.callbench.outcome import Outcome
from load_tests.callbench.search import Capacity
from load_tests.callbench.steps import StepFigures

OURS, BARE, FLOOR, PEER = "parley", "bare", "floor", "pipecat"

Steps = tuple[StepFigures, StepFigures]
"""This system's, the other's."""


@dataclass(frozen=True, slots=True)
class Pair:
    """This system and another one."""

    ours: Outcome
    other: Outcome

    @classmethod
    def of(cls, outcomes: Mapping[str, Outcome], other: str) -> Pair | None:
        """None where one of them did not run."""
        ours = ours_of(outcomes)
        return cls(ours, outcomes[other]) if ours is not None and other in outcomes else None

    def common(self) -> list[Steps]:
        """Steps of the same number of calls that are void for neither, smallest first; passed or not."""
        others = {step.calls: step for step in counting(self.other)}
        return [(step, others[step.calls]) for step in counting(self.ours) if step.calls in others]

    @property
    def calls_ratio(self) -> tuple[float | None, float | None]:
        """(at least, at most): capacity is known between two steps only. None where no bound was found."""
        return bounds(self.ours.capacity, self.other.capacity)


def bounds(ours: Capacity, other: Capacity) -> tuple[float | None, float | None]:
    """Of our capacity over the other's, which both lie in [passing, failing)."""
    low = None if other.failing is None else ratio(ours.passing, other.failing)
    high = None if ours.failing is None else ratio(ours.failing, other.passing)
    return low, high


def cost_ratios(pair: Pair | None) -> dict[int, str]:
    """CPU per call-second without base, ours over the other's, by calls; of several rounds with their range."""
    found = {}
    for ours, other in [] if pair is None else pair.common():
        pooled = ratio(*costs(ours, other))
        if pooled is not None:
            spread = round_ratios(ours, other)
            found[ours.calls] = f"{pooled:g}" + (f" ({min(spread):g} - {max(spread):g})" if len(spread) > 1 else "")
    return found


def round_ratios(ours: StepFigures, other: StepFigures) -> list[float]:
    """The same of each round that was void for neither."""
    pairs = zip(ours.rounds, other.rounds, strict=False)
    costs_of = [
        (mine.cpu_above_base_ms_per_call_s, theirs.cpu_above_base_ms_per_call_s)
        for mine, theirs in pairs
        if not mine.voided and not theirs.voided
    ]
    return [found for upper, lower in costs_of if (found := ratio(upper, lower)) is not None]


def ratios(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """How this system stands to the others, for people: None where a figure is missing."""
    found: dict[str, Any] = {}
    for name in (FLOOR, BARE, PEER):
        pair = Pair.of(outcomes, name)
        low, high = (None, None) if pair is None else pair.calls_ratio
        found[f"calls per core, this system / {name}, at least"] = low
        found[f"calls per core, this system / {name}, at most"] = high
        found[f"CPU per call-second without base, this system / {name}, by calls"] = cost_ratios(pair) or None
    return found


def ours_of(outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """This system's; of several (`parley:5`, `parley:20`: calls per process) the one that carries most."""
    found = [outcome for name, outcome in outcomes.items() if name.partition(":")[0] == OURS]
    return max(found, key=lambda outcome: outcome.largest, default=None)


def ours_in(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same in a `result.json`. Raises KeyError when this system was not among those that ran."""
    found = [system for name, system in document["systems"].items() if name.partition(":")[0] == OURS]
    if not found:
        raise KeyError(f"{OURS} did not run, only {', '.join(document['systems'])}")
    return max(found, key=lambda system: system["largest_passing_calls"])


def counting(outcome: Outcome | None) -> list[StepFigures]:
    """The steps that are not void."""
    return [step for step in outcome.steps if not step.voided] if outcome is not None else []


def costs(ours: StepFigures, other: StepFigures) -> tuple[float, float]:
    """CPU per call-second without base, ms."""
    return ours.cpu_total_above_base_ms_per_call_s, other.cpu_total_above_base_ms_per_call_s


def ratio(upper: float | None, lower: float | None) -> float | None:
    """None where it means nothing: without a figure, over zero, or of two infinite ones."""
    if upper is None or not lower or (math.isinf(upper) and math.isinf(lower)):
        return None
    return round(upper / lower, 3)
