"""What is run: steps, seconds, rounds; and how long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from load_tests.callbench.scenario import DENSE_CALL_S, DENSE_TURNS, NOMINAL_CALL_S, TURNS, WARM_UP_S, Turn

SETTLE_S = 10.0
"""After the start, and after the warm-up calls: their records are written and mixed down by then."""
BASE_S = 20.0
WANTED_TURNS = 100
WANTED_BARGE_INS = 20
"""Of a step, over all rounds."""
LONGEST_STEP_S = 150.0
RAMP_S = 4.0
"""From the last new caller to the measurement."""
NEW_CALLS_PER_S = 1.5
ANSWER_S = 8.0
"""A callee's patience: what has not happened this long after a measurement does not count for it any more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One round of one system. `step_s`: at least this per step; longer, up to `longest_s`, where calls are so few that
    all rounds together would give fewer than `turns` and `WANTED_BARGE_INS`.
    """

    steps: Sequence[int]
    step_s: float
    rounds: int = 1
    longest_s: float = LONGEST_STEP_S
    base_s: float = BASE_S
    settle_s: float = SETTLE_S
    turns: int = WANTED_TURNS

    def seconds(self, calls: int) -> float:
        """Of one round's measurement of a step: so that all rounds give the samples that are wanted."""
        turns, call_s = script(calls), DENSE_CALL_S if calls == 1 else NOMINAL_CALL_S
        barge_ins = sum(turn.barge_in_after_ms is not None for turn in turns)
        wanted_calls = max(self.turns / len(turns), WANTED_BARGE_INS / barge_ins)
        return max(self.step_s, min(self.longest_s, wanted_calls * call_s / calls / self.rounds))

    def ramp_s(self, new: int, *, after_one: bool = False) -> float:
        """From the step before to this one's measurement, with so many new callers.

        `after_one`: the single call's last answers are waited for meanwhile, then it is hung up.
        """
        ramp_s = RAMP_S + new / NEW_CALLS_PER_S
        return max(ramp_s, ANSWER_S + RAMP_S / 2) if after_one else ramp_s

    def estimate_s(self, start_s: float) -> float:
        """Of one round, with a start of `start_s`."""
        befores = (0, *(0 if calls == 1 else calls for calls in self.steps))
        new = [calls - before for before, calls in zip(befores, self.steps, strict=False)]
        climb_s = sum(self.ramp_s(count) for count in new) + sum(self.seconds(calls) for calls in self.steps)
        return start_s + 2 * self.settle_s + WARM_UP_S + self.base_s + climb_s + ANSWER_S


def script(calls: int) -> Sequence[Turn]:
    """What a caller says in a step of so many calls."""
    return DENSE_TURNS if calls == 1 else TURNS
