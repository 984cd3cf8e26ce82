"""Leads of a campaign: add, list, filter, delete, export."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.api.auth import Caller
from serve_app.api.deps import Deps
from serve_app.api.problems import ProblemError, field_problem, not_found
from serve_app.dialing.imports.export import export_leads
from serve_app.dialing.lead_spec import LeadSpec
from serve_app.dialing.numbers import PhoneNumber
from serve_app.store.campaign_rows import CampaignRow, LeadRow, LeadState
from serve_app.store.campaigns import Campaigns
from serve_app.store.leads import Leads

router = APIRouter(prefix="/api/v1", tags=["leads"])

MOST_IN_BULK = 1000


_IN_FUTURE = "a consent cannot have been given in the future"


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
    created_at: datetime


class LeadPage(BaseModel):
    items: list[LeadView]
    next_cursor: str | None = Field(description="pass as `cursor` to get the next page; null on the last one")


class LeadRefusal(BaseModel):
    index: int = Field(description="of the lead in the request, from 0")
    field: str
    code: str
    message: str


class BatchView(BaseModel):
    """accepted + the number of refusals = the leads of the request."""

    accepted: int
    refused: list[LeadRefusal]


@router.post("/campaigns/{campaign_id}/leads", status_code=201, response_model=LeadView)
async def add_lead(campaign_id: UUID, body: LeadSpec, caller: Caller, deps: Deps) -> LeadView:
    """Add one lead. 409: the campaign has a lead with this number."""
    campaign = await open_campaign(campaign_id, caller, deps)
    leads = Leads(deps.db, caller.tenant_id, clock=deps.clock)
    if _future_consent(body, deps.clock.now()):
        raise field_problem("consent.given_at", _IN_FUTURE, "check the date and its zone")
    taken = await leads.add(campaign.id, [body.new_lead()])
    rows, _ = await leads.list(campaign.id, limit=1, number=body.number)
    if not taken:
        raise ProblemError(
            409,
            "lead_exists",
            "number: the campaign has a lead with this number",
            remedy="delete that lead to add the number anew",
            lead_id=rows[0].id if rows else None,
        )
    await deps.call_placed()
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
            field = ".".join(map(str, item["loc"]))
            refused.append(LeadRefusal(index=index, field=field, code=item["type"], message=item["msg"]))
            continue
        if _future_consent(lead, deps.clock.now()):
            refused.append(
                LeadRefusal(index=index, field="consent.given_at", code="consent_in_future", message=_IN_FUTURE)
            )
            continue
        if lead.number in good:
            refused.append(_duplicate(index, "duplicate_in_request", "an earlier lead of the request has this number"))
            continue
        good[lead.number], at[lead.number] = lead, index
    leads = Leads(deps.db, caller.tenant_id, clock=deps.clock)
    taken = await leads.add(campaign.id, [lead.new_lead() for lead in good.values()]) if good else set()
    refused += [
        _duplicate(at[number], "lead_exists", "the campaign has a lead with this number")
        for number in good
        if number not in taken
    ]
    await deps.call_placed()
    return BatchView(accepted=len(taken), refused=sorted(refused, key=lambda refusal: refusal.index))


@router.get("/campaigns/{campaign_id}/leads", response_model=LeadPage)
async def list_leads(
    campaign_id: UUID,
    caller: Caller,
    deps: Deps,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the last page")] = None,
    state: Annotated[LeadState | None, Query(description="without it, all but deleted ones")] = None,
    result: Annotated[str | None, Query(max_length=32, description="only with this last result")] = None,
    number: Annotated[PhoneNumber | None, Query(description="only this number (its plus sign is written %2B)")] = None,
) -> LeadPage:
    """In the order in which they were added."""
    campaign = await campaign_of(campaign_id, caller, deps)
    rows, following = await Leads(deps.db, caller.tenant_id).list(
        campaign.id,
        limit=limit,
        after=str(cursor) if cursor is not None else None,
        state=state,
        result=result,
        number=number,
    )
    return LeadPage(items=[_view(row) for row in rows], next_cursor=following)


@router.get("/campaigns/{campaign_id}/leads.csv")
async def download_leads(campaign_id: UUID, caller: Caller, deps: Deps) -> StreamingResponse:
    """All leads with their results, as a file for spreadsheets: no cell of it is a formula."""
    campaign = await campaign_of(campaign_id, caller, deps)
    return StreamingResponse(
        export_leads(Leads(deps.db, caller.tenant_id), campaign.id),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="leads-{campaign.id}.csv"'},
    )


@router.get("/leads/{lead_id}", response_model=LeadView)
async def read_lead(lead_id: UUID, caller: Caller, deps: Deps) -> LeadView:
    row = await Leads(deps.db, caller.tenant_id).get(str(lead_id))
    if row is None:
        raise not_found("lead")
    return _view(row)


@router.delete("/leads/{lead_id}", status_code=204)
async def delete_lead(lead_id: UUID, caller: Caller, deps: Deps) -> None:
    """It is called no more; what was done stays on record."""
    if not await Leads(deps.db, caller.tenant_id, clock=deps.clock).delete(str(lead_id)):
        raise not_found("lead")


async def campaign_of(campaign_id: UUID, caller: Caller, deps: Deps) -> CampaignRow:
    campaign = await Campaigns(deps.db, caller.tenant_id).get(str(campaign_id))
    if campaign is None:
        raise not_found("campaign")
    return campaign


async def open_campaign(campaign_id: UUID, caller: Caller, deps: Deps) -> CampaignRow:
    """One that still takes leads."""
    campaign = await campaign_of(campaign_id, caller, deps)
    if campaign.over:
        raise ProblemError(
            409,
            "campaign_over",
            f"the campaign is {campaign.status} and takes no more leads",
            remedy="add them to another one",
        )
    return campaign


def _future_consent(lead: LeadSpec, now: datetime) -> bool:
    return lead.consent is not None and lead.consent.given_at > now


def _duplicate(index: int, code: Literal["duplicate_in_request", "lead_exists"], message: str) -> LeadRefusal:
    return LeadRefusal(index=index, field="number", code=code, message=message)


def _view(row: LeadRow) -> LeadView:
    values = {name: getattr(row, name) for name in LeadView.model_fields if name != "time_zones"}
    return LeadView(**values, time_zones=row.zones)
