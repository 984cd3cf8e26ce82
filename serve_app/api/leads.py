"""Leads of a campaign: add, list, filter, delete, export."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from serve_app.api.auth import Caller
from serve_app.api.campaigns import campaign_of
from serve_app.api.deps import Deps
from serve_app.api.lead_log_views import LeadLogPage, log_entry
from serve_app.api.problems import ProblemError, field_problem, not_found, validation_entry
from serve_app.dialing.dispositions import Disposition
from serve_app.dialing.imports.export import export_leads
from serve_app.dialing.lead_spec import LeadSpec
from serve_app.dialing.numbers import PhoneNumber
from serve_app.dialing.texts import PLAIN_TEXT
from serve_app.store.campaign_rows import CampaignRow, LeadRow, LeadState
from serve_app.store.lead_log import LeadLog
from serve_app.store.leads import Leads

router = APIRouter(prefix="/api/v1", tags=["leads"])

MOST_IN_BULK = 1000

_REFUSALS = {
    "in_future": ("it is in the future", "check the date and its zone"),
    "duplicate_in_request": ("an earlier lead of the request has this number", "leave one of the two out"),
    "lead_exists": ("the campaign has a lead with this number", "delete that lead to add the number anew"),
}
"""Code -> what is wrong, and the remedy."""


class LeadBatch(BaseModel):
    """Each lead is taken or refused by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    leads: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_IN_BULK, description="as in `POST .../leads`")


class LeadView(BaseModel):
    id: str
    campaign_id: str
    number: str
    first_name: str | None
    last_name: str | None
    email: str | None
    time_zones: list[str] | None
    region: str | None
    priority: int
    high_value: bool
    tags: list[str]
    custom_fields: dict[str, Any]
    state: LeadState
    next_at: datetime
    attempts: int
    last_result: str | None
    last_reason: str | None
    last_called_at: datetime | None
    import_id: str | None
    consent_at: datetime | None
    scrubbed_at: datetime | None
    created_at: datetime


