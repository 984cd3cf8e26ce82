"""Calls, rounds and outcomes that are made up, for callbench's arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from load_tests.callbench.cores import CoreTimes
from load_tests.callbench.observed import Base, LoadFigures, Observed, observe
from load_tests.callbench.outcome import Outcome, Round, merged
from load_tests.callbench.processes import Memory
from load_tests.callbench.records import Call, CalleeTurn, Due, SttTurn, Utterance
from load_tests.callbench.sampling import Span
from load_tests.callbench.steps import StepFigures, pooled
from load_tests.callbench.systems.base import Lag

DUE = {"hello": Due(0.2, 0.4), "stop": Due(0.2, 0.4)}
BASE = Base({"server": 0.05, "idle": 0.05}, {"server": Memory(1000, 900, 800)}, {"server": 1}, 20)
Pairs = Sequence[tuple[Call, list[SttTurn]]]


def a_call(
    number: int = 1,
    *,
    at: float = 100.0,
    answer_ms: float | None = 410,
    clear_ms: float | None = 5,
    error: str | None = None,
    underruns: int = 0,
    to_stt_ms: float = 2,
    set_up_s: float = 2.0,
) -> tuple[Call, list[SttTurn]]:
    """A call with one plain turn and one barge-in, and its stream. The greeting ends before `at`.

    `answer_ms` None: the first turn is not answered; `clear_ms` None: the barge-in is not heard.
    """
    plain = CalleeTurn("hello", at, at + 1)
    barge_in = CalleeTurn("stop", at + 4, at + 5, barge_in=True)
    spoken = [Utterance(at - 4, 0, at - 1)]
    if answer_ms is not None:
        spoken.append(
            Utterance(at + 1.4 + answer_ms / 1000, 1, at + 5, underruns=underruns, min_depth_ms=300, late_ms=2)
        )
    spoken.append(Utterance(at + 5.4 + (answer_ms or 410) / 1000, 2, at + 8, min_depth_ms=280, late_ms=3))
    call = Call(
        f"c{number}",
        at - 4 - set_up_s,
        at - 5,
        at + 10,
        error,
        turns=(plain, barge_in),
        utterances=tuple(spoken),
        clears=() if clear_ms is None else (at + 4.2 + clear_ms / 1000,),
    )
    on_the_way = to_stt_ms / 1000
    heard = [SttTurn(at + start, at + end + 0.002, at + start + on_the_way, at + end + on_the_way)
             for start, end in ((0.2, 1.4), (4.2, 5.4))]  # fmt: skip
    return call, heard


def a_round(calls: Pairs, *, asked_for: int | None = None, at: float = 100.0, **load: Any) -> Observed:
    """Ten seconds from `at` on, as one round saw them."""
    core = CoreTimes(busy=300, steal=0, total=1000)
    span = Span(
        start=at,
        end=at + 10,
        system_by_group={"server": 2.5, "idle": 0.5},
        load_by_group={"legs": 1.0},
        cores={0: core, 1: core},
        memory={"server": Memory(3000, 2500, 2000)},
        processes={"server": 1},
        not_pinned=(),
        lags=({"server": Lag(1.0, 5.0)}, {"server": Lag(3.0, 4.0)}, {}),
    )
    return observe(
        calls=len(calls) if asked_for is None else asked_for,
        span=span,
        base=BASE,
        records=[call for call, _ in calls],
        streams=[stream for _, stream in calls],
        due=DUE,
        injected_ms=400,
        load=LoadFigures(**load),
        system_core=0,
        load_core=1,
    )


def a_step(calls: Pairs, **load: Any) -> StepFigures:
    return pooled([a_round(calls, **load)])


def many(count: int = 12, **changes: Any) -> list[tuple[Call, list[SttTurn]]]:
    """Calls with two turns each: enough of them to be judged."""
    return [a_call(number, **changes) for number in range(count)]


def a_numbered_step(
    calls: int, *, cost_ms: float = 4.0, answer_ms: float | None = 410, to_stt_ms: float = 2, clear_ms: float = 5
) -> StepFigures:
    """Of 24 turns and 20 barge-ins of so many calls, all of which were up."""
    step = a_step(many(24, answer_ms=answer_ms, to_stt_ms=to_stt_ms, clear_ms=clear_ms))
    cpu = {"server": cost_ms}
    return dataclasses.replace(
        step,
        calls=calls,
        mean_concurrent=float(calls),
        cpu_ms_per_call_s=cpu,
        cpu_above_base_ms_per_call_s=cpu,
        cpu_total_ms_per_call_s=cost_ms,
        cpu_total_above_base_ms_per_call_s=cost_ms,
    )


def an_outcome(
    *, cost_ms: float, largest: int, passing: tuple[int, ...] = (), to_stt_ms: float = 2, fails_at: int | None = None
) -> Outcome:
    """Steps of 1 call, of `passing`, of the largest that passes, and one that fails (by default at twice as many)."""
    numbers = sorted({1, *passing, largest})
    steps = [a_numbered_step(calls, cost_ms=cost_ms, to_stt_ms=to_stt_ms) for calls in numbers]
    failing = a_numbered_step(fails_at or 2 * largest, cost_ms=cost_ms, answer_ms=700, to_stt_ms=to_stt_ms)
    return Outcome(merged([Round(BASE)]).base, [*steps, failing])
