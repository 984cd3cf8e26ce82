"""The criterion, when a ladder stops, and between which numbers of calls capacity lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MAX_ADDED_P95_MS = 150.0
MAX_UNDERRUN_SHARE = 0.01
"""Of the agent's utterances."""
MAX_ERROR_SHARE = 0.01
"""Of the calls: calls that fail are not carried."""
MIN_CONCURRENT_SHARE = 0.97
"""Of the calls that were asked for: callers who wait to be answered are not carried. The rest is between calls."""
MAX_SET_UP_P95_S = 5.0
"""From asking until the agent is heard. A set-up that takes longer counts as a failed call."""
MIN_SAMPLES = 20
"""No quantile is judged below it: with fewer, p95 is the largest one."""

FAR = 3.0
"""A ladder stops at an added p95 this many times the limit ..."""
FAR_ERROR_SHARE = 0.10
"""... or at this share of failed calls."""

Status = Literal["PASS", "MISS", "VOID", "too few"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What of a step decides. `added_p95_ms` None: nobody asked anything. `voided`: it says nothing either way.

    Unanswered turns are infinitely late in `added_p95_ms`, and calls without an answer in `set_up_p95_s`.
    """

    calls: int
    mean_concurrent: float
    turns: int
    added_p95_ms: float | None
    underrun_share: float = 0.0
    error_share: float = 0.0
    late_set_up_share: float = 0.0
    set_ups: int = 0
    set_up_p95_s: float | None = None
    unanswered: int = 0
    barge_ins_missed: int = 0
    voided: bool = False

    @property
    def misses(self) -> list[str]:
        """Why it does not pass, for people to read. What must not happen at all is judged however few samples there
        are, a quantile from `MIN_SAMPLES` on."""
        found = []
        if self.mean_concurrent < MIN_CONCURRENT_SHARE * self.calls:
            found.append(f"{self.mean_concurrent:.1f} calls were up (of {self.calls})")
        if self.error_share >= MAX_ERROR_SHARE:
            found.append(f"{self.error_share:.1%} of calls failed")
        if self.late_set_up_share >= MAX_ERROR_SHARE:
            found.append(f"{self.late_set_up_share:.1%} of set-ups took over {MAX_SET_UP_P95_S:g} s")
        if self.unanswered:
            found.append(f"{self.unanswered} turns unanswered")
        if self.barge_ins_missed:
            found.append(f"{self.barge_ins_missed} barge-ins missed")
        if self.set_up_p95_s is not None and self.set_ups >= MIN_SAMPLES and self.set_up_p95_s > MAX_SET_UP_P95_S:
            found.append(f"set-up p95 {self.set_up_p95_s:.1f} s")
        if self.turns >= MIN_SAMPLES:
            if self.added_p95_ms is None or self.added_p95_ms > MAX_ADDED_P95_MS:
                late = "none" if self.added_p95_ms is None else f"{self.added_p95_ms:.0f} ms"
                found.append(f"added latency p95 {late}")
            if self.underrun_share >= MAX_UNDERRUN_SHARE:
                found.append(f"an underrun in {self.underrun_share:.1%} of utterances")
        return found

    @property
    def status(self) -> Status:
        if self.voided:
            return "VOID"
        if self.misses:
            return "MISS"
        return "PASS" if self.turns >= MIN_SAMPLES else "too few"

    @property
    def passed(self) -> bool:
        return self.status == "PASS"

    @property
    def failed_by_far(self) -> bool:
        """Nothing is to be learnt from still more calls."""
        return (
            self.added_p95_ms is None
            or self.added_p95_ms > FAR * MAX_ADDED_P95_MS
            or max(self.error_share, self.late_set_up_share) > FAR_ERROR_SHARE
        )


@dataclass(frozen=True, slots=True)
class Capacity:
    """At least `passing` calls, and fewer than `failing` (None: no larger step failed)."""

    passing: int
    failing: int | None

    def __str__(self) -> str:
        return f"[{self.passing}, {'?' if self.failing is None else self.failing})"


def capacity(verdicts: Sequence[Verdict]) -> Capacity:
    """The largest step that passed with every smaller judged one passing too (0: none), and the smallest that did not.

    Steps that are void, or have too few samples, say nothing.
    """
    largest = 0
    for verdict in sorted(verdicts, key=lambda found: found.calls):
        if verdict.status == "MISS":
            return Capacity(largest, verdict.calls)
        if verdict.passed:
            largest = verdict.calls
    return Capacity(largest, None)
