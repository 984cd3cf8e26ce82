"""What one round saw of one step: samples and sums, not yet put together with those of other rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from load_tests.callbench.processes import Memory
from load_tests.callbench.records import Call, Due, SttTurn, Utterance
from load_tests.callbench.sampling import Span
from load_tests.callbench.streams import match_streams
from load_tests.callbench.systems.base import Lag
from load_tests.callbench.turns import TurnFigures, turn_figures
from load_tests.callbench.voids import Conditions, reasons_to_void


@dataclass(frozen=True, slots=True)
class Base:
    """The system without a call, warmed up: CPU seconds per second and memory, by group."""

    cpu_share: Mapping[str, float]
    memory: Mapping[str, Memory]
    processes: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """The load side's own lateness inside the span, milliseconds; None: not told."""

    leg_lateness_p99_ms: float | None = None
    leg_lateness_max_ms: float | None = None
    provider_lateness_p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """One span. CPU in seconds; `base_s`: what the system would have used of it without a call.

    `set_ups_s`: of the calls that were asked for inside the span, infinite where nobody was ever heard.
    """

    calls: int
    seconds: float
    call_seconds: float
    calls_ended: int
    calls_refused: int
    errors: Mapping[str, int]
    set_ups_s: Sequence[float]
    turns: Sequence[TurnFigures]
    utterances: Sequence[Utterance]
    stale_frames: int
    wrong_size_frames: int
    cpu_s: Mapping[str, float]
    base_s: Mapping[str, float]
    load_cpu_s: Mapping[str, float]
    interrupt_share: float
    memory: Mapping[str, Memory]
    grown: Memory
    processes: Mapping[str, int]
    lags: Sequence[Mapping[str, Lag]]
    conditions: Conditions
    voided: Sequence[str]

    @property
    def mean_concurrent(self) -> float:
        return self.call_seconds / self.seconds

    @property
    def above_base_s(self) -> dict[str, float]:
        return {group: used - self.base_s.get(group, 0.0) for group, used in self.cpu_s.items()}


def observe(
    *,
    calls: int,
    span: Span,
    base: Base,
    records: Sequence[Call],
    streams: Sequence[Sequence[SttTurn]],
    due: Mapping[str, Due],
    injected_ms: float,
    load: LoadFigures,
    system_core: int,
    load_core: int,
) -> Observed:
    """Everything that happened inside the span: turns by when they were due, calls by when they ended, set-ups by when
    they were asked for."""
    inside = [call for call in records if call.ended_at >= span.start and call.asked_at <= span.end]
    ended = [call for call in inside if call.ended_at <= span.end]
    failed = [call for call in ended if call.error is not None]
    errors: dict[str, int] = {}
    for call in failed:
        errors[call.error or ""] = errors.get(call.error or "", 0) + 1
    conditions = _conditions(span, load, system_core, load_core)
    return Observed(
        calls=calls,
        seconds=span.seconds,
        call_seconds=sum(call.talk_s(span.start, span.end) for call in inside),
        calls_ended=len(ended),
        calls_refused=sum(1 for call in failed if call.refused),
        errors=errors,
        set_ups_s=[call.set_up_s for call in inside if call.asked_at >= span.start],
        turns=_turns(inside, streams, span, due, injected_ms),
        utterances=[u for call in inside for u in call.utterances if span.start <= u.first_sound_at <= span.end],
        stale_frames=sum(call.stale_frames for call in ended),
        wrong_size_frames=sum(call.wrong_size_frames for call in ended),
        cpu_s=span.system_by_group,
        base_s={group: share * span.seconds for group, share in base.cpu_share.items()},
        load_cpu_s=span.load_by_group,
        interrupt_share=span.cores[system_core].interrupt_share,
        memory=span.memory,
        grown=sum(span.memory.values(), Memory()) - sum(base.memory.values(), Memory()),
        processes=span.processes,
        lags=span.lags,
        conditions=conditions,
        voided=reasons_to_void(conditions),
    )


def _turns(
    calls: Sequence[Call],
    streams: Sequence[Sequence[SttTurn]],
    span: Span,
    due: Mapping[str, Due],
    injected_ms: float,
) -> list[TurnFigures]:
    matched = match_streams(calls, streams, due)
    return [
        turn
        for call in calls
        for turn in turn_figures(call, matched.get(call.id, ()), due=due, injected_ms=injected_ms)
        if span.start <= turn.due_at <= span.end
    ]


def _conditions(span: Span, load: LoadFigures, system_core: int, load_core: int) -> Conditions:
    by_system = sum(span.system_by_group.values()) / span.seconds
    by_load = sum(span.load_by_group.values()) / span.seconds
    on_system_core = span.cores[system_core]
    # The core's own count sees what no process here owns up to, and counts less than the processes do: the larger one.
    uncounted = on_system_core.busy_share - on_system_core.interrupt_share - by_system
    return Conditions(
        load_core_share=round(by_load + span.foreign.get(load_core, 0.0) / span.seconds, 4),
        leg_lateness_p99_ms=load.leg_lateness_p99_ms,
        provider_lateness_p99_ms=load.provider_lateness_p99_ms,
        steal_share=round(max(on_system_core.steal_share, span.cores[load_core].steal_share), 4),
        foreign_share=round(max(0.0, uncounted, span.foreign.get(system_core, 0.0) / span.seconds), 4),
        not_pinned=span.not_pinned,
    )
