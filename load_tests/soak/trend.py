"""Does a series grow? Arithmetic over one sample per minute; no I/O."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

GROWTH_LIMIT = 0.02
"""Of the last quarter's median over the first quarter's, after the warm-up."""
TREND_P = 0.01
TREND_RISE_LIMIT = 0.01
"""A trend that is certain and yet this small over the whole run is the noise of a settling process."""
FEWEST = 8
"""Samples after the warm-up, below which no trend can be told from chance at `TREND_P`."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A series after its warm-up. `growth` and `rise` as shares; `rise` is the slope times the length."""

    first: float
    last: float
    growth: float
    rise: float
    rising_p: float
    """Chance that a series without a trend rises as consistently (Mann-Kendall, one-sided)."""
    samples: int

    @property
    def rising(self) -> bool:
        return self.samples >= FEWEST and self.rising_p < TREND_P and self.rise > TREND_RISE_LIMIT

    def flat(self, slack: float = 0.0) -> bool:
        """`slack`: a difference that is none, in the series' own unit (one descriptor more or less)."""
        return self.last - self.first <= slack or (self.growth <= GROWTH_LIMIT and not self.rising)


def trend(values: Sequence[float]) -> Trend:
    """The trend of a series, warm-up already left out. Raises ValueError for an empty one."""
    if not values:
        raise ValueError("a series without samples has no trend")
    quarter = max(1, len(values) // 4)
    first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    slopes = [(values[j] - values[i]) / (j - i) for i in range(len(values)) for j in range(i + 1, len(values))]
    slope = statistics.median(slopes) if slopes else 0.0
    scale = abs(statistics.median(values))
    return Trend(
        first=first,
        last=last,
        growth=_share(last - first, abs(first)),
        rise=_share(slope * (len(values) - 1), scale),
        rising_p=mann_kendall_rising(values),
        samples=len(values),
    )


def mann_kendall_rising(values: Sequence[float]) -> float:
    """One-sided p of the Mann-Kendall test, normal approximation with the correction for ties. 1 for too few values."""
    n = len(values)
    if n < 4:
        return 1.0
    score = sum((values[j] > values[i]) - (values[j] < values[i]) for i in range(n) for j in range(i + 1, n))
    ties = [values.count(value) for value in set(values)]
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    if variance <= 0 or score == 0:
        return 1.0 if score <= 0 else 0.0
    z = (score - math.copysign(1, score)) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


def _share(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else math.copysign(math.inf, part)