class Scrub(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    at: AwareDatetime = Field(description="when they were compared; leads that were added later are not meant")


class ScrubbedView(BaseModel):
    leads: int = Field(description="leads of which the date is recorded now")
    reopened: int = Field(description="those of them that were closed for want of it, and are ready again")


class LeadPage(BaseModel):
    items: list[LeadView]
    next_cursor: str | None = Field(description="pass as `cursor` to get the next page; null on the last one")


class LeadRefusal(BaseModel):
    index: int = Field(description="of the lead in the request, from 0")
    field: str
    code: str
    message: str
    remedy: str


class BatchView(BaseModel):
    """accepted + the number of refusals = the leads of the request."""

    accepted: int
    refused: list[LeadRefusal]


@router.post("/campaigns/{campaign_id}/leads", status_code=201, response_model=LeadView)
async def add_lead(campaign_id: UUID, body: LeadSpec, caller: Caller, deps: Deps) -> LeadView:
    """Add one lead. 409: the campaign has a lead with this number."""
    campaign = await open_campaign(campaign_id, caller, deps)
    leads = Leads(deps.db, caller.tenant_id, clock=deps.clock)
    if wrong := body.future_field(deps.clock.now()):
        raise field_problem(wrong, *_REFUSALS["in_future"])
    taken = await leads.add(campaign.id, [body.new_lead()])
    rows, _ = await leads.list(campaign.id, limit=1, number=body.number)
    if not taken:
        message, remedy = _REFUSALS["lead_exists"]
        raise ProblemError(
            409, "lead_exists", f"number: {message}", remedy=remedy, lead_id=rows[0].id if rows else None
        )
    await deps.changed(caller.tenant_id)
    return _view(rows[0])


@router.post("/campaigns/{campaign_id}/leads/bulk", response_model=BatchView)
async def add_leads(campaign_id: UUID, body: LeadBatch, caller: Caller, deps: Deps) -> BatchView:
    """Add up to 1,000 leads. What is wrong with one keeps none of the others from being added."""
    campaign = await open_campaign(campaign_id, caller, deps)
    refused: list[LeadRefusal] = []
    good: dict[str, LeadSpec] = {}
    at: dict[str, int] = {}
    for index, document in enumerate(body.leads):
        try:
            lead = LeadSpec.model_validate(document)
        except ValidationError as error:
            item = error.errors()[0]
            entry = validation_entry(item, list(LeadSpec.model_fields))
            refused.append(LeadRefusal(index=index, code=item["type"], **entry))
            continue
        if wrong := lead.future_field(deps.clock.now()):
            refused.append(_refusal(index, wrong, "in_future"))
            continue
        if lead.number in good:
            refused.append(_refusal(index, "number", "duplicate_in_request"))
            continue
        good[lead.number], at[lead.number] = lead, index
    leads = Leads(deps.db, caller.tenant_id, clock=deps.clock)
    taken = await leads.add(campaign.id, [lead.new_lead() for lead in good.values()]) if good else set()
    refused += [_refusal(at[number], "number", "lead_exists") for number in good if number not in taken]
    await deps.changed(caller.tenant_id)
    return BatchView(accepted=len(taken), refused=sorted(refused, key=lambda refusal: refusal.index))


@router.get("/campaigns/{campaign_id}/leads", response_model=LeadPage)
async def list_leads(
    campaign_id: UUID,
    caller: Caller,
    deps: Deps,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the last page")] = None,
    state: Annotated[LeadState | None, Query(description="without it, all but deleted ones")] = None,
    result: Annotated[Disposition | None, Query(description="only with this last result")] = None,
    reason: Annotated[
        str | None, Query(max_length=64, pattern=PLAIN_TEXT, description="only with this `last_reason`")
    ] = None,
    tag: Annotated[str | None, Query(max_length=50, pattern=PLAIN_TEXT, description="only with this tag")] = None,
    number: Annotated[PhoneNumber | None, Query(description="only this number (its plus sign is written %2B)")] = None,
) -> LeadPage:
    """In the order in which they were added."""
    campaign = await campaign_of(deps, caller.tenant_id, campaign_id)
    rows, following = await Leads(deps.db, caller.tenant_id).list(
        campaign.id,
        limit=limit,
        after=str(cursor) if cursor is not None else None,
        state=state,
        result=result,
        reason=reason,
        tag=tag,
        number=number,
    )
    return LeadPage(items=[_view(row) for row in rows], next_cursor=following)


@router.get("/campaigns/{campaign_id}/leads.csv")
async def download_leads(campaign_id: UUID, caller: Caller, deps: Deps) -> StreamingResponse:
    """All leads with their results, as a file for spreadsheets: no cell of it is a formula."""
    campaign = await campaign_of(deps, caller.tenant_id, campaign_id)
    return StreamingResponse(
        export_leads(Leads(deps.db, caller.tenant_id), campaign.id),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="leads-{campaign.id}.csv"'},
    )


@router.post("/campaigns/{campaign_id}/leads/scrubbed", response_model=ScrubbedView)
async def record_scrub(campaign_id: UUID, body: Scrub, caller: Caller, deps: Deps) -> ScrubbedView:
    """Record that its leads were compared with the national do-not-call list. Numbers that are on it are listed before
    (`POST /api/v1/do-not-call/imports`)."""
    campaign = await open_campaign(campaign_id, caller, deps)
    if body.at > deps.clock.now():
        raise field_problem("at", *_REFUSALS["in_future"])
    leads, reopened = await Leads(deps.db, caller.tenant_id, clock=deps.clock).scrubbed(campaign.id, body.at)
    if reopened:
        await deps.changed(caller.tenant_id)
    return ScrubbedView(leads=leads, reopened=reopened)


@router.get("/leads/{lead_id}", response_model=LeadView)
async def read_lead(lead_id: UUID, caller: Caller, deps: Deps) -> LeadView:
    row = await Leads(deps.db, caller.tenant_id).get(str(lead_id))
    if row is None:
        raise not_found("lead")
    return _view(row)


@router.get("/leads/{lead_id}/log", response_model=LeadLogPage)
async def read_log(
    lead_id: UUID,
    caller: Caller,
    deps: Deps,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the last page")] = None,
) -> LeadLogPage:
    """What was decided about it and why, and its attempts, the newest first; also of a deleted one."""
    if await Leads(deps.db, caller.tenant_id).get(str(lead_id)) is None:
        raise not_found("lead")
    before = None if cursor is None else str(cursor)
    rows, following = await LeadLog(deps.db, caller.tenant_id).list(str(lead_id), limit=limit, before=before)
    return LeadLogPage(items=[log_entry(row) for row in rows], next_cursor=following)


@router.delete("/leads/{lead_id}", status_code=204)
async def delete_lead(lead_id: UUID, caller: Caller, deps: Deps) -> None:
    """It is called no more; what was done stays on record."""
    if not await Leads(deps.db, caller.tenant_id, clock=deps.clock).delete(str(lead_id)):
        raise not_found("lead")


async def open_campaign(campaign_id: UUID, caller: Caller, deps: Deps) -> CampaignRow:
    """One that takes leads: any but a stopped one. What is completed runs again."""
    campaign = await campaign_of(deps, caller.tenant_id, campaign_id)
    if campaign.status == "cancelled":
        raise ProblemError(
            409,
            "campaign_over",
            "the campaign is cancelled and takes no more leads",
            remedy="add them to another one",
        )
    return campaign


def _refusal(index: int, field: str, code: str) -> LeadRefusal:
    message, remedy = _REFUSALS[code]
    return LeadRefusal(index=index, field=field, code=code, message=message, remedy=remedy)


def _view(row: LeadRow) -> LeadView:
    values = {name: getattr(row, name) for name in LeadView.model_fields if name != "time_zones"}
    return LeadView(**values, time_zones=row.zones)
