"""Imports: files of leads or of do-not-call numbers, written a chunk at a time, each chunk once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import Select, delete, exists, func, select, union_all, update

from serve_app.store.base import new_id
from serve_app.store.campaign_models import EVERYBODY, Import, ImportChunk, ImportRowError, Lead, RegistryNumber
from serve_app.store.campaign_rows import ImportRow, ImportStatus
from serve_app.store.import_rows import RowFault, RowResult
from serve_app.store.import_writes import use_more_memory, write_errors, write_leads, write_listings
from serve_app.store.jobs import insert_job
from serve_app.store.models import DoNotCallEntry
from serve_app.store.rows import to_row
from serve_app.store.scope import TenantScope, changed, insert_or_ignore

IMPORT_FILE = "import_file"
"""The job that does an import."""

STALLED = timedelta(minutes=30)
"""A running import that wrote nothing for so long has lost its worker for good: its job is tried again much sooner."""

ImportKind = Literal["leads", "do_not_call"]
Counts = dict[str, Any]
"""`rows` = `accepted` + `blank` + the sum of `refused` (code -> rows); `notes`: code -> accepted rows; `bytes_read`."""


class ImportStopped(Exception):  # noqa: N818
    """The import is not running any more: somebody cancelled it."""


def no_counts() -> Counts:
    return {"rows": 0, "accepted": 0, "blank": 0, "refused": {}, "notes": {}, "bytes_read": 0}


class Imports(TenantScope):
    async def create(
        self,
        *,
        kind: ImportKind,
        campaign_id: str | None,
        filename: str,
        object_key: str,
        size_bytes: int,
        sha256: str,
        fingerprint: str,
        mapping: dict[str, Any],
        options: dict[str, Any],
    ) -> tuple[ImportRow, bool]:
        """Queue an import, and say whether it is new. One with this fingerprint that failed or was cancelled goes on
        where it stopped; any other is returned as it is."""
        now = self.clock.now()
        values: dict[str, Any] = {
            "id": new_id(),
            "tenant_id": self.tenant_id,
            "campaign_id": campaign_id,
            "kind": kind,
            "filename": filename,
            "object_key": object_key,
            "size_bytes": size_bytes,
            "sha256": sha256,
            "fingerprint": fingerprint,
            "status": "queued",
            "mapping": mapping,
            "options": options,
            "counts": no_counts(),
            "created_at": now,
            "updated_at": now,
        }
        async with self.db.transaction() as session:
            new = bool(await changed(session, insert_or_ignore(session, Import, values)))
            found = select(Import).where(Import.tenant_id == self.tenant_id, Import.fingerprint == fingerprint)
            row = (await session.scalars(found.with_for_update())).one()
            again = row.status in ("failed", "cancelled")
            if again:
                row.status, row.error, row.finished_at = "queued", None, None
                row.object_key, row.updated_at = object_key, now
            if new or again:
                await insert_job(session, self.tenant_id, IMPORT_FILE, {"import_id": row.id}, key=None, now=now)
            await session.flush()
            return to_row(ImportRow, row), new

    async def get(self, import_id: str) -> ImportRow | None:
        async with self.db.session() as session:
            found = await session.scalar(self._query().where(Import.id == import_id))
            return None if found is None else to_row(ImportRow, found)

    async def with_fingerprint(self, fingerprint: str) -> ImportRow | None:
        async with self.db.session() as session:
            found = await session.scalar(self._query().where(Import.fingerprint == fingerprint))
            return None if found is None else to_row(ImportRow, found)

    async def list(
        self, *, limit: int, before: str | None = None, campaign_id: str | None = None
    ) -> tuple[list[ImportRow], str | None]:
        """Newest first, with the cursor for the next page."""
        query = self._query().order_by(Import.id.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(Import.id < before)
        if campaign_id is not None:
            query = query.where(Import.campaign_id == campaign_id)
        async with self.db.session() as session:
            rows = [to_row(ImportRow, found) for found in await session.scalars(query)]
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    async def begin(self, import_id: str) -> ImportRow | None:
        """Start it, or go on with it. None: another import of the tenant is running, or this one is over."""
        now = self.clock.now()
        async with self.db.transaction() as session:
            stalled = update(Import).where(
                Import.tenant_id == self.tenant_id,
                Import.status == "running",
                Import.id != import_id,
                Import.updated_at < now - STALLED,
            )
            why = "it stopped, and no worker went on with it; send the file again to go on where it stopped"
            await changed(session, stalled.values(status="failed", error=why, finished_at=now))
            other = self._query().where(Import.status == "running", Import.id != import_id)
            row = await session.scalar(self._query().where(Import.id == import_id).with_for_update())
            if row is None or row.status not in ("queued", "running"):
                return None
            if await session.scalar(select(exists(other.with_only_columns(Import.id)))):
                return None
            row.status, row.started_at, row.updated_at = "running", row.started_at or now, now
            await session.flush()
            return to_row(ImportRow, row)

    async def chunks_done(self, import_id: str) -> int:
        """How many chunks are committed; they are committed in order, so the next one has this number."""
        done = select(func.count()).where(ImportChunk.tenant_id == self.tenant_id, ImportChunk.import_id == import_id)
        async with self.db.session() as session:
            return int((await session.scalars(done)).one())

    async def commit_chunk(self, row: ImportRow, chunk_no: int, result: RowResult, bytes_read: int) -> Counts:
        """Write a chunk with all that belongs to it, or nothing if it was written before. The import's counts.

        Raises ImportStopped.
        """
        now = self.clock.now()
        async with self.db.transaction() as session:
            await use_more_memory(session)
            # The lock makes one writer of two, should there ever be two.
            found = await session.scalar(self._query().where(Import.id == row.id).with_for_update())
            if found is None or found.status != "running":
                raise ImportStopped("the import is not running any more")
            key = {"tenant_id": self.tenant_id, "import_id": row.id, "chunk_no": chunk_no}
            if await session.get(ImportChunk, key) is not None:
                return found.counts
            write = write_leads if row.kind == "leads" else write_listings
            refused = await write(session, row, result.accepted, now)
            await write_errors(session, row, [*result.faults, *refused])
            counts = _chunk_counts(row.kind, result, refused)
            session.add(ImportChunk(**key, counts=counts, committed_at=now))
            found.counts = {**_sum(found.counts, counts), "bytes_read": bytes_read}
            found.updated_at = now
            return found.counts

    async def complete(self, import_id: str) -> ImportRow:
        """The last chunk is committed: count what the rules will make of its leads. Raises ImportStopped."""
        barred = await self._on_lists(import_id)
        now = self.clock.now()
        async with self.db.transaction() as session:
            row = await session.scalar(self._query().where(Import.id == import_id).with_for_update())
            if row is None or row.status != "running":
                raise ImportStopped("the import is not running any more")
            notes = {**row.counts["notes"], **({"on_do_not_call_list": barred} if barred else {})}
            row.counts = {**row.counts, "notes": notes, "bytes_read": row.size_bytes}
            row.status, row.rows_total, row.finished_at, row.updated_at = "completed", row.counts["rows"], now, now
            await session.flush()
            return to_row(ImportRow, row)

    async def fail(self, import_id: str, error: str) -> None:
        """What it wrote stays; the same file goes on from there."""
        await self._end(import_id, "failed", error)

    async def cancel(self, import_id: str) -> bool:
        """What it wrote stays. False: it was over."""
        return await self._end(import_id, "cancelled", None)

    async def errors(self, import_id: str, *, limit: int, after: int = 0) -> Sequence[RowFault]:
        """The rows that were not taken, in the file's order; `after` is the last row number of the page before."""
        query = (
            select(ImportRowError)
            .where(
                ImportRowError.tenant_id == self.tenant_id,
                ImportRowError.import_id == import_id,
                ImportRowError.row_no > after,
            )
            .order_by(ImportRowError.row_no)
            .limit(limit)
        )
        async with self.db.session() as session:
            return [RowFault(e.row_no, e.column_name, e.code, e.value) for e in await session.scalars(query)]

    async def forget(self, import_id: str) -> bool:
        """Delete an import that is over, and its report. Its leads stay. False: there is none, or it is not over."""
        mine = (Import.tenant_id == self.tenant_id, Import.id == import_id)
        async with self.db.transaction() as session:
            row = await session.scalar(self._query().where(*mine).with_for_update())
            if row is None or row.status in ("queued", "running"):
                return False
            for child in (ImportRowError, ImportChunk):
                await session.execute(
                    delete(child)
                    .where(child.tenant_id == self.tenant_id, child.import_id == import_id)
                    .execution_options(synchronize_session=False)
                )
            await session.delete(row)
            return True

    async def _end(self, import_id: str, status: ImportStatus, error: str | None) -> bool:
        now = self.clock.now()
        over = update(Import).where(
            Import.tenant_id == self.tenant_id, Import.id == import_id, Import.status.in_(("queued", "running"))
        )
        async with self.db.transaction() as session:
            return bool(
                await changed(session, over.values(status=status, error=error, finished_at=now, updated_at=now))
            )

    async def _on_lists(self, import_id: str) -> int:
        """How many of its leads are on the tenant's do-not-call list or on a registry."""
        on_list = select(DoNotCallEntry.number).where(
            DoNotCallEntry.tenant_id == self.tenant_id, DoNotCallEntry.removed_at.is_(None)
        )
        on_registry = select(RegistryNumber.number).where(RegistryNumber.tenant_id.in_((self.tenant_id, EVERYBODY)))
        barred = union_all(on_list, on_registry)
        row = await self.get(import_id)
        if row is None or row.kind != "leads":
            return 0
        leads = select(func.count(Lead.id)).where(
            Lead.tenant_id == self.tenant_id,
            Lead.campaign_id == row.campaign_id,
            Lead.import_id == import_id,
            Lead.number.in_(barred),
        )
        async with self.db.session() as session:
            if (await session.execute(barred.limit(1))).first() is None:
                return 0
            return int((await session.scalars(leads)).one())

    def _query(self) -> Select[Import]:
        return select(Import).where(Import.tenant_id == self.tenant_id)


def _chunk_counts(kind: str, result: RowResult, refused: Sequence[RowFault]) -> Counts:
    """`refused`: of the rows that could be read, those that were not written."""
    not_written = {fault.row_no for fault in refused}
    written = [lead for lead in result.accepted if lead.row_no not in not_written]
    notes = Counter(note for lead in written for note in lead.notes)
    if kind == "leads":
        notes["without_consent"] = sum(lead.consent_kind is None for lead in written)
    return {
        "rows": len(result.accepted) + len(result.faults) + result.blank,
        "accepted": len(written),
        "blank": result.blank,
        "refused": dict(Counter(fault.code for fault in (*result.faults, *refused))),
        "notes": dict(+notes),
    }


def _sum(total: Counts, more: Counts) -> Counts:
    added: Counts = {name: total[name] + more[name] for name in ("rows", "accepted", "blank")}
    return added | {name: dict(Counter(total[name]) + Counter(more[name])) for name in ("refused", "notes")}
