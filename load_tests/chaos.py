"""What a caller hears when a provider fails: one scenario per fault, on virtual time.

Each must end in speech or in a clean hang-up, without a silence over 3 s that has no recorded cause (DESIGN section 3).
A cause is soon recorded, so every row has a limit for its longest silence too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from serve_app.scenarios.checks import UNEXPLAINED_S, causes_within
from serve_app.scenarios.document import Scenario
from serve_app.scenarios.runner import Played, play
from serve_app.scenarios.steps import Say

AGENT = {
    "name": "chaos",
    "business": "Chaos",
    "opening": "Hello, this is the test agent, an AI. How can I help you?",
    "system_prompt": "You test.",
}
QUESTION, ANSWER = "Where can I park my car", "Parking is free behind the building, and the entrance is on the left."
GIVEN_UP_S = 6.0 + 0.9
"""When a turn is given up (`give_up_after_s`), and the time that the words about it have."""
CLEAN_ENDS = frozenset({"callee_hung_up", "completed", "provider_failure", "silence"})


@dataclass(frozen=True, slots=True)
class Chaos:
    """One row. `second`: the stage's list has another provider. `prepared`: the fixed lines were made before."""

    name: str
    stage: str
    kind: str
    times: int = 1
    second: bool = False
    prepared: bool = True

    @property
    def limit_s(self) -> float:
        """Prepared lines, or a second provider, end every wait early; without either the call is given up."""
        return UNEXPLAINED_S if self.prepared or self.second else GIVEN_UP_S


FAULTS = (
    Chaos("model: half-open socket", "llm", "half_open", 9),
    Chaos("model: half-open socket, second model", "llm", "half_open", second=True),
    Chaos("model: slow drip", "llm", "slow_drip", 9),
    Chaos("model: 429", "llm", "429"),
    Chaos("model: 429, second model", "llm", "429", second=True),
    Chaos("model: hung first token", "llm", "hang", 9),
    Chaos("model: hung first token, second model", "llm", "hang", second=True),
    Chaos("model: hung, nothing prepared", "llm", "hang", 9, prepared=False),
    Chaos("model: hung, second model, nothing prepared", "llm", "hang", second=True, prepared=False),
    Chaos("model: stalls in its answer", "llm", "stall", 9),
    Chaos("model: stalls, second model", "llm", "stall", second=True),
    Chaos("transcriber: silent", "stt", "silent"),
    Chaos("transcriber: silent for good", "stt", "silent", 9),
    Chaos("synthesizer: never ends", "tts", "endless"),
    Chaos("synthesizer: half-open socket", "tts", "half_open", 9),
    Chaos("synthesizer: half-open, second one", "tts", "half_open", second=True),
    Chaos("synthesizer: slow drip", "tts", "slow_drip", 9),
    Chaos("synthesizer: stalls in its answer", "tts", "stall", 9),
    Chaos("synthesizer: stalls, second one", "tts", "stall", second=True),
    Chaos("synthesizer: 429", "tts", "429", 9),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a fault. Silences in seconds."""

    fault: Chaos
    heard: str
    longest_s: float
    outcome: str
    ends_well: bool
    """In speech after the fault, or in a clean hang-up."""
    explained: bool
    """Every silence over 3 s has a recorded cause."""

    @property
    def passed(self) -> bool:
        return self.ends_well and self.explained and self.longest_s <= self.fault.limit_s


def chaos() -> list[Finding]:
    """Play all. Some seconds of CPU."""
    return [_found(fault, play(_scenario(fault))) for fault in FAULTS]


def _scenario(fault: Chaos) -> Scenario:
    # The call makes the lines that are missing one after the other: one that is never made keeps the others back.
    unmade: list[dict[str, Any]] = [{"silence": 0.3}, {"fault": {"stage": "tts", "kind": "hang"}}]
    steps: list[dict[str, Any]] = [
        *([] if fault.prepared else unmade),
        {"silence": 7},
        {"fault": {"stage": fault.stage, "kind": fault.kind, "times": fault.times}},
        {"say": QUESTION, "reply": ANSWER},
        {"say": QUESTION, "reply": ANSWER, "after_s": 6.5, "patience_s": 20},
        {"hang_up": True, "after_s": 6.5, "patience_s": 20},
    ]
    return Scenario.model_validate(
        {
            "name": fault.name,
            "agent": AGENT,
            "fallbacks": [fault.stage] if fault.second else [],
            "prepared": fault.prepared,
            "max_duration_s": 120,
            "steps": steps,
        }
    )


def _found(fault: Chaos, played: Played) -> Finding:
    record = played.record
    question = next(number for number, step in enumerate(played.scenario.steps) if isinstance(step, Say))
    asked_at = next((step.began for step in record.steps if step.number == question), 0.0)
    after = [utterance for utterance in record.utterances if utterance.began > asked_at and utterance.heard_text]
    outcome = record.result.outcome if record.result is not None else "the call did not end"
    long = [silence for silence in record.silence.silences if silence.seconds > UNEXPLAINED_S]
    return Finding(
        fault,
        ", ".join(_runs([utterance.line for utterance in after])) or "nothing",
        record.silence.longest_s,
        outcome,
        ends_well=outcome in CLEAN_ENDS and (bool(after) or outcome == "provider_failure"),
        explained=all(causes_within(record, silence.start, silence.end) for silence in long),
    )


def _runs(names: Sequence[str]) -> list[str]:
    """`reply, reply` as `reply x2`."""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return [name if count == 1 else f"{name} x{count}" for name, count in runs]


def print_findings(findings: Sequence[Finding]) -> None:
    table = Table(
        title="Chaos: fault -> what the caller heard (virtual time)", title_justify="left",
        caption=f"PASS: ends in speech or a clean hang-up, no silence over {UNEXPLAINED_S:g} s"
        f" ({GIVEN_UP_S:g} s with neither a prepared line nor a second provider), and none lacks a recorded cause",
        caption_justify="left",
    )  # fmt: skip
    for column in ("fault", "heard after it", "longest silence", "outcome", ""):
        justify: Literal["left", "right"] = "right" if column == "longest silence" else "left"
        table.add_column(column, justify=justify, no_wrap=column != "heard after it")
    for finding in findings:
        table.add_row(
            finding.fault.name,
            finding.heard,
            f"{finding.longest_s:.1f} s",
            finding.outcome,
            "PASS" if finding.passed else "MISS",
        )
    Console(width=max(Console().width, 140)).print(table)
