"""The ladder: more and more calls against one system, until it fails by far."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from load_tests.callbench.callers import Callers
from load_tests.callbench.load_side import LoadSide
from load_tests.callbench.observed import Base, LoadFigures, observe
from load_tests.callbench.outcome import Round
from load_tests.callbench.plan import ANSWER_S, RAMP_S, Plan
from load_tests.callbench.records import Call, Due
from load_tests.callbench.sampling import Sampler, Span
from load_tests.callbench.scenario import DENSE_TURNS, INJECTED_MS, WARM_UP_TURNS, Turn
from load_tests.callbench.steps import StepFigures, pooled
from load_tests.callbench.systems.base import System

WARM_UP_CALLS = 2
SINGLE = "single-"
"""Of the ids of calls in a step of one."""
GIVE_UP_S = 60.0
"""What calls may take that were told to hang up, or that a late system holds."""


@dataclass(frozen=True, slots=True)
class _Measured:
    calls: int
    span: Span
    load: LoadFigures


class Ladder:
    """One round of one system. Steps follow one another without a pause; growing to a step is not measured."""

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
        self._hung_up: set[str] = set()
        self._ended = asyncio.Event()
        """A call ended."""
        self._waiting: list[_Measured] = []
        """Steps with calls that are up."""
        self._sampler = Sampler(system, load.tree(), system_core=cores[0], load_core=cores[1])

    async def run(self) -> Round:
        await self._warm_up()
        found = Round(await self._base())
        callers = Callers(self._place, on_over=self._calls.append)
        single: asyncio.Task[None] | None = None
        up = 0
        try:
            for calls in self._plan.steps:
                if calls == 1:
                    single = await self._one_call()
                else:
                    await self._grow(callers, up, calls, after_one=single is not None and up == 0)
                    up = calls
                    self._waiting.append(await self._measure(calls))
                    callers.check()
                if any(step.verdict.failed_by_far for step in await self._judge_what_is_over(found)):
                    break
            await asyncio.sleep(ANSWER_S)
        finally:
            if single is not None:
                await single
            await self._end(callers)
        await self._judge_what_is_over(found, all_of_them=True)
        return found

    async def _warm_up(self) -> None:
        """Two calls, one a little after the other: what is made on first use is made."""
        await asyncio.sleep(self._plan.settle_s)
        self._show(f"{self._system.name}: warming up with {WARM_UP_CALLS} calls")

        async def call(number: int) -> Call:
            await asyncio.sleep(number)
            return await self._place(f"warm-up-{number}", DENSE_TURNS[:WARM_UP_TURNS])

        calls = await asyncio.gather(*(call(number) for number in range(WARM_UP_CALLS)))
        for warm in calls:
            if warm.error is not None:
                raise RuntimeError(f"{self._system.name}: a warm-up call failed: {warm.error}")
        await asyncio.sleep(self._plan.settle_s)

    async def _base(self) -> Base:
        self._show(f"{self._system.name}: idle for {self._plan.base_s:g} s")
        span = await self._sampler.watch(self._plan.base_s)
        share = {group: used / span.seconds for group, used in span.system_by_group.items()}
        return Base(share, span.memory, span.processes, round(span.seconds, 2))

    async def _one_call(self) -> asyncio.Task[None]:
        """Dense calls, one after another. The task hangs up the last one, once its answers had their time."""
        self._show(f"{self._system.name}: 1 call for {self._plan.seconds(1):.0f} s")
        caller = Callers(lambda call_id, turns: self._place(SINGLE + call_id, DENSE_TURNS), on_over=self._calls.append)
        caller.want(1, within_s=0)
        await asyncio.sleep(RAMP_S)
        self._waiting.append(await self._measure(1))
        caller.check()
        return asyncio.create_task(self._end(caller, wait_s=ANSWER_S, prefix=SINGLE))

    async def _grow(self, callers: Callers, up: int, calls: int, *, after_one: bool) -> None:
        self._show(f"{self._system.name}: {calls} calls for {self._plan.seconds(calls):.0f} s")
        ramp_s = self._plan.ramp_s(calls - up, after_one=after_one)
        callers.want(calls, within_s=ramp_s - RAMP_S)
        await asyncio.sleep(ramp_s)

    async def _place(self, call_id: str, turns: Sequence[Turn]) -> Call:
        self._up[call_id] = time.monotonic()
        try:
            call: Call = await self._load.call(call_id, self._system.opening(), turns)
            # One that was up and was told to hang up did not fail.
            cut = call_id in self._hung_up and call.connected_at is not None
            return replace(call, error=None) if cut else call
        finally:
            del self._up[call_id]
            self._ended.set()

    async def _end(self, callers: Callers, *, wait_s: float = 0, prefix: str = "") -> None:
        """No more calls of these callers; those that are up are hung up."""
        await asyncio.sleep(wait_s)
        ending = asyncio.create_task(callers.over(GIVE_UP_S))
        await asyncio.sleep(0)  # first they know that nobody is to call again
        for call_id in self._up:
            if call_id.startswith(prefix):
                self._hung_up.add(call_id)
                self._load.hang_up(call_id)
        await ending

    async def _measure(self, calls: int) -> _Measured:
        await self._load.begin_figures()
        span = await self._sampler.watch(self._plan.seconds(calls))
        return _Measured(calls, span, await self._load.figures())

    async def _judge_what_is_over(self, found: Round, *, all_of_them: bool = False) -> list[StepFigures]:
        """The steps whose calls have all ended by now; a call reports when it is over."""
        if all_of_them:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_UP_S):
                    while self._up:
                        self._ended.clear()
                        await self._ended.wait()
        over = [
            measured
            for measured in self._waiting
            if all_of_them or not any(asked_at <= measured.span.end for asked_at in self._up.values())
        ]
        self._waiting = [measured for measured in self._waiting if measured not in over]
        return [await self._judge(measured, found) for measured in over]

    async def _judge(self, measured: _Measured, found: Round) -> StepFigures:
        streams = await self._load.streams()
        seen = observe(
            calls=measured.calls,
            span=measured.span,
            base=found.base,
            records=self._calls,
            streams=streams,
            due=self._due,
            injected_ms=INJECTED_MS,
            load=measured.load,
            system_core=self._system_core,
            load_core=self._load_core,
        )
        found.steps.append(seen)
        step = pooled([seen])
        p95 = "none" if step.added_ms.p95 is None else f"{step.added_ms.p95:.0f} ms"
        self._show(
            f"{self._system.name}: {step.calls} calls, {step.mean_concurrent:.1f} up: added p95 {p95} of {step.turns} "
            f"turns, underruns in {step.underrun_share:.1%} of utterances, {step.calls_failed} of {step.calls_ended} "
            f"calls failed, {step.cpu_total_above_base_ms_per_call_s:.1f} ms CPU per call-second: {step.verdict.status}"
            + "".join(f"; {reason}" for reason in (*step.voided, *step.verdict.misses))
        )
        return step
