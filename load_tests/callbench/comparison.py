"""This system beside another one that ran in the same run: compared where both carried the same number of calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from load_tests.callbench.ladder import Outcome
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
        """Steps of the same number of calls that both carried, smallest first."""
        others = {step.calls: step for step in _carried(self.other)}
        return [(step, others[step.calls]) for step in _carried(self.ours) if step.calls in others]

    def largest_common(self) -> Steps | None:
        return max(self.common(), key=lambda steps: steps[0].calls, default=None)


def ratios(outcomes: Mapping[str, Outcome]) -> dict[str, float | None]:
    """How this system stands to the others; None where a figure is missing."""
    floor, bare, peer = (Pair.of(outcomes, name) for name in (FLOOR, BARE, PEER))
    peers_cost = _cost_ratio(peer)
    return {
        "calls per core, this system / floor": _calls_ratio(floor),
        "calls per core, this system / bare": _calls_ratio(bare),
        "calls per core, this system / Pipecat": _calls_ratio(peer),
        "CPU per call-second without base, this system / floor": _cost_ratio(floor),
        "CPU per call-second without base, this system / bare": _cost_ratio(bare),
        "CPU per call-second without base, Pipecat / this system": ratio(1.0, peers_cost),
    }


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
    return round(upper / lower, 3) if upper is not None and lower else None


def _carried(outcome: Outcome) -> list[StepFigures]:
    return [step for step in counting(outcome) if step.calls <= outcome.largest]


def _calls_ratio(pair: Pair | None) -> float | None:
    return None if pair is None else ratio(pair.ours.largest, pair.other.largest)


def _cost_ratio(pair: Pair | None) -> float | None:
    steps = None if pair is None else pair.largest_common()
    return None if steps is None else ratio(*costs(*steps))
