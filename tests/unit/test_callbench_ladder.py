"""callbench's ladder against a load side that is made up: who calls, who is hung up, what is judged when it stops."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from load_tests.callbench import callers, ladder, plan
from load_tests.callbench.ladder import Ladder
from load_tests.callbench.observed import LoadFigures
from load_tests.callbench.outcome import Round
from load_tests.callbench.plan import Plan
from load_tests.callbench.processes import ProcessTree, one_group
from load_tests.callbench.records import Call, SttTurn, Utterance
from load_tests.callbench.scenario import DENSE_TURNS, TURNS, Turn
from load_tests.callbench.systems.base import Lag, Place

CALL_S = 0.6


class FakeSystem:
    """Implements `System`, of no process."""

    name = "fake"
    groups: Sequence[str] = ()

    def start(self, place: Place) -> None: ...

    def tree(self) -> ProcessTree:
        return ProcessTree([], one_group("fake"))

    def opening(self) -> dict[str, Any]:
        return {}

    def loop_lag(self) -> Mapping[str, Lag]:
        return {}

    def about(self) -> dict[str, Any]:
        return {}

    def stop(self) -> None: ...


@dataclasses.dataclass
class FakeLoad:
    """Calls of `CALL_S` without turns; those of a step with more than `carries` callers fail."""

    carries: int = 100
    up: dict[str, asyncio.Event] = dataclasses.field(default_factory=dict)
    placed: list[tuple[str, Sequence[Turn]]] = dataclasses.field(default_factory=list)
    cut: list[str] = dataclasses.field(default_factory=list)
    most: int = 0

    def tree(self) -> ProcessTree:
        return ProcessTree([], one_group("load"))

    async def call(self, call_id: str, opening: Mapping[str, Any], turns: Sequence[Turn] = TURNS) -> Call:
        asked_at = time.monotonic()
        error: str | None
        self.placed.append((call_id, turns))
        self.up[call_id] = asyncio.Event()
        self.most = max(self.most, len(self.up))
        too_many = len(self.up) > self.carries
        try:
            await asyncio.wait_for(self.up[call_id].wait(), 0.05 if too_many else CALL_S)
            error = "over after 1 of 5 steps (near_closed)"
        except TimeoutError:
            error = "refused: HTTP 503" if too_many else None
        finally:
            del self.up[call_id]
        greeting = (Utterance(asked_at, 0, asked_at),) if not too_many else ()
        return Call(call_id, asked_at, None if too_many else asked_at, time.monotonic(), error, utterances=greeting)

    def hang_up(self, call_id: str) -> None:
        self.cut.append(call_id)
        self.up[call_id].set()

    async def begin_figures(self) -> None: ...

    async def figures(self) -> LoadFigures:
        return LoadFigures()

    async def streams(self) -> list[Sequence[SttTurn]]:
        return []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (ladder, "ANSWER_S", 0.2),
        (ladder, "RAMP_S", 0.1),
        (plan, "ANSWER_S", 0.2),
        (plan, "RAMP_S", 0.1),
        (plan, "NEW_CALLS_PER_S", 20.0),
        (ladder, "GIVE_UP_S", 5.0),
        (callers, "RETRY_S", 0.1),
    ):
        monkeypatch.setattr(module, name, value)
    # Without turns nothing passes; here only failed calls may end a ladder.
    monkeypatch.setattr("load_tests.callbench.search.Verdict.failed_by_far", property(lambda v: v.error_share > 0.1))


async def climbed(load: FakeLoad, steps: Sequence[int], shown: list[str] | None = None) -> Round:
    chosen = Plan(steps, step_s=0.9, longest_s=0.9, base_s=0.1, settle_s=0.0)
    show = (shown if shown is not None else []).append
    made = Ladder(FakeSystem(), load, chosen, due={}, cores=(0, 1), show=show)  # type: ignore[arg-type]  # made up
    return await asyncio.wait_for(made.run(), 60)


async def test_a_ladder_warms_up_measures_each_step_and_leaves_nobody_on_the_line() -> None:
    load = FakeLoad()
    found = await climbed(load, (1, 4))
    assert [seen.calls for seen in found.steps] == [1, 4]
    assert load.up == {} and load.most in (4, 5)  # the single call's answers are waited for while the others come
    assert found.steps[1].mean_concurrent > 3.5
    # Whoever was told to hang up did not fail, though the script was not over.
    assert load.cut and all(seen.errors == {} for seen in found.steps)


async def test_a_single_call_is_dense_and_over_before_the_others_are_measured() -> None:
    load = FakeLoad()
    await climbed(load, (1, 4))
    single = [turns for call_id, turns in load.placed if call_id.startswith("single-")]
    assert single and all(turns == DENSE_TURNS for turns in single)
    others = [turns for call_id, turns in load.placed if call_id.startswith("c")]
    assert all(turns == TURNS[: len(turns)] for turns in others)
    numbers = [call_id.startswith("single-") for call_id, _ in load.placed if not call_id.startswith("warm-up")]
    assert numbers.index(False) >= numbers.count(True) - 1  # the last of them may begin while the others come


async def test_a_ladder_stops_after_a_step_that_fails_by_far() -> None:
    load = FakeLoad(carries=3)
    shown: list[str] = []
    found = await climbed(load, (2, 8, 9, 10, 11), shown)
    tried = [seen.calls for seen in found.steps]
    assert tried[:2] == [2, 8] and len(tried) <= 3
    assert "refused: HTTP 503" in found.steps[1].errors
    assert any("% of calls failed" in line for line in shown)
    assert load.up == {}


async def test_a_warm_up_call_that_fails_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="warm-up call failed: refused"):
        await climbed(FakeLoad(carries=0), (1,))
