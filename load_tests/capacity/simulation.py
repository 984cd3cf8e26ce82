"""What averages do not tell: refused calls at a given number of slots, bursts against a warm pool, time to drain.

Events of single calls, with a seed: the same inputs give the same figures. Durations are log-normal (a few calls are
very long), arrivals are Poisson.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

_Z99 = 2.3263478740408408
"""The 99th percentile of the standard normal distribution."""


def erlang_b(offered_erlang: float, slots: int) -> float:
    """Share of calls refused when `slots` are there and none waits. The usual recurrence, stable for any size."""
    blocked = 1.0
    for slot in range(1, slots + 1):
        blocked = offered_erlang * blocked / (slot + offered_erlang * blocked)
    return blocked


def slots_for(offered_erlang: float, refused_share: float) -> int:
    """The fewest slots that refuse at most this share of the calls."""
    blocked, slots = 1.0, 0
    while blocked > refused_share:
        slots += 1
        blocked = offered_erlang * blocked / (slots + offered_erlang * blocked)
    return slots


@dataclass(frozen=True, slots=True)
class Durations:
    """Log-normal, by its mean and its 99th percentile. Raises ValueError where no such distribution exists."""

    mean_s: float
    p99_s: float

    @property
    def parameters(self) -> tuple[float, float]:
        """mu, sigma: mean = exp(mu + sigma^2 / 2), p99 = exp(mu + z sigma). The smaller sigma of the two solutions."""
        root = _Z99**2 - 2 * math.log(self.p99_s / self.mean_s)
        if root < 0 or self.p99_s <= self.mean_s:
            raise ValueError(f"no log-normal distribution has mean {self.mean_s} s and p99 {self.p99_s} s")
        sigma = _Z99 - math.sqrt(root)
        return math.log(self.mean_s) - sigma**2 / 2, sigma

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        mu, sigma = self.parameters
        return generator.lognormal(mu, sigma, count)


def refused_share(*, offered_erlang: float, slots: int, durations: Durations, calls: int, seed: int = 1) -> float:
    """Of `calls` arrivals after a warm-up of as many, those that find no free slot."""
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(durations.mean_s / offered_erlang, 2 * calls)
    lengths = durations.draw(generator, 2 * calls)
    ends: list[float] = []
    now, refused = 0.0, 0
    for index in range(2 * calls):
        now += gaps[index]
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        if len(ends) < slots:
            heapq.heappush(ends, now + lengths[index])
        elif index >= calls:
            refused += 1
    return refused / calls


@dataclass(frozen=True, slots=True)
class Burst:
    """A burst of arrivals on top of a steady load."""

    steady_calls: int
    factor: float
    """How many times the usual rate of arrivals."""
    length_s: float


def burst_refused(
    burst: Burst,
    durations: Durations,
    *,
    spare: float,
    replica_start_s: float,
    calls_per_replica: int,
    seed: int = 1,
) -> float:
    """Share of the burst's arrivals that are refused.

    `spare`: free slots kept ahead, as a share of the calls that are up. When less is free, replicas are started, and
    their slots come `replica_start_s` later; one replica may be started for each that runs, as Serve does.
    """
    generator = np.random.default_rng(seed)
    rate = burst.steady_calls / durations.mean_s * burst.factor
    # Calls that are up now end after what is left of them: length-biased, so drawn with weight by length.
    pool = durations.draw(generator, 4 * burst.steady_calls)
    chosen = generator.choice(pool, burst.steady_calls, p=pool / pool.sum())
    ends = [float(length * generator.random()) for length in chosen]
    heapq.heapify(ends)
    wanted = math.ceil(burst.steady_calls * (1 + spare) / calls_per_replica)
    slots = wanted * calls_per_replica
    starting: list[tuple[float, int]] = []
    now, arrived, refused = 0.0, 0, 0
    while True:
        now += float(generator.exponential(1 / rate))
        if now > burst.length_s:
            return refused / max(1, arrived)
        arrived += 1
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        while starting and starting[0][0] <= now:
            slots += heapq.heappop(starting)[1]
        if len(ends) < slots:
            heapq.heappush(ends, now + float(durations.draw(generator, 1)[0]))
        else:
            refused += 1
        coming = slots + sum(more for _, more in starting)
        needed = math.ceil(len(ends) * (1 + spare) / calls_per_replica) * calls_per_replica + calls_per_replica
        if needed > coming:
            heapq.heappush(starting, (now + replica_start_s, min(needed - coming, slots)))


def drain_s(durations: Durations, *, calls: int, left_share: float, seed: int = 1) -> float:
    """Seconds until at most this share of `calls` calls, all in the middle of their lives, is still up."""
    generator = np.random.default_rng(seed)
    pool = durations.draw(generator, max(20_000, 4 * calls))
    chosen = generator.choice(pool, calls, p=pool / pool.sum())
    left = np.sort(chosen * generator.random(calls))
    return float(left[min(calls - 1, math.ceil(calls * (1 - left_share)) - 1)])
