"""What a replica holds: tasks, open calls, file descriptors, threads, memory, counts of turns. A leak shows here.

Every replica reports it to Redis every few seconds; `/metrics` exports all reports: one scrape of one API process shows
what the others hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import psutil
import structlog

from serve_app.errors import UnavailableError
from serve_app.metrics import session_report
from serve_app.store.live import LiveState
from serve_app.store.reports import TURNS, VITALS, Reports

INTERVAL_S = 5.0
TTL_S = 20.0
"""Four reports may be late before a replica is taken for gone: a loaded machine is no reason to lose its figures."""

TASK_KINDS = 12
COLLECT_AFTER = 50
"""Ended calls, at some ten kilobytes each, that may wait for a collection."""

log = structlog.get_logger()


class Vitals:
    """The census of one replica. Hold `call` open around every call, keep `run` as a task of the replica."""

    def __init__(self, live: LiveState, deployment: str, replica: str) -> None:
        self._live = live
        self._deployment = deployment
        self._replica = replica
        self._process = psutil.Process()
        self._held: WeakSet[object] = WeakSet()
        self._open = 0
        self._begun = 0
        self._ended_at_collection = 0
        self._collect_ms = 0.0

    @contextlib.contextmanager
    def call(self, held: object) -> Iterator[None]:
        """A call is open. `held`, its root object, is counted until it is freed: later, if something still holds it."""
        self._held.add(held)
        self._begun += 1
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def measure(self) -> dict[str, Any]:
        """Counts of this process now. Costs about a millisecond: for every few seconds, not per frame.

        `task_kinds` names the commonest coroutines: it says what leaks when `tasks` grows.
        """
        tasks = asyncio.all_tasks()
        kinds = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
        with self._process.oneshot():
            return {
                "deployment": self._deployment,
                "pid": self._process.pid,
                "calls_open": self._open,
                "calls_held": len(self._held),
                "calls_begun": self._begun,
                "collect_ms": self._collect_ms,
                "tasks": len(tasks),
                "task_kinds": dict(kinds.most_common(TASK_KINDS)),
                "fds": self._process.num_fds() if hasattr(self._process, "num_fds") else 0,
                "threads": self._process.num_threads(),
                "rss_bytes": self._process.memory_info().rss,
            }

    async def run(self) -> None:
        """Report until cancelled. Redis being away costs reports, nothing else."""
        vitals, turns = Reports(self._live, VITALS), Reports(self._live, TURNS)
        while True:
            self._collect()
            try:
                await vitals.put(self._replica, self.measure(), TTL_S)
                if counted := session_report():
                    await turns.put(self._replica, counted, TTL_S)
            except UnavailableError as error:
                log.warning("Redis does not take the vital signs", error=str(error))
            except Exception:  # the root of the loop: figures are never worth the replica
                log.exception("the vital signs were not reported")
            await asyncio.sleep(INTERVAL_S)

    def _collect(self) -> None:
        """Free what ended calls leave.

        A call's objects refer to each other (session, timers, callbacks; socket and protocol), and only a full
        collection frees them. Python would rarely run one in a process like this. It is run while no call is open, for
        no call should wait for it, and at the latest after `COLLECT_AFTER` calls: a busy process must not grow.
        """
        ended = self._begun - self._open - self._ended_at_collection
        if ended >= COLLECT_AFTER or (ended and not self._open):
            self._ended_at_collection += ended
            began = time.perf_counter()
            gc.collect()
            self._collect_ms = round((time.perf_counter() - began) * 1000, 1)
