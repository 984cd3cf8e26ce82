"""The result of a run: JSON for machines, a table for people."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from load_tests.callbench import scenario, search, voids
from load_tests.callbench.comparison import ratios
from load_tests.callbench.ladder import Outcome
from load_tests.callbench.measures import Measured, measures
from load_tests.callbench.steps import StepFigures

PACKAGES = ("ray", "uvicorn", "uvloop", "websockets", "picows", "deepgram-sdk", "groq", "cartesia", "numpy")


@dataclass(frozen=True, slots=True)
class SystemResult:
    """`error`: why the ladder did not run, or not to its end."""

    name: str
    about: Mapping[str, Any]
    groups: Sequence[str]
    outcome: Outcome | None
    error: str | None = None


def document(results: Sequence[SystemResult], *, command: Mapping[str, Any], started_at: str) -> dict[str, Any]:
    """Everything that was measured, and how."""
    outcomes = {result.name: result.outcome for result in results if result.outcome is not None}
    return {
        "started_at": started_at,
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit(),
        "command": dict(command),
        "method": {
            "call": "greeting, four turns of the callee, the third a barge-in; callers call again when a call ends",
            "injected_ms": scenario.INJECTED_MS,
            "end_of_turn_silence_ms": scenario.END_OF_TURN_MS,
            "added_latency": "first sounding agent frame at the phone, minus the time at which the frame that made the "
            "end of turn due left the phone, minus the injected provider time",
            "barge_in": "StartOfTurn sent by the transcriber until `clear` at the phone",
            "forwarding": "the frame that makes a turn's end (or its begin) due, from leaving the phone until it is at "
            "the transcriber",
            "criterion": {
                "added_p95_ms": search.MAX_ADDED_P95_MS,
                "underrun_share": search.MAX_UNDERRUN_SHARE,
                "error_share": search.MAX_ERROR_SHARE,
            },
            "void_beyond": {
                "load_core_share": voids.MAX_LOAD_CORE_SHARE,
                "lateness_p99_ms": voids.MAX_LATENESS_P99_MS,
                "steal_share": voids.MAX_STEAL_SHARE,
                "foreign_share": voids.MAX_FOREIGN_SHARE,
            },
        },
        "systems": {result.name: _system(result) for result in results},
        "measures": [
            {**dataclasses.asdict(measure), "aim": measure.aim, "verdict": measure.verdict}
            for measure in measures(outcomes)
        ],
        "ratios": ratios(outcomes),
    }


def machine() -> dict[str, Any]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(encoding="utf-8"),
    }


def commit() -> str | None:
    """The source's revision, `+` if files under version control were changed; None outside a repository."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def print_tables(results: Sequence[SystemResult], console: Console | None = None) -> None:
    console = console or Console(width=max(190, Console().width))
    for result in results:
        if result.error is not None:
            console.print(f"[bold]{result.name}[/bold]: {result.error}")
        if result.outcome is not None:
            console.print(_steps_table(result, result.outcome))
            for step in result.outcome.steps:
                for reason in step.voided:
                    console.print(f"  {step.calls} calls are VOID: {reason}")
    outcomes = {result.name: result.outcome for result in results if result.outcome is not None}
    table = Table(title="Measures", title_justify="left")
    for column in ("measure", "aim", "figure", "spread", ""):
        table.add_column(column, justify="left" if column in ("measure", "") else "right")
    for measure in measures(outcomes):
        verdict = f"{measure.verdict}, better not reached" if measure.short_of_goal else measure.verdict
        table.add_row(measure.name, measure.aim, _shown(measure), measure.spread, verdict)
    console.print(table)
    for name, value in ratios(outcomes).items():
        console.print(f"{name}: {value}")


def _shown(measure: Measured) -> str:
    return "not measured" if measure.figure is None else f"{measure.figure:g} {measure.unit}".strip()


def _steps_table(result: SystemResult, outcome: Outcome) -> Table:
    base = sum(outcome.base.cpu_share.values())
    title = f"{result.name}: {outcome.largest} calls; idle base {base:.1%} of a core, calls of {outcome.call_s:.1f} s"
    if outcome.cost_by_fit is not None:
        title += f"; one more call costs {outcome.cost_by_fit.ms_per_call_s:.2f} ms/call-s (straight line)"
    table = Table(title=title, title_justify="left")
    columns = (
        "calls",
        "added p50/p95/p99",
        "to STT p95 end/begin",
        "clear p50/p95",
        "late p95",
        "underruns",
        "depth min",
    )
    for column in (*columns, "CPU ms/call-s", "without base", "core", "PSS/call", "lag p95", "failed", ""):
        table.add_column(column, justify="right")
    for step in outcome.steps:
        table.add_row(*_step_row(step))
    return table


def _step_row(step: StepFigures) -> list[str]:
    added, clear = step.added_ms, step.barge_in_ms
    return [
        str(step.calls),
        f"{_ms(added.p50)}/{_ms(added.p95)}/{_ms(added.p99)}",
        f"{_ms(step.forwarding_ms.p95)}/{_ms(step.start_forwarding_ms.p95)}",
        f"{_ms(clear.p50)}/{_ms(clear.p95)}",
        _ms(step.frame_lateness_ms.p95),
        f"{step.underrun_share:.1%}",
        _ms(step.min_depth_ms.low),
        f"{step.cpu_total_ms_per_call_s:.2f}",
        f"{step.cpu_total_above_base_ms_per_call_s:.2f}",
        f"{step.system_core_share:.0%}",
        f"{step.memory_per_call.pss_kb / 1024:.2f} MB",
        _ms(max((lag.p95_median_ms for lag in step.loop_lag.values()), default=None)),
        f"{step.calls_failed}/{step.calls_ended}",
        "VOID" if step.voided else "PASS" if step.verdict.passed else "MISS",
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _system(result: SystemResult) -> dict[str, Any]:
    outcome = result.outcome
    if outcome is None:
        return {"error": result.error, "about": dict(result.about)}
    return {
        "error": result.error,
        "about": dict(result.about),
        "groups": list(result.groups),
        "largest_passing_calls": outcome.largest,
        "call_s": outcome.call_s,
        "cost_by_fit": None if outcome.cost_by_fit is None else dataclasses.asdict(outcome.cost_by_fit),
        "base": dataclasses.asdict(outcome.base),
        "steps": [
            {**dataclasses.asdict(step), "passed": step.verdict.passed, "underrun_share": step.underrun_share}
            for step in outcome.steps
        ],
    }
