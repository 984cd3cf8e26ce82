"""What a replica holds: tasks, open calls, file descriptors, threads, memory. A leak shows here first.

Every replica reports it to Redis every few seconds; `/metrics` exports all reports: one scrape of one API process shows
what the others hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import psutil
import structlog

from serve_app.errors import UnavailableError
from serve_app.store.live import LiveState
from serve_app.store.reports import VITALS, Reports

INTERVAL_S = 5.0
TTL_S = 20.0
"""Four reports may be late before a replica is taken for gone: a loaded machine is no reason to lose its figures."""

TASK_KINDS = 12

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
        self._begun_at_collection = 0

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
                "tasks": len(tasks),
                "task_kinds": dict(kinds.most_common(TASK_KINDS)),
                "fds": self._process.num_fds() if hasattr(self._process, "num_fds") else 0,
                "threads": self._process.num_threads(),
                "rss_bytes": self._process.memory_info().rss,
            }

    async def run(self) -> None:
        """Report until cancelled. Redis being away costs reports, nothing else."""
        reports = Reports(self._live, VITALS)
        while True:
            self._collect_if_idle()
            try:
                await reports.put(self._replica, self.measure(), TTL_S)
            except UnavailableError as error:
                log.warning("Redis does not take the vital signs", error=str(error))
            except Exception:  # the root of the loop: figures are never worth the replica
                log.exception("the vital signs were not reported")
            await asyncio.sleep(INTERVAL_S)

    def _collect_if_idle(self) -> None:
        """Free what ended calls leave, while there is time for it.

        A call's objects refer to each other (session, timers, callbacks). Among the hundreds of thousands of objects of
        a Ray process, Python rarely runs the full collection that frees them. It takes some tens of milliseconds,
        which no call should wait for: so it is run when none is open.
        """
        if self._begun != self._begun_at_collection and not self._open:
            self._begun_at_collection = self._begun
            gc.collect()
