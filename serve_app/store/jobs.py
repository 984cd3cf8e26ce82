"""Background jobs leased from SQL. A lease is a visibility timeout: a worker that dies gives its job back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.clock import Clock, SystemClock
from serve_app.store.base import new_id
from serve_app.store.db import Database
from serve_app.store.models import READY_JOB, Job
from serve_app.store.rows import JobRow, to_row
from serve_app.store.scope import changed, insert_or_ignore

MAX_ATTEMPTS = 8
_ERROR_CHARS = 2000


async def insert_job(
    session: AsyncSession,
    tenant_id: str,
    kind: str,
    payload: dict[str, Any],
    *,
    key: str | None,
    now: datetime,
    due_at: datetime | None = None,
    max_attempts: int = MAX_ATTEMPTS,
) -> bool:
    """Add a job in the caller's transaction. False: a job of this tenant with this key is there."""
    values = {
        "id": new_id(),
        "tenant_id": tenant_id,
        "kind": kind,
        "key": key,
        "payload": payload,
        "status": "ready",
        "attempts": 0,
        "max_attempts": max_attempts,
        "due_at": due_at or now,
        "created_at": now,
    }
    return bool(await changed(session, insert_or_ignore(session, Job, values)))


class Jobs:
    """The queue of all tenants: workers belong to the platform; each row names its tenant."""

    def __init__(self, db: Database, *, clock: Clock | None = None) -> None:
        self.db = db
        self.clock: Clock = clock or SystemClock()

    async def add(
        self,
        tenant_id: str,
        kind: str,
        payload: dict[str, Any],
        *,
        key: str | None = None,
        due_at: datetime | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> bool:
        """Add a job in its own transaction (`insert_job` joins one). False: the key is there."""
        async with self.db.transaction() as session:
            return await insert_job(
                session,
                tenant_id,
                kind,
                payload,
                key=key,
                now=self.clock.now(),
                due_at=due_at,
                max_attempts=max_attempts,
            )

    async def get(self, job_id: str) -> JobRow | None:
        async with self.db.session() as session:
            found = await session.get(Job, job_id)
            return None if found is None else to_row(JobRow, found)

    async def lease(self, owner: str, *, kinds: Sequence[str], limit: int, lease_s: float) -> list[JobRow]:
        """Take due jobs. A job whose worker died counts that as an attempt; after the last one it is dead."""
        now = self.clock.now()
        due = (
            select(Job.id)
            .where(READY_JOB, Job.kind.in_(kinds), Job.due_at <= now)
            .order_by(Job.due_at, Job.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        take = (
            update(Job)
            .where(Job.id.in_(select(due.c.id)))
            .values(
                status="leased",
                attempts=Job.attempts + 1,
                lease_owner=owner,
                due_at=now + timedelta(seconds=lease_s),
            )
            .returning(Job)
            .execution_options(synchronize_session=False)
        )
        async with self.db.transaction() as session:
            taken = [to_row(JobRow, job) for job in await session.scalars(take)]
            lost = [job.id for job in taken if job.attempts > job.max_attempts]
            if lost:
                await session.execute(
                    update(Job)
                    .where(Job.id.in_(lost))
                    .values(
                        status="dead",
                        attempts=Job.max_attempts,
                        last_error="its worker died at the last attempt",
                        finished_at=now,
                    )
                    .execution_options(synchronize_session=False)
                )
        return [job for job in taken if job.id not in lost]

    async def done(self, job_id: str, owner: str) -> bool:
        """False: the lease was lost to another worker."""
        return await self._settle(job_id, owner, {"status": "done", "finished_at": self.clock.now()})

    async def retry(self, job_id: str, owner: str, error: str, delay_s: float) -> str | None:
        """Back to the queue after `delay_s`, or dead after the last attempt. The new status; None: lease lost."""
        job = await self.get(job_id)
        if job is None:
            return None
        now = self.clock.now()
        if job.attempts >= job.max_attempts:
            values: dict[str, Any] = {"status": "dead", "finished_at": now}
        else:
            values = {"status": "ready", "due_at": now + timedelta(seconds=delay_s)}
        values["last_error"] = error[:_ERROR_CHARS]
        return str(values["status"]) if await self._settle(job_id, owner, values) else None

    async def bury(self, job_id: str, owner: str, error: str) -> bool:
        """Dead at once: no retry can save it."""
        values = {"status": "dead", "finished_at": self.clock.now(), "last_error": error[:_ERROR_CHARS]}
        return await self._settle(job_id, owner, values)

    async def give_back(self, job_id: str, owner: str, *, delay_s: float = 0, error: str | None = None) -> bool:
        """Back to the queue without counting an attempt: the worker stops, or a service that the job needs is away."""
        due = self.clock.now() + timedelta(seconds=delay_s)
        values: dict[str, Any] = {"status": "ready", "due_at": due, "attempts": Job.attempts - 1}
        if error is not None:
            values["last_error"] = error[:_ERROR_CHARS]
        return await self._settle(job_id, owner, values)

    async def work(self, kinds: Sequence[str]) -> tuple[int, datetime | None]:
        """How many jobs are due, and when the next one after them will be: ready ones, and leases that run out."""
        now = self.clock.now()
        query = select(
            func.coalesce(func.sum(case((Job.due_at <= now, 1), else_=0)), 0),
            func.min(case((Job.due_at > now, Job.due_at))),
        ).where(READY_JOB, Job.kind.in_(kinds))
        async with self.db.session() as session:
            due, following = (await session.execute(query)).one()
            return int(due), following

    async def next_due(self) -> datetime | None:
        """When a job of any kind may be taken next. None: nothing is waiting, nothing is in work."""
        async with self.db.session() as session:
            return await session.scalar(select(func.min(Job.due_at)).where(READY_JOB))

    async def _settle(self, job_id: str, owner: str, values: dict[str, Any]) -> bool:
        mine = update(Job).where(Job.id == job_id, Job.status == "leased", Job.lease_owner == owner)
        async with self.db.transaction() as session:
            return bool(await changed(session, mine.values(lease_owner=None, **values)))
