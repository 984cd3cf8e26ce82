"""A constant number of calls for a long time, sampled once a minute."""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil
import redis

from load_tests.callbench.callers import Callers
from load_tests.callbench.load_side import LoadSide
from load_tests.callbench.observed import Base, LoadFigures, observe
from load_tests.callbench.records import Call, Due, SttTurn
from load_tests.callbench.sampling import Sampler, Span
from load_tests.callbench.scenario import INJECTED_MS, TURNS, Turn
from load_tests.callbench.steps import StepFigures, pooled
from load_tests.callbench.systems.parley import Parley, group_of
from load_tests.soak.counts import group_counts, redis_counts
from load_tests.soak.verdict import (
    BARGE_INS_MISSED,
    ENDED,
    FAILED,
    NEVER,
    P99,
    SET_UPS_LATE,
    UNANSWERED,
    UNDERRUNS,
    VOID,
)

SETTLE_S = 5.0
GIVE_UP_S = 60.0
KEPT_S = 180.0
"""Records of calls that ended longer ago are dropped: the load side must not grow either."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`sample_s`: seconds per sample, a minute but for a trial."""

    calls: int
    minutes: float
    sample_s: float = 60.0

    @property
    def samples(self) -> int:
        return max(2, round(self.minutes * 60 / self.sample_s))


class Soak:
    """Runs the calls, samples, and judges each sample once the calls in it are over."""

    def __init__(
        self,
        system: Parley,
        load: LoadSide,
        plan: Plan,
        *,
        due: Mapping[str, Due],
        cores: tuple[int, int],
        redis_client: redis.Redis,
        show: Callable[[str], None],
    ) -> None:
        """`cores`: the system's, the load side's."""
        self._system = system
        self._load = load
        self._plan = plan
        self._due = due
        self._cores = cores
        self._redis = redis_client
        self._show = show
        self._over: list[Call] = []
        self._sampler = Sampler(system, load.tree(), system_core=cores[0], load_core=cores[1])

    async def run(self) -> list[dict[str, float]]:
        """One sample per `sample_s`. Raises RuntimeError when the first call fails."""
        call_s = await self._warm_up()
        callers = Callers(self._place, on_over=self._over.append)
        callers.want(self._plan.calls, within_s=call_s)
        self._show(f"{self._plan.calls} calls of {call_s:.0f} s for {self._plan.minutes:g} minutes")
        await asyncio.sleep(call_s + SETTLE_S)
        samples: list[dict[str, float]] = []
        waiting: tuple[Span, LoadFigures] | None = None
        began = time.monotonic()
        try:
            for number in range(self._plan.samples):
                await self._load.begin_figures()
                span = await self._sampler.watch(self._plan.sample_s)
                samples.append({"minute": round((time.monotonic() - began) / 60, 2), **self._counts()})
                if waiting is not None:
                    await self._complete(samples[number - 1], *waiting)
                waiting = (span, await self._load.figures())
                callers.check()
            await callers.over(call_s + GIVE_UP_S)
            if waiting is not None:
                await self._complete(samples[-1], *waiting)
        finally:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(callers.over(0), GIVE_UP_S)
        return samples

    async def _warm_up(self) -> float:
        """Two calls after another: what is made on first use is made. Returns a call's length in seconds."""
        calls = [await self._place(f"warm-up-{number}") for number in range(2)]
        for call in calls:
            if call.error is not None:
                raise RuntimeError(f"a warm-up call failed: {call.error}")
        return statistics.fmean(call.ended_at - call.asked_at for call in calls)

    async def _place(self, call_id: str, turns: Sequence[Turn] = TURNS) -> Call:
        call: Call = await self._load.call(call_id, self._system.opening(), turns)
        return call

    def _counts(self) -> dict[str, float]:
        members = []
        for process in self._system.tree().members():
            with contextlib.suppress(psutil.Error):
                members.append((process, group_of(process.name(), " ".join(process.cmdline()))))
        return {**group_counts(members), **redis_counts(self._redis)}

    async def _complete(self, sample: dict[str, float], span: Span, load: LoadFigures) -> None:
        """Add the figures of the calls of a sample that is a sample's length ago, so that most of them are over."""
        step = await self._of_calls(span, load)
        sample.update(_figures(step))
        self._show(_line(sample) + "".join(f"; VOID: {reason}" for reason in step.voided))

    async def _of_calls(self, span: Span, load: LoadFigures) -> StepFigures:
        near = [stream for stream in await self._load.streams() if _near(stream, span)]
        seen = observe(
            calls=self._plan.calls,
            span=span,
            base=Base({}, {}, {}, span.seconds),
            records=self._over,
            streams=near,
            due=self._due,
            injected_ms=INJECTED_MS,
            load=load,
            system_core=self._cores[0],
            load_core=self._cores[1],
        )
        self._over[:] = [call for call in self._over if call.ended_at > span.end - KEPT_S]
        return pooled([seen])


def _near(stream: Sequence[SttTurn], span: Span) -> bool:
    times = [turn.ended_at for turn in stream if turn.ended_at is not None]
    return bool(times) and times[-1] > span.start - KEPT_S and times[0] < span.end + KEPT_S


def _figures(step: StepFigures) -> dict[str, float]:
    found = {
        ENDED: float(step.calls_ended),
        FAILED: float(step.calls_failed),
        "turns": float(step.turns),
        UNANSWERED: float(step.turns_unanswered),
        BARGE_INS_MISSED: float(step.barge_ins_missed),
        UNDERRUNS: float(step.utterances_with_underrun),
        "calls up": step.mean_concurrent,
        SET_UPS_LATE: float(step.set_ups_late),
        "cpu ms per call-second": step.cpu_total_ms_per_call_s,
        "system core": step.system_core_share,
        VOID: float(len(step.voided)),
    }
    for name, value in (
        ("added p50 ms", step.added_ms.p50),
        ("added p95 ms", step.added_ms.p95),
        (P99, step.added_ms.p99),
    ):
        if value is not None:
            found[name] = NEVER if math.isinf(value) else value
    return found


def _line(sample: Mapping[str, float]) -> str:
    p99 = sample.get(P99)
    return (
        f"minute {sample['minute']:.0f}: {sample[ENDED]:.0f} calls ended, {sample[FAILED]:.0f} failed, "
        f"{sample[UNANSWERED]:.0f} turns unanswered, "
        f"added p99 {'none' if p99 is None else f'{p99:.0f} ms'}, "
        f"memory {sum(v for k, v in sample.items() if k.startswith('rss_mb')):,.0f} MB, "
        f"{sum(v for k, v in sample.items() if k.startswith('fds')):.0f} descriptors"
    )
