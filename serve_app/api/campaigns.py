"""Campaigns over REST: write down, start, pause, resume, schedule, stop, and see what came of them."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from serve_app.api.auth import Caller
from serve_app.api.campaign_calls import end_live_calls
from serve_app.api.campaign_views import (
    CampaignPage,
    CampaignView,
    ChangedView,
    JobPage,
    Reopen,
    ReopenedView,
    Schedule,
    Stop,
    StoppedView,
    campaign_view,
    job_view,
)
from serve_app.api.deps import ApiDeps, Deps
from serve_app.api.problems import ProblemError, field_problem, not_found
from serve_app.dialing.campaign_report import CampaignReport, capacity_of, report_of
from serve_app.dialing.campaign_spec import CampaignChange, CampaignSpec, stored
from serve_app.dialing.plans import shipped_plans
from serve_app.errors import UnavailableError
from serve_app.store.campaign_rows import CampaignRow, CampaignStatus
from serve_app.store.campaigns import CampaignNameTaken, Campaigns, CampaignStateConflict
from serve_app.store.repositories import Agents, Leads, Tenants

router = APIRouter(prefix="/api/v1/campaigns", tags=["campaigns"])

_REMEDIES = {
    "draft": "start or schedule it",
    "scheduled": "wait for its time, start it now, or stop it",
    "running": "pause or stop it",
    "paused": "resume or stop it",
    "completed": "it runs again by itself once it has a lead to call",
    "cancelled": "it was stopped for good; make a new campaign",
}


Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[UUID | None, Query(description="`next_cursor` of the last page")]


@router.post("", status_code=201, response_model=CampaignView)
async def create_campaign(body: CampaignSpec, caller: Caller, deps: Deps) -> CampaignView:
    """Write down a campaign. It is a draft: nobody is called before it is started."""
    await _check_agent(deps, caller.tenant_id, body.agent, body.agent_version)
    try:
        return campaign_view(await Campaigns(deps.db, caller.tenant_id, clock=deps.clock).create(**stored(body)))
    except CampaignNameTaken as error:
        raise _name_taken(body.name) from error


@router.get("", response_model=CampaignPage)
async def list_campaigns(
    caller: Caller, deps: Deps, limit: Limit = 50, cursor: Cursor = None, status: CampaignStatus | None = None
) -> CampaignPage:
    """The newest first."""
    before = None if cursor is None else str(cursor)
    rows, following = await Campaigns(deps.db, caller.tenant_id).list(limit=limit, before=before, status=status)
    return CampaignPage(items=[campaign_view(row) for row in rows], next_cursor=following)


@router.get("/{campaign_id}", response_model=CampaignView)
async def read_campaign(campaign_id: UUID, caller: Caller, deps: Deps) -> CampaignView:
    return campaign_view(await campaign_of(deps, caller.tenant_id, campaign_id))


@router.patch("/{campaign_id}", response_model=CampaignView)
async def change_campaign(campaign_id: UUID, body: CampaignChange, caller: Caller, deps: Deps) -> CampaignView:
    """Change it, also while it runs: what is decided from now on follows the change. Not once it was stopped."""
    try:
        changes = stored(body)
    except ValueError as error:
        raise field_problem(str(error), "null is no value of it", "leave it out to keep what it is") from error
    if body.agent is not None or body.agent_version is not None:
        row = await campaign_of(deps, caller.tenant_id, campaign_id)
        version = body.agent_version if "agent_version" in changes else row.agent_version
        await _check_agent(deps, caller.tenant_id, body.agent or row.agent_name, version)
    try:
        changed = await Campaigns(deps.db, caller.tenant_id, clock=deps.clock).update(str(campaign_id), **changes)
    except CampaignNameTaken as error:
        raise _name_taken(str(body.name)) from error
    except CampaignStateConflict as error:
        raise _conflict(error) from error
    if changed is None:
        raise not_found("campaign")
    await deps.changed(caller.tenant_id)
    return campaign_view(changed)


@router.post("/{campaign_id}/start", response_model=ChangedView)
async def start_campaign(campaign_id: UUID, caller: Caller, deps: Deps) -> ChangedView:
    """Call its leads from now on, as the calling rules allow. One that runs goes on as it is."""
    row = await campaign_of(deps, caller.tenant_id, campaign_id)
    await _check_agent(deps, caller.tenant_id, row.agent_name, row.agent_version)
    return await _move(deps, caller.tenant_id, campaign_id, "start")


@router.post("/{campaign_id}/pause", response_model=ChangedView)
async def pause_campaign(campaign_id: UUID, caller: Caller, deps: Deps) -> ChangedView:
    """Place no more calls from this moment on. Those that ring or talk go on; those that waited are called later."""
    return await _move(deps, caller.tenant_id, campaign_id, "pause")


@router.post("/{campaign_id}/resume", response_model=ChangedView)
async def resume_campaign(campaign_id: UUID, caller: Caller, deps: Deps) -> ChangedView:
    """Go on with a paused campaign."""
    return await _move(deps, caller.tenant_id, campaign_id, "resume")


@router.post("/{campaign_id}/schedule", response_model=ChangedView)
async def schedule_campaign(campaign_id: UUID, body: Schedule, caller: Caller, deps: Deps) -> ChangedView:
    """Start it at a time; again for another time. A time that has passed starts it within seconds."""
    return await _move(deps, caller.tenant_id, campaign_id, "schedule", body.at)


@router.post("/{campaign_id}/unschedule", response_model=ChangedView)
async def unschedule_campaign(campaign_id: UUID, caller: Caller, deps: Deps) -> ChangedView:
    """Make a scheduled campaign a draft again."""
    return await _move(deps, caller.tenant_id, campaign_id, "unschedule")


@router.post("/{campaign_id}/stop", response_model=StoppedView)
async def stop_campaign(campaign_id: UUID, caller: Caller, deps: Deps, body: Stop | None = None) -> StoppedView:
    """Stop it for good: no more calls. Repeat it with `end_live_calls` to end the calls that go on."""
    moved = await _move(deps, caller.tenant_id, campaign_id, "cancel")
    ended, left = 0, 0
    if body is not None and body.end_live_calls:
        ended, left = await end_live_calls(deps, caller.tenant_id, moved.campaign.id)
    return StoppedView(changed=moved.changed, campaign=moved.campaign, ended_calls=ended, live_calls=left)


@router.post("/{campaign_id}/reopen", response_model=ReopenedView)
async def reopen_leads(campaign_id: UUID, body: Reopen, caller: Caller, deps: Deps) -> ReopenedView:
    """Make closed leads ready again. The calling rules decide anew, so what they still bar is closed again."""
    row = await campaign_of(deps, caller.tenant_id, campaign_id)
    if row.status == "cancelled":
        raise _conflict(CampaignStateConflict(row.status, "one that calls"))
    leads = Leads(deps.db, caller.tenant_id, clock=deps.clock)
    reopened = await leads.reopen(
        row.id, lead_id=None if body.lead_id is None else str(body.lead_id), reason=body.reason
    )
    if reopened:
        await deps.changed(caller.tenant_id)
    return ReopenedView(reopened=reopened)


@router.get("/{campaign_id}/stats", response_model=CampaignReport)
async def campaign_stats(campaign_id: UUID, caller: Caller, deps: Deps) -> CampaignReport:
    """Where its leads stand, and what came of the attempts."""
    row = await campaign_of(deps, caller.tenant_id, campaign_id)
    stats = await Campaigns(deps.db, caller.tenant_id).stats(row.id)
    try:
        sessions, _ = await deps.live.capacity()
    except UnavailableError:
        # The counts are in SQL; only the outlook is missing then.
        return report_of(stats)
    tenant = await Tenants(deps.db, caller.tenant_id).get()
    return report_of(stats, capacity_of(row, tenant, shipped_plans(), deps.settings.telephony.vonage, sessions))


@router.get("/{campaign_id}/jobs", response_model=JobPage)
async def campaign_jobs(
    campaign_id: UUID,
    caller: Caller,
    deps: Deps,
    limit: Limit = 50,
    cursor: Cursor = None,
    live: Annotated[bool, Query(description="only attempts that have not ended")] = False,
) -> JobPage:
    """Its attempts, the newest first: who was called when, from which number, and what came of it."""
    row = await campaign_of(deps, caller.tenant_id, campaign_id)
    before = None if cursor is None else str(cursor)
    campaigns = Campaigns(deps.db, caller.tenant_id)
    rows, following = await campaigns.attempts(row.id, limit=limit, before=before, live=live)
    return JobPage(items=[job_view(row) for row in rows], next_cursor=following)


async def campaign_of(deps: ApiDeps, tenant_id: str, campaign_id: UUID | str) -> CampaignRow:
    """Raises a 404 problem."""
    row = await Campaigns(deps.db, tenant_id).get(str(campaign_id))
    if row is None:
        raise not_found("campaign")
    return row


async def _move(deps: ApiDeps, tenant_id: str, campaign_id: UUID, step: str, *arguments: Any) -> ChangedView:
    try:
        moved = await getattr(Campaigns(deps.db, tenant_id, clock=deps.clock), step)(str(campaign_id), *arguments)
    except CampaignStateConflict as error:
        raise _conflict(error) from error
    if moved is None:
        raise not_found("campaign")
    row, changed = moved
    if changed:
        await deps.changed(tenant_id)
    return ChangedView(changed=changed, campaign=campaign_view(row))


async def _check_agent(deps: ApiDeps, tenant_id: str, name: str, version: int | None) -> None:
    agents = Agents(deps.db, tenant_id)
    if await agents.get(name) is None:
        raise field_problem(
            "agent", f"there is no agent named {name}", "see GET /api/v1/agents, or create it with PUT", code="no_agent"
        )
    if version is not None and await agents.get(name, version) is None:
        raise field_problem(
            "agent_version",
            f"agent {name} has no version {version}",
            "leave it out for the newest one",
            code="no_agent",
        )


def _name_taken(name: str) -> ProblemError:
    return ProblemError(409, "name_taken", f"name: there is a campaign named {name} already", remedy="choose another")


def _conflict(error: CampaignStateConflict) -> ProblemError:
    return ProblemError(
        409, "campaign_state", str(error), remedy=_REMEDIES[error.status], status_of_campaign=error.status
    )
