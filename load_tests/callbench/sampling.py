"""What the machine did during a stretch of time: once per second while it lasts, exactly at its borders."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from load_tests.callbench.bystanders import Bystanders, all_processes
from load_tests.callbench.cores import CoreTimes, core_times
from load_tests.callbench.processes import Memory, ProcessTree
from load_tests.callbench.systems.base import Lag, System

BENCHMARK = "benchmark"
"""The group of this process itself, which is a part of the load side."""
PERIOD_S = 1.0
LAG_PERIOD_S = 5.0


@dataclass(frozen=True, slots=True)
class Span:
    """A measured stretch. CPU in seconds; `system_by_group` and `load_by_group` are what was used inside it."""

    start: float
    end: float
    system_by_group: Mapping[str, float]
    load_by_group: Mapping[str, float]
    cores: Mapping[int, CoreTimes]
    memory: Mapping[str, Memory]
    processes: Mapping[str, int]
    not_pinned: tuple[str, ...]
    lags: tuple[Mapping[str, Lag], ...] = field(default=())
    """The system's event loops, a reading per `LAG_PERIOD_S`."""
    foreign: Mapping[int, float] = field(default_factory=dict)
    """By core: CPU seconds of processes that are neither the system nor the load side."""

    @property
    def seconds(self) -> float:
        return self.end - self.start


def difference(later: Mapping[str, float], earlier: Mapping[str, float]) -> dict[str, float]:
    """What was used by group between two readings; a group that was not there before had used nothing."""
    return {group: used - earlier.get(group, 0.0) for group, used in later.items()}


class Sampler:
    """Watches a system and a load side that are pinned to a core each."""

    def __init__(self, system: System, load: ProcessTree, *, system_core: int, load_core: int) -> None:
        self._system = system.tree()
        self._loop_lag = system.loop_lag
        self._load = load
        self._system_core = system_core
        self._load_core = load_core

    async def watch(self, seconds: float) -> Span:
        """Measure the next `seconds`."""
        not_pinned = (*self._system.not_on(self._system_core), *self._load.not_on(self._load_core))
        bystanders = Bystanders()
        system_before, load_before, cores_before = self._system.cpu_by_group(), self._load_cpu(), core_times()
        bystanders.look(all_processes(), own=self._own())
        start = time.monotonic()
        lags: list[Mapping[str, Lag]] = []
        lag_due = start + LAG_PERIOD_S
        while (now := time.monotonic()) < start + seconds:
            await asyncio.sleep(min(PERIOD_S, start + seconds - now))
            if time.monotonic() >= lag_due:
                lags.append(self._loop_lag())
                lag_due += LAG_PERIOD_S
            # Every second: what a process used that ends in between is kept.
            self._system.cpu_by_group()
            self._load.cpu_by_group()
            bystanders.look(all_processes(), own=self._own())
        end, cores_after = time.monotonic(), core_times()
        system, load = self._system.cpu_by_group(), self._load_cpu()
        not_pinned += (*self._system.not_on(self._system_core), *self._load.not_on(self._load_core))
        return Span(
            start=start,
            end=end,
            system_by_group=difference(system, system_before),
            load_by_group=difference(load, load_before),
            cores={core: times - cores_before[core] for core, times in cores_after.items()},
            memory=self._system.memory_by_group(),
            processes=self._system.count_by_group(),
            not_pinned=tuple(dict.fromkeys(not_pinned)),
            lags=tuple(lags),
            foreign={core: bystanders.cpu_s(core) for core in cores_after},
        )

    def _load_cpu(self) -> dict[str, float]:
        return {**self._load.cpu_by_group(), BENCHMARK: time.process_time()}

    def _own(self) -> frozenset[int]:
        return self._system.pids() | self._load.pids() | {os.getpid()}
