"""Runs background jobs: leased from SQL, so that any number of runners may work on one queue."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping

import structlog

from serve_app.clock import Clock, SystemClock
from serve_app.errors import UnavailableError
from serve_app.store.db import Database
from serve_app.store.repositories import JobRow, Jobs

JobHandler = Callable[[JobRow], Awaitable[None]]

CONCURRENCY = 4
LEASE_S = 300.0
IDLE_S = 15.0
"""Longest sleep: a wake-up may get lost with the process that meant to send it."""
RETRY_S = 2.0
LONGEST_RETRY_S = 600.0
AWAY_S = 10.0
"""Between tries of a job whose store or pool does not answer."""
GIVE_BACK_TIMEOUT_S = 3.0
log = structlog.get_logger(__name__)


class JobFailed(Exception):  # noqa: N818
    """Raised by a handler for a job that no retry can save: it is dead at once, with this message."""


class JobRunner:
    """`run` works until it is cancelled; jobs in hand are given back then."""

    def __init__(
        self,
        db: Database,
        handlers: Mapping[str, JobHandler],
        *,
        owner: str | None = None,
        concurrency: int = CONCURRENCY,
        lease_s: float = LEASE_S,
        retry_s: float = RETRY_S,
        away_s: float = AWAY_S,
        clock: Clock | None = None,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._jobs = Jobs(db, clock=self._clock)
        self._handlers = dict(handlers)
        self._owner = owner or f"runner-{secrets.token_hex(6)}"
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._retry_s = retry_s
        self._away_s = away_s
        self._running: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """There may be work now."""
        self._wanted.set()

    async def run(self) -> None:
        """Lease and execute for ever. SQL being away is logged and waited out; a failing job never ends this."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wanted.clear()
                try:
                    idle_s = await self._start_due(group)
                except UnavailableError as error:
                    log.warning("jobs_wait", error=str(error))
                    idle_s = self._retry_s
                await self._wait(idle_s)

    async def _start_due(self, group: asyncio.TaskGroup) -> float:
        """Start what is due, as far as there is room. Seconds until it makes sense to look again."""
        room = self._concurrency - len(self._running)
        if room <= 0:
            return IDLE_S
        kinds = list(self._handlers)
        due, following = await self._jobs.work(kinds)
        # An idle look is one read: only what is due is worth a transaction, which on SQLite every writer waits for.
        if due:
            for job in await self._jobs.lease(self._owner, kinds=kinds, limit=room, lease_s=self._lease_s):
                task = group.create_task(self._execute(job), name=f"job {job.kind}")
                self._running.add(task)
                task.add_done_callback(self._finished)
        if following is None:
            return IDLE_S
        return min(IDLE_S, max(0.05, (following - self._clock.now()).total_seconds()))

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wanted.set()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def _execute(self, job: JobRow) -> None:
        try:
            try:
                # Ends before the lease does: no two runners work on one job.
                async with asyncio.timeout(self._lease_s * 0.9):
                    await self._handlers[job.kind](job)
            except asyncio.CancelledError:
                await self._give_back(job)
                raise
            except UnavailableError as error:
                # Not the job's fault: however long the outage, the job is done after it.
                await self._jobs.give_back(job.id, self._owner, delay_s=self._away_s, error=str(error))
                log.warning("job_waits", job_id=job.id, kind=job.kind, error=str(error))
            except JobFailed as error:
                await self._jobs.bury(job.id, self._owner, str(error))
                log.error("job_dead", job_id=job.id, kind=job.kind, error=str(error))
            except Exception as error:  # noqa: BLE001  (the root of a job: recorded with it, logged, tried again)
                await self._retry(job, error)
            else:
                await self._jobs.done(job.id, self._owner)
        except (
            Exception
        ):  # the root of a worker loop; the lease runs out, and the job is done again: handlers bear that
            log.exception("job_not_settled", job_id=job.id, kind=job.kind)

    async def _retry(self, job: JobRow, error: Exception) -> None:
        delay_s = min(LONGEST_RETRY_S, self._retry_s * 2 ** (job.attempts - 1)) * random.uniform(0.8, 1.2)
        message = str(error) or type(error).__name__
        status = await self._jobs.retry(job.id, self._owner, message, delay_s)
        log.warning(
            "job_failed",
            job_id=job.id,
            kind=job.kind,
            attempt=job.attempts,
            status=status,
            retry_in_s=round(delay_s, 1),
            exc_info=error,
        )

    async def _give_back(self, job: JobRow) -> None:
        try:
            async with asyncio.timeout(GIVE_BACK_TIMEOUT_S):
                await self._jobs.give_back(job.id, self._owner)
        except (UnavailableError, TimeoutError) as error:
            log.warning("job_not_given_back", job_id=job.id, kind=job.kind, error=str(error))
