"""PASS or MISS of a soak, from its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deployments.vitals import COLLECT_AFTER
from load_tests.soak.counts import OURS
from load_tests.soak.trend import FEWEST, Trend, trend

P99 = "added p99 ms"
FAILED = "calls failed"
ENDED = "calls ended"
UNANSWERED = "turns unanswered"
UNDERRUNS = "underruns"
BARGE_INS_MISSED = "barge-ins missed"
SET_UPS_LATE = "set-ups late"
VOID = "void reasons"
NEVER = 1e9
"""Milliseconds: an infinite latency in a sample, where JSON has no infinity."""
EXPIRING = "redis keys that expire"
BY_DESIGN = ("rss_mb Redis",)
"""Grows with the keys of ended calls until the first of them expire, an hour later."""
P99_LIMIT = 0.2
"""A minute's p99 is the worst of some hundred turns: it wanders. A rise of its trend beyond this is not wandering."""
COUNT_SLACK = 1.0
"""Two per cent of forty descriptors is less than one."""
HELD_LIMIT = 1.5 * COLLECT_AFTER
"""Per replica: those that wait for the collection, and those that end until it is looked after."""
MOST_VOID = 0.25
"""Of the samples."""
KEYS_PER_CALL_LIMIT = 5.0
"""An ended call's events and the memory of its lease stay for an hour or two: a few keys each, no more."""


@dataclass(frozen=True, slots=True)
class Line:
    """One judged series."""

    name: str
    aim: str
    figure: str
    passed: bool


def series(samples: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """The values of the samples that have this one."""
    return [sample[name] for sample in samples if name in sample]


def total_memory(sample: Mapping[str, float]) -> float:
    return sum(sample.get(f"rss_mb {group}", 0.0) for group in OURS)


def warm_up_samples(count: int) -> int:
    """A sixth of the run, at least one minute: allocators, caches and pools reach their size."""
    return max(1, count // 6)


def judged(samples: Sequence[Mapping[str, float]]) -> list[Line]:
    """Everything that must not grow. `samples`: one per minute, the warm-up included. Raises ValueError for too few."""
    after = samples[warm_up_samples(len(samples)) :]
    if not after:
        raise ValueError("a soak needs at least two samples")
    lines = [_flat("memory of all processes but Redis, MB", trend([total_memory(sample) for sample in after]))]
    kinds = ("rss_mb", "fds", "sockets", "threads", "tasks")
    names = sorted({name for sample in after for name in sample if name.startswith(kinds) and name not in BY_DESIGN})
    lines += [_flat(name, trend(series(after, name))) for name in names]
    lines += [_flat(name, trend(series(after, name))) for name in ("redis keys without end", "redis slots")]
    lines += [_held(after, role) for role in ("ingress", "sessions")]
    lines.append(_keys_per_call(samples))
    p99 = series([sample for sample in after if not is_void(sample)], P99)
    if p99:
        found = trend(p99)
        rising = found.samples >= FEWEST and found.rising_p < 0.01 and found.rise > P99_LIMIT
        figure = f"{found.first:.1f} -> {found.last:.1f}, worst {max(p99):.1f}"
        lines.append(Line(P99, "no rising trend", figure, not rising))
    failed, ended = sum(series(samples, FAILED)), sum(series(samples, ENDED))
    lines.append(Line(FAILED, "0", f"{failed:.0f} of {ended:.0f}", failed == 0 and ended > 0))
    lines += [_none(samples, name) for name in (UNANSWERED, BARGE_INS_MISSED, SET_UPS_LATE, UNDERRUNS)]
    return lines


def is_void(sample: Mapping[str, float]) -> bool:
    """The load side, or the machine, was in no state to measure: its latency says nothing.

    Everything else of it counts: what fails in such a minute has failed, and what grows has grown.
    """
    return sample.get(VOID, 0.0) > 0


def void_minutes(samples: Sequence[Mapping[str, float]]) -> list[float]:
    """See `is_void`."""
    return [sample["minute"] for sample in samples if is_void(sample)]


def is_void_altogether(samples: Sequence[Mapping[str, float]]) -> bool:
    """Too few minutes are left to tell how the latency went."""
    return len(void_minutes(samples)) > MOST_VOID * len(samples)


def _none(samples: Sequence[Mapping[str, float]], name: str) -> Line:
    """What must not happen once, in the warm-up neither. A run that does not tell does not pass."""
    told = series(samples, name)
    worst = max(told, default=0.0)
    return Line(name, "0", f"{sum(told):.0f}, {worst:.0f} at most in a sample", bool(told) and sum(told) == 0)


def _flat(name: str, found: Trend) -> Line:
    figure = f"{found.first:,.1f} -> {found.last:,.1f} ({found.growth:+.1%})"
    slack = 0.0 if "MB" in name or "rss_mb" in name else COUNT_SLACK
    return Line(name, "growth <= 2 %, no trend", figure + (", rising" if found.rising else ""), found.flat(slack))


def _held(samples: Sequence[Mapping[str, float]], role: str) -> Line:
    """Ended calls wait for the next collection, of which there is one per so many of them and replica."""
    worst = max(series(samples, f"calls over but held {role}"), default=0.0)
    limit = HELD_LIMIT * max(series(samples, f"replicas {role}"), default=1.0)
    return Line(f"calls over but held, {role}", f"<= {limit:.0f}", f"{worst:.0f} at most", worst <= limit)


def _keys_per_call(samples: Sequence[Mapping[str, float]]) -> Line:
    first, last = samples[0], samples[-1]
    ended = sum(series(samples[1:], ENDED))
    grown = last.get(EXPIRING, 0.0) - first.get(EXPIRING, 0.0)
    per_call = grown / ended if ended else 0.0
    return Line(
        "redis keys that expire, per ended call",
        f"<= {KEYS_PER_CALL_LIMIT:g}",
        f"{per_call:.1f}",
        per_call <= KEYS_PER_CALL_LIMIT,
    )
