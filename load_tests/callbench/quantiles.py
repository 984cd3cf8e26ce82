"""Percentiles of measured samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def quantile(values: Sequence[float], q: float) -> float:
    """The nearest-rank quantile, which is always one of the samples. Raises ValueError without samples."""
    if not values:
        raise ValueError("no samples")
    if not 0 < q <= 1:
        raise ValueError(f"a quantile lies in (0, 1], not {q}")
    return sorted(values)[math.ceil(q * len(values)) - 1]


@dataclass(frozen=True, slots=True)
class Distribution:
    """What is published of samples; all None where there are none."""

    n: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], digits: int = 2) -> Distribution:
        if not values:
            return cls(0)
        ordered = sorted(values)
        p50, p95, p99 = (round(quantile(ordered, q), digits) for q in (0.5, 0.95, 0.99))
        return cls(len(ordered), p50, p95, p99, round(ordered[0], digits), round(ordered[-1], digits))
