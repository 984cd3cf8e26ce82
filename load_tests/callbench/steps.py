"""The figures of one step of the ladder, from calls, provider timings and the machine's readings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from load_tests.callbench.processes import Memory
from load_tests.callbench.quantiles import Distribution, quantile
from load_tests.callbench.records import Call, Due, SttTurn
from load_tests.callbench.sampling import Span
from load_tests.callbench.search import Verdict
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
class LagFigures:
    """Event-loop lag of a group's worst process: its p95 over 5 s (median and worst of the step), and the maximum."""

    p95_median_ms: float
    p95_worst_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What is published of a step. CPU in ms per call-second; memory in kB per concurrent call above the base."""

    calls: int
    seconds: float
    call_seconds: float
    mean_concurrent: float
    calls_ended: int
    calls_failed: int
    calls_refused: int
    errors: Mapping[str, int]
    turns: int
    turns_unanswered: int
    added_ms: Distribution
    added_after_eot_ms: Distribution
    forwarding_ms: Distribution
    """The frame that ends a turn, from the phone to the transcriber."""
    start_forwarding_ms: Distribution
    """The frame by which the transcriber knows that a turn began, likewise."""
    barge_in_ms: Distribution
    barge_ins_missed: int
    stale_frames: int
    frame_lateness_ms: Distribution
    utterances: int
    utterances_with_underrun: int
    min_depth_ms: Distribution
    utterances_never_150_ms: int
    """Utterances during which the network's buffer never held 150 ms; they are not in `min_depth_ms`."""
    wrong_size_frames: int
    cpu_ms_per_call_s: Mapping[str, float]
    cpu_above_base_ms_per_call_s: Mapping[str, float]
    cpu_total_ms_per_call_s: float
    cpu_total_above_base_ms_per_call_s: float
    system_core_share: float
    system_core_interrupt_share: float
    """Part of `system_core_share` that no process is charged for."""
    memory_per_call: Memory
    memory: Mapping[str, Memory]
    processes: Mapping[str, int]
    loop_lag: Mapping[str, LagFigures]
    load_cpu_ms_per_call_s: Mapping[str, float]
    conditions: Conditions
    voided: Sequence[str]
    per_second: Sequence[Mapping[str, float]] = field(default=())

    @property
    def underrun_share(self) -> float:
        return self.utterances_with_underrun / self.utterances if self.utterances else 0.0

    @property
    def error_share(self) -> float:
        return self.calls_failed / self.calls_ended if self.calls_ended else 0.0

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.calls, self.added_ms.p95, self.underrun_share, self.error_share, bool(self.voided))


def step_figures(
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
) -> StepFigures:
    """Everything that happened inside the span: turns by when they were due, calls by when they ended."""
    inside = [call for call in records if call.ended_at >= span.start and call.asked_at <= span.end]
    ended = [call for call in inside if call.ended_at <= span.end]
    failed = [call for call in ended if call.error is not None]
    turns = _turns(inside, streams, span, due, injected_ms)
    utterances = [u for call in inside for u in call.utterances if span.start <= u.first_sound_at <= span.end]
    call_seconds = sum(call.talk_s(span.start, span.end) for call in inside)
    above = {
        group: used - base.cpu_share.get(group, 0.0) * span.seconds for group, used in span.system_by_group.items()
    }
    per_call = 1000 / call_seconds if call_seconds else 0.0
    conditions = _conditions(span, load, system_core, load_core)
    errors: dict[str, int] = {}
    for call in failed:
        errors[call.error or ""] = errors.get(call.error or "", 0) + 1
    grown = sum(span.memory.values(), Memory()) - sum(base.memory.values(), Memory())
    return StepFigures(
        calls=calls,
        seconds=round(span.seconds, 2),
        call_seconds=round(call_seconds, 2),
        mean_concurrent=round(call_seconds / span.seconds, 2),
        calls_ended=len(ended),
        calls_failed=len(failed),
        calls_refused=sum(1 for call in failed if call.refused),
        errors=errors,
        turns=len(turns),
        turns_unanswered=sum(1 for turn in turns if turn.added_ms is None),
        added_ms=_distribution(turn.added_ms for turn in turns),
        added_after_eot_ms=_distribution(turn.added_after_eot_ms for turn in turns),
        forwarding_ms=_distribution(turn.forwarding_ms for turn in turns),
        start_forwarding_ms=_distribution(turn.start_forwarding_ms for turn in turns),
        barge_in_ms=_distribution(turn.barge_in_ms for turn in turns),
        barge_ins_missed=sum(1 for turn in turns if turn.barge_in_missed),
        stale_frames=sum(call.stale_frames for call in ended),
        frame_lateness_ms=_distribution(utterance.late_ms for utterance in utterances),
        utterances=len(utterances),
        utterances_with_underrun=sum(1 for utterance in utterances if utterance.underruns),
        min_depth_ms=_distribution(utterance.min_depth_ms for utterance in utterances),
        utterances_never_150_ms=sum(1 for utterance in utterances if utterance.min_depth_ms is None),
        wrong_size_frames=sum(call.wrong_size_frames for call in ended),
        cpu_ms_per_call_s={group: round(used * per_call, 3) for group, used in span.system_by_group.items()},
        cpu_above_base_ms_per_call_s={group: round(used * per_call, 3) for group, used in above.items()},
        cpu_total_ms_per_call_s=round(sum(span.system_by_group.values()) * per_call, 3),
        cpu_total_above_base_ms_per_call_s=round(sum(above.values()) * per_call, 3),
        system_core_share=round(span.cores[system_core].busy_share, 4),
        system_core_interrupt_share=round(span.cores[system_core].interrupt_share, 4),
        memory_per_call=Memory(*(round(part / calls) for part in (grown.rss_kb, grown.pss_kb, grown.uss_kb))),
        memory=span.memory,
        processes=span.processes,
        loop_lag=lag_figures(span.lags),
        load_cpu_ms_per_call_s={group: round(used * per_call, 3) for group, used in span.load_by_group.items()},
        conditions=conditions,
        voided=reasons_to_void(conditions),
        per_second=span.per_second,
    )


def lag_figures(readings: Sequence[Mapping[str, Lag]]) -> dict[str, LagFigures]:
    """By group, of the readings that have it."""
    found: dict[str, list[Lag]] = {}
    for reading in readings:
        for group, lag in reading.items():
            found.setdefault(group, []).append(lag)
    return {
        group: LagFigures(
            p95_median_ms=round(quantile([lag.p95_ms for lag in lags], 0.5), 2),
            p95_worst_ms=round(max(lag.p95_ms for lag in lags), 2),
            max_ms=round(max(lag.max_ms for lag in lags), 2),
        )
        for group, lags in found.items()
    }


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
    on_system_core = span.cores[system_core]
    by_processes = on_system_core.busy_share - on_system_core.interrupt_share
    foreign = by_processes - sum(span.system_by_group.values()) / span.seconds
    return Conditions(
        load_core_share=round(span.cores[load_core].busy_share, 4),
        leg_lateness_p99_ms=load.leg_lateness_p99_ms,
        provider_lateness_p99_ms=load.provider_lateness_p99_ms,
        steal_share=round(max(on_system_core.steal_share, span.cores[load_core].steal_share), 4),
        foreign_share=round(max(0.0, foreign), 4),
        not_pinned=span.not_pinned,
    )


def _distribution(values: Iterable[float | None]) -> Distribution:
    return Distribution.of([value for value in values if value is not None])
