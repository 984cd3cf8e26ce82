"""The job `import_file`: a file of leads, or of numbers that are not to be called."""

from __future__ import annotations

import structlog

from serve_app.clock import Clock, SystemClock
from serve_app.dialing.imports.runner import BUDGET_S, run_import
from serve_app.errors import UnavailableError
from serve_app.jobs.runner import JobFailed
from serve_app.store.db import Database
from serve_app.store.imports import IMPORT_FILE, Imports, ImportStopped
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import JobRow, Jobs

log = structlog.get_logger(__name__)


class ImportFile:
    """Handler of the job. Idempotent: a chunk that is committed is not written again."""

    def __init__(
        self,
        db: Database,
        objects: ObjectStore,
        *,
        processes: int | None = None,
        budget_s: float = BUDGET_S,
        clock: Clock | None = None,
    ) -> None:
        self._db = db
        self._objects = objects
        self._processes = processes
        self._budget_s = budget_s
        self._clock: Clock = clock or SystemClock()

    async def __call__(self, job: JobRow) -> None:
        """Raises UnavailableError while another import of the tenant runs, JobFailed where no retry helps."""
        imports = Imports(self._db, job.tenant_id, clock=self._clock)
        import_id = str(job.payload["import_id"])
        row = await imports.begin(import_id)
        if row is None:
            waiting = await imports.get(import_id)
            if waiting is None or waiting.status != "queued":
                if waiting is not None and waiting.status == "cancelled":
                    await self._objects.delete([waiting.object_key])
                return
            # Given back, and not counted as an attempt: it waits its turn.
            raise UnavailableError(f"import {import_id} waits: another one of this tenant is running")
        try:
            done = await run_import(
                imports,
                self._objects,
                row,
                processes=self._processes,
                budget_s=self._budget_s,
                clock=self._clock,
            )
        except ImportStopped:
            await self._objects.delete([row.object_key])
        except FileNotFoundError as error:
            why = "its file is gone from the object store; send it again"
            await imports.fail(import_id, why)
            raise JobFailed(f"import {import_id}: {why}") from error
        except UnavailableError:
            raise
        except Exception as error:
            if job.attempts >= job.max_attempts:
                await imports.fail(import_id, f"{error or type(error).__name__}; send the file again to go on")
            raise
        else:
            if done is None:
                await Jobs(self._db, clock=self._clock).add(job.tenant_id, IMPORT_FILE, dict(job.payload))
                return
            await self._objects.delete([row.object_key])
            log.info("import_done", import_id=import_id, kind=done.kind, counts=done.counts)
