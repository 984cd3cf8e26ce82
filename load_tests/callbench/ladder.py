"""The ladder: more and more calls against one system, until it fails by far."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from load_tests.callbench.callers import Callers
from load_tests.callbench.load_side import LoadSide
from load_tests.callbench.records import Call, Due
from load_tests.callbench.sampling import Sampler, Span
from load_tests.callbench.scenario import INJECTED_MS, NOMINAL_CALL_S
from load_tests.callbench.search import between, largest_passing
from load_tests.callbench.steps import Base, LoadFigures, StepFigures, step_figures
from load_tests.callbench.systems.base import System

SETTLE_S = 20.0
"""After the start, and after the warm-up calls: their records are written and mixed down by then."""
BASE_S = 20.0
WARM_UP_CALLS = 2
MARGIN_S = 2.0
GIVE_UP_S = 60.0
"""What the last calls may take beyond a call's length."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`refine`: try one value between the last step that passed and the first that did not."""

    steps: Sequence[int]
    step_s: float
    refine: bool = False
    base_s: float = BASE_S
    settle_s: float = SETTLE_S


@dataclass(frozen=True, slots=True)
class Fit:
    """What one more call costs, and what remains without a call (of one core)."""

    ms_per_call_s: float
    idle_share: float


@dataclass(slots=True)
class Outcome:
    """One system's run."""

    base: Base
    call_s: float
    steps: list[StepFigures] = field(default_factory=list)

    @property
    def largest(self) -> int:
        return largest_passing([step.verdict for step in self.steps])

    @property
    def cost_by_fit(self) -> Fit | None:
        """CPU over calls, a straight line through the steps that passed: needs no measured base, and so checks it."""
        passed = [step for step in self.steps if step.verdict.passed]
        points = [(step.mean_concurrent, step.cpu_total_ms_per_call_s * step.mean_concurrent) for step in passed]
        if len({calls for calls, _ in points}) < 2:
            return None
        slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
        return Fit(round(slope, 3), round(intercept / 1000, 4))


@dataclass(frozen=True, slots=True)
class _Measured:
    calls: int
    span: Span
    load: LoadFigures


class Ladder:
    """Runs one system's ladder. Steps follow one another without a pause; growing to a step is not measured."""

    def __init__(
        self,
        system: System,
        load: LoadSide,
        plan: Plan,
        *,
        due: Mapping[str, Due],
        cores: tuple[int, int],
        show: Callable[[str], None],
    ) -> None:
        """`cores`: the system's, the load side's."""
        self._system = system
        self._load = load
        self._plan = plan
        self._due = due
        self._system_core, self._load_core = cores
        self._show = show
        self._calls: list[Call] = []
        self._up: dict[str, float] = {}
        """Calls that are up, and since when."""
        self._ended = asyncio.Event()
        """A call ended."""
        self._sampler = Sampler(system, load.tree(), system_core=cores[0], load_core=cores[1])

    async def run(self) -> Outcome:
        call_s = await self._warm_up()
        base = await self._base()
        outcome = Outcome(base, round(call_s, 2))
        callers = Callers(self._place, call_s=call_s, on_over=self._calls.append)
        waiting: _Measured | None = None
        try:
            for calls in self._plan.steps:
                self._show(f"{self._system.name}: {calls} calls")
                callers.want(calls)
                await asyncio.sleep(call_s + MARGIN_S)
                # By now all calls that were up in the step before are over.
                if waiting is not None and (await self._judge(waiting, outcome)).verdict.failed_by_far:
                    waiting = None
                    break
                waiting = await self._measure(calls)
                callers.check()
            if waiting is not None:
                await self._last(callers, call_s, waiting, outcome)
            if self._plan.refine and (calls_between := between([step.verdict for step in outcome.steps])):
                self._show(f"{self._system.name}: {calls_between} calls (between)")
                callers = await self._afresh(callers, call_s, calls_between)
                await self._last(callers, call_s, await self._measure(calls_between), outcome)
        finally:
            await callers.over(0 if outcome.steps else GIVE_UP_S)
        outcome.steps.sort(key=lambda step: step.calls)
        return outcome

    async def _warm_up(self) -> float:
        """Two calls, one after half of the other: what is made on first use is made. Returns a call's length."""
        await asyncio.sleep(self._plan.settle_s)
        self._show(f"{self._system.name}: warming up with {WARM_UP_CALLS} calls")

        async def call(number: int) -> Call:
            await asyncio.sleep(number * NOMINAL_CALL_S / 2 / WARM_UP_CALLS)
            return await self._place(f"warm-up-{number}")

        calls = await asyncio.gather(*(call(number) for number in range(WARM_UP_CALLS)))
        for warm in calls:
            if warm.error is not None:
                raise RuntimeError(f"{self._system.name}: a warm-up call failed: {warm.error}")
        await asyncio.sleep(self._plan.settle_s)
        return statistics.fmean(call.ended_at - call.asked_at for call in calls)

    async def _base(self) -> Base:
        self._show(f"{self._system.name}: idle for {self._plan.base_s:g} s")
        span = await self._sampler.watch(self._plan.base_s)
        share = {group: used / span.seconds for group, used in span.system_by_group.items()}
        return Base(share, span.memory, span.processes, round(span.seconds, 2))

    async def _place(self, call_id: str) -> Call:
        self._up[call_id] = time.monotonic()
        try:
            return await self._load.call(call_id, self._system.opening())
        finally:
            del self._up[call_id]
            self._ended.set()

    async def _measure(self, calls: int) -> _Measured:
        await self._load.begin_figures()
        span = await self._sampler.watch(self._plan.step_s)
        return _Measured(calls, span, await self._load.figures())

    async def _judge(self, measured: _Measured, outcome: Outcome) -> StepFigures:
        await self._calls_of(measured.span)
        streams = await self._load.streams()
        step = step_figures(
            calls=measured.calls,
            span=measured.span,
            base=outcome.base,
            records=self._calls,
            streams=streams,
            due=self._due,
            injected_ms=INJECTED_MS,
            load=measured.load,
            system_core=self._system_core,
            load_core=self._load_core,
        )
        outcome.steps.append(step)
        p95 = "none" if step.added_ms.p95 is None else f"{step.added_ms.p95:.0f} ms"
        verdict = "void: " + "; ".join(step.voided) if step.voided else "pass" if step.verdict.passed else "miss"
        self._show(
            f"{self._system.name}: {step.calls} calls: added p95 {p95}, underruns in {step.underrun_share:.1%} of "
            f"utterances, {step.calls_failed} of {step.calls_ended} calls failed, "
            f"{step.cpu_total_above_base_ms_per_call_s:.1f} ms CPU per call-second: {verdict}"
        )
        return step

    async def _calls_of(self, span: Span) -> None:
        """Wait for the end of the calls that were up in the span: a system that is late holds them longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                while any(asked_at <= span.end for asked_at in self._up.values()):
                    self._ended.clear()
                    await self._ended.wait()

    async def _last(self, callers: Callers, call_s: float, measured: _Measured, outcome: Outcome) -> None:
        await callers.over(call_s + GIVE_UP_S)
        await self._judge(measured, outcome)

    async def _afresh(self, callers: Callers, call_s: float, calls: int) -> Callers:
        await callers.over(call_s + GIVE_UP_S)
        fresh = Callers(self._place, call_s=call_s, on_over=self._calls.append)
        fresh.want(calls)
        await asyncio.sleep(call_s + MARGIN_S)
        return fresh
