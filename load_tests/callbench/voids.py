"""What voids a step, stated before the run: figures taken under these conditions say nothing about the system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_LOAD_CORE_SHARE = 0.75
"""Of the load side's core: beyond it the phones and providers are late themselves."""
MAX_LATENESS_P99_MS = 5.0
"""Of the load side's frames and of the simulated providers' answers."""
MAX_STEAL_SHARE = 0.02
"""Of either core, taken by other virtual machines."""
MAX_FOREIGN_SHARE = 0.05
"""Of the system's core, used by processes that are no part of the system."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a step was measured. Shares of one core by the processes' own times, but for `steal_share`; lateness in
    milliseconds; None: not known. `load_core_share`: of the load side and of whatever else ran on its core.
    """

    load_core_share: float
    leg_lateness_p99_ms: float | None
    provider_lateness_p99_ms: float | None
    steal_share: float
    foreign_share: float
    not_pinned: Sequence[str]


def reasons_to_void(seen: Conditions) -> list[str]:
    """Empty: the step counts."""
    found = []
    if seen.load_core_share > MAX_LOAD_CORE_SHARE:
        found.append(f"the load side used {seen.load_core_share:.0%} of its core (limit {MAX_LOAD_CORE_SHARE:.0%})")
    for name, late_ms in (("legs", seen.leg_lateness_p99_ms), ("providers", seen.provider_lateness_p99_ms)):
        if late_ms is not None and late_ms > MAX_LATENESS_P99_MS:
            found.append(f"the {name} were late themselves: p99 {late_ms:.1f} ms (limit {MAX_LATENESS_P99_MS:g} ms)")
    if seen.steal_share > MAX_STEAL_SHARE:
        found.append(f"another machine took {seen.steal_share:.1%} of a core (limit {MAX_STEAL_SHARE:.0%})")
    if seen.foreign_share > MAX_FOREIGN_SHARE:
        found.append(
            f"other processes used {seen.foreign_share:.1%} of the system's core (limit {MAX_FOREIGN_SHARE:.0%})"
        )
    if seen.not_pinned:
        found.append("not pinned: " + ", ".join(seen.not_pinned))
    return found
