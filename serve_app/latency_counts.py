"""The latencies of this process' replies, counted for `/metrics`: sessions run in other processes than the API."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.latency_budgets import BUDGETED, Excess

BUCKETS_MS = (10, 25, 50, 90, 100, 150, 260, 300, 400, 700, 1000, 1500, 2500, 4000, 6000)
"""Upper bounds. The default budgets are among them, so that a share within the budget is exact."""
CAUSES = 40
"""Different causes that are counted by name; what is beyond, as `other`: a label must not grow without end."""


class LatencyCounts:
    """Counts since the process began."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], list[int]] = {}
        self._sums_ms: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._causes: Counter[str] = Counter()

    def reply(self, measured: Mapping[str, float | None], over: Mapping[str, Excess], causes: Sequence[str]) -> None:
        """One reply: stage -> milliseconds or None, the stages that are above their budget, and the causes."""
        for stage, ms in measured.items():
            if ms is None:
                continue
            within = "" if stage not in BUDGETED else "false" if stage in over else "true"
            buckets = self._buckets.setdefault((stage, within), [0] * (len(BUCKETS_MS) + 1))
            buckets[bisect_left(BUCKETS_MS, ms)] += 1
            self._sums_ms[stage, within] += ms
        for cause in causes:
            name = cause.partition(":")[0].strip()
            self._causes[name if name in self._causes or len(self._causes) < CAUSES else "other"] += 1

    def report(self) -> dict[str, Any]:
        """`stages`: rows of stage, within_target ("" without a budget), sum in ms, and the count of each bucket (the
        last one has no bound). `causes`: cause -> count. JSON; empty as long as nothing was counted.
        """
        if not self._buckets and not self._causes:
            return {}
        rows = [[*key, round(self._sums_ms[key], 1), buckets] for key, buckets in self._buckets.items()]
        return {"stages": rows, "causes": dict(self._causes)}


LATENCIES = LatencyCounts()
"""Of this process."""
