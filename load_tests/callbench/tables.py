"""A result as tables: what callers get, what it costs, the measures. The same rows for a terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from load_tests.callbench.comparison import ratios
from load_tests.callbench.measures import Measured, measures
from load_tests.callbench.outcome import Outcome
from load_tests.callbench.quantiles import Distribution
from load_tests.callbench.search import MIN_SAMPLES
from load_tests.callbench.steps import StepFigures

Column = tuple[str, Callable[[StepFigures], str]]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table with its title and, below it, what a reader has to know."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, *([""] if self.notes else []), *(f"- {note}" for note in self.notes), ""])


def sheets(outcomes: Mapping[str, Outcome]) -> list[Sheet]:
    """Of all systems, then the measures, then how this system stands to the others."""
    found = [sheet for name, outcome in outcomes.items() for sheet in (_heard(name, outcome), _cost(name, outcome))]
    return [*found, _measures(outcomes), _ratios(outcomes)]


def _heard(name: str, outcome: Outcome) -> Sheet:
    columns: tuple[Column, ...] = (
        ("calls", lambda step: str(step.calls)),
        ("up", lambda step: f"{step.mean_concurrent:.1f}"),
        ("set-up p50/p95, s", lambda step: _times(step.set_up_s, ("p50", "p95"), digits=2)),
        ("added p50/p95/p99, ms", lambda step: _times(step.added_ms)),
        ("unanswered", lambda step: str(step.turns_unanswered)),
        ("clear p50/p95/p99, ms", lambda step: _times(step.barge_in_ms)),
        ("missed", lambda step: str(step.barge_ins_missed)),
        ("to STT p95 end/begin, ms", lambda step: f"{_ms(step.forwarding_ms.p95)}/{_ms(step.start_forwarding_ms.p95)}"),
        ("underruns", lambda step: f"{step.utterances_with_underrun} of {step.utterances}"),
        ("depth min, ms", lambda step: _ms(step.min_depth_ms.low)),
        ("frame late p50/p95/p99, ms", lambda step: _times(step.frame_lateness_ms)),
        ("failed", lambda step: f"{step.calls_failed} of {step.calls_ended}"),
        ("", lambda step: step.verdict.status),
    )
    title = f"{name}: capacity in {outcome.capacity} calls"
    return Sheet(title, [title for title, _ in columns], _rows(columns, outcome.steps), _notes(outcome.steps))


def _cost(name: str, outcome: Outcome) -> Sheet:
    columns: tuple[Column, ...] = (
        ("calls", lambda step: str(step.calls)),
        ("CPU ms/call-s", lambda step: f"{step.cpu_total_ms_per_call_s:.2f}"),
        ("without base", lambda step: f"{step.cpu_total_above_base_ms_per_call_s:.2f}"),
        ("by round", _by_round),
        ("core in use", lambda step: f"{step.system_core_share:.0%}"),
        ("PSS/call, MB", lambda step: f"{step.memory_per_call.pss_kb / 1024:.2f}"),
        ("RSS of all, MB", lambda step: f"{step.rss_mb:,.0f}"),
        ("loop lag p95, ms", _lags),
        ("load side ms/call-s", lambda step: f"{step.load_cpu_total_ms_per_call_s:.2f}"),
        ("load core", lambda step: f"{step.load_core_share:.0%}"),
        ("other processes", _foreign),
    )
    title = f"{name}: idle base {sum(outcome.base.cpu_share.values()):.1%} of a core"
    if outcome.cost_by_fit is not None:
        title += f"; one more call costs {outcome.cost_by_fit.ms_per_call_s:.2f} ms/call-s (straight line)"
    return Sheet(title, [title for title, _ in columns], _rows(columns, outcome.steps))


def _measures(outcomes: Mapping[str, Outcome]) -> Sheet:
    rows = [
        [
            measure.name,
            measure.aim,
            shown(measure),
            f"{measure.verdict}, better not reached" if measure.short_of_goal else measure.verdict,
            measure.spread,
        ]
        for measure in measures(outcomes)
    ]
    return Sheet("Measures", ("measure", "aim", "figure", "", "spread"), rows)


def _ratios(outcomes: Mapping[str, Outcome]) -> Sheet:
    rows = []
    for name, value in ratios(outcomes).items():
        text = ", ".join(f"{calls}: {found}" for calls, found in value.items()) if isinstance(value, dict) else value
        rows.append([name, "-" if text is None else str(text)])
    return Sheet("Ratios", ("", "of this run"), rows)


def shown(measure: Measured) -> str:
    return "not measured" if measure.figure is None else f"{measure.figure:g} {measure.unit}".strip()


def _notes(steps: Sequence[StepFigures]) -> list[str]:
    """Why a step is a miss or void, and what a call failed of."""
    found = []
    for step in steps:
        found += [f"{step.calls} calls are VOID: {reason}" for reason in step.voided]
        if not step.voided:
            void = [reason for seen in step.rounds for reason in seen.voided]
            found += [f"{step.calls} calls: a round is void and left out: {reason}" for reason in void]
            found += [f"{step.calls} calls: {reason}" for reason in step.verdict.misses]
            found += [f"{step.calls} calls: {count} failed: {reason}" for reason, count in step.errors.items()]
    return found


def _times(times: Distribution, quantiles: Sequence[str] = ("p50", "p95", "p99"), digits: int = 1) -> str:
    """With the number of samples; few ones are told as such."""
    if not times.n:
        return "-"
    values = "/".join(_ms(getattr(times, name), digits) for name in quantiles)
    return f"{values} (n={times.n}{', too few' if times.n < MIN_SAMPLES else ''})"


def _ms(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    return "never" if math.isinf(value) else f"{value:.{digits}f}"


def _by_round(step: StepFigures) -> str:
    return ", ".join(
        f"{seen.cpu_above_base_ms_per_call_s:.2f}{' (void)' if seen.voided else ''}" for seen in step.rounds
    )


def _lags(step: StepFigures) -> str:
    return ", ".join(f"{group} {lag.p95_median_ms:.1f}" for group, lag in step.loop_lag.items()) or "-"


def _foreign(step: StepFigures) -> str:
    return f"{max(seen.conditions.foreign_share for seen in step.rounds):.1%}"


def _rows(columns: Iterable[Column], steps: Sequence[StepFigures]) -> list[list[str]]:
    return [[text_of(step) for _, text_of in columns] for step in steps]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
