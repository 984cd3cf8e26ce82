"""The criterion, when a ladder stops, and the largest number of calls that passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_ADDED_P95_MS = 150.0
MAX_UNDERRUN_SHARE = 0.01
"""Of the agent's utterances."""
MAX_ERROR_SHARE = 0.01
"""Of the calls: calls that fail are not carried."""

FAR = 3.0
"""A ladder stops at an added p95 this many times the limit ..."""
FAR_ERROR_SHARE = 0.10
"""... or at this share of failed calls."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What of a step decides. `added_p95_ms` None: no turn was answered. `voided`: it says nothing either way."""

    calls: int
    added_p95_ms: float | None
    underrun_share: float
    error_share: float
    voided: bool = False

    @property
    def passed(self) -> bool:
        return (
            not self.voided
            and self.added_p95_ms is not None
            and self.added_p95_ms <= MAX_ADDED_P95_MS
            and self.underrun_share < MAX_UNDERRUN_SHARE
            and self.error_share < MAX_ERROR_SHARE
        )

    @property
    def failed_by_far(self) -> bool:
        return (
            self.added_p95_ms is None
            or self.added_p95_ms > FAR * MAX_ADDED_P95_MS
            or self.error_share > FAR_ERROR_SHARE
        )


def largest_passing(verdicts: Sequence[Verdict]) -> int:
    """The largest step that passed with every smaller valid one passing too; 0: none. Void steps are left out."""
    largest = 0
    for verdict in sorted(verdicts, key=lambda found: found.calls):
        if verdict.voided:
            continue
        if not verdict.passed:
            break
        largest = verdict.calls
    return largest


def between(verdicts: Sequence[Verdict]) -> int | None:
    """A number of calls halfway between the largest that passed and the smallest above it that did not."""
    low = largest_passing(verdicts)
    above = [found.calls for found in verdicts if not found.voided and not found.passed and found.calls > low]
    if not above or min(above) - low < 2:
        return None
    return (low + min(above)) // 2
