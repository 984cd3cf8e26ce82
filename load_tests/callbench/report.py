"""The result of a run: JSON for machines, tables for people."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from load_tests.callbench import scenario, search, voids
from load_tests.callbench.comparison import ratios
from load_tests.callbench.measures import measures
from load_tests.callbench.outcome import Outcome, Round, merged
from load_tests.callbench.steps import StepFigures
from load_tests.callbench.tables import Sheet, sheets

PACKAGES = ("ray", "uvicorn", "uvloop", "websockets", "picows", "deepgram-sdk", "groq", "cartesia", "numpy")


@dataclass(slots=True)
class SystemResult:
    """`errors`: why a ladder did not run, or not to its end, one per such round."""

    name: str
    groups: Sequence[str]
    about: Mapping[str, Any] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    failed_starts: list[str] = field(default_factory=list)
    """Those that were tried again."""

    @property
    def outcome(self) -> Outcome | None:
        return merged(self.rounds) if self.rounds else None


def document(results: Sequence[SystemResult], *, command: Mapping[str, Any], started_at: str) -> dict[str, Any]:
    """Everything that was measured, and how."""
    outcomes = outcomes_of(results)
    return {
        "started_at": started_at,
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit(),
        "command": dict(command),
        "method": {
            "call": "greeting, four turns of the callee, the third a barge-in; callers call again when a call ends",
            "single_call": "greeting, twelve turns of the callee, nine of them barge-ins",
            "never": "a turn without an answer, a barge-in without `clear`, a call in which nobody is heard: infinite",
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
                "mean_concurrent_share": search.MIN_CONCURRENT_SHARE,
                "set_up_p95_s": search.MAX_SET_UP_P95_S,
                "turns_unanswered": 0,
                "barge_ins_missed": 0,
                "samples": search.MIN_SAMPLES,
            },
            "void_beyond": {
                "load_core_share": voids.MAX_LOAD_CORE_SHARE,
                "lateness_p99_ms": voids.MAX_LATENESS_P99_MS,
                "steal_share": voids.MAX_STEAL_SHARE,
                "foreign_share": voids.MAX_FOREIGN_SHARE,
            },
        },
        "systems": {result.name: _system(result, outcomes.get(result.name)) for result in results},
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


def outcomes_of(results: Sequence[SystemResult]) -> dict[str, Outcome]:
    """Of the systems that ran."""
    return {result.name: outcome for result in results if (outcome := result.outcome) is not None}


def write_json(found: Mapping[str, Any], file: Path) -> None:
    """A line per figure of a step: small enough for version control. JSON knows no infinity: "never" stands for it."""
    file.write_text(_lines(_finite(found)) + "\n", encoding="utf-8")


def markdown(results: Sequence[SystemResult]) -> str:
    return "\n".join(sheet.markdown() for sheet in sheets(outcomes_of(results)))


def print_tables(results: Sequence[SystemResult], console: Console | None = None) -> None:
    console = console or Console(width=max(220, Console().width))
    for result in results:
        for error in result.errors:
            console.print(f"[bold]{result.name}[/bold]: {error}")
    for sheet in sheets(outcomes_of(results)):
        console.print(_table(sheet))
        for note in sheet.notes:
            console.print(f"  {note}", markup=False)


def _table(sheet: Sheet) -> Table:
    table = Table(title=sheet.title, title_justify="left")
    for column in sheet.columns:
        table.add_column(column, justify="left" if column in ("measure", "spread", "") else "right")
    for row in sheet.rows:
        table.add_row(*row)
    return table


def _system(result: SystemResult, outcome: Outcome | None) -> dict[str, Any]:
    if outcome is None:
        return {"errors": result.errors, "about": dict(result.about)}
    return {
        "errors": result.errors,
        "failed_starts": len(result.failed_starts),
        "about": dict(result.about),
        "groups": list(result.groups),
        "rounds": len(result.rounds),
        "largest_passing_calls": outcome.capacity.passing,
        "smallest_failing_calls": outcome.capacity.failing,
        "cost_by_fit": None if outcome.cost_by_fit is None else dataclasses.asdict(outcome.cost_by_fit),
        "base": dataclasses.asdict(outcome.base),
        "steps": [_step(step) for step in outcome.steps],
    }


def _step(step: StepFigures) -> dict[str, Any]:
    verdict = step.verdict
    judged = {"status": verdict.status, "passed": verdict.passed, "misses": verdict.misses}
    return {**dataclasses.asdict(step), "underrun_share": round(step.underrun_share, 4), **judged}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float):
        return ("never" if math.isinf(value) else round(value, 4)) if not math.isnan(value) else None
    return value


def _lines(value: Any, depth: int = 0) -> str:
    """What is deep inside stands on one line."""
    if depth >= 4 or not isinstance(value, dict | list) or not value:
        return json.dumps(value)
    indent = " " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_lines(part, depth + 1)}" for key, part in value.items()]
        opening, closing = "{}"
    else:
        parts = [_lines(part, depth + 1) for part in value]
        opening, closing = "[]"
    return opening + "\n" + ",\n".join(indent + part for part in parts) + "\n" + " " * depth + closing
