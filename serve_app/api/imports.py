"""Imports: files of leads and of do-not-call numbers, their progress, and why rows were not taken."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from serve_app.api.auth import Caller
from serve_app.api.deps import Deps
from serve_app.api.leads import open_campaign
from serve_app.api.problems import ProblemError, not_found
from serve_app.api.uploads import FileName, Options, received
from serve_app.dialing.imports.export import fault_lines
from serve_app.dialing.imports.header import targets_of
from serve_app.dialing.imports.intake import ReadyFile, create_import, preview
from serve_app.dialing.imports.reasons import REASONS
from serve_app.store.campaign_rows import ImportRow, ImportStatus
from serve_app.store.imports import ImportKind, Imports

router = APIRouter(prefix="/api/v1", tags=["imports"])

ERRORS_PAGE = 1000


class ImportCounts(BaseModel):
    """rows = accepted + blank + the sum of refused."""

    rows: int
    accepted: int
    blank: int
    refused: dict[str, int] = Field(description="code -> rows that were not taken for it")
    notes: dict[str, int] = Field(description="what is worth knowing of accepted rows: code -> rows")


class ImportView(BaseModel):
    id: str
    kind: ImportKind
    campaign_id: str | None
    filename: str
    status: ImportStatus
    progress: float = Field(description="0 to 1, by the bytes of the file")
    counts: ImportCounts
    columns: dict[str, str] = Field(description="header -> field, `custom` or `ignore`")
    region: str | None
    encoding: str
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class ImportPage(BaseModel):
    items: list[ImportView]
    next_cursor: str | None = Field(description="pass as `cursor` to get the next page; null on the last one")


class PreviewRow(BaseModel):
    """A row as it would be read: `lead`, or what is wrong with it."""

    row: int = Field(description="number of the row in the file, the header being 1")
    lead: dict[str, Any] | None = None
    column: str | None = None
    code: str | None = None
    explanation: str | None = None
    value: str | None = None


class PreviewView(BaseModel):
    columns: dict[str, str] = Field(description="header -> field, `custom` or `ignore`; `mapping` puts it right")
    has_header: bool
    encoding: str
    delimiter: str
    rows: list[PreviewRow]


class RowErrorView(BaseModel):
    row: int
    column: str
    code: str
    explanation: str
    value: str


class RowErrorPage(BaseModel):
    items: list[RowErrorView]
    next_row: int | None = Field(description="pass as `after` to get the next page; null on the last one")


@router.post("/campaigns/{campaign_id}/imports", status_code=201, response_model=ImportView)
async def import_leads(
    campaign_id: UUID,
    request: Request,
    response: Response,
    caller: Caller,
    deps: Deps,
    options: Options,
    filename: FileName = "leads.csv",
) -> ImportView:
    """Import a file of leads: CSV in any encoding, or an Excel workbook, as the body of the request.

    The same file, to the same campaign, with the same mapping, is imported once: then this answers 200 with the earlier
    import. One that failed or was cancelled goes on where it stopped.
    """
    campaign = await open_campaign(campaign_id, caller, deps)
    async with received(request, "leads", options) as ready:
        return await _create(ready, response, caller, deps, campaign.id, filename)


@router.post("/do-not-call/imports", status_code=201, response_model=ImportView)
async def import_do_not_call(
    request: Request,
    response: Response,
    caller: Caller,
    deps: Deps,
    options: Options,
    filename: FileName = "do-not-call.csv",
) -> ImportView:
    """Put all numbers of a file on the do-not-call list; of the other columns nothing is kept."""
    async with received(request, "do_not_call", options) as ready:
        return await _create(ready, response, caller, deps, None, filename)


@router.post("/imports/preview", response_model=PreviewView)
async def preview_file(
    request: Request,
    caller: Caller,
    deps: Deps,
    options: Options,
    kind: Annotated[Literal["leads", "do_not_call"], Query()] = "leads",
) -> PreviewView:
    """How the first rows of a file would be read. Nothing is kept."""
    async with received(request, kind, options) as ready:
        result = await asyncio.to_thread(preview, ready, deps.clock.now())
    rows = [PreviewRow(row=lead.row_no, lead=lead.shown()) for lead in result.accepted] + [
        PreviewRow(row=f.row_no, column=f.column, code=f.code, explanation=REASONS[f.code], value=f.value)
        for f in result.faults
    ]
    return PreviewView(
        columns=ready.columns.targets(),
        has_header=ready.columns.has_header,
        encoding=ready.form.encoding,
        delimiter=ready.form.delimiter,
        rows=sorted(rows, key=lambda row: row.row),
    )


@router.get("/imports", response_model=ImportPage)
async def list_imports(
    caller: Caller,
    deps: Deps,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the last page")] = None,
    campaign_id: Annotated[UUID | None, Query(description="only those of this campaign")] = None,
) -> ImportPage:
    """The newest comes first."""
    imports = Imports(deps.db, caller.tenant_id)
    rows, following = await imports.list(
        limit=limit,
        before=str(cursor) if cursor is not None else None,
        campaign_id=str(campaign_id) if campaign_id is not None else None,
    )
    return ImportPage(items=[_view(row) for row in rows], next_cursor=following)


@router.get("/imports/{import_id}", response_model=ImportView)
async def read_import(import_id: UUID, caller: Caller, deps: Deps) -> ImportView:
    return _view(await _found(import_id, caller, deps))


@router.get("/imports/{import_id}/errors", response_model=RowErrorPage)
async def list_errors(
    import_id: UUID,
    caller: Caller,
    deps: Deps,
    limit: Annotated[int, Query(ge=1, le=ERRORS_PAGE)] = 100,
    after: Annotated[int, Query(ge=0, description="`next_row` of the last page")] = 0,
) -> RowErrorPage:
    """Why rows were not taken, in the order of the file."""
    row = await _found(import_id, caller, deps)
    faults = await Imports(deps.db, caller.tenant_id).errors(row.id, limit=limit, after=after)
    items = [
        RowErrorView(row=f.row_no, column=f.column, code=f.code, explanation=REASONS.get(f.code, ""), value=f.value)
        for f in faults
    ]
    return RowErrorPage(items=items, next_row=items[-1].row if len(items) == limit else None)


@router.get("/imports/{import_id}/errors.csv")
async def download_errors(import_id: UUID, caller: Caller, deps: Deps) -> StreamingResponse:
    """The same as a file."""
    row = await _found(import_id, caller, deps)
    return StreamingResponse(
        fault_lines(Imports(deps.db, caller.tenant_id), row.id),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="errors-{row.id}.csv"'},
    )


@router.post("/imports/{import_id}/cancel", response_model=ImportView)
async def cancel_import(import_id: UUID, caller: Caller, deps: Deps) -> ImportView:
    """Stop it; the leads that it brought stay. An import that is over stays as it is."""
    row = await _found(import_id, caller, deps)
    await Imports(deps.db, caller.tenant_id).cancel(row.id)
    return _view(await _found(import_id, caller, deps))


@router.delete("/imports/{import_id}", status_code=204)
async def forget_import(import_id: UUID, caller: Caller, deps: Deps) -> None:
    """Delete an import that is over, with the values in its report; the leads that it brought stay."""
    row = await _found(import_id, caller, deps)
    if not await Imports(deps.db, caller.tenant_id).forget(row.id):
        raise ProblemError(409, "import_not_over", f"the import is {row.status}", remedy="cancel it first")
    await deps.objects.delete([row.object_key])  # of one that failed, the file is still there


async def _create(
    ready: ReadyFile, response: Response, caller: Caller, deps: Deps, campaign_id: str | None, filename: str
) -> ImportView:
    imports = Imports(deps.db, caller.tenant_id, clock=deps.clock)
    name = filename.replace("\0", "")
    row, new = await create_import(imports, deps.objects, ready, campaign_id=campaign_id, filename=name)
    response.status_code = 201 if new else 200
    if row.status == "queued":
        await deps.call_ended()  # wakes the workers
    return _view(row)


async def _found(import_id: UUID, caller: Caller, deps: Deps) -> ImportRow:
    row = await Imports(deps.db, caller.tenant_id).get(str(import_id))
    if row is None:
        raise not_found("import")
    return row


def _view(row: ImportRow) -> ImportView:
    over = row.status == "completed"
    done = row.counts["bytes_read"] / max(1, row.size_bytes)
    return ImportView(
        id=row.id,
        kind=row.kind,
        campaign_id=row.campaign_id,
        filename=row.filename,
        status=row.status,
        progress=1.0 if over else round(min(0.999, done), 3),
        counts=ImportCounts.model_validate(row.counts),
        columns=targets_of(row.mapping["names"], row.mapping["fields"], row.mapping["custom"]),
        region=row.options["region"],
        encoding=row.options["encoding"],
        error=row.error,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
