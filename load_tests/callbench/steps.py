"""The figures of one step of the ladder: the samples of all its rounds pooled, and each round for the spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from load_tests.callbench.observed import Observed
from load_tests.callbench.processes import Memory
from load_tests.callbench.quantiles import Distribution, quantile
from load_tests.callbench.search import MAX_SET_UP_P95_S, Verdict
from load_tests.callbench.systems.base import Lag
from load_tests.callbench.voids import Conditions


@dataclass(frozen=True, slots=True)
class LagFigures:
    """Event-loop lag of a group's worst process: its p95 over 5 s (median and worst of the step), and the maximum."""

    p95_median_ms: float
    p95_worst_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """One round of a step. `voided`: why it is not among the pooled samples; empty: it is."""

    seconds: float
    mean_concurrent: float
    added_p95_ms: float | None
    barge_in_p95_ms: float | None
    cpu_above_base_ms_per_call_s: float
    conditions: Conditions
    voided: Sequence[str]


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What is published of a step. CPU in ms per call-second; memory in kB per call that was up, above the base.

    Unanswered turns are infinitely late in `added_ms`, missed barge-ins in `barge_in_ms`, and calls in which nobody was
    heard in `set_up_s`.
    """

    calls: int
    seconds: float
    call_seconds: float
    mean_concurrent: float
    calls_ended: int
    calls_failed: int
    calls_refused: int
    errors: Mapping[str, int]
    set_up_s: Distribution
    set_ups_late: int
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
    """By the times of its processes."""
    system_core_interrupt_share: float
    """Beside it: of the core, and charged to no process."""
    memory_per_call: Memory
    rss_mb: float
    """Of all its processes at the end, shared pages counted in each."""
    processes: Mapping[str, int]
    loop_lag: Mapping[str, LagFigures]
    load_cpu_ms_per_call_s: Mapping[str, float]
    load_core_share: float
    rounds: Sequence[RoundFigures]
    voided: Sequence[str]
    """Every round is void, and why."""

    @property
    def underrun_share(self) -> float:
        return self.utterances_with_underrun / self.utterances if self.utterances else 0.0

    @property
    def error_share(self) -> float:
        return self.calls_failed / self.calls_ended if self.calls_ended else 0.0

    @property
    def load_cpu_total_ms_per_call_s(self) -> float:
        return sum(self.load_cpu_ms_per_call_s.values())

    @property
    def lag_p95_ms(self) -> float | None:
        """Of the worst group."""
        return max((lag.p95_median_ms for lag in self.loop_lag.values()), default=None)

    @property
    def verdict(self) -> Verdict:
        return Verdict(
            calls=self.calls,
            mean_concurrent=self.mean_concurrent,
            turns=self.turns,
            added_p95_ms=self.added_ms.p95,
            underrun_share=self.underrun_share,
            error_share=self.error_share,
            late_set_up_share=self.set_ups_late / self.set_up_s.n if self.set_up_s.n else 0.0,
            set_ups=self.set_up_s.n,
            set_up_p95_s=self.set_up_s.p95,
            unanswered=self.turns_unanswered,
            barge_ins_missed=self.barge_ins_missed,
            voided=bool(self.voided),
        )


def pooled(rounds: Sequence[Observed]) -> StepFigures:
    """Of the rounds of one step that are not void; of all of them, as a void step, where all are."""
    counting = [seen for seen in rounds if not seen.voided] or list(rounds)
    turns = [turn for seen in counting for turn in seen.turns]
    utterances = [utterance for seen in counting for utterance in seen.utterances]
    set_ups = [set_up_s for seen in counting for set_up_s in seen.set_ups_s]
    seconds, call_seconds = (sum(getattr(seen, name) for seen in counting) for name in ("seconds", "call_seconds"))
    per_call = 1000 / call_seconds if call_seconds else 0.0
    cpu, load_cpu = _sum(seen.cpu_s for seen in counting), _sum(seen.load_cpu_s for seen in counting)
    above = _sum(seen.above_base_s for seen in counting)
    errors = _sum(seen.errors for seen in counting)
    void = all(seen.voided for seen in rounds)
    return StepFigures(
        calls=rounds[0].calls,
        seconds=round(seconds, 2),
        call_seconds=round(call_seconds, 2),
        mean_concurrent=round(call_seconds / seconds, 2),
        calls_ended=sum(seen.calls_ended for seen in counting),
        calls_failed=round(sum(errors.values())),
        calls_refused=sum(seen.calls_refused for seen in counting),
        errors={reason: round(count) for reason, count in errors.items()},
        set_up_s=Distribution.of(set_ups),
        set_ups_late=sum(1 for set_up_s in set_ups if set_up_s > MAX_SET_UP_P95_S),
        turns=len(turns),
        turns_unanswered=sum(1 for turn in turns if turn.added_ms is None),
        added_ms=Distribution.of([math.inf if turn.added_ms is None else turn.added_ms for turn in turns]),
        added_after_eot_ms=_known(turn.added_after_eot_ms for turn in turns),
        forwarding_ms=_known(turn.forwarding_ms for turn in turns),
        start_forwarding_ms=_known(turn.start_forwarding_ms for turn in turns),
        barge_in_ms=_known(math.inf if turn.barge_in_missed else turn.barge_in_ms for turn in turns),
        barge_ins_missed=sum(1 for turn in turns if turn.barge_in_missed),
        stale_frames=sum(seen.stale_frames for seen in counting),
        frame_lateness_ms=_known(utterance.late_ms for utterance in utterances),
        utterances=len(utterances),
        utterances_with_underrun=sum(1 for utterance in utterances if utterance.underruns),
        min_depth_ms=_known(utterance.min_depth_ms for utterance in utterances),
        utterances_never_150_ms=sum(1 for utterance in utterances if utterance.min_depth_ms is None),
        wrong_size_frames=sum(seen.wrong_size_frames for seen in counting),
        cpu_ms_per_call_s=_scaled(cpu, per_call),
        cpu_above_base_ms_per_call_s=_scaled(above, per_call),
        cpu_total_ms_per_call_s=round(sum(cpu.values()) * per_call, 3),
        cpu_total_above_base_ms_per_call_s=round(sum(above.values()) * per_call, 3),
        system_core_share=round(sum(cpu.values()) / seconds, 4),
        system_core_interrupt_share=round(_mean([seen.interrupt_share for seen in counting]), 4),
        memory_per_call=_memory_per_call(counting),
        rss_mb=round(max(sum(group.rss_kb for group in seen.memory.values()) for seen in counting) / 1024, 1),
        processes=counting[-1].processes,
        loop_lag=lag_figures([reading for seen in counting for reading in seen.lags]),
        load_cpu_ms_per_call_s=_scaled(load_cpu, per_call),
        load_core_share=round(max(seen.conditions.load_core_share for seen in counting), 4),
        rounds=[_round_figures(seen) for seen in rounds],
        voided=list(dict.fromkeys(reason for seen in rounds for reason in seen.voided)) if void else [],
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


def _round_figures(seen: Observed) -> RoundFigures:
    added = [math.inf if turn.added_ms is None else turn.added_ms for turn in seen.turns]
    clears = (math.inf if turn.barge_in_missed else turn.barge_in_ms for turn in seen.turns)
    above = sum(seen.above_base_s.values())
    return RoundFigures(
        seconds=round(seen.seconds, 2),
        mean_concurrent=round(seen.mean_concurrent, 2),
        added_p95_ms=Distribution.of(added).p95,
        barge_in_p95_ms=_known(clears).p95,
        cpu_above_base_ms_per_call_s=round(1000 * above / seen.call_seconds, 3) if seen.call_seconds else 0.0,
        conditions=seen.conditions,
        voided=list(seen.voided),
    )


def _memory_per_call(rounds: Sequence[Observed]) -> Memory:
    """The mean of the rounds, each divided by the calls that were really up."""
    up = [seen for seen in rounds if seen.mean_concurrent > 0]
    return Memory(
        *(
            round(_mean([getattr(seen.grown, part) / seen.mean_concurrent for seen in up]))
            for part in ("rss_kb", "pss_kb", "uss_kb")
        )
    )


def _sum(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals


def _scaled(by_group: Mapping[str, float], factor: float) -> dict[str, float]:
    return {group: round(used * factor, 3) for group, used in by_group.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _known(values: Iterable[float | None]) -> Distribution:
    return Distribution.of([value for value in values if value is not None])
